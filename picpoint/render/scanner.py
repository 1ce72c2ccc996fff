"""How do the bytes of a text file become numbers? Kernels for OBJ, OFF and VRML.

They read a text that ends with a line feed, byte by byte, and allocate nothing: a first pass
counts, the caller makes the arrays, a second pass fills them. A blank is a space, a tab, a vertical
tab or a form feed; a line ends with a line feed or a carriage return; `#` begins a comment. A
kernel that meets what it cannot read gives the place, counted in bytes.

Numbers of up to 15 digits with an exponent within 22 are rounded as Python rounds them; longer ones
are within 2 units in the last place of float64. `nan`, `inf` and what C libraries write instead
(`1.#QNAN`) are numbers that are not finite.
"""

from typing import Any, no_type_check

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt8
from numba import njit

# What they call is in this file: a change in another would leave their cached code stale.
_KERNEL: dict[str, Any] = {"nogil": True, "cache": True, "_nrt": False}

# What `count_obj` counts, and its place in the counts.
POSITIONS, TEXTURES, NORMALS, FACES, CORNERS, NAMES, WORDS = range(7)
# What a name in an OBJ file is, in the first column of `names`.
USEMTL, MTLLIB = 0, 1

_TAB, _LINE_FEED, _VERTICAL_TAB, _FORM_FEED, _RETURN, _SPACE = 9, 10, 11, 12, 13, 32
_HASH, _PLUS, _COMMA, _MINUS, _DOT, _SLASH, _ZERO, _CLOSE = 35, 43, 44, 45, 46, 47, 48, 93
_USEMTL, _MTLLIB = np.frombuffer(b"usemtl", np.uint8), np.frombuffer(b"mtllib", np.uint8)
_POWERS = 10.0 ** np.arange(309)
_MOST_MANTISSA = 10**17
_MOST_EXPONENT = 308
_MOST_INDEX = 2**40


def as_text(content: bytes) -> UInt8[np.ndarray, " b"]:
    """Give the bytes of a file as the kernels want them, ending with a line feed."""
    return np.frombuffer(content if content.endswith(b"\n") else content + b"\n", np.uint8)


def line_at(content: bytes, place: int) -> str:
    """Quote the line that a kernel stopped in, with its number."""
    begin = max(content.rfind(b"\n", 0, place), content.rfind(b"\r", 0, place)) + 1
    end = content.find(b"\n", place)
    line = content[begin : end if end >= 0 else len(content)][:60]
    number = content.count(b"\n", 0, begin) + 1
    return f"line {number}: {line.decode(errors='replace').rstrip()!r}"


@njit(**_KERNEL)
@no_type_check
def count_obj(text: UInt8[np.ndarray, " b"], counts: Int64[np.ndarray, "7"]) -> None:
    """Count positions, texture coordinates, normals, faces, their corners, and names.

    The last count is that of the words in the first position's line: from 6 on it has a colour.
    """
    at, end = 0, len(text)
    while at < end:
        at = _skip_blanks(text, at)
        first, second = text[at], text[min(at + 1, end - 1)]
        if first == 118:  # v
            if _is_blank(second):
                counts[POSITIONS] += 1
                if counts[POSITIONS] == 1:
                    counts[WORDS], at = _count_words(text, at + 1)
            elif second == 116:  # vt
                counts[TEXTURES] += _is_blank(text[min(at + 2, end - 1)])
            elif second == 110:  # vn
                counts[NORMALS] += _is_blank(text[min(at + 2, end - 1)])
        elif first == 102 and _is_blank(second):  # f
            counts[FACES] += 1
            num_corners, at = _count_words(text, at + 1)
            counts[CORNERS] += num_corners
        elif first == 117 or first == 109:  # u, m
            counts[NAMES] += 1
        at = _next_line(text, at)


