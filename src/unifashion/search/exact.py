"""The exact search: every vector of every item that fits, a few items at a time, straight from the memory-mapped file.

Pieces are small enough for the processor's cache, and one thread processes them: several threads would have to wait for each
other after every piece, which on a busy machine takes many times as long as the work itself.

What is about to be returned is compared with its checksum, so that damaged vectors are an error and never an answer.

Shapes: M queries, N items, C of them in a chunk, Q vectors an item, D width.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifashion.errors import UserError
from unifashion.search.filters import Mask
from unifashion.search.index import Index
from unifashion.search.items import Snapshot

CHUNK = 2**19  # numbers turned to float32 at a time: 2 MiB


Found = tuple[list[int], list[float]]  # rows and scores, best first


class Wanted(NamedTuple):
    """A unit vector (D,), how many items near it, and which rows of the snapshot they may be; None: all."""

    query_D: Tensor
    k: int
    mask: Mask | None


def exact_scores(index: Index, query_MD: Tensor, slots: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the scores (M, n) of n items: the highest product of each query with one of an item's vectors."""
    config = index.config
    step = max(1, CHUNK // (config.num_vectors * config.width))
    scores_MN = np.empty((len(query_MD), len(slots)), dtype=np.float32)
    with _one_thread():
        for start in range(0, len(slots), step):
            image_CQD = index.vectors(slots[start : start + step])
            products = image_CQD.float().flatten(0, 1) @ query_MD.T  # much faster than a batch of matrices
            scores_CM = products.view(-1, config.num_vectors, len(query_MD)).amax(dim=1)
            scores_MN[:, start : start + step] = scores_CM.T.numpy()
    return scores_MN


class _OneThread:
    """torch keeps the number for the program and for every thread: all go back to what it was when nobody searched."""

    def __init__(self) -> None:
        self._lock, self._searches, self._before = threading.Lock(), 0, 1

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._searches:
                self._before = torch.get_num_threads()
                torch.set_num_threads(1)
            self._searches += 1
        try:
            yield
        finally:
            with self._lock:
                self._searches -= 1
                torch.set_num_threads(self._before)


_one_thread = _OneThread()


def top_k(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the positions of the ``k`` highest scores, best first; equal ones in their original order."""
    positions = np.arange(len(scores))
    if k < len(scores):  # a partition is linear; then only what may be among the best, ties included, is sorted
        positions = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return positions[np.argsort(-scores[positions], kind="stable")][:k]


@torch.inference_mode()
def exact_search(
    index: Index, query_D: Tensor, k: int, mask: Mask | None = None, snapshot: Snapshot | None = None
) -> Found:
    """Return rows and scores of the best items among those in ``mask``, best first.

    Args:
        index: where the vectors are.
        query_D: a unit vector.
        k: how many items.
        mask: which rows of the snapshot; default: all.
        snapshot: the items; default: those of the index's last refresh.
    """
    snapshot = snapshot or index.snapshot
    rows = np.arange(len(snapshot.slots)) if mask is None else np.flatnonzero(mask)
    return best_rows(index, query_D, k, rows, snapshot)


def best_rows(index: Index, query_D: Tensor, k: int, rows: NDArray[np.int64], snapshot: Snapshot) -> Found:
    """Return the best of some rows of a snapshot and their exact scores, best first.

    Raises:
        UserError: vectors that were damaged since they were written.
    """
    return _best(index, exact_scores(index, query_D[None], snapshot.slots[rows])[0], k, rows, snapshot)


@torch.inference_mode()
def exact_search_all(index: Index, wanted: Sequence[Wanted], snapshot: Snapshot) -> list[Found | UserError]:
    """Search for several queries, which read every vector together; for damaged vectors a query has the error."""
    masks = [one.mask for one in wanted if one.mask is not None]
    rows = np.flatnonzero(np.logical_or.reduce(masks)) if len(masks) == len(wanted) else np.arange(len(snapshot.slots))
    scores_MN = exact_scores(index, torch.stack([one.query_D for one in wanted]), snapshot.slots[rows])
    answers: list[Found | UserError] = []
    for one, scores in zip(wanted, scores_MN, strict=True):
        own = slice(None) if one.mask is None else one.mask[rows]
        try:
            answers.append(_best(index, scores[own], one.k, rows[own], snapshot))
        except UserError as error:
            answers.append(error)
    return answers


def _best(index: Index, scores: NDArray[np.float32], k: int, rows: NDArray[np.int64], snapshot: Snapshot) -> Found:
    best = top_k(scores, k)
    # A score that is not a number is never among the best: the item would just be missing.
    index.check_vectors(snapshot, np.union1d(rows[best], rows[~np.isfinite(scores)]))
    return rows[best].tolist(), scores[best].tolist()
