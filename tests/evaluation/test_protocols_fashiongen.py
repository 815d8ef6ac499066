from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from unifashion.errors import UserError
from unifashion.evaluation.protocols import catalogue, fashiongen
from unifashion.evaluation.protocols.fashiongen import blocks100, draw_candidates, sub100
from unifashion.evaluation.protocols.inputs import ProductEmbeddings

RECORDING = Path(__file__).resolve().parents[1] / "golden/original/metrics_fashiongen.safetensors"


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def values(metrics):
    return {metric.name: metric.value for metric in metrics}


def products_of(sizes, views=(1, 2, 3), width=5):
    """``sizes``: products in each sub-category; photos of a product differ, its text is near to them."""
    subcategory = [name for name, size in sizes.items() for _ in range(size)]
    centre = randn(len(subcategory), width)
    image_code = [code for code in range(len(subcategory)) for _ in range(views[code % len(views)])]
    text_code = list(reversed(range(len(subcategory))))
    return ProductEmbeddings(
        centre[image_code][:, None] + randn(len(image_code), 2, width, seed=1),
        centre[text_code] + 0.5 * randn(len(text_code), width, seed=2),
        [f"p{code}" for code in image_code],
        [f"p{code}" for code in text_code],
        [subcategory[code] for code in image_code],
    )


def codes(embeddings):
    names = sorted(set(embeddings.image_subcategory))
    of_product = dict(zip(embeddings.image_product, embeddings.image_subcategory, strict=True))
    subcategory = np.array([names.index(of_product[product]) for product in embeddings.products])
    return embeddings.image_codes.numpy(), embeddings.text_codes.numpy(), subcategory


def plain_draw_recall(embeddings, direction, draw, k):
    hits = 0
    for query, candidates, absent in zip(draw.queries, draw.candidates, draw.absent, strict=True):
        kept = [int(item) for item, gone in zip(candidates, absent, strict=True) if not gone]
        pairs = [(item, query) if direction == "i2t" else (query, item) for item in kept]
        scores = [float((embeddings.images[image] @ embeddings.texts[text]).max()) for text, image in pairs]
        hits += sum(score >= scores[0] for score in scores[1:]) < k
    return 100 * hits / len(draw.queries)


def test_sub100_agrees_with_plain_counting_over_the_same_draws():
    embeddings = products_of({"tops": 14, "jeans": 9, "bags": 4})
    images, texts, subcategory = codes(embeddings)
    metrics = sub100(embeddings, num_draws=3, num_queries=20, num_negatives=6, seed=40)
    recalls = []
    for seed in (40, 41, 42):
        i2t = draw_candidates(images, texts, subcategory, 20, 6, np.random.default_rng([seed, 0]))
        t2i = draw_candidates(texts, images, subcategory, 20, 6, np.random.default_rng([seed, 1]))
        recalls.append(
            {
                f"{direction} R@{k}": plain_draw_recall(embeddings, direction, draw, k)
                for direction, draw in (("i2t", i2t), ("t2i", t2i))
                for k in (1, 5, 10)
            }
        )
    for metric in metrics[:-1]:
        drawn = [recall[metric.name] for recall in recalls]
        assert metric.value == pytest.approx(fmean(drawn))
        assert metric.std == pytest.approx(stdev(drawn))
    means = [fmean(recall.values()) for recall in recalls]
    assert (metrics[-1].name, metrics[-1].value) == ("mean", pytest.approx(fmean(means)))
    assert metrics[-1].std == pytest.approx(stdev(means))
    assert 0 < values(metrics)["t2i R@1"] < 100
    assert [metric.name for metric in metrics] == [f"{d} R@{k}" for d in ("i2t", "t2i") for k in (1, 5, 10)] + ["mean"]
    assert {metric.seeds for metric in metrics} == {(40, 41, 42)}
    assert {metric.gallery for metric in metrics} == {7}


def test_sub100_by_hand_where_nothing_is_left_to_chance():
    # One photo a product, and as many negatives as the sub-category holds: every query meets its whole sub-category.
    images = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [5.0, 5.0], [6.0, 6.0], [5.0, 5.5]])[:, None]
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    ids, kinds = list("abcdef"), ["top"] * 3 + ["bag"] * 3
    metrics = sub100(ProductEmbeddings(images, texts, ids, ids, kinds), num_draws=2, num_negatives=2, ks=(1, 2))
    # t2i: a finds a; b finds c, then b; c finds a, b, then c; d finds e, f, then d; e finds e; f finds e, then f.
    # i2t: a finds c, then a; b finds c, a, then b; c finds b, then (c, a); d and e find each other's equal text;
    # f finds d and e before its own.
    assert values(metrics) == pytest.approx(
        {
            "i2t R@1": 0,
            "i2t R@2": 100 * 4 / 6,
            "t2i R@1": 100 * 2 / 6,
            "t2i R@2": 100 * 4 / 6,
            "mean": 100 * 10 / 24,
        }
    )
    assert {metric.std for metric in metrics} == {0.0}
    assert {metric.protocol for metric in metrics} == {"fashiongen/sub100-neg2"}
    assert [metric.n for metric in metrics] == [6, 6, 6, 6, 12]


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_negatives_are_other_products_of_the_same_subcategory_drawn_once(direction):
    images, texts, subcategory = codes(products_of({"tops": 30, "jeans": 25}))
    query, gallery = (images, texts) if direction == "i2t" else (texts, images)
    draw = draw_candidates(query, gallery, subcategory, 1000, 20, np.random.default_rng(0))
    assert sorted(draw.queries) == list(range(len(query)))
    assert not draw.absent.any() and draw.num_filled == 0
    for row, candidates in zip(draw.queries, draw.candidates, strict=True):
        product = query[row]
        assert gallery[candidates[0]] == product
        assert product not in gallery[candidates[1:]]
        assert len(set(candidates)) == 21
        assert set(subcategory[gallery[candidates]]) == {subcategory[product]}


