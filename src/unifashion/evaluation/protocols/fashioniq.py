"""FashionIQ: retrieve the target garment for a reference image and feedback; three protocols from one score matrix.

    fashioniq/original        gallery = the whole split, 3817/6346/5373 images in val; the reference stays in it
    fashioniq/original-noref  the same; the query's reference is removed (CLIP4Cir, SPRC and UniFashion keep it)
    fashioniq/union           gallery = candidates and targets of the val queries, 2628/3089/2902; reference removed (VAL)

A second score set that also looks at the gallery's generated captions is reported beside the first, under the same names
with ``+captions``. Galleries are counted before a query's reference is removed.

Shapes: Q queries, G gallery images, V vectors of an image, D width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unifashion.data.records import ComposedSplit
from unifashion.errors import UserError
from unifashion.evaluation.bootstrap import measured
from unifashion.evaluation.protocols.rows import split_gallery, split_queries
from unifashion.evaluation.ranks import best_query_scores, hits_at, target_ranks
from unifashion.evaluation.scores import MEAN, Measurement

logger = logging.getLogger(__name__)

CATEGORIES = ("dress", "shirt", "toptee")
KS = (10, 50)


@dataclass(frozen=True, eq=False)
class CategoryScores:
    """One category's scores. A gallery name that is listed again is ignored with its column.

    Raises ``ValueError`` where shapes do not agree, ``UserError`` for an unknown category, no queries, or a target that is
    not in the gallery.
    """

    category: str
    scores: Tensor  # (Q, G)
    references: Sequence[str]  # Q names; one that is not in the gallery has nothing to be removed
    targets: Sequence[str]  # Q names
    gallery: Sequence[str]  # G names
    union: Sequence[str] = ()  # names of the union gallery; default: references and targets of these queries
    captioned: Tensor | None = None  # (Q, G) scores that use generated captions too (``with_captions``)

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            raise UserError(f"unknown FashionIQ category {self.category!r}; choose from {', '.join(CATEGORIES)}")
        shape = len(self.targets), len(self.gallery)
        for scores_QG in (self.scores, self.captioned):
            if scores_QG is not None and scores_QG.shape != shape:
                raise ValueError(
                    f"scores of shape {tuple(scores_QG.shape)} for {shape[0]} queries and {shape[1]} images"
                )
        if len(self.references) != shape[0]:
            raise ValueError(f"{len(self.references)} references for {shape[0]} targets")
        if not self.targets:
            raise UserError(f"FashionIQ {self.category} has no query to evaluate: check its captions and images")
        gallery = set(self.gallery) & set(self.union) if self.union else set(self.gallery)
        for target in self.targets:
            if target not in gallery:
                raise UserError(
                    f"FashionIQ {self.category} target {target!r} is not in the gallery: complete the split file or the images"
                )


def union_gallery(split: ComposedSplit) -> tuple[str, ...]:
    """Return the gallery names that some annotated query has as candidate or target, each once, in gallery order."""
    used = {name for query in split.queries for name in (query.reference, query.target)}
    return tuple(dict.fromkeys(name for name in split.gallery if name in used))


def category_scores(split: ComposedSplit, scores_QG: Tensor, captioned_QG: Tensor | None = None) -> CategoryScores:
    """Name the rows and columns of scores whose rows are ``split_queries(split)`` and columns ``split_gallery(split)``.

    Raises ``UserError`` where targets are hidden (test split), else as ``CategoryScores``.
    """
    queries = split_queries(split)
    targets = [query.target for query in queries if query.target is not None]
    if len(targets) != len(queries):
        raise UserError(f"FashionIQ {split.category} {split.split} hides its targets: evaluate the val split")
    return CategoryScores(
        category=split.category,
        scores=scores_QG,
        references=[query.reference for query in queries],
        targets=targets,
        gallery=split_gallery(split),
        union=union_gallery(split),
        captioned=captioned_QG,
    )


def with_captions(scores_QG: Tensor, fused_QD: Tensor, caption_GD: Tensor) -> Tensor:
    """Add UniFashion's caption term: fused query feature . caption feature. An image without a caption has a row of zeros."""
    return scores_QG + best_query_scores(fused_QD, caption_GD[:, None, :])


