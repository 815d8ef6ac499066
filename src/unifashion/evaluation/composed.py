"""Score a model on composed queries (reference image + feedback): FashionIQ, CIRR and CIRCO.

Shapes: Q queries (``split_queries``), G gallery images (``split_gallery``), V vectors of an image, D width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unifashion.config import DataSettings, EvaluationSettings
from unifashion.data.feedback import evaluation_feedback
from unifashion.data.records import ComposedQuery, ComposedSplit
from unifashion.data.skipped import check_missing, missing_percent
from unifashion.data.splits import read_composed
from unifashion.encoders.embedder import Embedder
from unifashion.evaluation.evaluation_result import Outcome
from unifashion.evaluation.protocols import circo, cirr, fashioniq
from unifashion.evaluation.protocols.rows import columns_of, split_gallery, split_queries
from unifashion.evaluation.ranked_lists import NUM_SHOWN, Answer, Shown
from unifashion.evaluation.ranks import best_query_scores, merge_reranked, positive_ranks, top_k
from unifashion.evaluation.scores import Metric
from unifashion.evaluation.slices import Attributes, absolute, feedback_words, read_attributes

log = logging.getLogger(__name__)

# The protocol whose gallery the answers are from.
ANSWERED = {"fashioniq": "fashioniq/original", "cirr": cirr.PROTOCOL, "circo": circo.PROTOCOL}


@dataclass(frozen=True, eq=False)
class ScoredSplit:
    """A split without its broken images, and the score of every query with every gallery image."""

    split: ComposedSplit
    scores: Tensor  # (Q, G)
    captioned: Tensor | None = None  # (Q, G), with the gallery's generated captions


def score_composed(
    embedder: Embedder, data: DataSettings, evaluation: EvaluationSettings, keep_answers: bool
) -> Outcome:
    """Run the protocols of a composed-retrieval set on its validation split.

    Raises:
        UserError: the set is not there or malformed, or too much of it is missing.
    """
    listed = read_composed(data, "val")
    scored = [score_split(embedder, evaluation, split, data.max_missing) for split in listed]
    queries = sum(len(each.scores) for each in scored), sum(len(split.queries) for split in listed)
    gallery = sum(each.scores.shape[1] for each in scored), sum(len(set(split.gallery)) for split in listed)
    missing = max(missing_percent(*queries), missing_percent(*gallery))
    suffix = f"+itm{evaluation.rerank}" if evaluation.rerank else ""
    answers: list[Answer] = []
    if keep_answers:
        attributes = read_attributes(data.root())
        for each in scored:
            answers += composed_answers(each, ANSWERED[data.dataset] + suffix, attributes)
    return Outcome(
        split=listed[0].split,
        metrics=[replace(metric, protocol=metric.protocol + suffix) for metric in _metrics(data.dataset, scored)],
        missing=missing,
        note=check_missing(*queries, data.max_missing, gallery=gallery) if missing else "",
        answers=answers,
    )


def _metrics(dataset: str, scored: Sequence[ScoredSplit]) -> list[Metric]:
    if dataset == "fashioniq":
        return fashioniq.evaluate(
            [fashioniq.category_scores(each.split, each.scores, each.captioned) for each in scored]
        )
    evaluate = {"cirr": cirr.evaluate, "circo": circo.evaluate}[dataset]
    return [metric for each in scored for metric in evaluate(each.split, each.scores)]


def query_words(split: ComposedSplit, query: ComposedQuery) -> str:
    """Return the feedback as the model reads it: FashionIQ's two sentences joined, those of CIRR and CIRCO as written."""
    return evaluation_feedback(query.feedback) if split.dataset == "fashioniq" else " and ".join(query.feedback)


