"""Published numbers stand beside ours only where both are the same benchmark."""

import dataclasses

import pytest

from unifashion.apps.report.published import published_rows, source
from unifashion.evaluation.scores import Score

GALLERY = {"dress": 3817, "shirt": 6346, "toptee": 5373}


def fashioniq(protocol="fashioniq/original", **changes):
    rows = [
        Score("fashioniq", protocol, "val", category, "R@10", 50.0, 2000, gallery, 0.0, (), "m")
        for category, gallery in GALLERY.items()
    ]
    return [dataclasses.replace(row, **changes) for row in rows]


def fashiongen(images):
    sub = Score("fashiongen", "fashiongen/sub100", "val", "", "i2t R@1", 60.0, 1000, 101, 0.0, (), "m")
    full = dataclasses.replace(sub, protocol="fashiongen/full", metric="t2i R@1", gallery=images)
    return [sub, full]


def test_rows_of_the_same_protocol_are_there_with_category_and_metric():
    rows = {row.model: row for row in published_rows("fashioniq/original", fashioniq())}
    assert rows["SPRC"].values[("shirt", "R@50")] == 73.89 and rows["SPRC"].values[("mean", "mean")] == 64.85
    rows = {row.model: row for row in published_rows("fashiongen/sub100", fashiongen(32_528))}
    assert rows["FAME-ViL"].values[("", "t2i R@1")] == 62.86
    assert "blocks100" in rows["UniFashion"].note and "EMNLP" in source()


@pytest.mark.parametrize(
    ("protocol", "scores"),
    [
        ("fashioniq/original-noref", fashioniq("fashioniq/original-noref")),
        ("fashioniq/original", fashioniq(marks=("synthetic",))),
        ("fashioniq/original", fashioniq(marks=("incomplete",))),
        ("fashioniq/original", fashioniq(split="test")),
        ("fashioniq/original", fashioniq(gallery=350)),
        ("fashioniq/original", fashioniq()[:2]),
        ("fashioniq/original", []),
        ("fashiongen/sub100", fashiongen(1_283)),
        ("fashiongen/sub100", fashiongen(32_528)[:1]),
    ],
)
def test_what_is_not_the_benchmark_compares_with_nothing(protocol, scores):
    assert published_rows(protocol, scores) == []
