"""The approximate search of large catalogues: near vectors from an ANN index first, then the exact scores of their items.

An index is searched exactly unless an ANN index was asked for (``unifashion index INDEX --ann ivf``): every vector is multiplied
by the query, which needs no database. An ANN index reads only part of them:

    ivf     vectors in lists around k-means centres, of which the nearest are read
    hnsw    a graph of neighbours; slower to build, more memory, quicker on a cluster
    flat    every vector, exactly

It is kept by an ``AnnEngine``: FAISS, in a file beside the vectors, or Milvus (``--uri``: a milvus-lite file, or a cluster).

The k best items have their best vectors among the k x Q best vectors, since none has more than Q. So that many are asked for, and
their items are scored as the exact search does: scores are exact, only items not among the near vectors are missing.
An engine has no metadata: where a filter or deletions leave a part p of the items, 1 / p times as many vectors are asked for.

``vectors.bin`` remains the source of truth. ``nearest.json`` says up to which slot the engine has the vectors; later items are
searched exactly, so an engine that could not be reached while items were added loses nothing and catches up later. An engine that
has lost vectors, or has those of another index, is filled again from slot 0.

Shapes: Q vectors an item, D width.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifashion.errors import UserError
from unifashion.io import read_json, write_json
from unifashion.search.exact import Found, Wanted, best_rows, exact_search, exact_search_all
from unifashion.search.faiss_engine import FaissEngine
from unifashion.search.filters import Mask
from unifashion.search.index import Index, index_errors
from unifashion.search.items import Snapshot
from unifashion.search.milvus_engine import MilvusEngine, portable_uri, usable_uri

log = logging.getLogger(__name__)
Ann = Literal["ivf", "hnsw", "flat"]
RECORD, FAISS_FILE = "nearest.json", "nearest.faiss"
INFINITE = "the model's vector of this query is not made of finite numbers; try other words or another image"
EXACT_BELOW = 1000  # items; up to this many, the exact search is as fast


class AnnEngine(Protocol):
    """Keeps the vectors of slots 0, 1, ... so that a search need not read all of them."""

    max_results: int  # vectors that a search returns at most
    slots_per_commit: int  # slots after which added vectors are safe from a crash

    def add(
        self, start: int, end: int, vectors: Callable[[int, int], Tensor], on_progress: Callable[[int], Any]
    ) -> None:
        """Add the slots from ``start`` to ``end``, or all from 0 where earlier ones are missing or not those of this index.

        Args:
            start: slots that were added before.
            end: slots that are known afterwards.
            vectors: returns the vectors (n, Q, D) from one slot to another.
            on_progress: called with the number of slots just added.
        """

    def search(self, query_D: Tensor, num: int) -> NDArray[np.int64]:
        """Return the slots of the ``num`` nearest vectors or fewer, in any order, repeated or not."""

    def drop(self) -> None:
        """Delete everything."""


@dataclass(frozen=True)
class AnnRecord:
    """What ``nearest.json`` says: the kind of ANN index, the URI of Milvus (None: FAISS), how many slots it has.

    The URI of a milvus-lite file in the index folder is its name.
    """

    ann: Ann
    uri: str | None = None
    covered: int = 0

    def __post_init__(self) -> None:
        """Check what was read.

        Raises:
            TypeError: a value that ``catch_up`` does not write.
        """
        if (
            self.ann not in get_args(Ann)
            or not isinstance(self.uri, str | None)
            or type(self.covered) is not int
            or self.covered < 0
        ):
            raise TypeError(RECORD)


def read_record(folder: Path) -> AnnRecord | None:
    """Return how an index is searched approximately; None if it is not.

    Raises:
        UserError: the file is damaged.
    """
    values = read_json(folder / RECORD)
    if values is None and not (folder / RECORD).exists():
        return None
    try:
        return AnnRecord(**values)
    except TypeError:
        raise UserError(
            f"{folder / RECORD} cannot be read; make it again with: unifashion index {folder} --ann ivf (or exact)"
        ) from None


def _record_to_replace(folder: Path) -> AnnRecord | None:
    """Return what ``read_record`` does; None also for a damaged file: whoever calls this writes a new one."""
    try:
        return read_record(folder)
    except UserError:
        return None


def requested_record(index: Index, ann: Ann | None, uri: str | None) -> AnnRecord | None:
    """Return how an index should be searched approximately: as asked, else as it is, else None.

    Args:
        index: whose folder may hold the file of milvus-lite.
        ann: the kind; default: as it is, or ``ivf``.
        uri: an address, or the path of a milvus-lite file; default: as it is, or FAISS.

    Raises:
        UserError: a URI that is neither; a damaged record, if nothing is asked for.
    """
    before = read_record(index.folder) if ann is None and uri is None else _record_to_replace(index.folder)
    if uri is not None:
        return AnnRecord(ann or (before.ann if before else "ivf"), portable_uri(uri, index.folder))
    if ann is None or (before and before.ann == ann):
        return before
    return AnnRecord(ann, before.uri if before else None)


def open_engine(index: Index, record: AnnRecord) -> AnnEngine:
    """Return the engine that a record names, the only place that distinguishes them; connects to nothing yet."""
    if record.uri is None:
        return FaissEngine(index.folder / FAISS_FILE, index.config, record.ann)
    return MilvusEngine(usable_uri(record.uri, index.folder), index.config, record.ann)


def catch_up(index: Index, wanted: AnnRecord, on_progress: Callable[[int], Any] = lambda num_slots: None) -> AnnRecord:
    """Bring an ANN index up to what the index holds, and record it; the caller holds the index for writing.

    Raises:
        UserError: Milvus is not reachable, a full disk; the index itself is intact and a later call continues.
    """
    slots = index.refresh().slots
    end = int(slots[-1]) + 1 if len(slots) else 0
    before = _record_to_replace(index.folder)
    same = before is not None and (before.ann, before.uri) == (wanted.ann, wanted.uri)
    record = before if before is not None and same and before.covered <= end else replace(wanted, covered=0)
    index.check_vectors(index.snapshot, np.flatnonzero(slots >= record.covered))
    engine = open_engine(index, record)
    with index_errors(index.folder):
        while True:
            stop = max(record.covered, min(end, record.covered + engine.slots_per_commit))
            engine.add(record.covered, stop, lambda a, b: index.vectors(np.arange(a, b)), on_progress)
            record = replace(record, covered=stop)
            write_json(index.folder / RECORD, asdict(record), durable=True)
            if stop >= end:
                break
    if before is not None and not same:
        _drop_unless_shared(index, before, record)
    return record


def drop_ann(index: Index) -> None:
    """Delete the ANN index, so that the search is exact again."""
    record = _record_to_replace(index.folder) or AnnRecord("ivf")  # FAISS's file may be there without a record
    (index.folder / RECORD).unlink(missing_ok=True)
    _drop(index, record)


def _drop_unless_shared(index: Index, before: AnnRecord, after: AnnRecord) -> None:
    """Delete the previous ANN index, unless the new one has taken, or may have taken, its place."""
    if before.uri is None and after.uri is None:
        return  # one file, whatever its kind
    if before.uri is not None and after.uri is not None and before.ann == after.ann:
        log.warning("%s and %s may be the same Milvus, so nothing was deleted in the first", before.uri, after.uri)
        return
    _drop(index, before)


def _drop(index: Index, record: AnnRecord) -> None:
    try:
        open_engine(index, record).drop()
    except UserError as error:
        log.warning("the vectors in %s were not deleted: %s", record.uri, error)


class Searcher:
    """Searches an index as ``nearest.json`` says, or exactly."""

    def __init__(self, index: Index, uri: str | None = None, exact: bool = False) -> None:
        """Take an index; ``uri`` says where Milvus is now, if it has moved.

        Raises:
            UserError: ``uri`` for an index that is not in Milvus.
        """
        self.index, self.uri, self.exact = index, uri, exact
        self._uri = None if uri is None else portable_uri(uri, index.folder)
        self._opened: tuple[AnnRecord, AnnEngine] | None = None
        record = read_record(index.folder)
        if uri is not None and (record is None or record.uri is None):
            raise UserError(
                f"{index.folder} is not in Milvus; put it there with: unifashion index {index.folder} --uri {uri}"
            )

    def search(
        self, query_D: Tensor, k: int, mask: Mask | None = None, snapshot: Snapshot | None = None
    ) -> tuple[list[int], list[float]]:
        """Return rows and scores of the best items among those in ``mask``, best first; arguments as ``exact_search``."""
        record = (
            None if self.exact else read_record(self.index.folder)
        )  # each time: another process may have changed it
        if record is None:
            return exact_search(self.index, query_D, k, mask, snapshot)
        return ann_search(self.index, self._engine(record), record.covered, query_D, k, mask, snapshot)

    def search_all(self, wanted: Sequence[Wanted], snapshot: Snapshot) -> list[Found | UserError]:
        """Search for several queries; the answer to one that fails is its error."""
        answers: list[Found | UserError] = [UserError(INFINITE) for _ in wanted]
        usable = [row for row, one in enumerate(wanted) if one.query_D.isfinite().all()]
        if usable and (self.exact or read_record(self.index.folder) is None):
            found = exact_search_all(self.index, [wanted[row] for row in usable], snapshot)
        else:
            found = [self._search_one(wanted[row], snapshot) for row in usable]
        for row, answer in zip(usable, found, strict=True):
            answers[row] = answer
        return answers

    def _search_one(self, wanted: Wanted, snapshot: Snapshot) -> Found | UserError:
        try:
            return self.search(*wanted, snapshot)
        except UserError as error:  # Milvus is not reachable
            return error

    def _engine(self, record: AnnRecord) -> AnnEngine:
        wanted = AnnRecord(record.ann, self._uri or record.uri)
        if self._opened is None or self._opened[0] != wanted:
            self._opened = wanted, open_engine(self.index, wanted)
        return self._opened[1]


@torch.inference_mode()
def ann_search(
    index: Index,
    engine: AnnEngine,
    covered: int,
    query_D: Tensor,
    k: int,
    mask: Mask | None = None,
    snapshot: Snapshot | None = None,
) -> tuple[list[int], list[float]]:
    """Search as ``exact_search`` does, among what the engine finds in its ``covered`` slots and all items of later slots."""
    snapshot = snapshot or index.snapshot
    slots = snapshot.slots
    rows = np.arange(len(slots)) if mask is None else np.flatnonzero(mask)
    cut = int(np.searchsorted(slots[rows], covered))
    known, later = rows[:cut], rows[cut:]
    num = math.ceil(k * index.config.num_vectors * covered / max(1, len(known)))
    if len(known) <= max(EXACT_BELOW, k) or num > engine.max_results:
        return exact_search(index, query_D, k, mask, snapshot)
    near = known[np.isin(slots[known], engine.search(query_D, num))]
    if len(near) < k:  # what fits the filter is far from the query
        return exact_search(index, query_D, k, mask, snapshot)
    return best_rows(index, query_D, k, np.concatenate([near, later]), snapshot)
