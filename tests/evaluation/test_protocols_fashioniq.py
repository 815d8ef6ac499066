import json
import logging
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from unifashion.data.records import ComposedQuery, ComposedSplit
from unifashion.errors import UserError
from unifashion.evaluation.composed import measure
from unifashion.evaluation.protocols.fashioniq import (
    CATEGORIES,
    SENTENCES,
    CategoryScores,
    category_scores,
    evaluate,
    union_gallery,
    with_captions,
)
from unifashion.evaluation.protocols.inputs import ScoredSplit, split_gallery
from unifashion.evaluation.protocols.registry import ComposedProtocol, protocols_of
from unifashion.evaluation.ranks import score_matrix

ANNOTATIONS = Path(__file__).resolve().parents[2] / "../shared/data/fashioniq_annotations"
RECORDING = Path(__file__).resolve().parents[1] / "golden/original/metrics_fashioniq.safetensors"
ROWS = protocols_of("fashioniq", ComposedProtocol)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def table(metrics):
    return {(metric.protocol, metric.category, metric.name): metric.value for metric in metrics}


def random_category(category, num_queries=60, num_images=150, seed=0, **extra):
    """Scores that favour the target and, more strongly, the reference, as a real model's do."""
    gallery = [f"{category}{item}" for item in range(num_images)]
    target = torch.randint(num_images // 2, (num_queries,), generator=torch.Generator().manual_seed(seed))
    reference = (target + 1 + torch.arange(num_queries) % 9) % num_images
    scores = randn(num_queries, num_images, seed=seed)
    scores[torch.arange(num_queries), target] += 1.5
    scores[torch.arange(num_queries), reference] += 3
    names = [gallery[item] for item in reference], [gallery[item] for item in target]
    return CategoryScores(category, scores, *names, gallery, **extra)


def scored_split(each, captioned=None):
    """The same category as the evaluation of a model has it: a split, and scores in the order of its queries and gallery."""
    queries = tuple(ComposedQuery(*pair, ("is red",)) for pair in zip(each.references, each.targets, strict=True))
    images = {name: Path(f"{name}.png") for name in each.gallery}
    split = ComposedSplit("fashioniq", "val", each.category, queries, tuple(each.gallery), images)
    return ScoredSplit(split, each.scores, captioned)


def plain_recall(scores, names, references, targets, k):
    """``names``: the gallery as a list; ``references``: what is removed for each query (None: nothing)."""
    hits = 0
    for row, (reference, target) in enumerate(zip(references, targets, strict=True)):
        column = {name: column for column, name in reversed(list(enumerate(names)))}
        own = scores[row, column[target]]
        others = [name for name in column if name not in (target, reference)]
        hits += sum(bool(scores[row, column[name]] >= own) for name in others) < k
    return 100 * hits / len(targets)


def test_three_protocols_agree_with_plain_counting():
    categories = [random_category(name, seed=place) for place, name in enumerate(CATEGORIES)]
    found = table(evaluate(categories))
    expected = {}
    for each in categories:
        union = [name for name in each.gallery if name in {*each.references, *each.targets}]
        columns = [each.gallery.index(name) for name in union]
        keep = [None] * len(each.targets)
        for k in (10, 50):
            for protocol, scores, gallery, removed in (
                ("fashioniq/original", each.scores, each.gallery, keep),
                ("fashioniq/original-noref", each.scores, each.gallery, each.references),
                ("fashioniq/union", each.scores[:, columns], union, each.references),
            ):
                recall = plain_recall(scores, gallery, removed, each.targets, k)
                expected[protocol, each.category, f"R@{k}"] = recall
    for protocol in ("fashioniq/original", "fashioniq/original-noref", "fashioniq/union"):
        means = [fmean(expected[protocol, name, f"R@{k}"] for name in CATEGORIES) for k in (10, 50)]
        expected |= {
            (protocol, "mean", "R@10"): means[0],
            (protocol, "mean", "R@50"): means[1],
            (protocol, "mean", "mean"): fmean(means),
        }
    assert found == pytest.approx(expected)
    ten = [found[protocol, "mean", "R@10"] for protocol in ("fashioniq/original", "fashioniq/original-noref")]
    assert 0 < ten[0] < ten[1] < found["fashioniq/union", "mean", "R@10"] < 100


def test_by_hand():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4]])
    # The first query's reference "a" and the stranger "b" stand above its target; the second finds "d" at once.
    each = CategoryScores("dress", scores, ["a", "c"], ["c", "d"], ["a", "b", "c", "d"])
    assert table(evaluate([each], ks=(1, 2))) == {
        ("fashioniq/original", "dress", "R@1"): 50.0,
        ("fashioniq/original", "dress", "R@2"): 50.0,
        ("fashioniq/original-noref", "dress", "R@1"): 50.0,
        ("fashioniq/original-noref", "dress", "R@2"): 100.0,
        ("fashioniq/union", "dress", "R@1"): 100.0,
        ("fashioniq/union", "dress", "R@2"): 100.0,
    }


