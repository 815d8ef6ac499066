"""Score a model on images with texts, both ways: FashionGen, Fashion200K and any own catalogue.

Shapes: N images, M texts (one a product), V vectors of an image, D width, Q queries, G gallery items, K candidates.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from unifashion.config import DataSettings, EvaluationSettings
from unifashion.data.records import ImageText
from unifashion.data.skipped import check_missing, missing_percent
from unifashion.data.splits import read_blocks, read_pairs
from unifashion.encoders.embedder import Embedder
from unifashion.evaluation.evaluation_result import Outcome
from unifashion.evaluation.protocols import catalogue, fashiongen
from unifashion.evaluation.protocols.catalogue import ProductEmbeddings
from unifashion.evaluation.ranked_lists import NUM_SHOWN, Answer, Shown
from unifashion.evaluation.ranks import Ranking, best_query_scores, merge_reranked, target_ranks, top_k
from unifashion.evaluation.scores import Metric
from unifashion.evaluation.slices import Attributes, absolute, read_attributes

log = logging.getLogger(__name__)


def score_cross_modal(
    embedder: Embedder, data: DataSettings, evaluation: EvaluationSettings, keep_answers: bool
) -> Outcome:
    """Run the protocols of an image-text set on its validation split.

    Raises:
        UserError: the set is not there or malformed, or too much of it is missing.
    """
    split = read_pairs(data, "val")
    listed = len(split.pairs) + len(split.missing)
    check_missing(len(split.pairs), listed, data.max_missing, "images")
    image_NVD, broken = embedder.images([pair.image for pair in split.pairs])
    used = check_missing(len(split.pairs) - len(broken), listed, data.max_missing, "images")
    keep = [row for row, pair in enumerate(split.pairs) if pair.image not in broken]
    pairs = [split.pairs[row] for row in keep]
    embeddings = embed_products(embedder, pairs, image_NVD[keep])
    rankings = catalogue.both_ways(embeddings, NUM_SHOWN)
    protocol = f"{data.dataset}/full"
    metrics = _sub100(evaluation, embeddings) if data.dataset == "fashiongen" else []
    metrics += catalogue.full(embeddings, protocol=protocol, rankings=rankings)
    if evaluation.rerank:
        metrics += _reranked_full(embedder, protocol, evaluation.rerank, pairs, embeddings)
    if data.dataset == "fashiongen":
        metrics += _blocks(embedder, data, {pair.image: row for row, pair in enumerate(pairs)}, embeddings)
    missing = missing_percent(len(pairs), listed)
    return Outcome(
        split=split.split,
        metrics=metrics,
        missing=missing,
        note=used if missing else "",
        answers=pair_answers(pairs, rankings, protocol, read_attributes(data.root())) if keep_answers else [],
    )


def embed_products(embedder: Embedder, pairs: Sequence[ImageText], image_NVD: Tensor) -> ProductEmbeddings:
    """Join image vectors with one text vector per product (the text of its first view)."""
    text_of = _text_of_product(pairs)
    subcategories = [pair.subcategory for pair in pairs]
    return ProductEmbeddings(
        images=image_NVD,
        texts=embedder.texts(list(text_of.values())),
        image_product=[pair.product for pair in pairs],
        text_product=list(text_of),
        image_subcategory=subcategories if all(subcategories) else (),
    )


def _text_of_product(pairs: Sequence[ImageText]) -> dict[str, str]:
    text_of: dict[str, str] = {}
    for pair in pairs:
        text_of.setdefault(pair.product, pair.text)
    return text_of


def _sub100(evaluation: EvaluationSettings, embeddings: ProductEmbeddings) -> list[Metric]:
    if not embeddings.image_subcategory:
        log.warning("fashiongen/sub100 left out: the annotation rows have no 'subcategory'")
        return []
    return fashiongen.sub100(
        embeddings,
        num_draws=evaluation.num_draws,
        num_queries=evaluation.num_queries,
        num_negatives=evaluation.num_negatives,
        seed=evaluation.eval_seed,
    )


def _blocks(
    embedder: Embedder, data: DataSettings, row_of: Mapping[Path, int], embeddings: ProductEmbeddings
) -> list[Metric]:
    """Run ``fashiongen/blocks100`` where the data set has its rows; image vectors that are there are used again."""
    blocks = read_blocks(data)
    if blocks is None:
        return []
    absent = [pair.image.name for pair in blocks.pairs if pair.image not in row_of]
    if absent or blocks.missing:
        log.warning("fashiongen/blocks100 left out: %d of its images cannot be used", len(absent) + len(blocks.missing))
        return []
    image_RVD = embeddings.images[[row_of[pair.image] for pair in blocks.pairs]]
    return fashiongen.blocks100(image_RVD, embedder.texts([pair.text for pair in blocks.pairs]))


def _reranked_full(
    embedder: Embedder, protocol: str, k: int, pairs: Sequence[ImageText], embeddings: ProductEmbeddings
) -> list[Metric]:
    """Run the full protocol again with the best ``k`` of every query re-ordered by the matching head, both ways."""
    paths, texts = [pair.image for pair in pairs], list(_text_of_product(pairs).values())
    scores_MN = best_query_scores(embeddings.texts, embeddings.images)
    positive_MN = embeddings.text_codes[:, None] == embeddings.image_codes
    ranks = {}
    for direction, scores_QG, positive_QG in (("i2t", scores_MN.T, positive_MN.T), ("t2i", scores_MN, positive_MN)):
        top_QK = top_k(scores_QG, k)
        query_QK = torch.arange(len(top_QK))[:, None].expand_as(top_QK)
        text_QK, image_QK = (top_QK, query_QK) if direction == "i2t" else (query_QK, top_QK)
        itm_P = embedder.match(texts, paths, torch.stack([text_QK.flatten(), image_QK.flatten()], dim=1))
        ranks[direction] = [target_ranks(merge_reranked(scores_QG, top_QK, itm_P.view_as(top_QK)), positive_QG)]
    gallery = {"i2t": len(texts), "t2i": len(paths)}
    return catalogue.two_way_metrics(f"{protocol}+itm{k}", ranks, gallery, catalogue.KS)


def pair_answers(
    pairs: Sequence[ImageText], rankings: Mapping[str, Ranking], protocol: str, attributes: Attributes
) -> list[Answer]:
    """Return what every image and every text found first; ``attributes`` are those of ``read_attributes``."""
    text_of = _text_of_product(pairs)
    products, images = list(text_of), [absolute(pair.image) for pair in pairs]
    views: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        views.setdefault(pair.product, []).append(row)
    answers = []
    for row, (pair, rank, head) in enumerate(zip(pairs, *_heads(rankings["i2t"]), strict=True)):
        shown = [Shown("", text_of[products[m]], value, products[m] == pair.product) for m, value in head]
        answers.append(
            Answer(
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
        shown = [Shown(images[n], "", value, pairs[n].product == product) for n, value in head]
        answers.append(
            Answer(
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
    return answers


def _heads(ranking: Ranking) -> tuple[list[int], list[list[tuple[int, float]]]]:
    """Return the ranks, and the (gallery row, score) of each query's best items."""
    heads = zip(ranking.top.tolist(), ranking.scores.tolist(), strict=True)
    return ranking.ranks.tolist(), [list(zip(rows, values, strict=True)) for rows, values in heads]


def _slices(pair: ImageText, image: str, attributes: Attributes) -> dict[str, str]:
    return {**attributes.get(image, {}), **({"category": pair.subcategory} if pair.subcategory else {})}
