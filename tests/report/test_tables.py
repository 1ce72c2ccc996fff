import json
import math

import pytest

from picpoint.report.tables import (
    NOTHING,
    Cell,
    Column,
    number,
    percent,
    percent_difference,
    table,
    to_json,
    to_markdown,
    word,
)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (number(1234567), "1,234,567"),
        (number(0.123456), "0.1235"),
        (number(2.0, 2), "2.00"),
        (percent(0.92345), "92.3"),
        (percent(0.9, 0.004), "90.0 ± 0.4"),
        (percent_difference(0.0123), "+1.2"),
        (percent_difference(-0.0123), "\N{MINUS SIGN}1.2"),
    ],
)
def test_numbers_are_told_shortly(cell: Cell, text: str) -> None:
    assert cell.text == text


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_no_number_is_a_dash_without_a_value(value: float | None) -> None:
    assert number(value) == NOTHING
    assert percent(value) == NOTHING
    assert NOTHING.value is None


def test_markdown_shows_what_comes_from_data_as_it_is() -> None:
    evil = "<script>alert(1)</script> | [x](y) `code` *bold*\n# head"
    columns = [Column("Class"), Column("Accuracy, %", is_number=True)]
    told = to_markdown(table(evil, columns, [[word(evil, "no|te"), percent(0.5)]]))
    lines = told.splitlines()
    assert lines[3] == "| --- | ---: |"
    assert "<" not in told
    assert "&lt;script&gt;" in told
    # No pipe but those of the table, and no line but its own.
    assert lines[4].replace("\\|", "").count("|") == 3
    assert "\\[x\\](y) \\`code\\` \\*bold\\*" in told
    assert not any(line.startswith("#") for line in lines)


def test_json_has_values_and_what_a_reader_sees() -> None:
    columns = [Column("Class"), Column("Accuracy, %", is_number=True)]
    rows = [[word("chair"), percent(0.9, 0.01, "2 seeds")], [word("lamp"), number(math.nan)]]
    told = json.loads(json.dumps(to_json(table("Classes", columns, rows)), allow_nan=False))
    assert told["columns"] == ["Class", "Accuracy, %"]
    assert told["rows"] == [["chair", 90.0], ["lamp", None]]
    assert told["texts"][0] == ["chair", "90.0 ± 1.0 (2 seeds)"]
