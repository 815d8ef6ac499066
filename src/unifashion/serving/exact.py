"""The exact search: every vector of every item that fits, a few items at a time, straight from the memory-mapped file.

Shapes: C items of a chunk, Q vectors an item, D width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifashion.serving.filters import Mask
from unifashion.serving.index import Index

CHUNK = 2**21  # numbers turned to float32 at a time: they stay in the processor's cache


def exact_scores(index: Index, query_D: Tensor, slots: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the score of some items: the highest product of the query with one of their vectors."""
    about = index.about
    step = max(1, CHUNK // (about.num_vectors * about.width))
    scores = np.empty(len(slots), dtype=np.float32)
    for start in range(0, len(slots), step):
        image_CQD = index.vectors(slots[start : start + step])
        scores[start : start + step] = (image_CQD.float() @ query_D).amax(dim=1).numpy()
    return scores


def best_first(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the places of the ``k`` highest scores, best first; equal ones in the order in which they stand."""
    if k < len(scores):
        lowest = np.partition(scores, len(scores) - k)[len(scores) - k]
        places = np.flatnonzero(scores >= lowest)
    else:
        places = np.arange(len(scores))
    return places[np.argsort(-scores[places], kind="stable")][:k]


@torch.inference_mode()
def exact_search(index: Index, query_D: Tensor, k: int, mask: Mask | None = None) -> tuple[list[int], list[float]]:
    """Return row numbers and scores of the best items among those in ``mask``."""
    slots = index.snapshot.slots
    rows = np.arange(len(slots)) if mask is None else np.flatnonzero(mask)
    scores = exact_scores(index, query_D, slots[rows])
    best = best_first(scores, k)
    return rows[best].tolist(), scores[best].tolist()