def evaluate(categories: Sequence[CategoryScores], ks: Sequence[int] = KS) -> list[Measurement]:
    """Return recall at every k per protocol and category, and the macro mean over dress, shirt and toptee.

    The line of category "mean" holds the mean of each recall over the three categories and, as metric "mean", the mean
    of these. It is left out, with a warning in the log, unless all three are there: a mean over fewer is another number.
    Raises ``UserError`` where a category is given twice.
    """
    names = [scores.category for scores in categories]
    if len(set(names)) != len(names):
        raise UserError(f"FashionIQ categories are given twice: {', '.join(names)}; give each once")
    metrics = _protocols(categories, ks)
    captioned = [replace(scores, scores=scores.captioned) for scores in categories if scores.captioned is not None]
    return metrics + [replace(metric, protocol=f"{metric.protocol}+captions") for metric in _protocols(captioned, ks)]


def _protocols(categories: Sequence[CategoryScores], ks: Sequence[int]) -> list[Measurement]:
    lines: dict[str, list[_CategoryHits]] = {}
    for scores in categories:
        for protocol, (ranks_Q, gallery) in _ranks(scores).items():
            lines.setdefault(protocol, []).append(_CategoryHits(scores.category, gallery, hits_at(ranks_Q, ks)))
    complete = {scores.category for scores in categories} == set(CATEGORIES)
    if categories and not complete:
        logger.warning("no FashionIQ mean: it is over %s, and not all of them were evaluated", ", ".join(CATEGORIES))
    metrics = []
    for protocol, line in lines.items():
        for hits in line:
            metrics += [
                measured(protocol, f"R@{k}", [hits.hits_QK[:, column]], hits.gallery, category=hits.category)
                for column, k in enumerate(ks)
            ]
        metrics += _macro_mean(protocol, line, ks) if complete else []
    return metrics


@dataclass(frozen=True, eq=False)
class _CategoryHits:
    category: str
    gallery: int
    hits_QK: Tensor  # which queries have their target among the first k, for every k


def _macro_mean(protocol: str, line: Sequence[_CategoryHits], ks: Sequence[int]) -> list[Measurement]:
    """Average each recall over the categories of one protocol, and these averages; categories all weigh the same."""
    groups = {f"R@{k}": [hits.hits_QK[:, column] for hits in line] for column, k in enumerate(ks)}
    groups[MEAN] = [hits.hits_QK.mean(dim=1) for hits in line]
    return [measured(protocol, name, group, None, category=MEAN) for name, group in groups.items()]


def _ranks(scores: CategoryScores) -> dict[str, tuple[Tensor, int]]:
    """Return the target ranks and the size of the gallery of every protocol."""
    union = set(scores.union or (*scores.references, *scores.targets))
    names = list(dict.fromkeys(scores.gallery))
    galleries = {"original": (names, False), "original-noref": (names, True)}
    galleries["union"] = ([name for name in names if name in union], True)
    first_column = {name: column for column, name in reversed(list(enumerate(scores.gallery)))}
    ranks = {}
    for protocol, (gallery, reference_removed) in galleries.items():
        columns = torch.tensor([first_column[name] for name in gallery], device=scores.scores.device)
        place = {name: column for column, name in enumerate(gallery)}
        target_Q = torch.tensor([place[target] for target in scores.targets])
        pairs = zip(scores.references, scores.targets, strict=True)
        reference_Q = torch.tensor([-1 if name == target else place.get(name, -1) for name, target in pairs])
        gallery_scores = scores.scores.index_select(1, columns)
        ranks_Q = target_ranks(gallery_scores, target_Q, exclude=reference_Q if reference_removed else None)
        ranks[f"fashioniq/{protocol}"] = ranks_Q, len(gallery)
    return ranks