@njit(**_KERNEL)
@no_type_check
def fill_obj(  # noqa: C901
    text: UInt8[np.ndarray, " b"],
    positions: Float64[np.ndarray, "n 3"],
    colors: Float64[np.ndarray, "c 3"],
    texture_coordinates: Float64[np.ndarray, "t 2"],
    normals: Float64[np.ndarray, "k 3"],
    corners: Int32[np.ndarray, "3 corners"],
    sizes: Int64[np.ndarray, " faces"],
    names: Int64[np.ndarray, "q 4"],
) -> int:
    """Fill what `count_obj` counted.

    Args:
        text: the file.
        positions: the first three numbers of each `v`.
        colors: the three after them, for as many `v` as there are rows; not a number where missing.
        texture_coordinates: the first two numbers of each `vt`; 0 for a missing second.
        normals: the first three numbers of each `vn`.
        corners: the row of `v`, of `vt` and of `vn` of each corner, from 0; -1 where there is none.
        sizes: number of corners of each face.
        names: kind, first byte, byte behind the last, number of faces above; for each `usemtl` and
            `mtllib`. Other words that begin with u or m leave a row of -1.

    Returns:
        The place of what cannot be read, or -1.
    """
    num_v = num_vt = num_vn = num_faces = num_corners = num_names = 0
    at, end = 0, len(text)
    while at < end:
        at = _skip_blanks(text, at)
        first, second = text[at], text[min(at + 1, end - 1)]
        if first == 118:
            third = text[min(at + 2, end - 1)]
            if _is_blank(second):
                at = _fill_numbers(text, at + 1, positions[num_v], 3)
                if at < 0:
                    return -at
                if num_v < len(colors):
                    after = _fill_numbers(text, at, colors[num_v], 3)
                    if after < 0:
                        colors[num_v, 0] = np.nan
                num_v += 1
            elif second == 116 and _is_blank(third):
                at = _fill_numbers(text, at + 2, texture_coordinates[num_vt], 1)
                if at < 0:
                    return -at
                num_vt += 1
            elif second == 110 and _is_blank(third):
                at = _fill_numbers(text, at + 2, normals[num_vn], 3)
                if at < 0:
                    return -at
                num_vn += 1
        elif first == 102 and _is_blank(second):
            begin = num_corners
            at = _skip_blanks(text, at + 1)
            while not _ends_line(text[at]):
                at = _fill_corner(
                    text,
                    at,
                    corners[:, num_corners],
                    (num_v, num_vt, num_vn),
                    (len(positions), len(texture_coordinates), len(normals)),
                )
                if at < 0:
                    return -at
                num_corners += 1
                at = _skip_blanks(text, at)
            sizes[num_faces] = num_corners - begin
            num_faces += 1
        elif first == 117 or first == 109:
            kind = _name_kind(text, at, end)
            names[num_names, 0] = kind
            at = _skip_blanks(text, _skip_word(text, at))
            names[num_names, 1], names[num_names, 3] = at, num_faces
            at = _line_end(text, at)
            names[num_names, 2] = at
            num_names += 1
        at = _next_line(text, at)
    return -1


@njit(**_KERNEL)
@no_type_check
def fill_off(
    text: UInt8[np.ndarray, " b"],
    at: int,
    vertices: Float64[np.ndarray, "n 3"],
    sizes: Int64[np.ndarray, " faces"],
    corners: Int64[np.ndarray, " c"],
) -> int:
    """Fill the vertices and faces of an OFF file; what else stands in their lines is passed over.

    Args:
        text: the file.
        at: the first byte behind the counts.
        vertices: the first three numbers of each line.
        sizes: number of corners of each face.
        corners: vertex indices of all faces, with room for all that the file can hold.

    Returns:
        The place of what cannot be read, or -1.
    """
    end = len(text)
    for row in range(len(vertices)):
        at = _first_word(text, at)
        if at >= end:
            return end
        at = _fill_numbers(text, at, vertices[row], 3)
        if at < 0:
            return -at
        at = _next_line(text, at)
    num_corners = 0
    for face in range(len(sizes)):
        at = _first_word(text, at)
        if at >= end:
            return end
        size, at = _whole(text, at)
        if at < 0 or size < 0:
            return abs(at)
        sizes[face] = size
        for _ in range(size):
            at = _skip_blanks(text, at)
            corner, after = _whole(text, at)
            if after < 0 or not 0 <= corner < len(vertices):
                return at
            corners[num_corners] = corner
            num_corners += 1
            at = after
        at = _next_line(text, at)
    return -1


