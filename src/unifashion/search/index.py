"""An index: the vectors of a catalogue's images, and what is known about each item.

    INDEX/
      index.json        which model made it (a hash of its weights), and sizes
      items.sqlite      one row per item: id, image, hash of the image, metadata, checksum of the vectors; the key is its slot
      vectors.bin       slots x Q x D numbers (fp16 or fp32), memory-mapped
      quarantine.csv    images that could not be used, with the reason
      nearest.json      only where the search is approximate (search/ann.py)

A slot never changes: an item with a new picture moves to a new slot, and the old one is marked as deleted. So ``vectors.bin``
only grows, and a reader's memory map stays valid while a writer is at work. Vectors are written before the rows that refer to
them, and the rows in one transaction: a process that is killed leaves a consistent index, and vectors without a row are
overwritten. A reader checks for changes before every search. ``index.json`` is written once: a folder where it says another
name holds another index.

Vectors have checksums. A search compares those of its answers, and ``unifashion index`` compares all of them (it reads all images
anyway) and makes anew what differs, so that a damaged ``vectors.bin`` is an error or is repaired, and never an answer.

Shapes: N items, Q vectors an item, D width.
"""

import errno
import sqlite3
import uuid
import zlib
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
from unifashion.io import disk_errors, read_json, remove_leftovers, write_json
from unifashion.search.filters import Kind
from unifashion.search.items import UNKNOWN, Item, Snapshot

CONFIG, ITEMS, VECTORS, SKIPPED, LOCK = "index.json", "items.sqlite", "vectors.bin", "quarantine.csv", "lock"
UNFINISHED = (ITEMS, f"{ITEMS}-journal", VECTORS, LOCK)  # what is in a folder whose creation was interrupted
FORMAT = 1
TABLE = """
CREATE TABLE IF NOT EXISTS items (
    slot INTEGER PRIMARY KEY, id TEXT NOT NULL, image TEXT NOT NULL, digest TEXT NOT NULL, metadata TEXT NOT NULL,
    revision INTEGER NOT NULL, dead INTEGER NOT NULL DEFAULT 0, checksum INTEGER);
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

    def __post_init__(self) -> None:
        """Check what was read.

        Raises:
            TypeError: a value that ``create`` does not write.
        """
        texts = (self.model, self.model_name, self.fingerprint, self.name)
        sizes = (self.num_vectors, self.width)
        if not all(isinstance(text, str) for text in texts) or self.precision not in DTYPES:
            raise TypeError(f"{CONFIG} is damaged")
        if not all(type(size) is int and 0 < size < 2**20 for size in sizes):
            raise TypeError(f"{CONFIG} says {self.num_vectors!r} vectors of {self.width!r} numbers")


class IndexReplaced(UserError):
    """The index that was opened is gone, or another one is in its folder; it can be opened again with ``Index.open``."""


@contextmanager
def index_errors(folder: Path) -> Iterator[None]:
    """``io.disk_errors``, for SQLite's errors too."""
    with disk_errors(folder, "make it writable, or name another folder"):
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(errno.ENOSPC if "full" in str(error) else errno.EIO, f"{ITEMS}: {error}") from None
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError):
                raise  # a bug
            raise _unreadable(folder, error) from None


def _unreadable(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"{folder} holds no readable index ({error}); delete the folder and make it again with: unifashion index SOURCE "
        f"--model PATH -o {folder}"
    )


def checksum(vectors_QD: NDArray[Any]) -> int:
    """Return the checksum of an item's vectors as they are in ``vectors.bin``."""
    return zlib.crc32(np.ascontiguousarray(vectors_QD).data)


def check_free(folder: Path) -> None:
    """Check that an index can be made in a folder: it is absent, empty, or what an interrupted creation has left.

    Raises:
        UserError: it holds other things, or items whose ``index.json`` is lost.
    """
    with index_errors(folder):
        present = [path.name for path in folder.iterdir()] if folder.exists() else []
        others = [name for name in present if name not in UNFINISHED and not name.startswith(f".{CONFIG}.")]
        if ITEMS in present and (others or _holds_items(folder)):
            raise UserError(
                f"{folder} has lost its {CONFIG}; put it back, or delete the folder and make the index again"
            )
        if others:
            raise UserError(
                f"{folder} is not empty and not an index (it holds {others[0]}); name another folder with -o"
            )


