r"""Build demo_shapes.zip and CREDITS.md from a Debian package of CC0 furniture models.

    apt-get download sweethome3d-furniture=1.8-1
    dpkg-deb -x sweethome3d-furniture_1.8-1_all.deb unpacked
    python picpoint/assets/build_demo_shapes.py \
        unpacked/usr/share/sweethome3d/furniture/BlendSwap-CC-0.sh3f

The same archive gives the same bytes, with the same Pillow. Both files are kept in the project, so
nobody needs to run this; it says how the pack came to be.
"""

import argparse
import csv
import io
import json
import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from PIL import Image

from picpoint.render.furniture import FURNITURE_CATALOGUE, Furniture, parse_furniture
from picpoint.render.meshes import Material, Mesh, mend
from picpoint.render.sources import CATALOGUE, SourceShape

# Catalogue numbers by class, as a look at the models in plain grey sorts them, before anything was
# measured. A class is a form that a person names without seeing colour or size, as a point encoder
# sees neither: a fridge is a box as a cupboard is. All shapes of a form are in its class, and a
# form has at least six; what fits no such form (fans, vehicles, clothes, ...) has no label.
CLASSES: dict[str, tuple[int, ...]] = {
    # For one to sit on, or for a row of people: chairs, stools, benches.
    "seat": (
        *(1, 26, 31, 37, 42, 45, 65, 79, 93, 99, 101, 103, 108, 114, 118, 125, 143, 159, 168, 171),
    ),
    # Upholstered or made to lie on: sofas and beds.
    "lounge": (2, 3, 5, 21, 67, 86, 87, 88, 95, 112, 132),
    # A raised flat top to stand or sit at.
    "table": (27, 33, 46, 48, 49, 50, 75, 134, 148, 152),
    # Six sides, upright or lying: cupboards, shelves, ovens, fridges, speakers, crates.
    "box": (
        *(4, 6, 16, 28, 39, 43, 44, 52, 61, 68, 71, 73, 74, 98, 105, 128, 130, 131, 144, 145, 146),
        *(151, 153, 154, 166, 172, 173, 174),
    ),
    # Thin and flat: hobs, doors, a mat, a pallet, a telephone.
    "slab": (18, 24, 29, 41, 70, 83, 91, 169, 170),
    # An upright panel of bars: radiators, railings, a fence.
    "grille": (34, 35, 36, 117, 127, 156, 157),
    # Holds something and is round about an upright axis: cups, bottles, bins.
    "vessel": (9, 13, 23, 32, 53, 64, 66, 72, 82, 89, 115),
    # With a bowl for water: washbasins, lavatories, sinks in their cabinets.
    "basin": (57, 62, 84, 104, 122, 136, 165),
    # A compact body without parts: stones, a ball, a loaf.
    "lump": (78, 90, 142, 162, 163, 164),
    # Long, thin, held in one hand: rulers, combs, rackets.
    "tool": (11, 12, 38, 54, 55, 135),
    "lamp": (15, 121, 137, 149, 150, 155, 167),
    "plant": (17, 77, 102, 107, 113, 124, 126, 160),
    # Animals and dolls.
    "figure": (8, 14, 51, 94, 97, 175),
}
MAX_FACES = 65_000
MAX_FILE_BYTES = 1_000_000
TEXTURE_SIDE_PX = 128
# Positions are rounded to this share of the shape's size: far below a pixel, and packs better.
POSITION_STEP = 2.0**-13

_CENTIMETRE = 0.01  # The models are in centimetres, glTF is in metres.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_CC0 = re.compile(
    r"(released under|the following license:)\s+(https?://\S+\s+)?Creative Commons Zero",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"blendswap\.com/blends/view/(\d+)")


@dataclass(frozen=True, slots=True)
class Model:
    """One row of the archive's own catalogue, and what the demo adds.

    Attributes:
        entry: the row.
        label: class of the demo, or "".
        licence_text: the licence file in the model's own folder, or "".
    """

    entry: Furniture
    label: str
    licence_text: str

    @property
    def short_name(self) -> str:
        """The name of the OBJ file without its suffix."""
        return Path(self.entry.file).stem

    @property
    def is_cc0(self) -> bool:
        """Whether its own licence file, if it has one, agrees with the archive's, which is CC0."""
        return not self.licence_text or _CC0.search(self.licence_text) is not None

    @property
    def origin(self) -> str:
        """Where the model was published, as far as its folder tells."""
        found = _ADDRESS.search(self.licence_text)
        return f"https://www.blendswap.com/blends/view/{found[1]}" if found else "blendswap.com"


