"""Which shapes does a list name? CSV and Parquet tables of ids, labels and files or URLs."""

import csv
import io
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("source_id", "label", "file")
LIST_SUFFIXES = (".csv", ".parquet")

# A table on the disk, or one that was unpacked.
OpenTable = io.BufferedReader | io.BytesIO


def parse_list(table: OpenTable, name: str) -> Iterator[tuple[str, str, str]]:
    """Yield id, label and file of every row, as the table is read.

    Args:
        table: an open file, read a piece at a time: a list of ten million rows is no more in memory
            than one of ten.
        name: of the table; its suffix says whether it is CSV (UTF-8) or Parquet.

    Raises:
        ValueError: it is no such table, or a column or a cell is missing.
    """
    return _csv_rows(table) if name.lower().endswith(".csv") else _parquet_rows(table)


def _csv_rows(table: OpenTable) -> Iterator[tuple[str, str, str]]:
    text = io.TextIOWrapper(table, "utf-8-sig", newline="")
    try:
        reader = csv.DictReader(text)
        _check_columns(reader.fieldnames or ())
        for row in reader:
            if None in row or None in (row[column] for column in COLUMNS):
                raise ValueError(
                    f"line {reader.line_num}: more or fewer cells than the header has columns"
                )
            yield row["source_id"], row["label"], row["file"]
    except csv.Error as error:
        raise ValueError(f"no sound CSV ({error})") from error
    finally:
        text.detach()  # whoever opened the table closes it


def _parquet_rows(table: OpenTable) -> Iterator[tuple[str, str, str]]:
    number = 0
    try:
        # Without threads, which can abort the interpreter when it ends.
        file = pq.ParquetFile(table)
        _check_columns(file.schema_arrow.names)
        for batch in file.iter_batches(columns=list(COLUMNS), use_threads=False):
            columns = [batch.column(name).to_pylist() for name in COLUMNS]
            for row in zip(*columns, strict=True):
                number += 1
                source_id, label, file_name = row
                if not all(isinstance(cell, str) for cell in row):
                    raise ValueError(f"row {number} holds {row}: all three must be text")
                yield source_id, label, file_name
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"no sound Parquet file ({error})") from error


def _check_columns(found: Sequence[str]) -> None:
    if missing := set(COLUMNS) - set(found):
        raise ValueError(f"no column {', '.join(sorted(missing))}; it needs {', '.join(COLUMNS)}")