def score_split(
    embedder: Embedder, evaluation: EvaluationSettings, split: ComposedSplit, max_missing: float
) -> ScoredSplit:
    """Score the queries of one split that can be scored against its gallery; targets may be hidden.

    Raises:
        UserError: more than ``max_missing`` percent of the queries or of the gallery cannot be used.
    """
    _check(split, max_missing)
    names = split_gallery(split)
    image_GVD, broken = embedder.images([split.images[name] for name in names])
    others = {split.images[query.reference] for query in split_queries(split)} - {split.images[name] for name in names}
    broken |= embedder.find_broken(sorted(others)) if others else {}
    if broken:
        image_GVD = image_GVD[[row for row, name in enumerate(names) if split.images[name] not in broken]]
        split = replace(split, images={name: path for name, path in split.images.items() if path not in broken})
        for path, reason in broken.items():
            log.warning("%s left out: %s", path, reason)
        _check(split, max_missing)

    queries, gallery = split_queries(split), split_gallery(split)
    words = [query_words(split, query) for query in queries]
    fused_QD = embedder.composed([split.images[query.reference] for query in queries], words)
    scores_QG = best_query_scores(fused_QD, image_GVD)
    if evaluation.rerank:
        top_QK = top_k(scores_QG, evaluation.rerank, exclude=removed_references(split))
        query_QK = torch.arange(len(top_QK))[:, None].expand_as(top_QK)
        pairs_P2 = torch.stack([query_QK.flatten(), top_QK.flatten()], dim=1)
        itm_P = embedder.match(words, [split.images[name] for name in gallery], pairs_P2)
        return ScoredSplit(split, merge_reranked(scores_QG, top_QK, itm_P.view_as(top_QK)))
    if not split.captions:
        return ScoredSplit(split, scores_QG)
    captioned = [row for row, name in enumerate(gallery) if name in split.captions]
    caption_GD = torch.zeros(len(gallery), image_GVD.shape[-1])
    caption_GD[captioned] = embedder.texts([split.captions[gallery[row]] for row in captioned])
    return ScoredSplit(split, scores_QG, fashioniq.with_captions(scores_QG, fused_QD, caption_GD))


def removed_references(split: ComposedSplit) -> Tensor | None:
    """Return the gallery column of every query's reference where the answered protocol removes it (CIRR), else None."""
    if split.dataset != "cirr":
        return None
    return columns_of([[query.reference] for query in split_queries(split)], split_gallery(split))[:, 0]


def _check(split: ComposedSplit, max_missing: float) -> None:
    gallery = set(split.gallery)
    present = len(gallery & set(split.images))
    check_missing(len(split_queries(split)), len(split.queries), max_missing, gallery=(present, len(gallery)))


def _right_answers(split: ComposedSplit, query: ComposedQuery) -> tuple[str, ...]:
    """Return what the answered protocol counts as a hit: all right answers in CIRCO, elsewhere the target."""
    assert query.target is not None, "answers need targets"
    return query.targets if split.dataset == "circo" else (query.target,)


def composed_answers(scored: ScoredSplit, protocol: str, attributes: Attributes) -> list[Answer]:
    """Return what every query of a split found first; ``attributes`` are those of ``read_attributes``."""
    split, scores_QG = scored.split, scored.scores
    queries, gallery = split_queries(split), split_gallery(split)
    removed_Q = removed_references(split)
    targets = [_right_answers(split, query) for query in queries]
    kept_QG = scores_QG
    if removed_Q is not None:
        kept_QG = scores_QG.scatter(1, removed_Q[:, None].to(scores_QG.device), float(scores_QG.min()) - 1)
    rank_Q = positive_ranks(kept_QG, columns_of(targets, gallery))[:, 0].tolist()
    top_QK = top_k(scores_QG, NUM_SHOWN, exclude=removed_Q)
    score_QK = scores_QG.gather(1, top_QK).tolist()
    image_of = {name: absolute(path) for name, path in split.images.items()}
    answers = []
    for query, right, rank, top, values in zip(queries, targets, rank_Q, top_QK.tolist(), score_QK, strict=True):
        words = query_words(split, query)
        shown = [(gallery[column], value) for column, value in zip(top, values, strict=True)]
        slices = {
            **({"category": split.category} if split.category else {}),
            "feedback words": feedback_words(words),
            **{f"aspect {aspect}": "yes" for aspect in query.aspects},
        }
        answers.append(
            Answer(
                protocol=protocol,
                direction="composed",
                category=split.category,
                text=words,
                image=image_of[query.reference],
                targets=tuple(image_of[name] for name in right if name in image_of),
                rank=rank,
                gallery=len(gallery),
                top=tuple(Shown(image_of[name], "", value, name in right) for name, value in shown),
                slices={**attributes.get(image_of[right[0]], {}), **slices},
            )
        )
    return answers
