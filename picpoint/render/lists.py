"""Which shapes does a list name? CSV and Parquet tables of ids, labels and files or URLs."""

import csv
import io
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("source_id", "label", "file")
LIST_SUFFIXES = (".csv", ".parquet")


def parse_list(content: bytes, name: str) -> Iterator[tuple[str, str, str]]:
    """Yield id, label and file of every row.

    Args:
        content: the whole table.
        name: of the table; its suffix says whether it is CSV (UTF-8) or Parquet.

    Raises:
        ValueError: it is no such table, or a column or a cell is missing.
    """
    return _csv_rows(content) if name.lower().endswith(".csv") else _parquet_rows(content)


def _csv_rows(content: bytes) -> Iterator[tuple[str, str, str]]:
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        _check_columns(reader.fieldnames or ())
        for row in reader:
            if None in row or None in (row[column] for column in COLUMNS):
                raise ValueError(
                    f"line {reader.line_num}: more or fewer cells than the header has columns"
                )
            yield row["source_id"], row["label"], row["file"]
    except csv.Error as error:
        raise ValueError(f"no sound CSV ({error})") from error


def _parquet_rows(content: bytes) -> Iterator[tuple[str, str, str]]:
    try:
        # Without threads, which can abort the interpreter when it ends.
        file = pq.ParquetFile(io.BytesIO(content))
        _check_columns(file.schema_arrow.names)
        table = file.read(columns=list(COLUMNS), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"no sound Parquet file ({error})") from error
    columns = [table.column(name).to_pylist() for name in COLUMNS]
    for number, row in enumerate(zip(*columns, strict=True), 1):
        source_id, label, file_name = row
        if not all(isinstance(cell, str) for cell in row):
            raise ValueError(f"row {number} holds {row}: all three must be text")
        yield source_id, label, file_name


def _check_columns(found: Sequence[str]) -> None:
    if missing := set(COLUMNS) - set(found):
        raise ValueError(f"no column {', '.join(sorted(missing))}; it needs {', '.join(COLUMNS)}")
