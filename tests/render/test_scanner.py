"""Numbers from bytes, with Python's own reading of the same words as the oracle."""

import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picpoint.render.obj import parse_obj
from picpoint.render.off import parse_off
from picpoint.render.scanner import as_text, fill_list

MAX_FACES = 1000


def numbers_in(text):
    values = np.empty(len(text) // 2 + 1)
    count, place = fill_list(as_text(text), 0, values)
    assert count >= 0
    assert place == text.index(b"]") + 1
    return values[:count].tolist()


# Up to 15 digits and an exponent within 22 - 15: where every step of the reading is exact.
SHORT = st.tuples(
    st.sampled_from(["", "-", "+"]),
    st.integers(0, 10**8 - 1),
    st.text("0123456789", max_size=7),
    st.sampled_from(["", "e3", "E-7", "e+05", "e-12"]),
).map(lambda parts: f"{parts[0]}{parts[1]}.{parts[2]}{parts[3]}")
LONG = st.floats(-1e300, 1e300, allow_subnormal=False).map(repr)


@given(st.lists(SHORT, min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_numbers_of_up_to_15_digits_are_rounded_as_python_rounds_them(words):
    text = ", ".join(words).encode() + b" ]"
    assert numbers_in(text) == [float(word) for word in words]


@given(st.lists(LONG, min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_longer_numbers_are_within_two_units_in_the_last_place(words):
    for found, word in zip(numbers_in(" ".join(words).encode() + b"]"), words, strict=True):
        assert abs(found - float(word)) <= 2 * math.ulp(float(word))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("007", 7.0),
        (".5", 0.5),
        ("-.5e1", -5.0),
        ("5.", 5.0),
        ("0e999", 0.0),
        ("1e-400", 0.0),
        ("1e400", math.inf),
        ("-1e400", -math.inf),
        ("3" * 40, 3.3333333333333333e39),
        ("0." + "0" * 40 + "25", 2.5e-41),
    ],
)
def test_odd_spellings_are_read(word, value):
    assert numbers_in(f"{word}]".encode()) == pytest.approx([value], rel=1e-15)


@pytest.mark.parametrize("word", ["nan", "NaN", "-inf", "1.#QNAN", "-1.#IND", "Infinity"])
def test_what_is_not_finite_is_a_number_all_the_same(word):
    (value,) = numbers_in(f"{word} ]".encode())
    assert not math.isfinite(value)


@pytest.mark.parametrize("word", ["x", "1e", "--1", ".", "+", "1.2.3", "0x10", "1,5e"])
def test_what_is_no_number_is_told_by_its_place(word):
    values = np.empty(10)
    count, place = fill_list(as_text(f"1 2 {word}]".encode()), 0, values)
    assert count == -1
    assert place >= 4


COORDINATE = st.one_of(SHORT, st.integers(-99, 99).map(str))
ROW = st.tuples(COORDINATE, COORDINATE, COORDINATE)
BLANK = st.sampled_from([" ", "\t", "  "])
LINE_END = st.sampled_from(["\n", "\r\n", "\r", " \n", " # comment\n", "\n\n# comment\n"])


@st.composite
def obj_files(draw):
    """An OBJ text, its rows of positions, and its triangles, as the words say them."""
    positions = draw(st.lists(ROW, min_size=3, max_size=8))
    triangles = draw(
        st.lists(st.lists(st.integers(0, len(positions) - 1), min_size=3, max_size=3), max_size=6)
    )
    blank = draw(BLANK)
    lines = [f"v{blank}{blank.join(row)}" for row in positions]
    for triangle in triangles:
        back = draw(st.booleans())
        corners = [str(i - len(positions) if back else i + 1) for i in triangle]
        lines.append(f"f{blank}{blank.join(corners)}")
    return "".join(line + draw(LINE_END) for line in lines), positions, triangles


@given(obj_files())
@settings(max_examples=150, deadline=None)
def test_an_obj_of_any_spacing_and_line_ends_says_what_its_words_say(file):
    text, positions, triangles = file
    found = parse_obj(text.encode(), MAX_FACES)
    assert found.positions.tolist() == [[float(word) for word in row] for row in positions]
    assert found.corner_position.tolist() == triangles
    assert (found.corner_texture == -1).all()
    assert found.position_colors is None


@given(obj_files())
@settings(max_examples=50, deadline=None)
def test_an_off_says_the_same_as_an_obj(file):
    _, positions, triangles = file
    lines = [f"OFF{len(positions)} {len(triangles)} 0", *(" ".join(row) for row in positions)]
    lines += [f"3 {a} {b} {c} 0.5 0.5 0.5" for a, b, c in triangles]
    vertices, faces = parse_off("\n".join(lines).encode(), MAX_FACES)
    assert vertices.tolist() == [[float(word) for word in row] for row in positions]
    assert faces.tolist() == triangles


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_lead_the_kernels_astray(content):
    for text in (content, b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf " + content, b"OFF 3 1 0\n" + content):
        with suppress(ValueError):
            found = parse_obj(text, MAX_FACES)
            assert_within(found.corner_position, len(found.positions))
        with suppress(ValueError):
            vertices, faces = parse_off(text, MAX_FACES)
            assert_within(faces, len(vertices))


def assert_within(corners, count):
    assert ((corners >= 0) & (corners < count)).all()
