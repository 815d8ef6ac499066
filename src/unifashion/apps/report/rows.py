"""Are the rows of a file what its dataclass says? Types, finite numbers, and sizes that an evaluation can have.

A dataclass takes whatever it is given, and JSON may hold anything.
"""

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from unifashion.errors import UserError
from unifashion.evaluation.ranked_lists import RankedItem, RankedList
from unifashion.evaluation.scores import Score

LEAST = {"rank": 0, "gallery": 1, "n": 0}
MAX_NUMBER = 1e15
MAX_PROTOCOLS = 60  # of the rows of one file: each has sections and figures of its own
MAX_WORDS = 200  # characters of what is a name, which figures and headings hold
KINDS: dict[type, dict[str, Any]] = {kind: get_type_hints(kind) for kind in (Score, RankedList, RankedItem)}
NAMES = ("protocol", "category", "dataset", "split", "metric", "slices")


def check_rows(path: Path, rows: Sequence[Any]) -> None:
    """Check the rows of a file.

    Raises:
        UserError: names file, row and field.
    """
    for number, row in enumerate(rows, 1):
        field = _wrong_field(row)
        if field:
            raise UserError(f"{path}, row {number}: {field!r} does not hold what an evaluation writes; run it again")
    if len({row.protocol for row in rows}) > MAX_PROTOCOLS:
        raise UserError(f"{path} holds more than {MAX_PROTOCOLS} protocols, which no evaluation writes; run it again")


def _wrong_field(row: Any) -> str:
    for name, kind in KINDS[type(row)].items():
        value = getattr(row, name)
        is_long = name in NAMES and max(map(len, _words(value)), default=0) > MAX_WORDS
        if is_long or not _fits(value, kind) or (name in LEAST and value is not None and value < LEAST[name]):
            return name
    return ""


def _words(value: Any) -> list[str]:
    texts = [*value, *value.values()] if isinstance(value, dict) else [value]
    return list(map(str, texts))


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, inner[0]) for one in value)
    if origin is dict:
        pairs = value.items() if isinstance(value, dict) else [(None, None)]
        return all(_fits(name, inner[0]) and _fits(one, inner[1]) for name, one in pairs)
    if kind in KINDS:
        return isinstance(value, kind) and not _wrong_field(value)
    return _is_one(value, kind)


def _is_one(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        is_number = isinstance(value, int | float if kind is float else int) and not isinstance(value, bool)
        return is_number and abs(value) < MAX_NUMBER  # False for NaN, too
    if kind is str:
        return isinstance(value, str) and _is_text(value)
    return value is None if kind is types.NoneType else isinstance(value, kind)


def _is_text(text: str) -> bool:
    """Return whether a text can be written: half of a surrogate pair cannot, and SVG cannot hold NUL."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text))
