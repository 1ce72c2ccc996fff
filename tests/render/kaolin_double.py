"""A stand-in for the parts of NVIDIA Kaolin that are used, on a CPU, as its kernel computes them.

Row 0 is the top; each face is tested at each pixel centre of its box; what it interpolates is
linear on the screen; the larger z wins, the first face where they tie; ids are int64, -1 is empty.
"""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

_MULTIPLIER = 1000
_EPS = 1e-8


class Camera:
    """World to camera and a symmetric frustum."""

    def __init__(self, view_matrix, fov, near, far):
        self.view_matrix = view_matrix
        self.fov, self.near, self.far = fov, near, far
        self.extrinsics = self

    @classmethod
    def from_args(cls, *, view_matrix, fov, width, height, near, far, device):
        assert width == height
        assert isinstance(fov, float)
        assert 0 < near < far
        return cls(view_matrix.to(device), fov, near, far)

    def transform(self, vertices):
        rotation, translation = self.view_matrix[:, :3, :3], self.view_matrix[:, :3, 3]
        return vertices @ rotation.transpose(1, 2) + translation[:, None]

    def projection_matrix(self):
        focal = 1 / np.tan(self.fov / 2)
        near, far = self.near, self.far
        rows = [
            [focal, 0, 0, 0],
            [0, focal, 0, 0],
            [0, 0, (near + far) / (near - far), 2 * near * far / (near - far)],
            [0, 0, -1, 0],
        ]
        return torch.tensor(rows, dtype=torch.float32).expand(len(self.view_matrix), 4, 4)


def index_vertices_by_faces(vertices_features, faces):
    assert faces.dtype == torch.int64
    return vertices_features[:, faces]


def rasterize(
    height,
    width,
    face_vertices_z,
    face_vertices_image,
    face_features,
    valid_faces=None,
    backend="cuda",
):
    assert backend in {"cuda", "nvdiffrast"}
    views, num_faces = face_vertices_z.shape[:2]
    z, places, features = (
        tensor.cpu().numpy() for tensor in (face_vertices_z, face_vertices_image, face_features)
    )
    x = np.float32(_MULTIPLIER / width) * (2 * np.arange(width, dtype=np.float32) + 1 - width)
    y = np.float32(_MULTIPLIER / height) * (height - 2 * np.arange(height, dtype=np.float32) - 1)
    face_id = np.full((views, height, width), -1, np.int64)
    nearest = np.full((views, height, width), -np.inf, np.float32)
    drawn = np.zeros((views, height, width, features.shape[-1]), np.float32)
    for view in range(views):
        for face in range(num_faces):
            if valid_faces is not None and not valid_faces[view, face]:
                continue
            corners = np.float32(_MULTIPLIER) * places[view, face]
            (left, low), (right, high) = corners.min(axis=0), corners.max(axis=0)
            rows = np.flatnonzero((y >= low) & (y < high))
            columns = np.flatnonzero((x >= left) & (x < right))
            if not len(rows) or not len(columns):
                continue
            box = np.ix_(rows, columns)
            edge_x = corners[:, 0, None, None] - x[columns]
            edge_y = corners[:, 1, None, None] - y[rows, None]
            weights = np.stack(
                [
                    edge_x[(i + 1) % 3] * edge_y[(i + 2) % 3]
                    - edge_y[(i + 1) % 3] * edge_x[(i + 2) % 3]
                    for i in range(3)
                ]
            )
            total = weights.sum(axis=0)
            weights /= total + np.copysign(np.float32(_EPS), total)
            depth = np.tensordot(z[view, face], weights, axes=1)
            wins = (weights >= 0).all(axis=0) & (depth > nearest[view][box])
            at = rows[np.nonzero(wins)[0]], columns[np.nonzero(wins)[1]]
            nearest[view][at], face_id[view][at] = depth[wins], face
            drawn[view][at] = (features[view, face].T @ weights[:, wins]).T
    return torch.from_numpy(drawn), torch.from_numpy(face_id)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `import kaolin` find this."""
    modules = {
        name: ModuleType(name)
        for name in (
            "kaolin",
            "kaolin.ops",
            "kaolin.ops.mesh",
            "kaolin.render",
            "kaolin.render.camera",
            "kaolin.render.mesh",
        )
    }
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(modules[parent], last, module)
        monkeypatch.setitem(sys.modules, name, module)
    vars(modules["kaolin.render.camera"])["Camera"] = Camera
    vars(modules["kaolin.ops.mesh"])["index_vertices_by_faces"] = index_vertices_by_faces
    vars(modules["kaolin.render.mesh"])["rasterize"] = rasterize