def main() -> None:
    """Build the pack beside this file."""
    parser = argparse.ArgumentParser(description="Build demo_shapes.zip and CREDITS.md.")
    parser.add_argument("archive", type=Path, help="path of BlendSwap-CC-0.sh3f")
    archive = parser.parse_args().archive
    here = Path(__file__).parent
    packed: list[tuple[Model, bytes]] = []
    for model in read_catalogue(archive):
        content = pack_model(archive, model) if model.is_cc0 else None
        if content is None:
            print(f"left out: {model.short_name} ({model.label or 'no class'})")
        else:
            packed.append((model, content))
    write_pack(here / "demo_shapes.zip", packed)
    (here / "CREDITS.md").write_text(credits_page([model for model, _ in packed]))
    print(f"{len(packed)} shapes, {(here / 'demo_shapes.zip').stat().st_size} bytes")


def read_catalogue(archive: Path) -> list[Model]:
    """Read the catalogue of a Sweet Home 3D furniture archive."""
    label_of = {number: label for label, numbers in CLASSES.items() for number in numbers}
    with zipfile.ZipFile(archive) as members:
        return [
            Model(entry, label_of.get(entry.number, ""), _licence_text(members, entry.file))
            for entry in parse_furniture(members.read(FURNITURE_CATALOGUE))
        ]


def _licence_text(members: zipfile.ZipFile, file: str) -> str:
    """Read the licence file beside a model, its mark-up taken out."""
    folder = file.rsplit("/", 1)[0] + "/"
    names = [name for name in members.namelist() if name.startswith(folder)]
    texts = [
        members.read(name).decode("utf-8", errors="replace")
        for name in sorted(names)
        if name.lower().endswith((".txt", ".html"))
    ]
    # Addresses stand in attributes too; keep those, drop the tags around them.
    return re.sub(r"\s+", " ", re.sub(r"<a href=\"([^\"]*)\">|<[^>]*>", r" \1 ", " ".join(texts)))


def pack_model(archive: Path, model: Model) -> bytes | None:
    """Turn a model into a GLB file; None if it is too large for a demo."""
    entry = model.entry
    mesh = SourceShape(
        model.short_name, model.label, archive, entry.file, entry.rotation
    ).read_mesh()
    if len(mesh.faces) > MAX_FACES:
        return None
    upright = mesh.vertices.astype(np.float64) * _CENTIMETRE + 0.0  # no -0
    step = 2.0 ** np.ceil(np.log2(np.ptp(upright, axis=0).max() * POSITION_STEP))
    rounded = (np.rint(upright / step) * step).astype(np.float32)
    content = glb_bytes(mend(replace(mesh, vertices=rounded, corner_normals=None)))
    return content if len(content) <= MAX_FILE_BYTES else None


def glb_bytes(mesh: Mesh) -> bytes:
    """Write a mesh as a GLB file, one primitive a material, without normals."""
    writer = _GlbWriter()
    for row, material in enumerate(mesh.materials):
        chosen = mesh.face_material == row
        if chosen.any():
            writer.add_primitive(mesh, chosen, material)
    return writer.finish()