def test_sizes_are_those_of_the_gallery_before_the_reference_is_removed():
    each = CategoryScores("dress", torch.rand(2, 4), ["a", "c"], ["c", "d"], ["a", "b", "c", "d"])
    sizes = {(metric.protocol, metric.n, metric.gallery) for metric in evaluate([each])}
    assert sizes == {("fashioniq/original", 2, 4), ("fashioniq/original-noref", 2, 4), ("fashioniq/union", 2, 3)}
    means = [metric for metric in evaluate([random_category(name) for name in CATEGORIES]) if metric.category == "mean"]
    assert {(metric.n, metric.gallery) for metric in means} == {(180, None)}


@pytest.mark.parametrize("num_categories", [1, 2])
def test_no_mean_is_reported_over_fewer_than_three_categories(num_categories, caplog):
    with caplog.at_level(logging.WARNING):
        metrics = evaluate([random_category(name) for name in CATEGORIES[:num_categories]])
    assert {metric.category for metric in metrics} == set(CATEGORIES[:num_categories])
    assert not any(metric.name == "mean" for metric in metrics)
    assert "no FashionIQ mean" in caplog.text


def test_every_category_weighs_the_same_in_the_mean_whatever_its_number_of_queries():
    ones, zeros = torch.eye(5), -torch.eye(5)
    names = list("abcde")
    categories = [
        CategoryScores("dress", ones, names[1:] + names[:1], names, names),
        CategoryScores("shirt", zeros[:1], ["b"], ["a"], names),
        CategoryScores("toptee", zeros[:2], ["b", "c"], ["a", "b"], names),
    ]
    assert table(evaluate(categories, ks=(1,)))["fashioniq/original", "mean", "R@1"] == pytest.approx(100 / 3)


def test_gallery_names_listed_twice_count_once():
    each = random_category("dress")
    twice = CategoryScores(
        "dress",
        torch.cat([each.scores, each.scores[:, :40] + 9], dim=1),
        each.references,
        each.targets,
        [*each.gallery, *each.gallery[:40]],
    )
    assert evaluate([twice]) == evaluate([each])


def test_a_reference_outside_the_gallery_or_equal_to_the_target_removes_nothing():
    scores = torch.tensor([[0.9, 0.8], [0.7, 0.8]])
    each = CategoryScores("dress", scores, ["gone", "a"], ["b", "a"], ["a", "b"])
    found = table(evaluate([each], ks=(1,)))
    assert found["fashioniq/original-noref", "dress", "R@1"] == found["fashioniq/original", "dress", "R@1"] == 0.0


def test_the_union_may_hold_images_of_queries_that_are_not_scored():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
    alone = CategoryScores("dress", scores, ["d"], ["c"], ["a", "b", "c", "d"])
    joined = replace(alone, union=["b", "c", "d", "not in the gallery"])
    assert table(evaluate([alone], ks=(1,)))["fashioniq/union", "dress", "R@1"] == 100.0
    assert table(evaluate([joined], ks=(1,)))["fashioniq/union", "dress", "R@1"] == 0.0
    assert [metric.gallery for metric in evaluate([joined], ks=(1,))] == [4, 4, 3]


