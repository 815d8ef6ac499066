"""An index: the vectors of a catalogue's images, and what is known about each item.

    INDEX/
      index.json        which model made it (a hash of its weights), and sizes
      items.sqlite      one row per item: id, image, hash of the image, metadata; the row's key is the item's slot
      vectors.bin       slots x Q x D numbers (fp16 or fp32), memory-mapped
      quarantine.csv    images that could not be used, with the reason
      nearest.json      only where the search is approximate (search/ann.py)

A slot never changes: an item with a new picture moves to a new slot, and the old one is marked as deleted. So ``vectors.bin``
only grows, and a reader's memory map stays valid while a writer is at work. Vectors are written before the rows that refer to
them, and the rows in one transaction: a process that is killed leaves a consistent index, and vectors without a row are
overwritten. A reader checks for changes before every search.

Shapes: N items, Q vectors an item, D width.
"""

import errno
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifashion.errors import UserError
from unifashion.io import disk_errors, read_json, write_json
from unifashion.search.filters import Kind
from unifashion.search.items import Item, Snapshot

CONFIG, ITEMS, VECTORS, SKIPPED, LOCK = "index.json", "items.sqlite", "vectors.bin", "quarantine.csv", "lock"
FORMAT = 1
TABLE = """
CREATE TABLE IF NOT EXISTS items (
    slot INTEGER PRIMARY KEY, id TEXT NOT NULL, image TEXT NOT NULL, digest TEXT NOT NULL, metadata TEXT NOT NULL,
    revision INTEGER NOT NULL, dead INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX IF NOT EXISTS living ON items (id) WHERE NOT dead;
CREATE INDEX IF NOT EXISTS changed ON items (revision);
"""
Precision = Literal["fp16", "fp32"]
DTYPES: dict[str, Any] = {"fp16": np.float16, "fp32": np.float32}


@dataclass(frozen=True)
class IndexConfig:
    """What ``index.json`` says. ``fingerprint`` is the hash of the model's weights, ``name`` is part of a Milvus collection's."""

    model: str
    model_name: str
    fingerprint: str
    num_vectors: int
    width: int
    precision: Precision = "fp16"
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    format: int = FORMAT


@contextmanager
def index_errors(folder: Path) -> Iterator[None]:
    """``io.disk_errors``, for SQLite's errors too."""
    with disk_errors(folder, "make it writable, or name another folder"):
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(errno.ENOSPC if "full" in str(error) else errno.EIO, f"{ITEMS}: {error}") from None


class Index:
    """An index folder, as of the last ``refresh``."""

    def __init__(self, folder: Path, config: IndexConfig) -> None:
        """Take an existing folder; use ``open`` or ``create``."""
        self.folder, self.config = folder, config
        self._change_counter = b""
        self.snapshot = Snapshot([])
        self._vectors: NDArray[Any] | None = None
        self.refresh()

    @classmethod
    def open(cls, folder: str | Path) -> "Index":
        """Open an index.

        Raises:
            UserError: none there, or one of another version.
        """
        path = Path(folder)
        if not (path / CONFIG).exists():
            raise UserError(f"no index at {path}; make one with: unifashion index IMAGES_OR_CSV --model PATH -o INDEX")
        values = read_json(path / CONFIG)
        try:
            if not isinstance(values, dict):
                raise TypeError(f"{CONFIG} is damaged")
            if values.get("format") != FORMAT:
                raise UserError(f"{path} is an index of another version; make it again with: unifashion index")
            return cls(path, IndexConfig(**values))
        except (OSError, TypeError, sqlite3.DatabaseError) as error:
            raise UserError(f"{path} holds no readable index ({error}); make it again with: unifashion index") from None

    @classmethod
    def create(cls, folder: Path, config: IndexConfig) -> "Index":
        """Make an empty index; ``index.json`` appears last, so that a folder with it is an index.

        Raises:
            UserError: the folder holds other things, or cannot be written.
        """
        with index_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            others = [path.name for path in folder.iterdir() if path.name not in (ITEMS, VECTORS, LOCK)]
            if others:
                raise UserError(
                    f"{folder} is not empty and not an index (it holds {others[0]}); name another folder with -o"
                )
            (folder / VECTORS).write_bytes(b"")
            with closing(sqlite3.connect(folder / ITEMS)) as database, database:
                database.executescript(TABLE)
            write_json(folder / CONFIG, asdict(config), durable=True)
        return cls(folder, config)

    def __len__(self) -> int:
        return len(self.snapshot.ids)

    @property
    def fields(self) -> dict[str, Kind]:
        """Return the fields that filters can use, with what they hold."""
        return self.snapshot.fields

    def get(self, item_id: str) -> Item:
        """Return one item.

        Raises:
            UserError: no item has this id.
        """
        snapshot = self.snapshot  # once: another thread may refresh
        if item_id not in snapshot.row_of:
            raise UserError(f"no item has the id {item_id!r}")
        return snapshot.item(snapshot.row_of[item_id])

    def refresh(self) -> Snapshot:
        """Load what was written since the last refresh, and return the items."""
        # Read before the rows: a commit in between is then seen twice, at worst, and never missed.
        counter = self._read_change_counter()
        if counter != self._change_counter:
            with closing(self.connect()) as database:
                query = "SELECT slot, id, image, metadata FROM items WHERE NOT dead ORDER BY slot"
                snapshot = Snapshot(database.execute(query).fetchall())
            self._vectors = None  # the file has grown; map it again when it is needed
            self.snapshot, self._change_counter = snapshot, counter
        return self.snapshot

    def _read_change_counter(self) -> bytes:
        """Return SQLite's own count of transactions: 4 bytes of the file's header, far cheaper than opening the database."""
        with (self.folder / ITEMS).open("rb") as file:
            return file.read(28)[24:]

    def connect(self) -> sqlite3.Connection:
        """Open the table of items; the caller closes it."""
        return sqlite3.connect(self.folder / ITEMS, timeout=30)

    def vectors(self, slots: NDArray[np.int64]) -> Tensor:
        """Return the vectors (n, Q, D) of some slots, in the precision in which they are kept."""
        whole = self._vectors
        if whole is None:
            whole = self._vectors = self._map_vectors()
        # Slots in a row are a view of the mapped file, without a copy; that is most of an exact search.
        if len(slots) and slots[-1] - slots[0] == len(slots) - 1 and (np.diff(slots) == 1).all():
            return torch.from_numpy(whole[slots[0] : slots[-1] + 1])
        return torch.from_numpy(whole[slots])

    def _map_vectors(self) -> NDArray[Any]:
        config, file = self.config, self.folder / VECTORS
        dtype = np.dtype(DTYPES[config.precision])
        # Rounded down: a writer that was killed may have left a part of a slot at the end.
        num_slots = file.stat().st_size // (config.num_vectors * config.width * dtype.itemsize)
        if len(self.snapshot.slots) and num_slots <= self.snapshot.slots[-1]:
            raise UserError(f"{file} is shorter than {ITEMS} says; make the index again with: unifashion index")
        shape = (num_slots, config.num_vectors, config.width)
        # "c", copy on write: torch warns of arrays that cannot be written, and nothing ever reaches the file.
        return np.memmap(file, dtype, "c", shape=shape) if num_slots else np.zeros(shape, dtype)