def _holds_items(folder: Path) -> bool:
    with closing(sqlite3.connect(folder / ITEMS)) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE name = 'items'").fetchall()
        return bool(tables) and database.execute("SELECT 1 FROM items LIMIT 1").fetchone() is not None


class Index:
    """An index folder, as of the last ``refresh``."""

    def __init__(self, folder: Path, config: IndexConfig) -> None:
        """Take an existing folder; use ``open`` or ``create``."""
        self.folder, self.config = folder, config
        self._config_stamp: tuple[int, int] | None = None
        self._change_counter = b""
        self.snapshot = Snapshot([])
        self._vectors: NDArray[Any] | None = None
        self.refresh()

    @classmethod
    def open(cls, folder: str | Path) -> "Index":
        """Open an index.

        Raises:
            UserError: none there, one of another version, or one that is damaged.
        """
        path = Path(folder)
        if not (path / CONFIG).exists():
            raise UserError(f"no index at {path}; make one with: unifashion index IMAGES_OR_CSV --model PATH -o INDEX")
        return cls(path, _read_config(path))

    @classmethod
    def create(cls, folder: Path, config: IndexConfig) -> "Index":
        """Make an empty index; ``index.json`` appears last, so that a folder with it is an index.

        Raises:
            UserError: the folder holds other things, or cannot be written.
        """
        check_free(folder)
        with index_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder / CONFIG)
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
        """Load what was written since the last refresh, and return the items.

        Raises:
            IndexReplaced: this index was deleted, or another one is in its place.
            UserError: the table of items is damaged.
        """
        try:
            # Read before the rows: a commit in between is then seen twice, at worst, and never missed.
            counter = self._read_change_counter()
            snapshot = self.snapshot if counter == self._change_counter else self._read_items()
            self._check_identity()  # after the rows, so that they are not another index's
        except (OSError, sqlite3.DatabaseError) as error:
            self._check_identity()
            raise _unreadable(self.folder, error) from None
        if counter != self._change_counter:
            self._vectors = None  # the file has grown; map it again when it is needed
            self.snapshot, self._change_counter = snapshot, counter
        return self.snapshot

    def _check_identity(self) -> None:
        stamp = _stamp(self.folder / CONFIG)
        if stamp != self._config_stamp:
            if stamp is None:
                raise IndexReplaced(
                    f"the index {self.folder} was deleted while it was open; make it again with: unifashion index"
                )
            if _read_config(self.folder) != self.config:
                raise IndexReplaced(f"another index is in {self.folder} since it was opened; open it again")
            self._config_stamp = stamp

    def _read_items(self) -> Snapshot:
        with closing(self.connect()) as database:
            checksums = f"COALESCE(checksum, {UNKNOWN})" if has_checksums(database) else str(UNKNOWN)
            texts = " OR ".join(f"typeof({column}) != 'text'" for column in ("id", "image"))
            strange = f"dead NOT IN (0, 1) OR typeof({checksums}) != 'integer' OR {texts}"
            if database.execute(f"SELECT 1 FROM items WHERE {strange} LIMIT 1").fetchone():  # SQLite takes any type
                raise sqlite3.DatabaseError(f"{ITEMS} holds a value of another type")
            query = f"SELECT slot, id, image, metadata, {checksums} FROM items WHERE NOT dead ORDER BY slot"
            rows = database.execute(query).fetchall()
        if any(type(row[0]) is not int for row in rows):  # SQL itself believes that a primary key is a number
            raise sqlite3.DatabaseError(f"{ITEMS} holds a value of another type")
        snapshot = Snapshot(rows)
        if len(snapshot.row_of) < len(snapshot.ids) or (snapshot.slots < 0).any():
            raise sqlite3.DatabaseError(f"{ITEMS} holds an id twice, or a slot below 0")
        return snapshot

    def _read_change_counter(self) -> bytes:
        """Return SQLite's own count of transactions: 4 bytes of the file's header, far cheaper than opening the database."""
        with (self.folder / ITEMS).open("rb") as file:
            counter = file.read(28)[24:]
        if len(counter) < 4:
            raise sqlite3.DatabaseError(f"{ITEMS} is cut short")
        return counter

    def connect(self) -> sqlite3.Connection:
        """Open the table of items; the caller closes it."""
        return sqlite3.connect(self.folder / ITEMS, timeout=30)

    def vectors(self, slots: NDArray[np.int64]) -> Tensor:
        """Return the vectors (n, Q, D) of some slots, in the precision in which they are kept."""
        whole = self._mapped()
        if len(slots) and slots.max() >= len(whole):
            raise self._damaged(f"is shorter than {ITEMS} says")
        # Slots in a row are a view of the mapped file, without a copy; that is most of an exact search.
        if len(slots) and slots[-1] - slots[0] == len(slots) - 1 and (np.diff(slots) == 1).all():
            return torch.from_numpy(whole[slots[0] : slots[-1] + 1])
        return torch.from_numpy(whole[slots])

    def check_vectors(self, snapshot: Snapshot, rows: NDArray[np.int64]) -> None:
        """Check that the vectors of some rows are those that were written.

        Raises:
            UserError: they are not; names the first item.
        """
        damaged = self.damaged_rows(snapshot, rows)
        if damaged:
            raise self._damaged(f"does not hold the vectors of the item {snapshot.ids[damaged[0]]!r} any more")

    def damaged_rows(self, snapshot: Snapshot, rows: NDArray[np.int64]) -> list[int]:
        """Return those of some rows whose vectors are missing or are not what was written."""
        whole = self._mapped()
        return [
            row
            for row, slot, written in zip(
                rows.tolist(), snapshot.slots[rows].tolist(), snapshot.checksums[rows].tolist(), strict=True
            )
            if slot >= len(whole)
            or not (_is_plausible(whole[slot]) if written == UNKNOWN else checksum(whole[slot]) == written)
        ]

    def _damaged(self, what: str) -> UserError:
        return UserError(
            f"{self.folder / VECTORS} {what}; repair it with: unifashion index SOURCE -o {self.folder}, which makes damaged "
            "vectors anew"
        )

    def _mapped(self) -> NDArray[Any]:
        whole = self._vectors
        if whole is None:
            whole = self._vectors = self._map_vectors()
        return whole

    def _map_vectors(self) -> NDArray[Any]:
        config, file = self.config, self.folder / VECTORS
        dtype = np.dtype(DTYPES[config.precision])
        # Rounded down: a writer that was killed may have left a part of a slot at the end.
        size = file.stat().st_size if file.is_file() else 0
        num_slots = size // (config.num_vectors * config.width * dtype.itemsize)
        shape = (num_slots, config.num_vectors, config.width)
        # "c", copy on write: torch warns of arrays that cannot be written, and nothing ever reaches the file.
        return np.memmap(file, dtype, "c", shape=shape).view(np.ndarray) if num_slots else np.zeros(shape, dtype)


def has_checksums(database: sqlite3.Connection) -> bool:
    """Return whether the table of items has checksums: indexes of earlier versions have none."""
    return any(column[1] == "checksum" for column in database.execute("PRAGMA table_info(items)"))


def _is_plausible(vectors_QD: NDArray[Any]) -> bool:
    return bool(np.isfinite(vectors_QD).all() and vectors_QD.any(axis=-1).all())


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what tells one version of a file from another; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino


def _read_config(folder: Path) -> IndexConfig:
    values = read_json(folder / CONFIG)
    try:
        if not isinstance(values, dict):
            raise TypeError(f"{CONFIG} is damaged")
        if values.get("format") != FORMAT:
            raise UserError(
                f"{folder} is an index of another version; delete it and make it again with: unifashion index"
            )
        return IndexConfig(**values)
    except TypeError as error:
        raise _unreadable(folder, error) from None
