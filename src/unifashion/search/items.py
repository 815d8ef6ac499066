"""The items of an index: what is kept of each, its metadata by column, and which of them a filter selects."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unifashion.errors import UserError
from unifashion.search.filters import Column, Kind, Mask, filter_mask

NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d+)?")  # 007 is a code; so are 16 digits, which a float would round
UNKNOWN = -1  # the checksum of vectors that were written before there were checksums


@dataclass(frozen=True)
class Item:
    """One product photo and what its catalogue says about it."""

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
    """The items at one moment, without the deleted ones; an item's row is its position here, in the order of slots.

    A search holds on to one snapshot, so that its rows stay valid when another thread refreshes the index. Metadata are read when
    they are needed; those that are damaged are a ``UserError`` then.
    """

    def __init__(self, rows: Sequence[tuple[int, str, str, str, int]]) -> None:
        self.slots: NDArray[np.int64] = np.array([row[0] for row in rows], dtype=np.int64)
        self.ids = [row[1] for row in rows]
        self.checksums: NDArray[np.int64] = np.array([row[4] for row in rows], dtype=np.int64)
        self._images = [row[2] for row in rows]
        self._metadata = [row[3] for row in rows]
        self.row_of = {item_id: row for row, item_id in enumerate(self.ids)}

    @cached_property
    def fields(self) -> dict[str, Kind]:
        """Every field that an item has; a number if all its values are, except ``id``."""
        kinds: dict[str, Kind] = {}
        for metadata in map(self._read_metadata, range(len(self.ids))):
            for name, value in metadata.items():
                if kinds.get(name) != "text":
                    kinds[name] = "number" if NUMBER.fullmatch(value) and name != "id" else "text"
        return kinds

    @cached_property
    def columns(self) -> "_Columns":
        """The fields by column, for filters."""
        return _Columns(self.fields, self._values)

    def _values(self, name: str) -> Iterator[str | None]:
        return (self._read_metadata(row).get(name) for row in range(len(self.ids)))

    def select(self, text: str | None) -> Mask | None:
        """Return which rows match a filter; None where the filter is empty. Raises as ``filter_mask``."""
        return None if text is None or not text.strip() else filter_mask(text, self.columns)

    def item(self, row: int) -> Item:
        """Return one item, its numbers as numbers."""
        metadata = self._read_metadata(row)
        numbers = {name: _number(value) for name, value in metadata.items() if self.fields[name] == "number"}
        return Item(self.ids[row], Path(self._images[row]), {**metadata, **numbers})

    def _read_metadata(self, row: int) -> dict[str, str]:
        metadata = read_metadata(self._metadata[row])
        if metadata is None:
            raise UserError(
                f"the metadata of the item {self.ids[row]!r} are damaged; write them again with: unifashion index SOURCE -o INDEX"
            )
        return metadata


class _Columns(Mapping[str, Column]):
    """Columns that are made when a filter first names them: most are never asked for, and texts are long."""

    def __init__(self, fields: Mapping[str, Kind], values: Callable[[str], Iterator[str | None]]) -> None:
        self._fields, self._values = fields, values
        self._made: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        if name not in self._made:
            make = Column.of_numbers if self._fields[name] == "number" else Column.of_texts
            self._made[name] = make(self._values(name))
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._fields  # by default, a look-up, which would make it

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def read_metadata(text: str) -> dict[str, str] | None:
    """Return an item's metadata from their JSON; None where it is damaged."""
    try:
        metadata = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return None
    return metadata


def _number(text: str) -> float:
    return float(text) if "." in text else int(text)
