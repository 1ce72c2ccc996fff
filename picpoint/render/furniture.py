"""What does a Sweet Home 3D furniture archive (.sh3f) hold? Its catalogue, as records."""

import re
from dataclasses import dataclass

FURNITURE_CATALOGUE = "PluginFurnitureCatalog.properties"

_ENTRY = re.compile(r"^[ \t]*(\w+)#(\d+)[ \t]*[=:][ \t]*(.*?)[ \t\r]*$", re.MULTILINE)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Furniture:
    """One row of the catalogue.

    Attributes:
        number: its number there.
        name: what it is, in English.
        category: the kind of room, or of thing.
        creator: who made it, or "".
        file: the model within the archive.
        rotation: of the file's vertices, row by row, to stand upright; None for none.
    """

    number: int
    name: str
    category: str
    creator: str
    file: str
    rotation: tuple[float, ...] | None


def parse_furniture(content: bytes) -> list[Furniture]:
    """Read a catalogue, sorted by number.

    Args:
        content: the archive's `PluginFurnitureCatalog.properties`.

    Raises:
        ValueError: an entry has no model, or a rotation that is not nine numbers.
    """
    # Java's properties: Latin-1, with escapes; long lines go on behind a backslash.
    text = re.sub(r"\\\r?\n[ \t]*", "", content.decode("latin-1"))
    fields: dict[int, dict[str, str]] = {}
    for key, number, value in _ENTRY.findall(text):
        fields.setdefault(int(number), {})[key] = _unescaped(value)
    return [_furniture(number, row) for number, row in sorted(fields.items())]


def _unescaped(value: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], value)


def _furniture(number: int, row: dict[str, str]) -> Furniture:
    if not row.get("model", "").strip("/"):
        raise ValueError(f"entry #{number} names no model")
    return Furniture(
        number=number,
        name=row.get("name", ""),
        category=row.get("category", ""),
        creator=row.get("creator", ""),
        file=row["model"].lstrip("/"),
        rotation=_rotation(number, row.get("modelRotation", "")),
    )


def _rotation(number: int, numbers: str) -> tuple[float, ...] | None:
    values = tuple(float(word) for word in numbers.split())
    if len(values) not in (0, 9):
        raise ValueError(f"entry #{number}: modelRotation has {len(values)} numbers, not 9")
    return values or None
