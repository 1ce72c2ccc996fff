"""What do a file's folders say of a shape? Names, labels and which way is up, by known layouts.

    layout      file                                           id                   label     up
    ShapeNet    SYNSET/ID/models/model_normalized.obj          SYNSET/ID            SYNSET    y
    ModelNet    CLASS/train/CLASS_0001.off, CLASS/test/...     CLASS/train/CLASS_0  CLASS     z
    KiCad       FOLDER.3dshapes/PART.wrl                       FOLDER/PART          see below z
    any other   LABEL/.../NAME.obj                             LABEL/.../NAME       LABEL     y

The first three are found at any depth, so that the set's own top folder may be the source or lie
in it. KiCad's label is the first two words of the folder without the way of mounting (SMD, THT):
`Connector_PinHeader_2.54mm` and `Connector_PinHeader_1.27mm` are one class, as are `Diode_SMD` and
`Diode_THT`. A folder that lies loosely among others keeps the rule of the last line.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

# Row by row; takes a shape that stands along z to one that stands along y.
Z_TO_Y = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0)

_SHAPENET = re.compile(r"(?:.*/)?((\d{8})/[^/]+)/models/model_normalized\.obj")
_MODELNET = re.compile(r"(?:.*/)?(([^/]+)/(?:train|test)/\2_\d+)\.off", re.IGNORECASE)
_KICAD = re.compile(r"(?:.*/)?([^/]+)\.3dshapes/([^/]+)\.wrl", re.IGNORECASE)
_MOUNTING = {"SMD", "THT"}


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A mesh file and what its folders say of it.

    Attributes:
        source_id: name of the shape.
        label: its class, or "".
        file: name in the source, with slashes.
        to_upright: rotation of the file's vertices, row by row, after which y is up; None for none.
    """

    source_id: str
    label: str
    file: str
    to_upright: tuple[float, ...] | None = None


def name_file(file: str) -> NamedFile:
    """Name a shape by the folders of its file.

    Args:
        file: name in the source, with slashes.
    """
    if found := _SHAPENET.fullmatch(file):
        return NamedFile(found[1], found[2], file)
    if found := _MODELNET.fullmatch(file):
        return NamedFile(found[1], found[2], file, Z_TO_Y)
    if found := _KICAD.fullmatch(file):
        words = [word for word in found[1].split("_") if word not in _MOUNTING]
        return NamedFile(f"{found[1]}/{found[2]}", "_".join(words[:2]), file, Z_TO_Y)
    path = PurePosixPath(file)
    label = path.parts[0] if len(path.parts) > 1 else ""
    return NamedFile(path.with_suffix("").as_posix(), label, file)
