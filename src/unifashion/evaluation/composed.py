"""Score a model on composed queries (reference image + feedback): FashionIQ, CIRR and CIRCO.

Shapes: Q queries (``split_queries``), G gallery images (``split_gallery``), V vectors of an image, D width.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unifashion.config import DataSettings, EvaluationSettings
from unifashion.data.datasets import spec_of
from unifashion.data.records import ComposedQuery, ComposedSplit
from unifashion.data.skipped import check_missing, missing_percent
from unifashion.data.splits import read_composed
from unifashion.encoders.embedder import Embedder
from unifashion.evaluation.protocols.fashioniq import with_captions
from unifashion.evaluation.protocols.inputs import ScoredSplit, columns_of, split_gallery, split_queries
from unifashion.evaluation.protocols.registry import ComposedProtocol, protocols_of
from unifashion.evaluation.ranked_lists import NUM_SHOWN, EvaluationResult, RankedItem, RankedList
from unifashion.evaluation.ranks import merge_reranked, positive_ranks, score_matrix, top_k
from unifashion.evaluation.scores import Measurement
from unifashion.evaluation.slices import Attributes, absolute, feedback_words, read_attributes

log = logging.getLogger(__name__)


def main_protocol(dataset: str) -> ComposedProtocol:
    """Return the protocol that says which gallery is ranked for the report and re-ranked, and what counts as a hit in it."""
    return protocols_of(dataset, ComposedProtocol)[0]


def score_composed(
    embedder: Embedder, data: DataSettings, evaluation: EvaluationSettings, keep_lists: bool
) -> EvaluationResult:
    """Run the protocols of a composed-retrieval set on its validation split.

    Raises:
        UserError: the set does not exist or is malformed, or too much of it is missing.
    """
    listed = read_composed(data, "val")
    scored = [score_split(embedder, evaluation, split, data.max_missing) for split in listed]
    queries = sum(len(each.scores) for each in scored), sum(len(split.queries) for split in listed)
    gallery = sum(each.scores.shape[1] for each in scored), sum(len(set(split.gallery)) for split in listed)
    missing = max(missing_percent(*queries), missing_percent(*gallery))
    suffix = evaluation.rerank_suffix
    measurements = measure(protocols_of(data.dataset, ComposedProtocol), scored)
    ranked_lists: list[RankedList] = []
    if keep_lists:
        attributes = read_attributes(data.root())
        for each in scored:
            ranked_lists += composed_lists(each, main_protocol(data.dataset).name + suffix, attributes)
    return EvaluationResult(
        split=listed[0].split,
        measurements=[replace(one, protocol=one.protocol + suffix) for one in measurements],
        missing=missing,
        note=check_missing(*queries, data.max_missing, gallery=gallery) if missing else "",
        ranked_lists=ranked_lists,
    )


def measure(protocols: Sequence[ComposedProtocol], scored: Sequence[ScoredSplit]) -> list[Measurement]:
    """Run protocols on the scores, and again, under their names with ``+captions``, on those with generated captions."""
    captioned = [ScoredSplit(each.split, each.captioned) for each in scored if each.captioned is not None]
    plain = [one for protocol in protocols for one in protocol.evaluate(scored)]
    added = [one for protocol in protocols for one in protocol.evaluate(captioned)] if captioned else []
    return plain + [replace(one, protocol=f"{one.protocol}+captions") for one in added]


def query_text(split: ComposedSplit, query: ComposedQuery) -> str:
    """Return the feedback as the model reads it."""
    return spec_of(split.dataset).join_feedback(query.feedback)


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
    words = [query_text(split, query) for query in queries]
    references = [split.images[query.reference] for query in queries]
    fused_QD = embedder.composed(references, words)
    scores_QG = score_matrix(fused_QD, image_GVD)
    if evaluation.rerank:
        top_QK = top_k(scores_QG, evaluation.rerank, exclude=removed_references(split))
        query_QK = torch.arange(len(top_QK))[:, None].expand_as(top_QK)
        pairs_P2 = torch.stack([query_QK.flatten(), top_QK.flatten()], dim=1)
        images = [split.images[name] for name in gallery]
        itm_P = embedder.match(words, images, pairs_P2, references if evaluation.rerank_by == "two-image" else None)
        return ScoredSplit(split, merge_reranked(scores_QG, top_QK, itm_P.view_as(top_QK)))
    if not split.captions:
        return ScoredSplit(split, scores_QG)
    captioned = [row for row, name in enumerate(gallery) if name in split.captions]
    caption_GD = torch.zeros(len(gallery), image_GVD.shape[-1])
    caption_GD[captioned] = embedder.texts([split.captions[gallery[row]] for row in captioned])
    return ScoredSplit(split, scores_QG, with_captions(scores_QG, fused_QD, caption_GD))


def removed_references(split: ComposedSplit) -> Tensor | None:
    """Return the gallery column of every query's reference where the main protocol removes it, else None."""
    if not main_protocol(split.dataset).without_reference:
        return None
    return columns_of([[query.reference] for query in split_queries(split)], split_gallery(split))[:, 0]


def _check(split: ComposedSplit, max_missing: float) -> None:
    gallery = set(split.gallery)
    present = len(gallery & set(split.images))
    check_missing(len(split_queries(split)), len(split.queries), max_missing, gallery=(present, len(gallery)))


def _right_answers(split: ComposedSplit, query: ComposedQuery) -> tuple[str, ...]:
    """Return what the main protocol counts as a hit: all right answers, or the target alone."""
    assert query.target is not None, "ranked lists need targets"
    return query.targets if main_protocol(split.dataset).all_targets else (query.target,)


def composed_lists(scored: ScoredSplit, protocol: str, attributes: Attributes) -> list[RankedList]:
    """Return the ranked list of every query of a split; ``attributes`` are those of ``read_attributes``."""
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
    ranked_lists = []
    for query, right, rank, top, values in zip(queries, targets, rank_Q, top_QK.tolist(), score_QK, strict=True):
        words = query_text(split, query)
        shown = [(gallery[column], value) for column, value in zip(top, values, strict=True)]
        slices = {
            **({"category": split.category} if split.category else {}),
            "feedback words": feedback_words(words),
            **{f"aspect {aspect}": "yes" for aspect in query.aspects},
        }
        ranked_lists.append(
            RankedList(
                protocol=protocol,
                direction="composed",
                category=split.category,
                text=words,
                image=image_of[query.reference],
                targets=tuple(image_of[name] for name in right if name in image_of),
                rank=rank,
                gallery=len(gallery),
                top=tuple(RankedItem(image_of[name], "", value, name in right) for name, value in shown),
                slices={**attributes.get(image_of[right[0]], {}), **slices},
            )
        )
    return ranked_lists
