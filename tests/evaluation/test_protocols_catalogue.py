from pathlib import Path

import pytest
import torch

from unifashion.config import DataSettings, EvaluationSettings
from unifashion.data.records import ImageText
from unifashion.errors import UserError
from unifashion.evaluation.protocols import catalogue
from unifashion.evaluation.protocols.catalogue import both_ways, full, two_way_metrics
from unifashion.evaluation.protocols.inputs import EmbeddedPairs, ProductEmbeddings


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def values(metrics):
    return {metric.name: metric.value for metric in metrics}


def catalogue_of(num_products=12, width=6, seed=0):
    """Products with 1 to 4 photos and 1 or 2 texts, shuffled; a text is near to its product's photos, but not always."""
    image_product = [f"p{product}" for product in range(num_products) for _ in range(1 + product % 4)]
    text_product = [f"p{product}" for product in reversed(range(num_products)) for _ in range(1 + product % 2)]
    order = randn(len(image_product), seed=seed + 5).argsort().tolist()
    image_product = [image_product[row] for row in order]
    centre = randn(num_products, width, seed=seed)
    images = torch.stack([centre[int(name[1:])] for name in image_product])[:, None]
    images = images + 1.5 * randn(len(image_product), 3, width, seed=seed + 1)
    texts = torch.stack([centre[int(name[1:])] for name in text_product])
    texts = texts + 0.5 * randn(len(text_product), width, seed=seed + 2)
    return ProductEmbeddings(images, texts, image_product, text_product)


def plain_full(embeddings, k):
    """Recall of both directions from plain lists: sort the gallery with the query's own items last among equals."""
    texts, images = embeddings.texts.double(), embeddings.images.double()
    hits = {"i2t": 0, "t2i": 0}
    for row, product in enumerate(embeddings.image_product):
        gallery = [
            (-float((images[row] @ texts[other]).max()), name == product, name)
            for other, name in enumerate(embeddings.text_product)
        ]
        hits["i2t"] += any(name == product for _, _, name in sorted(gallery)[:k])
    for row, product in enumerate(embeddings.text_product):
        gallery = [
            (-float((images[other] @ texts[row]).max()), name == product, name)
            for other, name in enumerate(embeddings.image_product)
        ]
        hits["t2i"] += any(name == product for _, _, name in sorted(gallery)[:k])
    return {
        f"i2t R@{k}": 100 * hits["i2t"] / len(embeddings.image_product),
        f"t2i R@{k}": 100 * hits["t2i"] / len(embeddings.text_product),
    }


@pytest.mark.parametrize("step", [1024, 7])
def test_full_agrees_with_plain_sorting(monkeypatch, step):
    monkeypatch.setattr(catalogue, "IMAGES_PER_STEP", step)
    embeddings = catalogue_of()
    found = values(full(embeddings))
    expected = {**plain_full(embeddings, 1), **plain_full(embeddings, 5), **plain_full(embeddings, 10)}
    assert 0 < expected["t2i R@1"] < expected["t2i R@5"] < 100
    assert found == pytest.approx({**expected, "mean": sum(expected.values()) / 6})


def test_full_by_hand():
    # Two photos of a; the first is found by b's text, the second by a's. The text of a finds the second photo first.
    images = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]], [[0.6, 0.8]]])
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    metrics = full(ProductEmbeddings(images, texts, ["a", "a", "b"], ["a", "b"]), ks=(1, 2))
    assert values(metrics) == pytest.approx(
        {"i2t R@1": 200 / 3, "i2t R@2": 100, "t2i R@1": 50, "t2i R@2": 100, "mean": (200 / 3 + 250) / 4}
    )
    assert {metric.protocol for metric in metrics} == {"catalogue/full"}
    assert [(metric.n, metric.gallery) for metric in metrics] == [(3, 2), (3, 2), (2, 3), (2, 3), (5, None)]


def test_another_view_of_the_product_is_a_hit_and_no_obstacle():
    images = torch.tensor([[[0.9, 0.0]], [[1.0, 0.0]], [[0.5, 0.0]]])
    metrics = full(ProductEmbeddings(images, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), ["a", "a", "b"], ["a", "b"]))
    assert values(metrics)["t2i R@1"] == 50


def test_order_and_scale_do_not_matter():
    embeddings = catalogue_of()
    image_order, text_order = randn(len(embeddings.images)).argsort(), randn(len(embeddings.texts)).argsort()
    moved = ProductEmbeddings(
        embeddings.images[image_order] * 7,
        embeddings.texts[text_order] * 0.5,
        [embeddings.image_product[row] for row in image_order],
        [embeddings.text_product[row] for row in text_order],
    )
    assert values(full(moved)) == pytest.approx(values(full(embeddings)))


