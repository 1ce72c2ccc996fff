"""Labelled sets of meshes, whose surfaces are sampled: ModelNet, ShapeNetCore, furniture, parts.

    modelnet40_off   ModelNet40/CLASS/{train,test}/CLASS_0001.off; z up; 9,843 / 2,468
    modelnet10_off   ModelNet10 likewise; 3,991 / 908
    shapenetcore     SYNSET/ID/models/model_normalized.obj (v2) or SYNSET/ID/model.obj (v1), y up,
                     and all.csv, which says the split of each; its classes are the synsets
    sweethome3d      .sh3f archives; each says how its models stand; test is a fold of series
    kicad            FOLDER.3dshapes/PART.wrl; z up; test is a fold of series

Points are drawn evenly from the surface, by the source id alone, and put in farthest-point order,
so that the first ones are spread over it. They are turned so that y is up.
"""

import csv
import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from picpoint.data.dataset import DatasetInfo
from picpoint.data.split import HoldoutConfig, mark_folds, series_of
from picpoint.datasets.source import BrokenDataError, CloudSource, MissingDataError, find_file
from picpoint.geometry.clouds import sample_surface
from picpoint.ops.farthest import farthest_order
from picpoint.render.layouts import Z_TO_Y
from picpoint.render.meshes import Mesh, MeshError
from picpoint.render.sources import SourceError, SourceShape, list_shapes
from shards.clouds import Cloud

logger = logging.getLogger(__name__)

# Which axis of the files is up; "" for what the data set is known by.
Up = Literal["", "y", "z"]

_MODELNET_URL = "https://modelnet.cs.princeton.edu (research use only)"
_SHAPENET_URL = "https://shapenet.org (research use only)"
_MODELNET10 = (
    *("bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table"),
    "toilet",
)
_PUBLISHED = {40: {"train": 9843, "test": 2468}, 10: {"train": 3991, "test": 908}}
_SHAPENET_SPLITS = ("train", "val", "test")
# Of 5,874 of KiCad's 6,227 parts the class has as many; the rest are odd pieces.
_LEAST_PER_CLASS = {"sweethome3d": 2, "kicad": 40}


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """How meshes become clouds.

    Attributes:
        num_points: drawn of each.
        up: which axis of the files is up; "" for what the data set is known by.
        skip_broken: leave out meshes that cannot be read, and name them; else they are errors.
    """

    num_points: int
    up: Up = ""
    skip_broken: bool = False


MeshSetName = Literal["modelnet40_off", "modelnet10_off", "shapenetcore", "sweethome3d", "kicad"]


def open_set(
    name: MeshSetName, folder: Path, holdout: HoldoutConfig, config: MeshConfig
) -> CloudSource:
    """Open a set by its name.

    Args:
        name: which.
        folder: that holds it.
        holdout: which fold of `sweethome3d` and `kicad` is the test split.
        config: how meshes become clouds.

    Raises:
        MissingDataError: it is not there.
        BrokenDataError: its list is broken, or it has fewer than two classes.
    """
    match name:
        case "modelnet40_off":
            return open_modelnet(folder, 40, config)
        case "modelnet10_off":
            return open_modelnet(folder, 10, config)
        case "shapenetcore":
            return open_shapenetcore(folder, config)
        case "sweethome3d" | "kicad":
            return open_series(name, folder, holdout, config)


def open_modelnet(folder: Path, num_classes: Literal[10, 40], config: MeshConfig) -> CloudSource:
    """Open the meshes of ModelNet40 or of its ten classes.

    Raises:
        MissingDataError: no mesh lies in such folders.
    """
    inner = folder / f"ModelNet{num_classes}"
    root = inner if inner.is_dir() else folder
    found = [
        (split, path)
        for split in ("train", "test")
        for path in sorted(root.glob(f"*/{split}/*.off"))
        if num_classes == 40 or path.parent.parent.name in _MODELNET10
    ]
    if not found:
        raise MissingDataError(
            f"{root}: no CLASS/train/*.off or CLASS/test/*.off in it; --from must name the folder "
            f"that holds ModelNet{num_classes} (the data: {_MODELNET_URL})"
        )
    shapes = [
        (split, _shape(f"{split}/{path.stem}", path.parent.parent.name, path, root, "z"))
        for split, path in found
    ]
    source = _source(f"modelnet{num_classes}_off", shapes, config, _MODELNET_URL)
    return replace(source, published=_PUBLISHED[num_classes])