def test_the_rows_of_the_table_are_the_three_protocols():
    categories = [random_category(name, seed=place) for place, name in enumerate(CATEGORIES)]
    assert measure(ROWS, [scored_split(each) for each in categories]) == evaluate(categories)
    assert [row.name for row in ROWS] == list(SENTENCES)


def test_scores_with_captions_stand_beside_those_without():
    categories = [random_category(name) for name in CATEGORIES]
    plain = evaluate(categories)
    both = measure(ROWS, [scored_split(each, captioned=-each.scores) for each in categories])
    assert both[: len(plain)] == plain
    assert {metric.protocol for metric in both[len(plain) :]} == {
        "fashioniq/original+captions",
        "fashioniq/original-noref+captions",
        "fashioniq/union+captions",
    }
    reversed_order = table(evaluate([replace(each, scores=-each.scores) for each in categories]))
    assert {(key[0] + "+captions", *key[1:]): value for key, value in reversed_order.items()}.items() <= table(
        both
    ).items()


def test_captions_for_some_categories_give_no_captioned_mean():
    categories = [random_category(name) for name in CATEGORIES]
    scored = [scored_split(each) for each in categories]
    scored[0] = scored_split(categories[0], captioned=categories[0].scores)
    keys = set(table(measure(ROWS, scored)))
    assert ("fashioniq/original", "mean", "mean") in keys
    assert {key[1] for key in keys if key[0].endswith("+captions")} == {"dress"}


def test_order_of_the_gallery_and_scale_do_not_matter_and_a_constant_model_scores_zero():
    each = random_category("shirt")
    order = randn(150, seed=4).argsort()
    moved = replace(each, scores=each.scores[:, order] * 4, gallery=[each.gallery[item] for item in order])
    assert evaluate([moved]) == evaluate([each])
    constant = replace(each, scores=torch.full_like(each.scores, 0.3))
    assert set(table(evaluate([constant])).values()) == {0.0}


def test_wrong_inputs_are_refused():
    each = random_category("dress")
    with pytest.raises(UserError, match="unknown FashionIQ category 'skirt'"):
        replace(each, category="skirt")
    with pytest.raises(UserError, match="given twice"):
        evaluate([each, each])
    with pytest.raises(UserError, match="target 'nobody' is not in the gallery"):
        replace(each, targets=["nobody", *each.targets[1:]])
    with pytest.raises(UserError, match="no query"):
        CategoryScores("dress", torch.zeros(0, 2), [], [], ["a", "b"])
    with pytest.raises(ValueError, match="shape"):
        replace(each, scores=each.scores.T)
    with pytest.raises(ValueError, match="references"):
        replace(each, references=each.references[1:])
    with pytest.raises(UserError, match="NaN"):
        evaluate([replace(each, scores=each.scores / 0)])


def small_split(**changes):
    queries = (
        ComposedQuery("a", "b", ("is red", "is long")),
        ComposedQuery("e", "missing", ("is blue", "is short")),
        ComposedQuery("c", "a", ("is green", "is wide")),
    )
    gallery = ("d", "c", "b", "missing", "a", "e")
    images = {name: Path(f"{name}.png") for name in "abcde"}
    return replace(ComposedSplit("fashioniq", "val", "dress", queries, gallery, images), **changes)


def test_galleries_of_a_split_keep_its_order():
    split = small_split()
    assert split_gallery(split) == ("d", "c", "b", "a", "e")
    assert union_gallery(split) == ("c", "b", "missing", "a", "e")
    assert union_gallery(replace(split, gallery=(*split.gallery, "a"))) == ("c", "b", "missing", "a", "e")


