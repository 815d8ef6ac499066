"""The approximate search of large catalogues: near vectors from an ANN index first, then the exact maximum for their items.

An index is searched exactly unless it was told otherwise (``unifashion index INDEX --ann ivf``): every vector is multiplied with
the query, which needs no database. An ANN index looks at a part of them. It is kept by FAISS in a file beside the vectors, or
by Milvus (``--uri``: a milvus-lite file, or a cluster), one row a vector, named by the item's slot:

    ivf     vectors in lists around k-means centres, of which the nearest are read
    hnsw    a graph of neighbours; slower to build, more memory, quicker on a cluster
    flat    every vector, exactly

The k best items have their best vectors among the k x Q best vectors, so that many are asked for (more with a filter), and
their items are scored as the exact search does it: scores are exact, only what is not found among the near ones is missing.

``vectors.bin`` stays the truth. ``nearest.json`` says up to which slot the ANN index knows the vectors; items after it are
searched exactly, so an index that could not be reached while items were added loses nothing and catches up later.

Shapes: S slots, Q vectors an item, D width.
"""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifashion.errors import UserError
from unifashion.search.exact import best_first, exact_scores, exact_search
from unifashion.search.filters import Mask
from unifashion.search.index import Index, disk_errors

log = logging.getLogger(__name__)
Ann = Literal["ivf", "hnsw", "flat"]
ANNS: tuple[Ann, ...] = get_args(Ann)
RECORD, FAISS_FILE = "nearest.json", "nearest.faiss"
FEW = 1000  # so many items are searched exactly at once


@dataclass(frozen=True)
class Record:
    """What ``nearest.json`` says: the kind of ANN index, the URI of Milvus (None: FAISS), how many slots it knows.

    The URI of a milvus-lite file in the index folder is its name.
    """

    ann: Ann
    uri: str | None = None
    covered: int = 0


class Store(Protocol):
    """An ANN index over the vectors of slots 0, 1, ..."""

    most: int  # vectors that a search returns at most
    at_once: int  # slots after which what was taken in is safe

    def extend(self, covered: int, vectors: Callable[[int, int], Tensor], end: int, told: Callable[[int], Any]) -> None:
        """Take in the slots from ``covered`` to ``end``; ``vectors(a, b)`` are those of some, ``told(n)`` counts them."""

    def search(self, query_D: Tensor, num: int) -> NDArray[np.int64]:
        """Return the slots of the ``num`` nearest vectors or less, in any order, repeated or not."""

    def drop(self) -> None:
        """Delete it."""