def open_shapenetcore(folder: Path, config: MeshConfig) -> CloudSource:
    """Open ShapeNetCore as its list of splits has it.

    Raises:
        MissingDataError: the list is not there, or names a model that is not, unless broken ones
            are left out.
        BrokenDataError: the list is none.
    """
    inner = [folder / f"ShapeNetCore.v{version}" for version in (2, 1)]
    root = next((each for each in inner if each.is_dir()), folder)
    shapes: list[tuple[str, SourceShape]] = []
    for split, synset, model in _split_list(find_file(root, "all.csv", _SHAPENET_URL)):
        names = ("models/model_normalized.obj", "model.obj")
        places = [root / synset / model / name for name in names]
        path = next((each for each in places if each.is_file()), None)
        if path is None and config.skip_broken:
            logger.warning("left out: %s/%s: not there", synset, model)
        elif path is None:
            raise MissingDataError(
                f"{places[0]}: not there, and all.csv names it; fetch it, or leave out what is "
                f"missing with --partial (the data: {_SHAPENET_URL})"
            )
        else:
            shapes.append((split, _shape(f"{split}/{synset}/{model}", synset, path, root, "y")))
    shapes.sort(key=lambda pair: (_SHAPENET_SPLITS.index(pair[0]), pair[1].source_id))
    return _source("shapenetcore", shapes, config, _SHAPENET_URL)


def _split_list(path: Path) -> Iterator[tuple[str, str, str]]:
    """Read split, synset and model of each line."""
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BrokenDataError(f"{path}: no CSV ({error}); fetch it again") from error
    for number, row in enumerate(rows, start=2):
        synset = (row.get("synsetId") or "").zfill(8)
        model, split = row.get("modelId") or "", row.get("split")
        is_name = model not in ("", "..") and "/" not in model and synset.isdigit()
        if split not in _SHAPENET_SPLITS or not is_name:
            raise BrokenDataError(
                f"{path}, line {number}: columns synsetId, modelId and split are needed, of "
                f"numbers, names and {', '.join(_SHAPENET_SPLITS)}; here are {row}"
            )
        yield split, synset, model
    if not rows:
        raise BrokenDataError(f"{path}: an empty list; fetch it again")


def open_series(
    name: Literal["sweethome3d", "kicad"], place: Path, holdout: HoldoutConfig, config: MeshConfig
) -> CloudSource:
    """Open furniture or electronic parts; a fold of series is the test split.

    Sizes of one part stay on one side, because telling them apart from themselves is no test.
    Shapes without a class, and those of very small classes, are left out and counted.

    Raises:
        MissingDataError: there are no shapes.
    """
    try:
        listed = list_shapes(place)
    except SourceError as error:
        raise MissingDataError(str(error)) from error
    sizes = Counter(shape.label for shape in listed if shape.label)
    least = _LEAST_PER_CLASS[name]
    kept = [shape for shape in listed if sizes[shape.label] >= least]
    if len(kept) < len(listed):
        logger.warning(
            "left out: %d of %d shapes, of no class or of one with fewer than %d",
            len(listed) - len(kept),
            len(listed),
            least,
        )
    units = [series_of(shape.source_id) for shape in kept]
    labels = [shape.label for shape in kept]
    is_test = mark_folds(units, labels, replace(holdout, unit="series")).test
    shapes = [
        (split, replace(shape, source_id=f"{split}/{shape.source_id}"))
        for split, chosen in (("train", ~is_test), ("test", is_test))
        for shape in (kept[row] for row in np.flatnonzero(chosen).tolist())
    ]
    return _source(name, shapes, config, f"Debian's package of {name}")


def _shape(source_id: str, label: str, path: Path, root: Path, up: Up) -> SourceShape:
    file = path.relative_to(root).as_posix()
    return SourceShape(source_id, label, root, file, Z_TO_Y if up == "z" else None)


def _source(
    name: str, shapes: list[tuple[str, SourceShape]], config: MeshConfig, url: str
) -> CloudSource:
    names = tuple(sorted({shape.label for _, shape in shapes}))
    if len(names) < 2:
        raise BrokenDataError(f"{name}: {len(names)} classes; two are needed at least")
    upright = [shape for _, shape in shapes]
    if config.up:
        turn = Z_TO_Y if config.up == "z" else None
        upright = [replace(shape, to_upright=turn) for shape in upright]
    return CloudSource(DatasetInfo(name, names, url=url), {}, lambda: _read(upright, config))


def _read(shapes: Iterable[SourceShape], config: MeshConfig) -> Iterator[Cloud]:
    for shape in shapes:
        try:
            mesh = shape.read_mesh()
            yield sample_mesh(mesh, shape.source_id, shape.label, config.num_points)
        except (MeshError, SourceError, ValueError) as error:
            told = f"{shape.source}/{shape.file}: {error}"
            if not config.skip_broken:
                raise BrokenDataError(
                    f"{told}; mend it, or leave out what cannot be read with --partial"
                ) from error
            logger.warning("left out: %s", told)


def sample_mesh(mesh: Mesh, source_id: str, label: str, num_points: int) -> Cloud:
    """Draw points of a surface, with the normals of their faces, in farthest-point order.

    Raises:
        ValueError: the mesh has no area.
    """
    seed = int.from_bytes(hashlib.sha256(source_id.encode()).digest()[:8])
    surface = sample_surface(mesh.vertices, mesh.faces, num_points, seed)
    corners = mesh.vertices.astype(np.float64)[mesh.faces[surface.face_index]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    order = farthest_order(surface.points)
    return Cloud(source_id, label, surface.points[order], normals=normals[order].astype(np.float32))