@njit(**_KERNEL)
@no_type_check
def fill_list(
    text: UInt8[np.ndarray, " b"], at: int, values: Float64[np.ndarray, " room"]
) -> tuple[int, int]:
    """Read the numbers of a VRML list up to its `]`; commas are blanks, lines end nowhere.

    Args:
        text: the file.
        at: the first byte behind the `[`.
        values: room for as many numbers as the list can hold.

    Returns:
        How many there are, and the place behind the `]`; -1 and the place of what cannot be read.
    """
    end, num_values = len(text), 0
    while at < end:
        byte = text[at]
        if byte == _HASH:
            at = _next_line(text, at)
        elif byte == _CLOSE:
            return num_values, at + 1
        elif byte == _COMMA or _is_space(byte):
            at += 1
        else:
            value, after = _number(text, at)
            if after < 0 or num_values >= len(values) or not _ends_entry(text[after]):
                return -1, at
            values[num_values] = value
            num_values += 1
            at = after
    return -1, end


@njit(**_KERNEL)
@no_type_check
def _is_blank(byte: int) -> bool:
    return byte in (_SPACE, _TAB, _VERTICAL_TAB, _FORM_FEED)


@njit(**_KERNEL)
@no_type_check
def _is_space(byte: int) -> bool:
    return byte == _SPACE or _TAB <= byte <= _RETURN


@njit(**_KERNEL)
@no_type_check
def _ends_line(byte: int) -> bool:
    """Tell whether nothing of a line is left: it ends, or a comment begins."""
    return byte in (_LINE_FEED, _RETURN, _HASH)


@njit(**_KERNEL)
@no_type_check
def _ends_entry(byte: int) -> bool:
    """Tell whether an entry of a list can end before a byte."""
    return _is_space(byte) or byte in (_COMMA, _CLOSE, _HASH)


@njit(**_KERNEL)
@no_type_check
def _skip_blanks(text: np.ndarray, at: int) -> int:
    while _is_blank(text[at]):
        at += 1
    return at


@njit(**_KERNEL)
@no_type_check
def _skip_word(text: np.ndarray, at: int) -> int:
    while not _is_space(text[at]):
        at += 1
    return at


@njit(**_KERNEL)
@no_type_check
def _count_words(text: np.ndarray, at: int) -> tuple[int, int]:
    """Count the words left in a line; give that and where they end."""
    num_words = 0
    at = _skip_blanks(text, at)
    while not _ends_line(text[at]):
        num_words += 1
        at = _skip_blanks(text, _skip_word(text, at))
    return num_words, at


@njit(**_KERNEL)
@no_type_check
def _line_end(text: np.ndarray, at: int) -> int:
    while text[at] != _LINE_FEED and text[at] != _RETURN:
        at += 1
    return at


@njit(**_KERNEL)
@no_type_check
def _next_line(text: np.ndarray, at: int) -> int:
    return _line_end(text, at) + 1


@njit(**_KERNEL)
@no_type_check
def _first_word(text: np.ndarray, at: int) -> int:
    """Go to the next line that says something."""
    while at < len(text):
        at = _skip_blanks(text, at)
        if not _ends_line(text[at]):
            return at
        at = _next_line(text, at)
    return at


@njit(**_KERNEL)
@no_type_check
def _number(text: np.ndarray, at: int) -> tuple[float, int]:  # noqa: C901
    """Read a number; give it and the place behind it, or -1 there if it is none."""
    is_negative = text[at] == _MINUS
    if is_negative or text[at] == _PLUS:
        at += 1
    mantissa, exponent, num_digits = np.int64(0), 0, 0
    digit = np.int64(text[at]) - _ZERO
    while 0 <= digit <= 9:
        if mantissa < _MOST_MANTISSA:
            mantissa = 10 * mantissa + digit
        else:
            exponent += 1
        num_digits += 1
        at += 1
        digit = np.int64(text[at]) - _ZERO
    if text[at] == _DOT:
        at += 1
        if text[at] == _HASH and num_digits > 0:  # 1.#QNAN, 1.#INF
            return np.nan, _skip_word(text, at)
        digit = np.int64(text[at]) - _ZERO
        while 0 <= digit <= 9:
            if mantissa < _MOST_MANTISSA:
                mantissa = 10 * mantissa + digit
                exponent -= 1
            num_digits += 1
            at += 1
            digit = np.int64(text[at]) - _ZERO
    if num_digits == 0:
        return _not_finite(text, at)
    if text[at] | 32 == 101:  # e, E
        power, at = _exponent(text, at + 1)
        if at < 0:
            return 0.0, -1
        exponent += power
    value = np.float64(mantissa)
    if exponent > 0:
        value = value * _POWERS[exponent] if exponent <= _MOST_EXPONENT else value * np.inf
        if mantissa == 0:
            value = 0.0
    elif exponent < 0:
        value /= _POWERS[min(-exponent, _MOST_EXPONENT)]
        if exponent < -_MOST_EXPONENT:
            value /= _POWERS[min(-exponent - _MOST_EXPONENT, _MOST_EXPONENT)]
    return -value if is_negative else value, at


