"""The items of an index: what is kept of each, its metadata by column, and the choice that a filter makes among them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unifashion.search.filters import Column, Filter, Kind, Mask, matches, parse_filter

NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")  # 007 is a name, not a number


@dataclass(frozen=True)
class Item:
    """One product photo and what its catalogue says of it."""

    id: str
    image: Path
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """An item on its way into the index; all its metadata are texts."""

    id: str
    image: Path
    digest: str
    metadata: dict[str, str]


class Snapshot:
    """The living items at one moment, in the order of their slots."""

    def __init__(self, rows: Sequence[tuple[int, str, str, str]]) -> None:
        self.slots: NDArray[np.int64] = np.array([row[0] for row in rows], dtype=np.int64)
        self.ids = [row[1] for row in rows]
        self._images = [row[2] for row in rows]
        self._metadata = [row[3] for row in rows]
        self.row_of = {item_id: row for row, item_id in enumerate(self.ids)}

    @cached_property
    def fields(self) -> dict[str, Kind]:
        """Every field that an item has; a number if all its values are, except ``id``."""
        kinds: dict[str, Kind] = {}
        for facts in map(json.loads, self._metadata):
            for name, value in facts.items():
                if kinds.get(name) != "text":
                    kinds[name] = "number" if NUMBER.fullmatch(value) and name != "id" else "text"
        return kinds

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The fields by column, for filters."""
        facts = [json.loads(text) for text in self._metadata]
        columns: dict[str, Column] = {}
        for name, kind in self.fields.items():
            present = np.array([name in values for values in facts], dtype=bool)
            found = [values.get(name, "0" if kind == "number" else "") for values in facts]
            columns[name] = Column(np.array(found, dtype=str).astype(float if kind == "number" else str), present)
        return columns

    def select(self, text: str | None) -> tuple[Filter | None, Mask | None]:
        """Return a filter and the rows that fit it; None for no filter."""
        if text is None or not text.strip():
            return None, None
        tree = parse_filter(text, self.fields)
        return tree, matches(tree, self.columns)

    def item(self, row: int) -> Item:
        """Return one item, its numbers as numbers."""
        facts = json.loads(self._metadata[row])
        numbers = {name: _number(value) for name, value in facts.items() if self.fields[name] == "number"}
        return Item(self.ids[row], Path(self._images[row]), {**facts, **numbers})


def _number(text: str) -> float:
    return float(text) if "." in text else int(text)