def test_a_constant_model_scores_zero():
    embeddings = catalogue_of()
    constant = ProductEmbeddings(
        randn(1, 3, 6).expand(len(embeddings.images), 3, 6),
        randn(1, 6).expand(len(embeddings.texts), 6),
        embeddings.image_product,
        embeddings.text_product,
    )
    assert set(values(full(constant)).values()) == {0.0}


def test_a_product_that_lacks_a_side_is_named():
    with pytest.raises(UserError, match="'b' has an image but no text"):
        ProductEmbeddings(torch.zeros(2, 1, 2), torch.zeros(1, 2), ["a", "b"], ["a"])
    with pytest.raises(UserError, match="'c' has a text but no image"):
        ProductEmbeddings(torch.zeros(1, 1, 2), torch.zeros(2, 2), ["a"], ["c", "a"])
    with pytest.raises(UserError, match="no images"):
        ProductEmbeddings(torch.zeros(0, 1, 2), torch.zeros(0, 2), [], [])


def test_lengths_that_differ_are_an_error():
    with pytest.raises(ValueError, match=r"2 images"):
        ProductEmbeddings(torch.zeros(2, 1, 2), torch.zeros(1, 2), ["a"], ["a"])
    with pytest.raises(ValueError, match="sub-categories"):
        ProductEmbeddings(torch.zeros(1, 1, 2), torch.zeros(1, 2), ["a"], ["a"], ["x", "y"])


def test_draws_are_averaged_with_their_sample_deviation():
    ranks = {
        "i2t": [torch.tensor([0, 3]), torch.tensor([0, 0])],
        "t2i": [torch.tensor([3]), torch.tensor([0])],
    }
    metrics = two_way_metrics("p/q", ranks, {"i2t": 5, "t2i": 5}, ks=(1,), seeds=(3, 4))
    assert [(metric.name, metric.value, metric.n, metric.gallery) for metric in metrics] == [
        ("i2t R@1", 75.0, 2, 5),
        ("t2i R@1", 50.0, 1, 5),
        ("mean", 62.5, 3, 5),
    ]
    assert [metric.std for metric in metrics] == pytest.approx([1250**0.5, 5000**0.5, (37.5**2 * 2) ** 0.5])
    assert metrics[0].seeds == (3, 4)


def embedded_pairs(embeddings, text_of):
    pairs = [ImageText(Path(f"{row}.jpg"), text_of[name], name) for row, name in enumerate(embeddings.image_product)]
    order = list(dict.fromkeys(embeddings.image_product))
    texts = torch.stack([embeddings.texts[embeddings.text_product.index(name)] for name in order])
    ordered = ProductEmbeddings(embeddings.images, texts, embeddings.image_product, order)
    data, evaluation = DataSettings(dataset="catalogue"), EvaluationSettings(rerank=0)
    return EmbeddedPairs(pairs, ordered, both_ways(ordered), data, evaluation, None)


def test_products_with_equal_texts_are_counted_marked_and_taken_as_one_by_a_protocol_of_its_own():
    """Three of four photos have the same text: by it no model can find the right one, and the grouping says so."""
    images = torch.eye(2)[[0, 0, 0, 1]][:, None]
    texts = torch.eye(2)[[0, 0, 0, 1]]
    products = ["a", "b", "c", "d"]
    split = embedded_pairs(
        ProductEmbeddings(images, texts, products, products),
        {"a": "Red dress.", "b": "red DRESS", "c": "red dress", "d": "blue hat"},
    )
    found = catalogue.evaluate_full(split)
    assert values(found)["t2i R@1"] == 25, "ties count against us"
    assert {one.marks for one in found} == {("equal-texts",)}
    assert found[0].note.startswith("3 of 4 products share their text with others")
    grouped = catalogue.evaluate_full_by_text(split)
    assert {one.protocol for one in grouped} == {"catalogue/full-by-text"}
    assert values(grouped)["t2i R@1"] == values(grouped)["i2t R@1"] == 100
    assert [(one.n, one.gallery) for one in grouped[:1] + grouped[3:4]] == [(4, 2), (2, 4)]


def test_without_equal_texts_nothing_is_marked_and_no_grouping_reported():
    embeddings = catalogue_of()
    split = embedded_pairs(embeddings, {name: f"text {name}" for name in embeddings.image_product})
    found = catalogue.evaluate_full(split)
    assert {(one.marks, one.note) for one in found} == {((), "")}
    assert catalogue.evaluate_full_by_text(split) == []
