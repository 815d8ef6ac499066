"""Writing to an index: one writer at a time, every step whole or not at all."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from sqlite3 import Connection

import numpy as np
from torch import Tensor

from unifashion.errors import UserError
from unifashion.io import lock, to_disk
from unifashion.search.index import DTYPES, LOCK, VECTORS, Index, index_errors
from unifashion.search.items import Entry


class Writer:
    """Adds, updates and deletes items; made by ``writing``."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def stored(self) -> dict[str, Entry]:
        """Return the items by id, as they were written."""
        with closing(self.index.connect()) as database:
            rows = database.execute("SELECT id, image, digest, metadata FROM items WHERE NOT dead ORDER BY slot")
            return {row[0]: Entry(row[0], row[1], row[2], json.loads(row[3])) for row in rows}

    def put(self, entries: Sequence[Entry], vectors_BQD: Tensor) -> None:
        """Store items with their vectors; an item with a known id replaces the old one."""
        rows = np.ascontiguousarray(vectors_BQD.numpy().astype(DTYPES[self.index.config.precision]))
        with self._transaction() as (database, revision):
            (slot,) = database.execute("SELECT COALESCE(MAX(slot), -1) + 1 FROM items").fetchone()
            path = self.index.folder / VECTORS
            with path.open("r+b") as file:
                file.seek(slot * rows[:1].nbytes)  # not the end of the file: see _map_vectors
                file.write(rows.tobytes())
            to_disk(path)  # before the commit, or a power cut could leave rows without their vectors
            for item_slot, entry in enumerate(entries, slot):
                _mark_deleted(database, entry.id, revision)
                database.execute(
                    "INSERT INTO items (slot, id, image, digest, metadata, revision) VALUES (?, ?, ?, ?, ?, ?)",
                    (item_slot, entry.id, str(entry.image), entry.digest, _to_json(entry), revision),
                )

    def describe(self, entries: Sequence[Entry]) -> None:
        """Change path and metadata of items whose pictures are as they were."""
        with self._transaction() as (database, revision):
            database.executemany(
                "UPDATE items SET image = ?, metadata = ?, revision = ? WHERE id = ? AND NOT dead",
                [(str(entry.image), _to_json(entry), revision, entry.id) for entry in entries],
            )

    def delete(self, ids: Sequence[str]) -> None:
        """Delete items.

        Raises:
            UserError: one of them does not exist; then nothing is deleted.
        """
        with self._transaction() as (database, revision):
            for item_id in ids:
                if not _mark_deleted(database, item_id, revision):
                    raise UserError(f"{self.index.folder}: no item has the id {item_id!r}; nothing was deleted")

    @contextmanager
    def _transaction(self) -> Iterator[tuple[Connection, int]]:
        """Yield the table of items and the number of the new revision; an exception rolls back what the block has changed."""
        with index_errors(self.index.folder), closing(self.index.connect()) as database, database:
            database.execute("BEGIN IMMEDIATE")
            (revision,) = database.execute("SELECT COALESCE(MAX(revision), 0) + 1 FROM items").fetchone()
            yield database, revision


@contextmanager
def writing(index: Index) -> Iterator[Writer]:
    """Hold the index for one writer.

    Raises:
        UserError: another process is writing.
    """
    with ExitStack() as stack:
        with index_errors(index.folder):
            refusal = f"another process is writing to {index.folder}; wait for it or stop it"
            stack.enter_context(lock(index.folder / LOCK, refusal))
        yield Writer(index)


def _mark_deleted(database: Connection, item_id: str, revision: int) -> bool:
    """Mark the item of this id as deleted; return whether there was one."""
    query = "UPDATE items SET dead = 1, revision = ? WHERE id = ? AND NOT dead"
    return database.execute(query, (revision, item_id)).rowcount > 0


def _to_json(entry: Entry) -> str:
    return json.dumps(entry.metadata, ensure_ascii=False)
