"""How far a number can be trusted: percentile bootstrap intervals over queries.

    low, high = interval([hits_Q])                     recall of one set of queries, each 0 or 1
    low, high = interval([dress_Q, shirt_Q, toptee_Q])   a macro mean: every category is resampled by itself and weighs the same

The interval is about the queries only: what the number could have been with other queries of the same kind, with the gallery, the
weights and the training seed as they are. Queries that share a product are still resampled one by one.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unifashion.evaluation.scores import Measurement

NUM_RESAMPLES = 1000
LEVEL = 95.0  # percent


def interval(
    groups: Sequence[ArrayLike], *, num_resamples: int = NUM_RESAMPLES, level: float = LEVEL, seed: int = 0
) -> tuple[float, float] | tuple[None, None]:
    """Return the percentile interval, in percent, of the mean of the groups' means.

    Queries with equal values are interchangeable, so the count of each value is drawn (multinomial) rather than the queries
    themselves: exactly the bootstrap's distribution, at a cost that for hits and misses does not grow with their number.

    Args:
        groups: per group, one value from 0 to 1 for each query (a hit, an average precision, a mean of hits).
        num_resamples: how many times the queries are resampled, with replacement, within their group.
        level: share of the resampled means inside the interval, percent.
        seed: of the draws; the same values give the same interval.

    Returns:
        low and high; None and None where resampling says nothing because all queries of every group have the same value
        (all hits, no hit, one query).

    Raises:
        ValueError: no group, or a group without queries.
    """
    values = [np.asarray(group, dtype=np.float64) for group in groups]
    if not values or any(group.ndim != 1 or not len(group) for group in values):
        raise ValueError("an interval needs groups of at least one query each")
    rng = np.random.default_rng(seed)
    resampled: NDArray[np.float64] = np.zeros(num_resamples)
    varies = False
    for group in values:
        levels, counts = np.unique(group, return_counts=True)
        varies |= len(levels) > 1
        # Every group is drawn with its own size, so that categories weigh the same in every resample as in the macro mean.
        drawn = rng.multinomial(len(group), counts / len(group), size=num_resamples)
        resampled += drawn @ levels / len(group)
    if not varies:
        return None, None
    tail = (100 - level) / 2
    low, high = np.percentile(100 * resampled / len(values), [tail, 100 - tail])
    return float(low), float(high)


def measured(
    protocol: str, name: str, groups: Sequence[ArrayLike], gallery: int | None, *, category: str = ""
) -> Measurement:
    """Return the mean of the groups' means as a measurement in percent, with its interval; ``groups`` as in ``interval``."""
    low, high = interval(groups)
    value = 100 * float(np.mean([np.mean(np.asarray(group, dtype=np.float64)) for group in groups]))
    num_queries = sum(len(np.asarray(group)) for group in groups)
    return Measurement(protocol, name, value, num_queries, gallery, category=category, low=low, high=high)
