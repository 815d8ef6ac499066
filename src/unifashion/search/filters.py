"""Filters on metadata: ``price < 50 and (category == 'dress' or not brand in ('A', 'B'))``.

    FIELD  == = != < <= > >=  VALUE             = means ==
    FIELD [not] in (VALUE, VALUE, ...)
    and, or, not, ( )                           as in Python; upper or lower case

    FIELD    a name of letters, digits and _, or any other name in `backquotes`
    VALUE    a number, or a text in 'single' or "double" quotes (a backslash takes the next character as it is)

Python's own parser finds the structure, but never sees what a user typed: every field and value becomes a name such as ``t3``,
the index of its token, and only the nodes named in ``_Filter.mask`` are taken from the tree. Nothing is evaluated as code, and
since filters are answered here, over arrays, no value becomes part of a query to SQLite or Milvus.

Text has ``==``, ``!=`` and ``in``, and is case-sensitive. An item without a value of a field matches no comparison of that
field, and ``not`` turns every comparison into its opposite: ``not price < 50`` is ``price >= 50``.
"""

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifashion.errors import UserError, nearest

Kind = Literal["text", "number"]
Mask = NDArray[np.bool_]

MAX_LENGTH, MAX_DEPTH = 2000, 40  # characters; brackets and "not" within one another
COMPARE: dict[type[ast.cmpop], tuple[str, Callable[..., Mask], Callable[..., Mask]]] = {
    ast.Eq: ("==", np.equal, np.not_equal),
    ast.NotEq: ("!=", np.not_equal, np.equal),
    ast.Lt: ("<", np.less, np.greater_equal),
    ast.LtE: ("<=", np.less_equal, np.greater),
    ast.Gt: (">", np.greater, np.less_equal),
    ast.GtE: (">=", np.greater_equal, np.less),
}


@dataclass(frozen=True)
class Column:
    """The values of one field for all items; ``present`` is False where there is none.

    Numbers are float64. Texts are positions in ``texts``, so that a long one takes its room once and comparisons are of numbers.
    """

    values: NDArray[np.float64] | NDArray[np.int64]
    present: Mask
    texts: dict[str, int] | None = None

    @classmethod
    def of_numbers(cls, values: Iterable[str | None]) -> "Column":
        """Make a column of numbers, written as texts."""
        numbers = np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
        return cls(numbers, ~np.isnan(numbers))

    @classmethod
    def of_texts(cls, values: Iterable[str | None]) -> "Column":
        """Make a column of texts."""
        texts: dict[str, int] = {}
        codes = np.array([-1 if value is None else texts.setdefault(value, len(texts)) for value in values], np.int64)
        return cls(codes, codes >= 0, texts)

    @property
    def kind(self) -> Kind:
        """Return what the field holds."""
        return "number" if self.texts is None else "text"


def filter_mask(text: str, columns: Mapping[str, Column]) -> Mask:
    """Return, for all items at once, whether they match a filter.

    Raises:
        UserError: not a filter; a field that no item has; a text where the field holds numbers, or the reverse.
    """
    if len(text) > MAX_LENGTH:
        raise UserError(f"the filter has {len(text)} characters; {MAX_LENGTH} is the limit")
    reader = _Filter(text, columns)
    return reader.mask(reader.parse())


class _Token(NamedTuple):
    kind: str  # number, text, field, sign, in, a keyword, a bracket or a comma; "list" is the bracket after in
    word: str
    start: int  # characters before it


