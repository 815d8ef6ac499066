"""Bootstrap intervals: they cover as often as they say, and say nothing where they know nothing."""

import numpy as np
import pytest

from unifashion.evaluation.bootstrap import interval, measured


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        low, high = interval([rng.random(400) < 0.3], seed=trial)
        covered += low <= 30.0 <= high
    assert 0.91 <= covered / 300 <= 0.985


def test_drawing_counts_equals_drawing_queries():
    hits = np.array([1.0] * 30 + [0.0] * 70)
    rng = np.random.default_rng(1)
    plain = [100 * rng.choice(hits, len(hits)).mean() for _ in range(20_000)]
    low, high = interval([hits], num_resamples=20_000)
    assert (low, high) == pytest.approx(tuple(np.percentile(plain, [2.5, 97.5])), abs=1.0)


def test_categories_are_resampled_alone_and_weigh_the_same():
    small, large = np.array([1.0, 0.0]), np.array([1.0] * 500 + [0.0] * 500)
    low, high = interval([small, large])
    assert low == pytest.approx(25.0, abs=2.5) and high == pytest.approx(75.0, abs=2.5)
    metric = measured("p", "R@1", [small, large], 10)
    assert (metric.value, metric.n, metric.low, metric.high) == (50.0, 1002, low, high)


@pytest.mark.parametrize("groups", [[[1.0] * 9], [[0.0] * 9], [[1.0]], [[1.0], [0.0]]])
def test_nothing_varies_no_interval(groups):
    assert interval(groups) == (None, None)


def test_the_same_values_give_the_same_interval():
    hits = np.random.default_rng(2).random(50) < 0.5
    assert interval([hits]) == interval([hits])
    with pytest.raises(ValueError, match="at least one query"):
        interval([[]])