def read_record(folder: Path) -> Record | None:
    """Return how an index is searched approximately; None if it is not.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return Record(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / RECORD} cannot be read ({error}); delete it and call: unifashion index {folder} --ann ivf"
        ) from None


def wanted_record(index: Index, ann: Ann | None, uri: str | None) -> Record | None:
    """Return how an index should be searched approximately: as asked, else as it is, else None.

    Args:
        index: whose folder may hold the file of milvus-lite.
        ann: asked; default: as it is, or ``ivf``.
        uri: asked: an address, or a milvus-lite file, as a path from here; default: as it is, or FAISS.

    Raises:
        UserError: a URI that is neither.
    """
    before = read_record(index.folder)
    if uri is None:
        if ann is None or (before is not None and before.ann == ann):
            return before
        return Record(ann, before.uri if before is not None else None)
    return Record(ann or (before.ann if before is not None else "ivf"), _as_recorded(index, uri))


def _as_recorded(index: Index, uri: str) -> str:
    """Return the URI as ``nearest.json`` has it, so that an index folder may be moved with its milvus-lite file."""
    if "://" in uri:
        return uri
    if not uri.endswith(".db"):
        raise UserError(f"--uri {uri}: give http://host:19530, or a file of milvus-lite that ends in .db")
    path = Path(uri).absolute()
    return path.name if path.parent == index.folder.absolute() else str(path)


def write_record(folder: Path, record: Record) -> None:
    """Write ``nearest.json`` whole."""
    fresh = folder / f".{RECORD}"
    fresh.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    fresh.replace(folder / RECORD)


def open_store(index: Index, record: Record) -> Store:
    """Return the ANN index that a record speaks of; connects to nothing yet."""
    if record.uri is not None:
        from unifashion.search.milvus import MilvusStore

        uri = record.uri if "://" in record.uri else str(index.folder.absolute() / record.uri)
        return MilvusStore(uri, index.about, record.ann)
    from unifashion.search.faiss_file import FaissStore

    return FaissStore(index.folder / FAISS_FILE, index.about, record.ann)


def catch_up(index: Index, wanted: Record, told: Callable[[int], Any] = lambda number: None) -> Record:
    """Bring an ANN index up to what the index holds, and note it; the caller holds the index for writing.

    Raises:
        UserError: Milvus is not there, a full disk; the index itself is whole and a later call goes on.
    """
    slots = index.refresh().slots
    end = int(slots[-1]) + 1 if len(slots) else 0
    before = read_record(index.folder)
    same = before is not None and (before.ann, before.uri) == (wanted.ann, wanted.uri)
    record = before if before is not None and same else wanted
    store = open_store(index, record)
    with disk_errors(index.folder):
        while True:
            start = record.covered
            stop = max(start, min(end, start + store.at_once))
            store.extend(start, lambda a, b: index.vectors(np.arange(a, b)), stop, told)
            record = Record(record.ann, record.uri, stop)
            write_record(index.folder, record)
            if stop >= end:
                break
    if before is not None and not same:
        _drop(index, before)
    return record


def forget(index: Index) -> None:
    """Delete the ANN index, so that the search is exact again."""
    record = read_record(index.folder)
    if record is not None:
        (index.folder / RECORD).unlink()
        _drop(index, record)


def _drop(index: Index, record: Record) -> None:
    try:
        open_store(index, record).drop()
    except UserError as error:
        log.warning("what %s held is not deleted there: %s", record.uri, error)


class Finder:
    """Searches an index as ``nearest.json`` says, or exactly."""

    def __init__(self, index: Index, uri: str | None = None, exact: bool = False) -> None:
        """Take an index; ``uri`` says where Milvus is now, if not where it was.

        Raises:
            UserError: ``uri`` for an index that is not in Milvus.
        """
        self.index, self.exact = index, exact
        self.uri = None if uri is None else _as_recorded(index, uri)
        self._store: tuple[Record, Store] | None = None
        record = read_record(index.folder)
        if uri is not None and (record is None or record.uri is None):
            raise UserError(
                f"{index.folder} is not in Milvus; put it there with: unifashion index {index.folder} --uri {uri}"
            )

    def find(self, query_D: Tensor, k: int, mask: Mask | None = None) -> tuple[list[int], list[float]]:
        """Return row numbers and scores of the best items among those in ``mask``."""
        record = None if self.exact else read_record(self.index.folder)
        if record is None:
            return exact_search(self.index, query_D, k, mask)
        where = Record(record.ann, self.uri or record.uri)
        if self._store is None or self._store[0] != where:
            self._store = where, open_store(self.index, where)
        return nearest_search(self.index, self._store[1], record.covered, query_D, k, mask)


@torch.inference_mode()
def nearest_search(
    index: Index, store: Store, covered: int, query_D: Tensor, k: int, mask: Mask | None = None
) -> tuple[list[int], list[float]]:
    """Return row numbers and scores of the best items among those in ``mask``, as far as the ANN index finds them.

    Args:
        index: as of its last refresh.
        store: its ANN index, which knows the first ``covered`` slots.
        covered: see there.
        query_D: a unit vector.
        k: how many items.
        mask: which items.
    """
    slots = index.snapshot.slots
    rows = np.arange(len(slots)) if mask is None else np.flatnonzero(mask)
    cut = int(np.searchsorted(slots[rows], covered))
    known, later = rows[:cut], rows[cut:]
    num = math.ceil(k * index.about.num_vectors * covered / max(1, len(known)))
    if len(known) <= max(FEW, k) or num > store.most:
        return exact_search(index, query_D, k, mask)
    found = np.isin(slots[known], store.search(query_D, num))
    if int(found.sum()) < k:  # what fits the filter is far from the query
        return exact_search(index, query_D, k, mask)
    chosen = np.concatenate([known[found], later])
    scores = exact_scores(index, query_D, slots[chosen])
    best = best_first(scores, k)
    return chosen[best].tolist(), scores[best].tolist()
