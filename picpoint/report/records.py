"""What was measured of speed and of faults? Records of benchmarks, each as tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from picpoint.report.blocks import Block, Details, Section
from picpoint.report.tables import Cell, Column, Table, number, table, word


@dataclass(frozen=True, slots=True)
class Record:
    """One record, as `benchmarks/record.py` writes them.

    Attributes:
        name: of the benchmark.
        date: when it was measured.
        commit: of the code.
        machine: what it was measured on, by name.
        versions: of packages.
        results: what was found: nested mappings, lists and plain values; units are in the names.
    """

    name: str
    date: str
    commit: str
    machine: Mapping[str, Any]
    versions: Mapping[str, Any]
    results: Any


def record_sections(records: Sequence[Record]) -> list[Section]:
    """Lay out records; none gives no section."""
    if not records:
        return []
    columns = [
        Column("Record"),
        Column("Measured"),
        Column("Commit"),
        Column("Machine", is_long=True),
        Column("Figures", is_number=True),
    ]
    rows = [
        [
            word(record.name),
            word(record.date[:10]),
            word(record.commit),
            word(_machine(record.machine)),
            number(_count(record.results)),
        ]
        for record in records
    ]
    blocks: list[Block] = [table("Records", columns, rows)]
    for record in records:
        tables = tuple(record_tables(record.name, record.results))
        blocks.append(Details(record.name, (*tables, _versions(record))))
    lead = "Speed, memory and faults, as measured where and when it says; units are in the names."
    return [Section("records", "Speed and faults", lead, tuple(blocks))]


def record_tables(title: str, results: Any) -> Iterator[Table]:  # noqa: ANN401 - JSON
    """Turn nested results into tables: groups that are alike are the rows of one."""
    if not isinstance(results, Mapping):
        yield _plain(title, {"value": results})
        return
    groups = {name: inner for name, inner in results.items() if _is_group(inner)}
    if scalars := {name: inner for name, inner in results.items() if name not in groups}:
        yield _plain(title, scalars)
    if len(groups) > 1 and _are_alike(groups):
        yield _matrix(title, groups)
        return
    for name, inner in groups.items():
        yield from record_tables(f"{title}, {name}", inner)


def _is_group(value: Any) -> bool:  # noqa: ANN401 - JSON
    return isinstance(value, Mapping) and bool(value)


def _are_alike(groups: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell whether groups hold plain values under mostly the same names."""
    if any(_is_group(value) for inner in groups.values() for value in inner.values()):
        return False
    names = [set(inner) for inner in groups.values()]
    return 2 * len(set.intersection(*names)) >= len(set.union(*names))


def _plain(title: str, scalars: Mapping[str, Any]) -> Table:
    columns = [Column("Figure", is_long=True), Column("Value", is_number=True)]
    return table(title, columns, [[word(name), _cell(value)] for name, value in scalars.items()])


def _matrix(title: str, groups: Mapping[str, Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for inner in groups.values() for name in inner))
    columns = [Column("Of", is_long=True), *(Column(name, is_number=True) for name in names)]
    rows = [
        [word(group), *(_cell(inner.get(name)) for name in names)]
        for group, inner in groups.items()
    ]
    return table(title, columns, rows)


def _cell(value: Any) -> Cell:  # noqa: ANN401 - JSON
    match value:
        case None:
            return number(None)
        case bool():
            return word("yes" if value else "no")
        case int() | float():
            return number(float(value))
        case list() | tuple():
            return word(", ".join(str(each) for each in value))
        case _:
            return word(value)


def _count(value: Any) -> int:  # noqa: ANN401 - JSON
    match value:
        case Mapping():
            return sum(_count(inner) for inner in value.values())
        case list() | tuple():
            return sum(_count(inner) for inner in value)
        case bool() | None | str():
            return 0
        case _:
            return 1


def _machine(machine: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def _versions(record: Record) -> Table:
    columns = [Column("Package"), Column("Version")]
    rows = [
        [word(name), word(version or "not installed")] for name, version in record.versions.items()
    ]
    return table(f"{record.name}, versions", columns, rows)