def test_positives_and_negatives_are_drawn_from_all_there_are():
    images, texts, subcategory = codes(products_of({"tops": 8}, views=(3,)))
    draws = [draw_candidates(texts, images, subcategory, 8, 5, np.random.default_rng(seed)) for seed in range(60)]
    positives = {int(item) for draw in draws for item in draw.candidates[:, 0]}
    negatives = {int(item) for draw in draws for item in draw.candidates[:, 1:].flat}
    assert positives == negatives == set(range(24))


def test_a_small_subcategory_is_filled_from_others_and_counted():
    embeddings = products_of({"tops": 40, "bags": 3}, views=(1,))
    images, texts, subcategory = codes(embeddings)
    draw = draw_candidates(images, texts, subcategory, 1000, 10, np.random.default_rng(0))
    assert draw.num_filled == 3 and not draw.absent.any()
    for row, candidates in zip(draw.queries, draw.candidates, strict=True):
        same = subcategory[texts[candidates[1:]]] == subcategory[images[row]]
        assert same.sum() == (2 if subcategory[images[row]] == subcategory[-1] else 10)
        assert len(set(candidates)) == 11 and images[row] not in texts[candidates[1:]]
    note = "sub-category too small, filled from others, for 6 of 86 i2t and 6 of 86 t2i queries"
    metrics = sub100(embeddings, num_draws=2, num_negatives=10)
    assert {metric.note for metric in metrics} == {note}
    assert {metric.marks for metric in metrics} == {()}


def test_a_gallery_that_is_too_small_altogether_gives_shorter_marked_lists():
    embeddings = products_of({"tops": 5, "bags": 4}, views=(1, 2))
    metrics = {metric.name: metric for metric in sub100(embeddings, num_draws=1)}
    assert {metric.marks for metric in metrics.values()} == {("short-gallery",)}
    assert {metric.protocol for metric in metrics.values()} == {"fashiongen/sub100"}
    # 9 texts; 13 images, of which a query with two views leaves 11 negatives and one positive.
    assert (metrics["i2t R@1"].gallery, metrics["t2i R@1"].gallery) == (9, 12)
    whole = catalogue.full(embeddings)
    assert metrics["i2t R@1"].value == pytest.approx(values(whole)["i2t R@1"])
    assert metrics["i2t R@1"].std is None
    assert sub100(embeddings, num_negatives=9)[0].marks == ("short-gallery",)
    assert sub100(embeddings, num_negatives=8)[0].marks == ()


def test_sub100_takes_101_candidates_and_1000_queries_a_draw():
    embeddings = products_of({"tops": 700, "jeans": 650}, views=(1,), width=3)
    metrics = sub100(embeddings, num_draws=2)
    assert {metric.protocol for metric in metrics} == {"fashiongen/sub100"}
    assert [(metric.n, metric.gallery) for metric in metrics[:-1]] == [(1000, 101)] * 6
    assert (metrics[-1].n, metrics[-1].gallery) == (2000, 101)
    fewer = sub100(embeddings, num_draws=1, num_queries=10, num_negatives=99)
    assert {(metric.protocol, metric.gallery) for metric in fewer} == {("fashiongen/sub100-neg99", 100)}


def test_draws_depend_on_their_seed_alone():
    embeddings = products_of({"tops": 30, "jeans": 30})
    first, again = (sub100(embeddings, num_queries=15, num_negatives=8, seed=3) for _ in range(2))
    assert first == again
    one = [values(sub100(embeddings, num_draws=1, num_queries=15, num_negatives=8, seed=seed)) for seed in (3, 4, 5)]
    three = values(sub100(embeddings, num_draws=3, num_queries=15, num_negatives=8, seed=3))
    assert three == pytest.approx({name: fmean(draw[name] for draw in one) for name in three})
    assert one[0] != one[1]


