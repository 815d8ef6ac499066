"""How much of what the exact search finds does the approximate one find?

    unifashion index runs/index --check

Queries are made of the catalogue itself, drawn with a fixed seed: the words of its items (where it has any; these need the model)
and photos of it (the mean of an item's vectors, which is what a search with its photo looks for). An item counts as found if
its score is not below that of the last of the exact best k, so that equal scores do not count against the approximate search.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from unifashion.encoders.unifashion import UniFashion
from unifashion.search.index import Index
from unifashion.search.nearest import Finder


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


def measure(index: Index, finder: Finder, kind: str, queries_MD: Sequence[Tensor], k: int) -> Recall:
    """Search both ways, in turns."""
    exact = Finder(index, exact=True)
    shares, times = [], ([], [])  # type: tuple[list[float], tuple[list[float], list[float]]]
    for query_D in queries_MD:
        scores = []
        for side, search in enumerate((exact, finder)):
            started = time.perf_counter()
            scores.append(search.find(query_D, k)[1])
            times[side].append(1000 * (time.perf_counter() - started))
        if scores[0]:
            least = scores[0][-1] - 1e-6
            shares.append(sum(score >= least for score in scores[1]) / len(scores[0]))
    return Recall(kind, len(queries_MD), k, statistics.fmean(shares), *map(statistics.median, times))


def photo_queries(index: Index, num: int) -> list[Tensor]:
    """Return the query vectors (D,) of the photos of items drawn with seed 0."""
    slots = index.snapshot.slots
    chosen = np.random.default_rng(0).permutation(len(slots))[:num]
    return [F.normalize(index.vectors(slots[[row]])[0].float().mean(dim=0), dim=0) for row in chosen]


def word_queries(index: Index, model: UniFashion, num: int) -> list[Tensor]:
    """Return the query vectors (D,) of the words of items drawn with seed 0; none where the catalogue has no words."""
    column = index.snapshot.columns.get("text")
    if column is None or index.fields["text"] != "text":
        return []
    texts = sorted({str(text) for text in column.values[column.present]})
    chosen = np.random.default_rng(0).permutation(len(texts))[:num]
    return list(model.embed_texts([texts[row] for row in chosen])) if len(chosen) else []