def test_scores_of_a_split_are_named_by_its_answerable_queries_and_its_images():
    # Rows: a -> b and c -> a. Columns: d, c, b, a, e; "d" is in no query, "e" in one that cannot be answered.
    scores = torch.tensor([[0.9, 0.0, 0.8, 0.0, 0.0], [0.0, 0.9, 0.0, 0.7, 0.8]])
    each = category_scores(small_split(), scores)
    assert (each.references, each.targets) == (["a", "c"], ["b", "a"])
    assert table(evaluate([each], ks=(1, 2))) == {
        ("fashioniq/original", "dress", "R@1"): 0.0,
        ("fashioniq/original", "dress", "R@2"): 50.0,
        ("fashioniq/original-noref", "dress", "R@1"): 0.0,
        ("fashioniq/original-noref", "dress", "R@2"): 100.0,
        ("fashioniq/union", "dress", "R@1"): 50.0,
        ("fashioniq/union", "dress", "R@2"): 100.0,
    }
    with pytest.raises(ValueError, match="shape"):
        category_scores(small_split(), torch.zeros(3, 6))


def test_a_split_with_hidden_targets_is_not_scored():
    hidden = small_split(queries=(ComposedQuery("a", None, ("is red", "is long")),))
    with pytest.raises(UserError, match="hides its targets"):
        category_scores(hidden, torch.zeros(1, 5))


@pytest.mark.skipif(not ANNOTATIONS.exists(), reason="the FashionIQ annotations are not here")
@pytest.mark.parametrize(
    ("category", "num_gallery", "num_union"),
    [("dress", 3817, 2628), ("shirt", 6346, 3089), ("toptee", 5373, 2902)],
)
def test_union_gallery_of_the_real_annotations_has_the_known_size(category, num_gallery, num_union):
    rows = json.loads((ANNOTATIONS / f"captions/cap.{category}.val.json").read_text())
    gallery = tuple(json.loads((ANNOTATIONS / f"image_splits/split.{category}.val.json").read_text()))
    queries = tuple(ComposedQuery(row["candidate"], row["target"], tuple(row["captions"])) for row in rows)
    split = ComposedSplit("fashioniq", "val", category, queries, gallery, {name: Path(name) for name in gallery})
    union = union_gallery(split)
    assert (len(split_gallery(split)), len(union)) == (num_gallery, num_union)
    assert list(union) == sorted(union, key=gallery.index)
    metrics = evaluate([category_scores(split, randn(len(rows), num_gallery))])
    assert [metric.gallery for metric in metrics] == [num_gallery] * 4 + [num_union] * 2
    assert {metric.n for metric in metrics} == {len(rows)}


def test_original_protocol_repeats_the_recorded_scores_and_recalls():
    # The original drops the last 2 of the 42 queries, which do not fill a batch of 4; its numbers are over the other 40.
    recording = load_file(RECORDING)
    fused = F.normalize(recording["inputs.query_fusion"], dim=-1)[:40]
    scores = score_matrix(fused, recording["inputs.gallery_feats"])
    captioned = with_captions(scores, fused, recording["inputs.gallery_caption_feats"])
    torch.testing.assert_close(scores, recording["outputs.sim_image_only"], atol=3e-6, rtol=0)
    torch.testing.assert_close(captioned, recording["outputs.sim_with_captions"], atol=4e-6, rtol=0)
    gallery = [f"B{item:03d}" for item in range(70)]
    references = [gallery[item] for item in recording["inputs.reference_index"][:40]]
    targets = [gallery[item] for item in recording["inputs.target_index"][:40]]
    each = CategoryScores("dress", scores, references, targets, gallery)
    found = table(measure(ROWS, [scored_split(each, captioned)]))
    names = [(f"fashioniq/original{suffix}", "dress", f"R@{k}") for suffix in ("+captions", "") for k in (10, 50)]
    expected = recording["outputs.recall_10_50_with_captions_then_image_only"].tolist()
    assert [found[name] for name in names] == pytest.approx(expected)
