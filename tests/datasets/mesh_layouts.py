"""Writes small sets of meshes in the exact layouts in which they are distributed."""

import zipfile
from pathlib import Path

# A box that is long along z, short along x: which way it stands can be told.
SIDES = (1.0, 2.0, 4.0)
_CORNERS = [(x, y, z) for x in (0, SIDES[0]) for y in (0, SIDES[1]) for z in (0, SIDES[2])]
_QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]


def off(glued: bool = False) -> str:
    """A box as OFF; `glued` as in some files of ModelNet, where the counts follow the word."""
    head = "OFF8 6 0" if glued else "OFF\n8 6 0"
    vertices = [" ".join(map(str, corner)) for corner in _CORNERS]
    faces = [f"4 {' '.join(map(str, quad))}" for quad in _QUADS]
    return "\n".join([head, *vertices, *faces]) + "\n"


def obj() -> str:
    vertices = [f"v {' '.join(map(str, corner))}" for corner in _CORNERS]
    faces = [f"f {' '.join(str(place + 1) for place in quad)}" for quad in _QUADS]
    return "\n".join([*vertices, *faces]) + "\n"


def wrl() -> str:
    points = ", ".join(" ".join(map(str, corner)) for corner in _CORNERS)
    faces = ", ".join(", ".join(map(str, (*quad, -1))) for quad in _QUADS)
    return (
        "#VRML V2.0 utf8\nShape { appearance Appearance { material Material "
        "{ diffuseColor 0.5 0.5 0.5 } }\ngeometry IndexedFaceSet { coord Coordinate { point [ "
        f"{points} ] }}\ncoordIndex [ {faces} ] }} }}\n"
    )


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_modelnet(folder: Path, name: str = "ModelNet40") -> None:
    """Two classes of two training shapes and one test shape; one class that ModelNet10 lacks."""
    for label in ("night_stand", "sofa", "airplane"):
        for split, number in (("train", 1), ("train", 2), ("test", 3)):
            path = folder / name / label / split / f"{label}_{number:04d}.off"
            write(path, off(glued=number == 2))


def write_shapenet(folder: Path) -> None:
    root = folder / "ShapeNetCore.v2"
    lines = ["id,synsetId,subSynsetId,modelId,split"]
    for synset in ("02691156", "03001627"):
        for number, split in enumerate(("train", "val", "test")):
            model = f"1a{number}e{synset}"
            write(root / synset / model / "models" / "model_normalized.obj", obj())
            lines.append(f"{number:06d},{synset},{synset},{model},{split}")
    write(root / "all.csv", "\n".join(lines) + "\n")


def write_kicad(folder: Path) -> None:
    """Forty parts of each of two classes, in series of eight sizes; and a class of one part."""
    for package in ("Connector_PinHeader_2.54mm", "Diode_SMD"):
        for series in "ABCDE":
            for size in range(8):
                write(folder / f"{package}.3dshapes" / f"{series}_1x{size:02d}.wrl", wrl())
    write(folder / "Oscillator.3dshapes" / "Odd.wrl", wrl())


def write_furniture(folder: Path) -> None:
    """Six chairs and six tables, the tables lying down until they are turned, and a thing."""
    names = [f"Chair{letter}" for letter in "abcdef"] + [f"Table{letter}" for letter in "abcdef"]
    lines, rotation = [], "1 0 0 0 0 1 0 -1 0"
    with zipfile.ZipFile(folder / "some.sh3f", "w") as archive:
        for number, name in enumerate([*names, "Thing"], start=1):
            word = name if name == "Thing" else name[:-1]
            lines += [f"name#{number}={word}", f"model#{number}=/{name}/{name}.obj"]
            if word == "Table":
                lines.append(f"modelRotation#{number}={rotation}")
            archive.writestr(f"{name}/{name}.obj", obj())
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines) + "\n")
