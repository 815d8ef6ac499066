"""How much of what the exact search finds does the approximate search find?

    unifashion index runs/index --check

Queries are made from the catalogue itself, drawn with a fixed seed: the words of its items (if it has any; these need the
model) and photos of it (the mean of an item's vectors, which is what a search with its photo looks for). Recall is counted by
scores, not by ids: an item is a hit if its score reaches that of the last of the exact best k. Of items with equal scores the
two searches may return different ones, and neither is wrong.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from unifashion.encoders.protocol import Encoder
from unifashion.search.ann import Searcher
from unifashion.search.index import Index


@dataclass(frozen=True)
class Recall:
    """Recall@k over some queries, and the median milliseconds of both searches."""

    kind: str
    num_queries: int
    k: int
    recall: float
    exact_ms: float
    ann_ms: float

    def __str__(self) -> str:
        return (
            f"recall@{self.k} of the approximate against the exact search, {self.num_queries} {self.kind} (seed 0): "
            f"{100 * self.recall:.1f} %; median {self.ann_ms:.1f} ms against {self.exact_ms:.1f} ms"
        )


def measure_recall(index: Index, searcher: Searcher, kind: str, queries_MD: Sequence[Tensor], k: int) -> Recall:
    """Search both ways, alternating, so that a machine that slows down or warms up does so for both."""
    milliseconds: dict[Searcher, list[float]] = {Searcher(index, exact=True): [], searcher: []}
    shares = []
    for query_D in queries_MD:
        scores = []
        for side, taken in milliseconds.items():
            start = time.perf_counter()
            scores.append(side.search(query_D, k)[1])
            taken.append(1000 * (time.perf_counter() - start))
        exact_scores, ann_scores = scores
        if exact_scores:
            least = exact_scores[-1] - 1e-6  # the same score, summed in another order
            shares.append(sum(score >= least for score in ann_scores) / len(exact_scores))
    medians = map(statistics.median, milliseconds.values())
    return Recall(kind, len(queries_MD), k, statistics.fmean(shares), *medians)


def photo_queries(index: Index, num: int) -> list[Tensor]:
    """Return the query vectors (D,) of the photos of items drawn with seed 0."""
    slots = index.snapshot.slots
    chosen = np.random.default_rng(0).permutation(len(slots))[:num]
    return [F.normalize(index.vectors(slots[[row]])[0].float().mean(dim=0), dim=0) for row in chosen]


def word_queries(index: Index, model: Encoder, num: int) -> list[Tensor]:
    """Return the query vectors (D,) of the words of items drawn with seed 0; none where the catalogue has no words."""
    column = index.snapshot.columns.get("text")
    texts = sorted(column.texts or ()) if column is not None else []
    chosen = np.random.default_rng(0).permutation(len(texts))[:num]
    return list(model.embed_texts([texts[row] for row in chosen])) if len(chosen) else []