def test_sub100_does_not_depend_on_scale_and_a_constant_model_scores_zero():
    embeddings = products_of({"tops": 30, "jeans": 30})
    ids = embeddings.image_product, embeddings.text_product, embeddings.image_subcategory
    scaled = ProductEmbeddings(embeddings.images * 8, embeddings.texts * 0.25, *ids)
    assert sub100(scaled, num_negatives=8) == sub100(embeddings, num_negatives=8)
    constant = ProductEmbeddings(
        randn(1, 2, 5).expand_as(embeddings.images), randn(1, 5).expand_as(embeddings.texts), *ids
    )
    assert set(values(sub100(constant, num_negatives=20)).values()) == {0.0}


def test_sub100_of_one_product_or_without_subcategories_says_what_to_do():
    with pytest.raises(UserError, match="every item belongs to product 'p0'"):
        sub100(products_of({"tops": 1}))
    for subcategories in ((), ("tops", "", "tops")):
        embeddings = ProductEmbeddings(torch.zeros(3, 1, 2), torch.zeros(3, 2), "abc", "abc", subcategories)
        with pytest.raises(UserError, match="sub-category"):
            sub100(embeddings)
    for wrong in ({"num_draws": 0}, {"num_queries": 0}, {"num_negatives": 0}, {"seed": -1}):
        with pytest.raises(UserError, match="fashiongen/sub100"):
            sub100(products_of({"tops": 3}), **wrong)


def test_blocks100_agrees_with_plain_counting_and_drops_the_last_rows():
    centre = randn(250, 6)
    images, texts = centre[:, None] + randn(250, 3, 6, seed=1), centre + randn(250, 6, seed=2)
    expected = dict.fromkeys(["i2t R@1", "i2t R@5", "i2t R@10", "t2i R@1", "t2i R@5", "t2i R@10"], 0.0)
    for start in (0, 100):
        block = range(start, start + 100)
        for row in block:
            own = float((images[row] @ texts[row]).max())
            i2t = sum(float((images[row] @ texts[other]).max()) >= own for other in block if other != row)
            t2i = sum(float((images[other] @ texts[row]).max()) >= own for other in block if other != row)
            for k in (1, 5, 10):
                expected[f"i2t R@{k}"] += 0.5 * (i2t < k)
                expected[f"t2i R@{k}"] += 0.5 * (t2i < k)
    metrics = blocks100(images, texts)
    assert values(metrics) == pytest.approx({**expected, "mean": fmean(expected.values())})
    assert 0 < expected["i2t R@1"] < expected["t2i R@10"] < 100
    assert {(metric.n, metric.gallery) for metric in metrics[:-1]} == {(200, 100)}
    assert {metric.note for metric in metrics} == {"50 rows after the last whole block dropped"}
    assert {metric.protocol for metric in metrics} == {"fashiongen/blocks100"}


def test_blocks_do_not_see_each_other():
    images = texts = F.normalize(randn(200, 8), dim=-1)
    images = torch.cat([images[:100], images[:100]])
    texts = torch.cat([texts[:100], texts[:100]])
    assert set(values(blocks100(images[:, None], texts)).values()) == {100.0}
    assert values(blocks100(images[:, None], texts, block=200))["i2t R@1"] == 0.0


def test_order_inside_a_block_and_scale_do_not_matter_to_blocks100():
    centre = randn(200, 6)
    images, texts = centre[:, None] + randn(200, 3, 6, seed=1), centre + randn(200, 6, seed=2)
    order = torch.cat([randn(100, seed=3).argsort(), 100 + randn(100, seed=4).argsort()])
    assert blocks100(images[order] * 4, texts[order] * 0.5) == blocks100(images, texts)
    assert set(values(blocks100(torch.ones(200, 3, 6), torch.ones(200, 6))).values()) == {0.0}


def test_blocks100_needs_one_whole_block_of_pairs():
    with pytest.raises(UserError, match="needs 100 rows and has 99"):
        blocks100(torch.zeros(99, 1, 2), torch.zeros(99, 2))
    with pytest.raises(ValueError, match="rows must be pairs"):
        blocks100(torch.zeros(100, 1, 2), torch.zeros(101, 2))


def test_a_broken_embedding_stops_every_protocol():
    embeddings = products_of({"tops": 60, "jeans": 60}, views=(1,))
    embeddings.images[3, 1, 2] = float("nan")
    for run in (
        lambda: sub100(embeddings, num_negatives=59),
        lambda: catalogue.full(embeddings),
        lambda: blocks100(embeddings.images, embeddings.texts.flip(0)),
    ):
        with pytest.raises(UserError, match="NaN"):
            run()


def test_blocks100_repeats_the_recorded_recalls_of_the_original():
    recording = load_file(RECORDING)
    images = F.normalize(recording["inputs.image_query_feats"], dim=-1)
    texts = F.normalize(recording["inputs.text_feats"], dim=-1)
    found = values(fashiongen.blocks100(images, texts, ks=(1, 5, 10, 50)))
    for k in (1, 5, 10, 50):
        assert found[f"t2i R@{k}"] == pytest.approx(float(recording[f"outputs.recall_at{k}"]))
        assert found[f"i2t R@{k}"] == pytest.approx(float(recording[f"outputs.recall_at{k}_image_rows"]))
