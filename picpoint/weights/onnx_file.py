"""How does a point encoder become ONNX? Traced in plain torch, for batches of any size.

    points    float32 (batch, N, 3): unit sphere, y up, farthest-point order
    pooled    float32 (batch, C)
    local     float32 (batch, M, C), of the first M points

Of two equally near points another runtime may take the other one.
"""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from picpoint.encoders.dgcnn import Dgcnn
from picpoint.encoders.pointnext import PointNext
from picpoint.optional import import_optional
from picpoint.publish import publish_bytes

OPSET = 20
# Two clouds, as torch takes a size of one for a constant.
_TRACED_CLOUDS = 2
_FEW_COORDINATES = 4


class _Outputs(nn.Module):
    """An encoder that gives a tuple."""

    def __init__(self, encoder: Dgcnn | PointNext) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(points)
        return features.pooled, features.local


def save_onnx(encoder: Dgcnn | PointNext, num_points: int, path: Path) -> None:
    """Write an encoder, in evaluation, as one ONNX file.

    Args:
        encoder: on the CPU, in float32.
        num_points: N of every cloud.
        path: the file.

    Raises:
        MissingPackageError: onnx or onnxscript is not installed.
    """
    for package in ("onnx", "onnxscript"):
        import_optional(package, "onnx", "onnx=true")
    points = torch.randn(_TRACED_CLOUDS, num_points, 3)
    points /= points.norm(dim=-1, keepdim=True)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad():
        traced = torch.export.export(
            _Outputs(encoder).eval(),
            (points,),
            dynamic_shapes={"points": {0: torch.export.Dim("batch")}},
        )
    program = torch.onnx.export(
        traced.run_decompositions({torch.ops.aten.cdist.default: _distances}),
        dynamo=True,
        opset_version=OPSET,
        input_names=["points"],
        output_names=["pooled", "local"],
        verbose=False,
    )
    assert program is not None
    publish_bytes(program.model_proto.SerializeToString(), path)


def _distances(first: Tensor, second: Tensor, p: float = 2, mode: int | None = None) -> Tensor:
    """Give all Euclidean distances: the operator of torch that ONNX has none for."""
    del p, mode
    if first.shape[-1] <= _FEW_COORDINATES:
        return (first[:, :, None] - second[:, None]).square().sum(dim=-1).sqrt()
    centre = first.mean(dim=1, keepdim=True)  # near the origin, products lose fewest digits
    first, second = first - centre, second - centre
    squares = first.square().sum(dim=-1)[:, :, None] + second.square().sum(dim=-1)[:, None]
    return (squares - 2 * first @ second.mT).clamp(min=0).sqrt()
