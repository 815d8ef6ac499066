"""Filters on metadata: ``price < 50 and (category == 'dress' or not brand in ('A', 'B'))``.

    filter     := both ("or" both)*
    both       := single ("and" single)*
    single     := "not" single | "(" filter ")" | comparison
    comparison := FIELD ("==" | "=" | "!=" | "<" | "<=" | ">" | ">=") VALUE | FIELD ["not"] "in" "(" VALUE ("," VALUE)* ")"
    FIELD      := a name of letters, digits and _, or any other one in `backquotes`
    VALUE      := a number, or a text in 'single' or "double" quotes (a backslash takes the next character as it is)

Nothing is ever evaluated as code. Text knows ``==``, ``!=`` and ``in``, upper and lower case differ. An item without a value of a
field fits no comparison of that field, and ``not`` turns every comparison into its opposite: ``not price < 50`` is
``price >= 50``. So all stores agree, whatever they think of missing values.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unifashion.errors import UserError, nearest

Kind = Literal["text", "number"]
Value = str | float
Mask = NDArray[np.bool_]

MAX_LENGTH, MAX_DEPTH = 2000, 40  # characters, brackets within brackets
OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
COMPARE: dict[str, Callable[..., Mask]] = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    |(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<field>`[^`]+`)
    |(?P<word>[^\W\d]\w*)
    |(?P<sign><=|>=|==|!=|=|<|>|\(|\)|,))""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Comparison:
    """One field against one value."""

    field: str
    sign: str
    value: Value


@dataclass(frozen=True)
class Group:
    """Filters of which all ("and") or any ("or") must hold."""

    how: Literal["and", "or"]
    parts: "tuple[Filter, ...]"


Filter = Comparison | Group


@dataclass(frozen=True)
class Column:
    """The values of one field for all items: float64, or texts; ``present`` is False where there is none."""

    values: NDArray[np.float64] | NDArray[np.str_]
    present: Mask


def parse_filter(text: str, fields: Mapping[str, Kind]) -> Filter:
    """Read a filter.

    Raises:
        UserError: not a filter; a field that no item has; a text where the field holds numbers, or the reverse.
    """
    if len(text) > MAX_LENGTH:
        raise UserError(f"the filter has {len(text)} characters; {MAX_LENGTH} is the limit")
    return _Reader(text, fields).read()


def matches(tree: Filter, columns: Mapping[str, Column]) -> Mask:
    """Return, for all items at once, whether they fit."""
    if isinstance(tree, Group):
        masks = [matches(part, columns) for part in tree.parts]
        return (np.logical_and if tree.how == "and" else np.logical_or).reduce(masks)
    column = columns[tree.field]
    return COMPARE[tree.sign](column.values, tree.value) & column.present


def opposite(tree: Filter) -> Filter:
    """Return the filter in which every comparison says the contrary."""
    if isinstance(tree, Group):
        return Group("or" if tree.how == "and" else "and", tuple(opposite(part) for part in tree.parts))
    return Comparison(tree.field, OPPOSITE[tree.sign], tree.value)


class _Reader:
    """Reads by recursive descent."""

    def __init__(self, text: str, fields: Mapping[str, Kind]) -> None:
        self.text, self.fields = text, fields
        self.tokens = self._tokens()
        self.at, self.depth = 0, 0

    def _tokens(self) -> list[tuple[str, str]]:
        tokens, at, end = [], 0, len(self.text.rstrip())
        while at < end:
            found = TOKEN.match(self.text, at)
            if found is None:
                raise self._wrong(f"cannot be read from {self.text[at : at + 20].strip()!r} on")
            kind = str(found.lastgroup)
            word = found[kind]
            tokens.append((word.lower() if word.lower() in ("and", "or", "not", "in") else kind, word))
            at = found.end()
        return tokens

    def _wrong(self, what: str) -> UserError:
        return UserError(f"filter {self.text!r} {what}; an example: price < 50 and category == 'dress'")

    def _peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "its end")

    def _take(self, *wanted: str) -> str | None:
        """Step over the next token if its kind or its word is wanted, and return its word."""
        kind, word = self._peek()
        if kind not in wanted and word not in wanted:
            return None
        self.at += 1
        return word

    def _need(self, what: str, *wanted: str) -> str:
        word = self._take(*wanted)
        if word is None:
            raise self._wrong(f"needs {what} where {self._peek()[1]!r} stands")
        return word

    def read(self) -> Filter:
        tree = self._chain("or")
        self._need("'and' or 'or'", "end")
        return tree

    def _chain(self, how: Literal["and", "or"]) -> Filter:
        def part() -> Filter:
            return self._chain("and") if how == "or" else self._single()

        parts = [part()]
        while self._take(how):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Group(how, tuple(parts))

    def _single(self) -> Filter:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._wrong(f"has more than {MAX_DEPTH} brackets within brackets")
        if self._take("not"):
            tree = opposite(self._single())
        elif self._take("("):
            tree = self._chain("or")
            self._need("')'", ")")
        else:
            tree = self._comparison()
        self.depth -= 1
        return tree

    def _comparison(self) -> Filter:
        field = self._field()
        inverted = self._take("not") is not None
        if inverted or self._peek()[0] == "in":
            self._need("'in'", "in")
            return self._choice(field, inverted)
        sign = self._need("a comparison such as < or ==", *COMPARE, "=")
        sign = "==" if sign == "=" else sign
        if self.fields[field] == "text" and sign not in ("==", "!="):
            raise self._wrong(f"compares {field} with {sign}, but {field} holds text, which knows ==, != and in")
        return Comparison(field, sign, self._value(field))

    def _choice(self, field: str, inverted: bool) -> Filter:
        self._need("'('", "(")
        parts: list[Filter] = [Comparison(field, "==", self._value(field))]
        while self._take(","):
            parts.append(Comparison(field, "==", self._value(field)))
        self._need("',' or ')'", ")")
        tree = parts[0] if len(parts) == 1 else Group("or", tuple(parts))
        return opposite(tree) if inverted else tree

    def _field(self) -> str:
        name = self._need("the name of a field", "word", "field").strip("`")
        if name not in self.fields and name.lower() in self.fields:
            name = name.lower()
        if name not in self.fields:
            known = ", ".join(sorted(self.fields)) or "none"
            raise UserError(f"filter: no item has a field {name!r}{nearest(name, list(self.fields))}; fields: {known}")
        return name

    def _value(self, field: str) -> Value:
        kind, word = self._peek()
        if kind not in ("number", "text"):
            raise self._wrong(f"needs a number or a quoted text where {word!r} stands")
        if kind != self.fields[field]:
            raise self._wrong(f"compares {field}, which holds {self.fields[field]}, with the {kind} {word}")
        self.at += 1
        return float(word) if kind == "number" else re.sub(r"\\(.)", r"\1", word[1:-1], flags=re.DOTALL)
