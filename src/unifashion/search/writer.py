"""Writing to an index: one writer at a time, every step whole or not at all."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from sqlite3 import Connection

import numpy as np
from torch import Tensor

from unifashion.errors import UserError
from unifashion.search.index import DTYPES, VECTORS, Index, disk_errors
from unifashion.search.items import Entry


class Writer:
    """Adds, updates and deletes items; made by ``writing``."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def stored(self) -> dict[str, Entry]:
        """Return the living items by id, as they were written."""
        with closing(self.index.connect()) as database:
            rows = database.execute("SELECT id, image, digest, metadata FROM items WHERE NOT dead ORDER BY slot")
            return {row[0]: Entry(row[0], row[1], row[2], json.loads(row[3])) for row in rows}

    def put(self, entries: Sequence[Entry], vectors_BQD: Tensor) -> None:
        """Store items with their vectors; an item with a known id takes the place of the old one."""
        index, dtype = self.index, DTYPES[self.index.about.precision]
        rows = vectors_BQD.numpy().astype(dtype)
        with disk_errors(index.folder), closing(index.connect()) as database, database:
            database.execute("BEGIN IMMEDIATE")
            (slot,) = database.execute("SELECT COALESCE(MAX(slot), -1) + 1 FROM items").fetchone()
            with (index.folder / VECTORS).open("r+b") as file:
                file.seek(slot * rows[:1].nbytes)
                file.write(np.ascontiguousarray(rows).tobytes())
                file.flush()
                os.fsync(file.fileno())
            revision = _next_revision(database)
            for number, entry in enumerate(entries):
                _bury(database, entry.id, revision)
                database.execute(
                    "INSERT INTO items (slot, id, image, digest, metadata, revision) VALUES (?, ?, ?, ?, ?, ?)",
                    (slot + number, entry.id, str(entry.image), entry.digest, _text(entry), revision),
                )

    def describe(self, entries: Sequence[Entry]) -> None:
        """Change path and metadata of items whose pictures are as they were."""
        with disk_errors(self.index.folder), closing(self.index.connect()) as database, database:
            database.execute("BEGIN IMMEDIATE")
            revision = _next_revision(database)
            database.executemany(
                "UPDATE items SET image = ?, metadata = ?, revision = ? WHERE id = ? AND NOT dead",
                [(str(entry.image), _text(entry), revision, entry.id) for entry in entries],
            )

    def delete(self, ids: Sequence[str]) -> None:
        """Delete items.

        Raises:
            UserError: one of them is not there; nothing is deleted then.
        """
        with disk_errors(self.index.folder), closing(self.index.connect()) as database, database:
            database.execute("BEGIN IMMEDIATE")
            revision = _next_revision(database)
            for item_id in ids:
                if not _bury(database, item_id, revision):
                    raise UserError(f"{self.index.folder}: no item has the id {item_id!r}; nothing was deleted")


@contextmanager
def writing(index: Index) -> Iterator[Writer]:
    """Hold the index for one writer.

    Raises:
        UserError: another process is writing.
    """
    with disk_errors(index.folder):
        lock = (index.folder / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing to {index.folder}; wait for it or stop it") from None
        except OSError:  # some network disks have no locks
            pass
        yield Writer(index)


def _next_revision(database: Connection) -> int:
    (number,) = database.execute("SELECT COALESCE(MAX(revision), 0) + 1 FROM items").fetchone()
    return int(number)


def _bury(database: Connection, item_id: str, revision: int) -> bool:
    """Mark the living item of this id as dead; return whether there was one."""
    query = "UPDATE items SET dead = 1, revision = ? WHERE id = ? AND NOT dead"
    return database.execute(query, (revision, item_id)).rowcount > 0


def _text(entry: Entry) -> str:
    return json.dumps(entry.metadata, ensure_ascii=False)
