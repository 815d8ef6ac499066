"""Score a model on images with texts, both ways: FashionGen, Fashion200K and any catalogue of your own.

Shapes: N images, V vectors of an image, D width.
"""

from collections.abc import Sequence

from torch import Tensor

from unifashion.config import DataSettings, EvaluationSettings
from unifashion.data.records import ImageText, texts_of_products
from unifashion.data.skipped import check_missing, missing_percent
from unifashion.data.splits import read_pairs
from unifashion.encoders.embedder import Embedder
from unifashion.errors import UserError
from unifashion.evaluation.protocols.catalogue import both_ways
from unifashion.evaluation.protocols.inputs import EmbeddedPairs, ProductEmbeddings
from unifashion.evaluation.protocols.registry import PairProtocol, protocols_of
from unifashion.evaluation.ranked_lists import NUM_SHOWN, EvaluationResult, RankedItem, RankedList
from unifashion.evaluation.ranks import Ranking
from unifashion.evaluation.slices import Attributes, absolute, read_attributes


def score_cross_modal(
    embedder: Embedder, data: DataSettings, evaluation: EvaluationSettings, keep_lists: bool
) -> EvaluationResult:
    """Run the protocols of an image-text set on its validation split.

    Raises:
        UserError: the set does not exist or is malformed, or too much of it is missing; re-ranking by a reference image.
    """
    if evaluation.rerank_by != "target":
        raise UserError(
            f"rerank_by: {evaluation.rerank_by} has no effect on {data.dataset}: no query has a reference image; leave it out"
        )
    split = read_pairs(data, "val")
    listed = len(split.pairs) + len(split.missing)
    check_missing(len(split.pairs), listed, data.max_missing, "images")
    image_NVD, broken = embedder.images([pair.image for pair in split.pairs])
    used = check_missing(len(split.pairs) - len(broken), listed, data.max_missing, "images")
    keep = [row for row, pair in enumerate(split.pairs) if pair.image not in broken]
    pairs = [split.pairs[row] for row in keep]
    embeddings = embed_products(embedder, pairs, image_NVD[keep])
    rankings = both_ways(embeddings, NUM_SHOWN)
    embedded = EmbeddedPairs(pairs, embeddings, rankings, data, evaluation, embedder)
    protocols = protocols_of(data.dataset, PairProtocol)
    measurements = [measurement for protocol in protocols for measurement in protocol.evaluate(embedded)]
    missing = missing_percent(len(pairs), listed)
    return EvaluationResult(
        split=split.split,
        measurements=measurements,
        missing=missing,
        note=used if missing else "",
        ranked_lists=pair_lists(embedded, f"{data.dataset}/full", read_attributes(data.root())) if keep_lists else [],
    )


def embed_products(embedder: Embedder, pairs: Sequence[ImageText], image_NVD: Tensor) -> ProductEmbeddings:
    """Join image vectors with one text vector per product (the text of its first view)."""
    text_of = texts_of_products(pairs)
    subcategories = [pair.subcategory for pair in pairs]
    return ProductEmbeddings(
        images=image_NVD,
        texts=embedder.texts(list(text_of.values())),
        image_product=[pair.product for pair in pairs],
        text_product=list(text_of),
        image_subcategory=subcategories if all(subcategories) else (),
    )


def pair_lists(split: EmbeddedPairs, protocol: str, attributes: Attributes) -> list[RankedList]:
    """Return the ranked list of every image and every text; ``attributes`` are those of ``read_attributes``."""
    pairs, text_of, rankings = split.pairs, split.text_of, split.rankings
    products, images = list(text_of), [absolute(pair.image) for pair in pairs]
    views: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        views.setdefault(pair.product, []).append(row)
    ranked_lists = []
    for row, (pair, rank, head) in enumerate(zip(pairs, *_heads(rankings["i2t"]), strict=True)):
        shown = [RankedItem("", text_of[products[m]], value, products[m] == pair.product) for m, value in head]
        ranked_lists.append(
            RankedList(
                protocol=protocol,
                direction="i2t",
                category=pair.subcategory,
                text="",
                image=images[row],
                targets=(text_of[pair.product],),
                rank=rank,
                gallery=len(products),
                top=tuple(shown),
                slices=_slices(pair, images[row], attributes),
            )
        )
    for product, rank, head in zip(products, *_heads(rankings["t2i"]), strict=True):
        own = views[product]
        shown = [RankedItem(images[n], "", value, pairs[n].product == product) for n, value in head]
        ranked_lists.append(
            RankedList(
                protocol=protocol,
                direction="t2i",
                category=pairs[own[0]].subcategory,
                text=text_of[product],
                image="",
                targets=tuple(images[n] for n in own),
                rank=rank,
                gallery=len(images),
                top=tuple(shown),
                slices=_slices(pairs[own[0]], images[own[0]], attributes),
            )
        )
    return ranked_lists


def _heads(ranking: Ranking) -> tuple[list[int], list[list[tuple[int, float]]]]:
    """Return the ranks, and the (gallery row, score) of each query's best items."""
    heads = zip(ranking.top.tolist(), ranking.scores.tolist(), strict=True)
    return ranking.ranks.tolist(), [list(zip(rows, values, strict=True)) for rows, values in heads]


def _slices(pair: ImageText, image: str, attributes: Attributes) -> dict[str, str]:
    return {**attributes.get(image, {}), **({"category": pair.subcategory} if pair.subcategory else {})}
