"""Writing to an index: one writer at a time, every step whole or not at all."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from sqlite3 import Connection, DatabaseError

import numpy as np
from torch import Tensor

from unifashion.errors import UserError
from unifashion.io import lock, remove_leftovers, to_disk
from unifashion.search.index import (
    CONFIG,
    DTYPES,
    ITEMS,
    LOCK,
    SKIPPED,
    VECTORS,
    Index,
    checksum,
    has_checksums,
    index_errors,
)
from unifashion.search.items import UNKNOWN, Entry, Snapshot, read_metadata


class Writer:
    """Adds, updates and deletes items; made by ``writing``."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def stored(self) -> dict[str, Entry]:
        """Return the items by id, as they were written; those whose metadata are damaged have none."""
        with index_errors(self.index.folder), closing(self.index.connect()) as database:
            rows = database.execute(
                "SELECT id, image, digest, metadata FROM items WHERE NOT dead ORDER BY slot"
            ).fetchall()
        return {row[0]: Entry(row[0], Path(row[1]), row[2], read_metadata(row[3]) or {}) for row in rows}

    def damaged(self) -> list[str]:
        """Return the ids of the items whose vectors are missing or are not what was written.

        Raises:
            UserError: the table of items itself is damaged.
        """
        with self._transaction() as (database, _):
            (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise DatabaseError(f"{ITEMS}: {verdict}")
        snapshot = self.index.refresh()
        damaged = self.index.damaged_rows(snapshot, np.arange(len(snapshot.ids)))
        self._add_checksums(snapshot, damaged)
        return [snapshot.ids[row] for row in damaged]

    def _add_checksums(self, snapshot: Snapshot, damaged: Sequence[int]) -> None:
        """Give the vectors of an index from before there were checksums theirs, as they are now."""
        unknown = np.setdiff1d(snapshot.slots[snapshot.checksums == UNKNOWN], snapshot.slots[list(damaged)])
        if len(unknown):
            sums = [
                (checksum(self.index.vectors(unknown[[n]])[0].numpy()), int(slot)) for n, slot in enumerate(unknown)
            ]
            with self._transaction() as (database, _):
                database.executemany("UPDATE items SET checksum = ? WHERE slot = ?", sums)

    def put(self, entries: Sequence[Entry], vectors_BQD: Tensor) -> None:
        """Store items with their vectors; an item with a known id replaces the old one."""
        rows = np.ascontiguousarray(vectors_BQD.numpy().astype(DTYPES[self.index.config.precision]))
        with self._transaction() as (database, revision):
            (slot,) = database.execute("SELECT COALESCE(MAX(slot), -1) + 1 FROM items").fetchone()
            path = self.index.folder / VECTORS
            path.touch()  # it may have been lost
            with path.open("r+b") as file:
                file.seek(slot * rows[:1].nbytes)  # not the end of the file: see _map_vectors
                file.write(rows.tobytes())
            to_disk(path)  # before the commit, or a power cut could leave rows without their vectors
            for item_slot, (entry, row) in enumerate(zip(entries, rows, strict=True), slot):
                _mark_deleted(database, entry.id, revision)
                values = (item_slot, entry.id, str(entry.image), entry.digest, _to_json(entry), revision, checksum(row))
                columns = "slot, id, image, digest, metadata, revision, checksum"
                database.execute(f"INSERT INTO items ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def describe(self, entries: Sequence[Entry]) -> None:
        """Change path and metadata of items whose pictures are as they were."""
        with self._transaction() as (database, revision):
            database.executemany(
                "UPDATE items SET image = ?, metadata = ?, revision = ? WHERE id = ? AND NOT dead",
                [(str(entry.image), _to_json(entry), revision, entry.id) for entry in entries],
            )

    def rename(self, ids: Mapping[str, str]) -> None:
        """Give items new ids, named with the ones they have; their vectors stay where they are."""
        with self._transaction() as (database, revision):
            database.executemany(
                "UPDATE items SET id = ?, revision = ? WHERE id = ? AND NOT dead",
                [(new, revision, before) for new, before in ids.items()],
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
def locked(folder: Path) -> Iterator[None]:
    """Hold an index folder, which is made if needed, for one writer; the leftovers of killed ones are removed.

    Raises:
        UserError: another process is writing.
    """
    with ExitStack() as stack:
        with index_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            refusal = f"another process is writing to {folder}; wait for it or stop it"
            stack.enter_context(lock(folder / LOCK, refusal))
            for name in (CONFIG, SKIPPED, "nearest.json"):
                remove_leftovers(folder / name)
        yield


@contextmanager
def writing(index: Index) -> Iterator[Writer]:
    """Hold the index for one writer; raises as ``locked``."""
    with locked(index.folder):
        index.refresh()
        yield opened_writer(index)


def opened_writer(index: Index) -> Writer:
    """Return the writer of an index that is ``locked``; an index of an earlier version gets a column for checksums."""
    with index_errors(index.folder), closing(index.connect()) as database:
        if not has_checksums(database):
            database.execute("ALTER TABLE items ADD COLUMN checksum INTEGER")
    return Writer(index)


def _mark_deleted(database: Connection, item_id: str, revision: int) -> bool:
    """Mark the item of this id as deleted; return whether there was one."""
    query = "UPDATE items SET dead = 1, revision = ? WHERE id = ? AND NOT dead"
    return database.execute(query, (revision, item_id)).rowcount > 0


def _to_json(entry: Entry) -> str:
    return json.dumps(entry.metadata, ensure_ascii=False)
