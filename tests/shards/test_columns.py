import pytest

from shards.columns import MemberSpan, SampleRow, columns_of


def _row(*names):
    members = tuple(
        MemberSpan(name, 100 * place, 10 + place, 7 * place) for place, name in enumerate(names)
    )
    return SampleRow("key", "source", "label", 1, 0, members)


def test_spans_are_those_of_the_row_however_its_members_are_laid_out():
    rows = [_row("a", "b", "c"), _row("c", "a"), _row("a", "b", "c"), _row("b")]
    columns = columns_of(rows)
    for _ in range(2):
        for number, row in enumerate(rows):
            for span in row.members:
                assert columns.spans(number, [span.name]) == [span]
            assert columns.spans(number, [each.name for each in row.members[::-1]]) == list(
                row.members[::-1]
            )


@pytest.mark.parametrize("name", ["twice", "missing"])
def test_a_member_that_is_not_there_once_is_an_error_and_the_others_are_told(name):
    columns = columns_of([_row("a", "twice", "twice")])
    assert columns.spans(0, ["a"]) == [MemberSpan("a", 0, 10, 0)]
    with pytest.raises(KeyError, match=name):
        columns.spans(0, ["a", name])
