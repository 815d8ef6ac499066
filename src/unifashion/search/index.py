"""An index: the vectors of a catalogue's images, and what is known about each item.

    INDEX/
      index.json        which model made it (a fingerprint of its weights), sizes, where the vectors are searched
      items.sqlite      one row an item: id, image, hash of the image, metadata; the row number is the item's slot
      vectors.bin       slots x Q x D numbers (fp16 or fp32), memory-mapped
      quarantine.csv    images that could not be used, with the reason

Vectors are written before the rows that speak of them, and rows in one transaction, so a process that is killed leaves
an index that is whole: a slot without a row is filled anew. A slot never changes: an item with a new picture moves to a
new slot and the old one is dead. Reader and writer may be at work at once; a reader looks for changes before every search.

Shapes: S slots, N living items, Q vectors an item, D width.
"""

import errno
import json
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
from unifashion.search.filters import Kind
from unifashion.search.items import Item, Snapshot

ABOUT, ITEMS, VECTORS, QUARANTINE = "index.json", "items.sqlite", "vectors.bin", "quarantine.csv"
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
class About:
    """What ``index.json`` says."""

    model: str
    model_name: str
    fingerprint: str
    num_vectors: int
    width: int
    precision: Precision = "fp16"
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    format: int = FORMAT


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a disk that is full or may not be written into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full_disk(folder) from None
        raise UserError(f"{folder} cannot be written ({error.strerror}); name another folder") from None
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            raise full_disk(folder) from None
        raise UserError(f"{folder / ITEMS} cannot be written ({error})") from None


def full_disk(folder: Path) -> UserError:
    """Return the sentence for a disk without room."""
    return UserError(f"the disk that holds {folder} is full; what is stored is kept: make room and call again")


class Index:
    """An index folder."""

    def __init__(self, folder: Path, about: About) -> None:
        """Take a folder that is there already; use ``open`` or ``create``."""
        self.folder, self.about = folder, about
        self._seen = b""
        self._snapshot = Snapshot([])
        self._vectors: NDArray[Any] | None = None
        self.refresh()

    @classmethod
    def open(cls, folder: str | Path) -> "Index":
        """Open an index.

        Raises:
            UserError: none there, or one of another version.
        """
        path = Path(folder)
        try:
            values = json.loads((path / ABOUT).read_text(encoding="utf-8"))
            if values.get("format") != FORMAT:
                raise UserError(f"{path} is an index of another version; make it again with: unifashion index")
            return cls(path, About(**values))
        except FileNotFoundError:
            raise UserError(
                f"no index at {path}; make one with: unifashion index IMAGES_OR_CSV --model PATH -o INDEX"
            ) from None
        except (OSError, TypeError, ValueError, AttributeError, sqlite3.DatabaseError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} holds no readable index ({error}); make it again with: unifashion index") from None

    @classmethod
    def create(cls, folder: Path, about: About) -> "Index":
        """Make an empty index; ``index.json`` appears last, so that a folder with it is an index.

        Raises:
            UserError: the folder holds other things, or cannot be written.
        """
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            strange = [path.name for path in folder.iterdir() if path.name not in (ITEMS, VECTORS, "lock")]
            if strange:
                raise UserError(
                    f"{folder} is not empty and no index ({strange[0]} is in it); name another folder with -o"
                )
            (folder / VECTORS).write_bytes(b"")
            with closing(sqlite3.connect(folder / ITEMS)) as database, database:
                database.executescript(TABLE)
            fresh = folder / f".{ABOUT}"
            fresh.write_text(json.dumps(asdict(about), indent=1) + "\n", encoding="utf-8")
            fresh.replace(folder / ABOUT)
        return cls(folder, about)

    def __len__(self) -> int:
        return len(self._snapshot.ids)

    @property
    def fields(self) -> dict[str, Kind]:
        """Return the fields that filters know, with what they hold."""
        return self._snapshot.fields

    @property
    def snapshot(self) -> Snapshot:
        """Return the items as of the last ``refresh``."""
        return self._snapshot

    def get(self, item_id: str) -> Item:
        """Return one item.

        Raises:
            UserError: no item has this id.
        """
        snapshot = self._snapshot
        if item_id not in snapshot.row_of:
            raise UserError(f"no item has the id {item_id!r}")
        return snapshot.item(snapshot.row_of[item_id])

    def refresh(self) -> Snapshot:
        """Take up what was written since the last time, and return the items."""
        changed = self._counter()
        if changed != self._seen:
            with closing(self.connect()) as database:
                query = "SELECT slot, id, image, metadata FROM items WHERE NOT dead ORDER BY slot"
                snapshot = Snapshot(database.execute(query).fetchall())
            self._vectors = None
            self._snapshot, self._seen = snapshot, changed
        return self._snapshot

    def _counter(self) -> bytes:
        """Return SQLite's count of the transactions of a file."""
        with (self.folder / ITEMS).open("rb") as file:
            return file.read(28)[24:]

    def connect(self) -> sqlite3.Connection:
        """Open the table of items; the caller closes it."""
        return sqlite3.connect(self.folder / ITEMS, timeout=30)

    def vectors(self, slots: NDArray[np.int64]) -> Tensor:
        """Return the vectors (n, Q, D) of some slots, in the precision in which they are kept."""
        if self._vectors is None:
            self._vectors = self._map()
        whole = self._vectors
        if len(slots) and slots[-1] - slots[0] == len(slots) - 1 and (np.diff(slots) == 1).all():
            return torch.from_numpy(whole[slots[0] : slots[-1] + 1])
        return torch.from_numpy(whole[slots])

    def _map(self) -> NDArray[Any]:
        about, file = self.about, self.folder / VECTORS
        dtype = np.dtype(DTYPES[about.precision])
        num_slots = file.stat().st_size // (about.num_vectors * about.width * dtype.itemsize)
        if len(self._snapshot.slots) and num_slots <= self._snapshot.slots[-1]:
            raise UserError(f"{file} is shorter than {ITEMS} says; make the index again with: unifashion index")
        shape = (num_slots, about.num_vectors, about.width)
        return np.memmap(file, dtype, "c", shape=shape) if num_slots else np.zeros(shape, dtype)
