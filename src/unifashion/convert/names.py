"""Tables of parameter names, usable in both directions.

A row pairs two templates with the same fields:

    ("Qformer.bert.encoder.layer.{n}.intermediate.dense.{p}", "qformer.layers.{n}.text_ffn.expand.{p}")
"""

import re
from collections.abc import Sequence

FIELDS = {"n": r"\d+", "k": "[12]", "p": "weight|bias", "qkv": "query|key|value", "emb": "word|position"}
Rows = Sequence[tuple[str, str]]


class NameTable:
    """Their names and ours."""

    def __init__(self, rows: Rows) -> None:
        self._to_ours = [(_pattern(theirs), ours) for theirs, ours in rows]
        self._to_theirs = [(_pattern(ours), theirs) for theirs, ours in rows]

    def ours(self, name: str) -> str | None:
        """Return our name of their parameter, or None for one that is not in the table."""
        return _translate(self._to_ours, name)

    def theirs(self, name: str) -> str | None:
        """Return their name of our parameter, or None for one that is not in the table."""
        return _translate(self._to_theirs, name)


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    fixed, named = map(re.escape, parts[::2]), (f"(?P<{field}>{FIELDS[field]})" for field in parts[1::2])
    return re.compile("".join(text + field for text, field in zip(fixed, [*named, ""], strict=True)))


def _translate(table: list[tuple[re.Pattern[str], str]], name: str) -> str | None:
    for pattern, template in table:
        match = pattern.fullmatch(name)
        if match:
            return template.format(**match.groupdict())
    return None


def summarise(names: Sequence[str], num_kinds: int = 8) -> str:
    """Return names in one line: layer numbers folded, at most ``num_kinds`` kinds, with counts."""
    kinds: dict[str, int] = {}
    for name in names:
        kind = re.sub(r"\.\d+\.", ".*.", name)
        kinds[kind] = kinds.get(kind, 0) + 1
    shown = [kind if count == 1 else f"{kind} ({count})" for kind, count in list(kinds.items())[:num_kinds]]
    rest = len(kinds) - len(shown)
    return ", ".join(shown) + (f" and {rest} more kinds" if rest else "")