_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    |(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<in>(?:(?ai:not)\s+)?(?ai:in)\b)
    |(?P<keyword>(?ai:and|or|not)\b)
    |(?P<field>`[^`]+`|[^\W\d]\w*)
    |(?P<sign><=|>=|==|!=|=|<|>)
    |(?P<bracket>[(),]))""",
    re.VERBOSE | re.DOTALL,
)
_OPERAND = ("the name of a field", ("field", "not", "("))
_VALUE = ("a number or a quoted text", ("number", "text"))
_END = ("'and' or 'or'", ("and", "or", ")", ",", "end"))
# What must follow each kind of token. Python's parser refuses the same, but reads more than is allowed here, and what it says of
# an error, and where, differs between its versions.
_NEXT = {
    **dict.fromkeys(("start", "and", "or", "not", "("), _OPERAND),
    "field": ("a comparison such as < or ==", ("sign", "in")),
    "in": ("'('", ("list",)),
    **dict.fromkeys(("sign", "list", ","), _VALUE),
    **dict.fromkeys(("number", "text", ")"), _END),
}


class _Filter:
    """From a text to tokens, to Python's syntax tree, to a mask."""

    def __init__(self, text: str, columns: Mapping[str, Column]) -> None:
        self.text, self.columns = text, columns
        self.tokens: list[_Token] = []

    def _wrong(self, what: str) -> UserError:
        return UserError(f"filter {self.text!r} {what}; an example: price < 50 and category == 'dress'")

    def _expected(self, what: str, token: _Token) -> UserError:
        where = "ends" if token.kind == "end" else f"has {token.word!r} at character {token.start + 1}"
        return self._wrong(f"{where} where {what} is expected")

    def parse(self) -> ast.expr:
        """Read all tokens; return the tree of an expression in which every field and value is the name of its token."""
        kind, depth, num_not = "start", 0, 0
        while kind != "end":
            token = self._next_token(kind)
            what, allowed = _NEXT[kind]
            kind = token.kind
            depth += {"(": 1, "list": 1, ")": -1}.get(kind, 0)
            num_not = num_not + 1 if kind == "not" else 0
            if kind not in allowed or depth < 0:
                raise self._expected(what, token)
            if kind == "end" and depth:
                raise self._expected("')'", token)
            if depth + num_not > MAX_DEPTH:
                raise self._wrong(f"has more than {MAX_DEPTH} brackets within brackets")
            self.tokens.append(token)
        return ast.parse(" ".join(map(self._python, range(len(self.tokens)))), mode="eval").body

    def _next_token(self, before: str) -> _Token:
        start = self.tokens[-1].start + len(self.tokens[-1].word) if self.tokens else 0
        if not self.text[start:].strip():
            return _Token("end", "", len(self.text))
        match = _TOKEN.match(self.text, start)
        if match is None:
            raise self._wrong(f"cannot be read from {self.text[start : start + 20].strip()!r} on")
        kind = str(match.lastgroup)
        word = match[kind]
        if kind in ("keyword", "bracket"):
            kind = "list" if (before, word) == ("in", "(") else word.lower()
        return _Token(kind, word, match.end() - len(word))

    def _python(self, index: int) -> str:
        kind, word, _ = self.tokens[index]
        if kind in ("field", "number", "text"):
            return f"t{index}"
        return "==" if word == "=" else " ".join(word.lower().split())

    def mask(self, node: ast.expr, inverted: bool = False) -> Mask:
        """Return which items match; ``inverted``: the node is in the scope of a ``not``, which is pushed down to comparisons."""
        match node:
            case ast.BoolOp(op=operator, values=parts):
                combine = np.logical_and if isinstance(operator, ast.And) != inverted else np.logical_or
                return combine.reduce([self.mask(part, inverted) for part in parts])
            case ast.UnaryOp(op=ast.Not(), operand=part):
                return self.mask(part, not inverted)
            case ast.Compare(left=ast.Name() as left, ops=[operator], comparators=[right]):
                return self._compare(self._field(left), operator, right, inverted)
        raise self._wrong("has a comma outside of 'in (...)'")

    def _compare(self, field: str, operator: ast.cmpop, right: ast.expr, inverted: bool) -> Mask:
        column = self.columns[field]
        if isinstance(operator, ast.In | ast.NotIn):
            values = [self._value(field, node) for node in (right.elts if isinstance(right, ast.Tuple) else [right])]
            fits = np.isin(column.values, values, invert=isinstance(operator, ast.NotIn) != inverted)
        else:
            sign, compare, opposite = COMPARE[type(operator)]
            if column.kind == "text" and sign not in ("==", "!="):
                raise self._wrong(f"compares {field} with {sign}, but {field} holds text, which has only ==, != and in")
            fits = (opposite if inverted else compare)(column.values, self._value(field, right))
        return fits & column.present

    def _token_of(self, node: ast.Name) -> _Token:
        return self.tokens[int(node.id[1:])]

    def _field(self, node: ast.Name) -> str:
        name = self._token_of(node).word.strip("`")
        if name not in self.columns and name.lower() in self.columns:
            name = name.lower()
        if name not in self.columns:
            known = ", ".join(sorted(self.columns)) or "none"
            raise UserError(f"filter: no item has a field {name!r}{nearest(name, list(self.columns))}; fields: {known}")
        return name

    def _value(self, field: str, node: ast.expr) -> float:
        if not isinstance(node, ast.Name):
            raise self._wrong("has something other than values in the brackets of 'in (...)'")
        kind, word, _ = self._token_of(node)
        column = self.columns[field]
        if kind != column.kind:
            hint = ", which needs quotes" if column.kind == "text" else ""
            raise self._wrong(f"compares {field}, which holds {column.kind}s, with the {kind} {word}{hint}")
        if column.texts is None:
            return float(word)
        return column.texts.get(re.sub(r"\\(.)", r"\1", word[1:-1], flags=re.DOTALL), -2)  # -2: no item has it
