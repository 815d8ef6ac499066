"""Files as strangers send them: hypothesis strategies that break a few things in what was whole.

@given(content=damaged(WHOLE))          bytes: cut, overwritten, repeated, taken out, put in
@given(content=damaged_json(VALUE))     a JSON value: something in it replaced, removed or repeated; then written as bytes
refused(read, path)                     True: ``read(path)`` said in one sentence what is wrong; False: it took the file
"""

import copy
import json

from hypothesis import strategies as st

from unifashion.errors import UserError

NOTHING = [
    None,
    True,
    False,
    0,
    -1,
    3,
    1.5,
    float("nan"),
    float("inf"),
    10**30,
    "",
    " ",
    "x",
    "..",
    "\0",
    "\ud800",
    [],
    {},
]
JUNK = st.sampled_from(
    [*NOTHING, "x" * 300, "/etc/passwd", "../x.jpg", "[1", "7", [None], [["x"]], {"x": []}, {"": None}]
)


@st.composite
def damaged(draw, whole: bytes, most: int = 4) -> bytes:
    """Bytes with one to ``most`` faults."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(content)))
        end = min(start + draw(st.sampled_from([1, 2, 4, 16, 200, 10_000])), len(content))
        fault = draw(st.sampled_from(["flip", "write", "write", "cut", "remove", "repeat", "insert"]))
        if fault == "flip" and start < len(content):
            content[start] ^= 1 << draw(st.integers(0, 7))
        elif fault == "write":
            content[start:end] = draw(st.sampled_from([b"\0", b"\xff", b"\x7f", b"9"])) * (end - start)
        elif fault == "cut":
            del content[start:]
        elif fault == "remove":
            del content[start:end]
        elif fault == "repeat":
            content[end:end] = content[start:end] * draw(st.integers(1, 3))
        elif fault == "insert":
            content[start:start] = draw(
                st.binary(max_size=8) | st.sampled_from([b"\n", b'"', b"[" * 100_000, b"1" * 5000])
            )
    return bytes(content)


@st.composite
def damaged_json(draw, value, lines: bool = False) -> bytes:
    """A JSON value (with ``lines``: a list of them, one a line) with one to three faults, now and then damaged as bytes too."""
    value = {"": copy.deepcopy(value)}  # so that the value itself can be replaced as well
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from([*_places(value)]))
        fault = draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat"]))
        if fault == "replace" or holder is value:
            holder[key] = copy.deepcopy(draw(JUNK))
        elif fault == "remove":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[draw(st.sampled_from(["", "x", "id", "image"]))] = copy.deepcopy(holder[key])
    rows = value[""] if lines and isinstance(value[""], list) else [value[""]]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return draw(damaged(text)) if draw(st.integers(0, 4)) == 0 else text


def _places(value):
    """Every (list or object, index or key) within a value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def refused(read, *arguments) -> bool:
    """Read a file that may be damaged: all but a result and one sentence is an error of the test."""
    try:
        read(*arguments)
    except UserError as error:
        assert str(error).strip() and "\n" not in str(error)
        return True
    return False
