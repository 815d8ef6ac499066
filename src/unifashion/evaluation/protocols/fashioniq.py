"""FashionIQ: retrieve the target garment for a reference image and feedback; three protocols from one score matrix.

    fashioniq/original        gallery = the whole split, 3817/6346/5373 images in val; the reference stays in it
    fashioniq/original-noref  the same; the query's reference is removed (CLIP4Cir, SPRC and UniFashion keep it)
    fashioniq/union           gallery = candidates and targets of the val queries, 2628/3089/2902; reference removed (VAL)

Galleries are counted before a query's reference is removed. Shapes: Q queries, G gallery images, D width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from unifashion.data.records import ComposedSplit
from unifashion.errors import UserError
from unifashion.evaluation.bootstrap import measured
from unifashion.evaluation.metrics import query_values
from unifashion.evaluation.protocols.inputs import ScoredSplit, split_gallery, split_queries
from unifashion.evaluation.protocols.registry import ComposedProtocol, register
from unifashion.evaluation.ranks import score_matrix, target_ranks
from unifashion.evaluation.scores import MEAN, Measurement

logger = logging.getLogger(__name__)

CATEGORIES = ("dress", "shirt", "toptee")
KS = (10, 50)
SENTENCES = {
    "fashioniq/original": "Every photo of the category is in the gallery, the reference photo too.",
    "fashioniq/original-noref": "Every photo of the category is in the gallery, except the reference photo.",
    "fashioniq/union": "The gallery holds the photos that queries start from or look for, except the reference photo.",
}


@dataclass(frozen=True, eq=False)
class CategoryScores:
    """One category's scores. A gallery name that is listed again is ignored with its column.

    Raises ``ValueError`` where shapes do not agree, ``UserError`` for an unknown category, no queries, or a target that is
    not in the gallery.
    """

    category: str
    scores: Tensor  # (Q, G)
    references: Sequence[str]  # Q names; one that is not in the gallery need not be removed
    targets: Sequence[str]  # Q names
    gallery: Sequence[str]  # G names
    union: Sequence[str] = ()  # names of the union gallery; default: references and targets of these queries

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            raise UserError(f"unknown FashionIQ category {self.category!r}; choose from {', '.join(CATEGORIES)}")
        shape = len(self.targets), len(self.gallery)
        if self.scores.shape != shape:
            raise ValueError(f"scores of shape {tuple(self.scores.shape)} for {shape[0]} queries and {shape[1]} images")
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


def category_scores(split: ComposedSplit, scores_QG: Tensor) -> CategoryScores:
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
    )


def with_captions(scores_QG: Tensor, fused_QD: Tensor, caption_GD: Tensor) -> Tensor:
    """Add UniFashion's caption term: fused query feature . caption feature. An image without a caption has a row of zeros."""
    return scores_QG + score_matrix(fused_QD, caption_GD[:, None, :])


def evaluate(
    categories: Sequence[CategoryScores], ks: Sequence[int] = KS, protocols: Sequence[str] = tuple(SENTENCES)
) -> list[Measurement]:
    """Return recall at every k per protocol and category, and the macro mean over dress, shirt and toptee.

    The line of category "mean" holds the mean of each recall over the three categories and, as metric "mean", the mean
    of these. It is left out, with a warning in the log, unless all three are there: a mean over fewer is a different number.
    Raises ``UserError`` where a category is given twice.
    """
    names = [scores.category for scores in categories]
    if len(set(names)) != len(names):
        raise UserError(f"FashionIQ categories are given twice: {', '.join(names)}; give each once")
    measurements = []
    for protocol in protocols:
        line = {f"R@{k}": list[Tensor]() for k in ks}
        for scores in categories:
            ranks_Q, num_images = _ranks(scores, protocol)
            for name, groups in line.items():
                groups.append(query_values(name, ranks_Q))
                measurements.append(measured(protocol, name, groups[-1:], num_images, category=scores.category))
        if set(names) == set(CATEGORIES):
            line[MEAN] = [torch.stack(hits, dim=1).mean(dim=1) for hits in zip(*line.values(), strict=True)]
            measurements += [measured(protocol, name, groups, None, category=MEAN) for name, groups in line.items()]
        else:
            logger.warning(
                "no FashionIQ mean of %s: it is over %s, and not all of them were evaluated",
                protocol,
                ", ".join(CATEGORIES),
            )
    return measurements


def _ranks(scores: CategoryScores, protocol: str) -> tuple[Tensor, int]:
    """Return the target ranks (Q,) under a protocol, and the size of its gallery."""
    gallery = list(dict.fromkeys(scores.gallery))
    if protocol == "fashioniq/union":
        union = set(scores.union or (*scores.references, *scores.targets))
        gallery = [name for name in gallery if name in union]
    first_column = {name: column for column, name in reversed(list(enumerate(scores.gallery)))}
    columns = torch.tensor([first_column[name] for name in gallery], device=scores.scores.device)
    column_of = {name: column for column, name in enumerate(gallery)}
    target_Q = torch.tensor([column_of[target] for target in scores.targets])
    removed_Q = None
    if protocol != "fashioniq/original":
        pairs = zip(scores.references, scores.targets, strict=True)
        removed_Q = torch.tensor([-1 if name == target else column_of.get(name, -1) for name, target in pairs])
    return target_ranks(scores.scores.index_select(1, columns), target_Q, exclude=removed_Q), len(gallery)


def _evaluate_splits(protocol: str, scored: Sequence[ScoredSplit]) -> list[Measurement]:
    return evaluate([category_scores(each.split, each.scores) for each in scored], protocols=(protocol,))


for _name, _sentence in SENTENCES.items():
    register(
        ComposedProtocol(
            _name,
            _sentence,
            ("fashioniq",),
            evaluate=partial(_evaluate_splits, _name),
        )
    )