class _GlbWriter:
    """Collects the JSON and the binary chunk of a GLB file."""

    def __init__(self) -> None:
        self.binary = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, object]] = []
        self.materials: list[dict[str, object]] = []
        self.images: list[dict[str, object]] = []
        self.image_of_texture: dict[int, int] = {}
        self.primitives: list[dict[str, object]] = []

    def add_primitive(
        self, mesh: Mesh, chosen: Float64[np.ndarray, " m"] | np.ndarray, material: Material
    ) -> None:
        """Add the chosen faces, vertices of the same position and texture coordinate joined."""
        positions = mesh.vertices[mesh.faces[chosen]].reshape(-1, 3)
        uv = mesh.uv[chosen].reshape(-1, 2)
        if material.texture is None:
            uv = np.zeros_like(uv)
        corners, index = _unique_rows(np.concatenate([positions, uv], axis=1))
        attributes = {"POSITION": self._add_array(corners[:, :3], "VEC3", bounds=True)}
        if material.texture is not None:
            top_down = corners[:, 3:] * [1, -1] + [0, 1]  # glTF counts v from the top.
            attributes["TEXCOORD_0"] = self._add_array(top_down.astype(np.float32), "VEC2")
        self.primitives.append(
            {
                "attributes": attributes,
                "indices": self._add_indices(index, len(corners)),
                "material": self._add_material(material),
            }
        )

    def finish(self) -> bytes:
        """Give the whole file."""
        header: dict[str, object] = {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": self.primitives}],
            "materials": self.materials,
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.binary)}],
        }
        if self.images:
            header["images"] = self.images
            header["textures"] = [{"source": image} for image in range(len(self.images))]
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = _chunk(b"JSON", text) + _chunk(b"BIN\0", bytes(self.binary))
        return b"glTF" + _uint32(2) + _uint32(12 + len(chunks)) + chunks

    def _add_bytes(self, content: bytes) -> int:
        self.views.append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(content)})
        self.binary += content + b"\0" * (-len(content) % 4)
        return len(self.views) - 1

    def _add_array(
        self, rows: Float32[np.ndarray, "n width"], kind: str, bounds: bool = False
    ) -> int:
        accessor: dict[str, object] = {
            "bufferView": self._add_bytes(np.ascontiguousarray(rows, dtype="<f4").tobytes()),
            "componentType": 5126,
            "count": len(rows),
            "type": kind,
        }
        if bounds:
            accessor |= {"min": rows.min(axis=0).tolist(), "max": rows.max(axis=0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def _add_indices(self, index: Int64[np.ndarray, " k"], num_vertices: int) -> int:
        is_short = num_vertices < 2**16 - 1
        packed = index.astype("<u2" if is_short else "<u4").tobytes()
        self.accessors.append(
            {
                "bufferView": self._add_bytes(packed),
                "componentType": 5123 if is_short else 5125,
                "count": len(index),
                "type": "SCALAR",
            }
        )
        return len(self.accessors) - 1

    def _add_material(self, material: Material) -> int:
        srgb = np.array(material.diffuse)
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        look: dict[str, object] = {
            "baseColorFactor": [*(round(value, 4) for value in linear.tolist()), 1.0],
            "metallicFactor": 0.0,
        }
        if material.texture is not None:
            look["baseColorTexture"] = {"index": self._add_image(material.texture)}
        self.materials.append({"pbrMetallicRoughness": look})
        return len(self.materials) - 1

    def _add_image(self, texture: UInt8[np.ndarray, "h w 3"]) -> int:
        if id(texture) not in self.image_of_texture:
            view = self._add_bytes(_jpeg(texture))
            self.image_of_texture[id(texture)] = len(self.images)
            self.images.append({"bufferView": view, "mimeType": "image/jpeg"})
        return self.image_of_texture[id(texture)]


def _jpeg(texture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    picture = Image.fromarray(texture)
    picture.thumbnail((TEXTURE_SIDE_PX, TEXTURE_SIDE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80, optimize=True)
    return buffer.getvalue()


def _unique_rows(
    rows: Float32[np.ndarray, "n width"],
) -> tuple[Float32[np.ndarray, "k width"], Int64[np.ndarray, " n"]]:
    """Give distinct rows in the order of their first use, and where each row went."""
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return rows[first[order]], place[inverse.ravel()]


def _uint32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return _uint32(len(content)) + kind + content


def write_pack(path: Path, packed: list[tuple[Model, bytes]]) -> None:
    """Write the GLB files and their catalogue as a zip archive with fixed order and dates."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["source_id", "label", "file", "name", "creator", "licence"])
    packed = sorted(packed, key=lambda entry: entry[0].short_name)
    for model, _ in packed:
        short = model.short_name
        writer.writerow(
            [
                source_id(model),
                model.label,
                f"{short}.glb",
                model.entry.name,
                model.entry.creator,
                "CC0-1.0",
            ]
        )
    members = [(CATALOGUE, table.getvalue().encode())]
    members += [(f"{model.short_name}.glb", content) for model, content in packed]
    # LZMA: 40 % smaller than deflate here; every reader of zip in Python knows it.
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), content, zipfile.ZIP_LZMA)


def source_id(model: Model) -> str:
    """Name the shape for good: where it is from and what its file is called there."""
    return f"blendswap-cc0/{model.short_name}"


def credits_page(models: list[Model]) -> str:
    """Write who made what."""
    lines = [
        "# The shapes of the demo",
        "",
        "All shapes in `demo_shapes.zip` are dedicated to the public domain under",
        "[CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/). Their creators published",
        "them on Blend Swap; Emmanuel Puybaret (eTeks) converted them to OBJ for Sweet Home 3D;",
        "they come from `BlendSwap-CC-0.sh3f` of the Debian package `sweethome3d-furniture` 1.8-1.",
        "Changes: converted to GLB, positions rounded, textures reduced, normals and transparency",
        "left out (`build_demo_shapes.py`).",
        "",
        "Where the last column says `model`, a licence file in the model's own folder says CC0;",
        "where it says `archive`, the folder has no such file, and the archive's licence holds,",
        "which is CC0 for all of it. Models whose own file names another licence are left out.",
        "",
        "| source_id | class | name | creator | published at | licence stated by |",
        "|---|---|---|---|---|---|",
    ]
    for model in sorted(
        models, key=lambda model: (model.label == "", model.label, source_id(model))
    ):
        stated_by = "model" if model.licence_text else "archive"
        entry = model.entry
        lines.append(
            f"| `{source_id(model)}` | {model.label or '-'} | {entry.name} | {entry.creator} "
            f"| {model.origin} | {stated_by} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