@njit(**_KERNEL)
@no_type_check
def _exponent(text: np.ndarray, at: int) -> tuple[int, int]:
    """Read the exponent behind an `e`; give it and the place behind it, or -1 there."""
    is_negative = text[at] == _MINUS
    if is_negative or text[at] == _PLUS:
        at += 1
    power, num_digits = 0, 0
    while 48 <= text[at] <= 57:
        power = min(10 * power + np.int64(text[at]) - _ZERO, 9999)
        num_digits += 1
        at += 1
    return -power if is_negative else power, at if num_digits > 0 else -1


@njit(**_KERNEL)
@no_type_check
def _not_finite(text: np.ndarray, at: int) -> tuple[float, int]:
    """Read `nan...` or `inf...`, in capitals or not; give -1 as the place behind anything else."""
    if len(text) - at > 3:
        a, b, c = text[at] | 32, text[at + 1] | 32, text[at + 2] | 32
        if a == 110 and b == 97 and c == 110 or a == 105 and b == 110 and c == 102:  # noqa: RUF021
            return np.nan, _skip_word(text, at)
    return 0.0, -1


@njit(**_KERNEL)
@no_type_check
def _fill_numbers(text: np.ndarray, at: int, row: np.ndarray, least: int) -> int:
    """Fill a row with the next numbers of a line, and with zeros behind the least that it needs.

    Returns:
        The place behind them; the place of what cannot be read, negative.
    """
    for column in range(len(row)):
        at = _skip_blanks(text, at)
        if _ends_line(text[at]):
            if column < least:
                return -at
            row[column] = 0.0
            continue
        value, after = _number(text, at)
        if after < 0 or not (_is_space(text[after]) or text[after] == _HASH):
            return -at
        row[column] = value
        at = after
    return at


@njit(**_KERNEL)
@no_type_check
def _whole(text: np.ndarray, at: int) -> tuple[int, int]:
    """Read a whole number; give it and the place behind it, or minus its place if it is none."""
    begin = at
    is_negative = text[at] == _MINUS
    if is_negative or text[at] == _PLUS:
        at += 1
    value, first = np.int64(0), at
    while 48 <= text[at] <= 57:
        value = min(10 * value + np.int64(text[at]) - _ZERO, _MOST_INDEX)
        at += 1
    if at == first or not (_is_space(text[at]) or text[at] == _SLASH or text[at] == _HASH):
        return 0, -begin
    return -value if is_negative else value, at


@njit(**_KERNEL)
@no_type_check
def _fill_corner(
    text: np.ndarray,
    at: int,
    row: np.ndarray,
    above: tuple[int, int, int],
    total: tuple[int, int, int],
) -> int:
    """Read `position/texture/normal`; the latter two may be missing.

    Args:
        text: the file.
        at: the first byte of the corner.
        row: is filled.
        above: how many of each stand above the line; negative indices count back from there.
        total: how many of each the file has.

    Returns:
        The place behind it; the place of what cannot be read or is out of range, negative.
    """
    begin = at
    row[0] = row[1] = row[2] = -1
    for column in range(3):
        if text[at] != _SLASH and not _is_space(text[at]):
            number, at = _whole(text, at)
            if at < 0:
                return -begin
            # The file counts from 1, or backwards from -1; 0 stands for "none".
            index = above[column] + number if number < 0 else number - 1
            if (index < 0 and number != 0) or index >= total[column]:
                return -begin
            row[column] = index
        if row[0] < 0:
            return -begin
        if text[at] != _SLASH:
            return at
        at += 1
    return -begin


@njit(**_KERNEL)
@no_type_check
def _name_kind(text: np.ndarray, at: int, end: int) -> int:
    """Tell `usemtl` and `mtllib` from other words (-1)."""
    is_usemtl = is_mtllib = end - at > len(_USEMTL) and _is_space(text[at + len(_USEMTL)])
    for step in range(len(_USEMTL)):
        is_usemtl = is_usemtl and text[at + step] == _USEMTL[step]
        is_mtllib = is_mtllib and text[at + step] == _MTLLIB[step]
    return USEMTL if is_usemtl else (MTLLIB if is_mtllib else -1)
