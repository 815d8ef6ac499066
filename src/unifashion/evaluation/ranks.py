"""Scores, ranks and recall at k: the one definition that every retrieval protocol uses. Pure functions of tensors.

Shapes: Q queries, G gallery items, M texts, N images, V vectors of an image, D their width, K candidates of a second stage.

A score is a sum of D products. A matrix product rounds that sum differently from entry to entry, by a few 1e-8, which is enough
to rank equal vectors one before the other and to give hits to a model that maps everything to one vector. Sums are therefore
taken in double precision and rounded to float32 once: equal vectors have equal scores wherever they are in the gallery, and
a score depends neither on the chunk size nor on the order of the gallery. (Devices without float64 keep float32.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unifashion.errors import UserError

MAX_ELEMENTS = 2**25  # numbers in the largest temporary tensor of a scoring step: 256 MB in double precision


@dataclass(frozen=True, eq=False)
class Ranking:
    """What is kept of a ranked gallery, whatever its size: the target's rank and the head of every list."""

    ranks: Tensor  # (Q,) 0-based, of ``target_ranks``
    top: Tensor  # (Q, K) gallery indices, best first
    scores: Tensor  # (Q, K) of these


@torch.no_grad()
def score_matrix(text_QD: Tensor, image_GVD: Tensor, chunk: int | None = None) -> Tensor:
    """Score every text against every image by the image's best-matching vector, as a float32 (Q, G) matrix.

    ``chunk`` images are scored at a time (default: as many as ``MAX_ELEMENTS`` allows), so the Q x G x V products never
    exist at once. The inputs stay on their device and are used as they are: normalise them first for cosines.
    """
    sum_dtype = _sum_dtype(text_QD)
    num_texts, width = text_QD.shape
    num_images, num_vectors, _ = image_GVD.shape
    chunk = chunk or max(1, MAX_ELEMENTS // (num_vectors * max(num_texts, width)))
    exact_text_QD = text_QD.to(sum_dtype)
    scores_QG = torch.empty(num_texts, num_images, dtype=torch.float32, device=text_QD.device)
    for start in range(0, num_images, chunk):
        image_CVD = image_GVD[start : start + chunk].to(sum_dtype)
        scores_QG[:, start : start + chunk] = torch.einsum("qd,cvd->qcv", exact_text_QD, image_CVD).amax(dim=-1)
    return scores_QG


@torch.no_grad()
def gathered_scores(text_MD: Tensor, image_NVD: Tensor, text_QT: Tensor, image_QI: Tensor) -> Tensor:
    """Score chosen pairs only: entry (q, t, i) is text ``text_QT[q, t]`` against image ``image_QI[q, i]``, as (Q, T, I).

    ``text_QT`` (Q, T) and ``image_QI`` (Q, I) hold row indices of ``text_MD`` and ``image_NVD``. The score is that of
    ``score_matrix``; queries are taken in chunks that keep to ``MAX_ELEMENTS``.
    """
    sum_dtype = _sum_dtype(text_MD)
    _, num_vectors, width = image_NVD.shape
    (num_queries, num_texts), num_images = text_QT.shape, image_QI.shape[1]
    scores_QTI = torch.empty(num_queries, num_texts, num_images, dtype=torch.float32, device=text_MD.device)
    chunk = max(1, MAX_ELEMENTS // (num_images * num_vectors * max(num_texts, width)))
    for start in range(0, num_queries, chunk):
        rows = slice(start, start + chunk)
        text_CTD = text_MD[text_QT[rows].to(text_MD.device)].to(sum_dtype)
        image_CIVD = image_NVD[image_QI[rows].to(image_NVD.device)].to(sum_dtype)
        scores_QTI[rows] = torch.einsum("ctd,civd->ctiv", text_CTD, image_CIVD).amax(dim=-1)
    return scores_QTI


def target_ranks(scores_QG: Tensor, target: Tensor, exclude: Tensor | None = None) -> Tensor:
    """Return the 0-based rank of each query's best positive among its gallery, as a (Q,) tensor of integers.

    The rank is the number of gallery items that are not positive and score as high as the best positive or higher: ties
    count against us, so a model that scores everything alike has no hit, and other positives never push one down.

    ``target``: (Q,) integers, one positive per query, or a (Q, G) mask of all positives.
    ``exclude``: items that are not in a query's gallery: (Q,) integers, -1 for none, or a (Q, G) mask.
    Raises ``UserError`` where a score is NaN or infinite, ``ValueError`` for a query without a positive.
    """
    _require_finite(scores_QG, "score")
    positive_QG = _as_mask(target, scores_QG)
    negative_QG = ~positive_QG
    if exclude is not None:
        kept_QG = ~_as_mask(exclude, scores_QG)
        positive_QG, negative_QG = positive_QG & kept_QG, negative_QG & kept_QG
    answerable_Q = positive_QG.any(dim=1)
    if not answerable_Q.all():
        raise ValueError(f"query {int(answerable_Q.logical_not().nonzero()[0])} has no positive in its gallery")
    best_Q1 = scores_QG.masked_fill(~positive_QG, -torch.inf).amax(dim=1, keepdim=True)
    # ">=", and no sorting: a sort would put some of the tied items before the target by their order in the gallery, and a model
    # that has collapsed to one vector would find a random share of its targets.
    return ((scores_QG >= best_Q1) & negative_QG).sum(dim=1)


def positive_ranks(scores_QG: Tensor, positive_QP: Tensor) -> Tensor:
    """Return the 0-based rank of each of a query's positives in the ranked gallery, best first, as (Q, P) integers.

    Ties count against us: a positive ranks behind every other item of the same score; positives of equal score follow one
    another. The first column equals ``target_ranks``.

    ``positive_QP`` holds gallery indices, none twice in the same row; -1 pads queries with fewer positives and is returned as
    the size of the gallery, behind every rank.
    Raises ``UserError`` where a score is NaN or infinite, ``ValueError`` for indices that do not fit.
    """
    _require_finite(scores_QG, "score")
    num_queries, num_items = scores_QG.shape
    positive_QP = positive_QP.to(scores_QG.device)
    if len(positive_QP) != num_queries or ((positive_QP < -1) | (positive_QP >= num_items)).any():
        raise ValueError(
            f"positives of {len(positive_QP)} queries from {num_queries}, indices from -1 to {num_items - 1}"
        )
    real_QP = positive_QP >= 0
    own_QP = scores_QG.gather(1, positive_QP.clamp(min=0)).masked_fill(~real_QP, -torch.inf)
    own_QP = own_QP.sort(dim=1, descending=True).values
    # One positive at a time: a comparison of all of them with the gallery at once would be a Q x P x G tensor.
    as_good_QP = torch.stack([(scores_QG >= own_Q[:, None]).sum(dim=1) for own_Q in own_QP.T], dim=1)
    own_as_good_QP = (own_QP[:, None, :] >= own_QP[:, :, None]).sum(dim=2)
    # Items at least as good, less the positives among them, plus the positives that were ranked before this one.
    rank_QP = as_good_QP - own_as_good_QP + torch.arange(own_QP.shape[1], device=scores_QG.device)
    return rank_QP.masked_fill(own_QP == -torch.inf, num_items)


def average_precision_at(ranks_QP: Tensor, num_positives_Q: Tensor, k: int) -> Tensor:
    """Return each query's AP@k: the sum of the precisions at its hits among the first k, over min(number of positives, k).

    This is the AP@k of CIRCO (Baldrati et al., ICCV 2023, section 6), from 0 to 1, as (Q,) in double precision.
    ``ranks_QP`` are those of ``positive_ranks``; ``num_positives_Q`` counts all positives, also those missing from the gallery.
    """
    # At the rank r of the n-th right answer, n of the first r + 1 items are right. The sum is divided by k where there are more
    # right answers than places, so that a perfect list scores 1; other definitions divide by the number of hits.
    num_hits_P = torch.arange(1, ranks_QP.shape[1] + 1, device=ranks_QP.device)
    precision_QP = num_hits_P / (ranks_QP.double() + 1)
    return (precision_QP * (ranks_QP < k)).sum(dim=1) / num_positives_Q.to(ranks_QP.device).clamp(max=k)


def top_k(scores_QG: Tensor, k: int, exclude: Tensor | None = None) -> Tensor:
    """Return the gallery indices of each query's ``k`` best items, best first, as (Q, k).

    ``exclude`` is that of ``target_ranks``. A list is as long as the shortest gallery where that has fewer than ``k``
    items. The order of items with equal scores is not defined. A NaN or infinite score is a ``UserError``.
    """
    _require_finite(scores_QG, "score")
    k = min(k, scores_QG.shape[1])
    if exclude is not None and len(scores_QG):
        excluded_QG = _as_mask(exclude, scores_QG)
        k = min(k, int((~excluded_QG).sum(dim=1).min()))
        scores_QG = scores_QG.masked_fill(excluded_QG, -torch.inf)
    return scores_QG.topk(k, dim=1).indices


def merge_reranked(scores_QG: Tensor, top_QK: Tensor, itm_QK: Tensor) -> Tensor:
    """Apply a second stage to the results of the first, as BLIP does: re-order each query's best K, and leave the rest below.

    ``top_QK`` are the candidates' gallery indices (``top_k`` of the same scores), ``itm_QK`` their image-text matching
    scores. Among themselves the candidates are ordered by first-stage score + matching score; all of them stay above all
    other items, whose scores are returned untouched. A candidate's returned score only carries that order: it is the
    row's highest first-stage score plus equal steps, where equal sums share a step and so remain ties.
    Raises ``UserError`` where a score is NaN or infinite, ``ValueError`` where a candidate is listed twice.
    """
    _require_finite(scores_QG, "score")
    _require_finite(itm_QK, "matching score")
    if (top_QK.sort(dim=1).values.diff(dim=1) == 0).any():
        raise ValueError("top_QK lists a gallery item twice for the same query")
    scores_QG = scores_QG.float()
    # A matching score is a logit, which may be lower than any cosine: with the sums written back as they are, candidates could
    # fall below items that the second stage never saw. Only their order is kept, above the first stage's best score.
    sum_QK = scores_QG.gather(1, top_QK) + itm_QK.to(scores_QG)
    num_lower_QK = torch.searchsorted(sum_QK.sort(dim=1).values, sum_QK)
    highest_Q1 = scores_QG.amax(dim=1, keepdim=True)
    step_Q1 = highest_Q1.abs().clamp(min=1)
    return scores_QG.scatter(1, top_QK, highest_Q1 + step_Q1 * (1 + num_lower_QK))


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _require_finite(values_QX: Tensor, what: str) -> None:
    finite_Q = torch.isfinite(values_QX).all(dim=1)
    if not finite_Q.all():
        raise UserError(
            f"query {int(finite_Q.logical_not().nonzero()[0])} has a {what} that is NaN or infinite, so it cannot be ranked: "
            "the model's embeddings are broken; evaluate a checkpoint from before its training diverged"
        )


def _as_mask(selection: Tensor, scores_QG: Tensor) -> Tensor:
    """Return a (Q, G) mask as it is, and (Q,) indices (-1 = nothing) as such a mask."""
    selection = selection.to(scores_QG.device)
    if selection.dtype == torch.bool:
        if selection.shape != scores_QG.shape:
            raise ValueError(f"mask of shape {tuple(selection.shape)} for scores of shape {tuple(scores_QG.shape)}")
        return selection
    num_queries, num_items = scores_QG.shape
    if selection.shape != (num_queries,) or ((selection < -1) | (selection >= num_items)).any():
        raise ValueError(f"indices must be {num_queries} integers from -1 to {num_items - 1}")
    mask_QG = torch.zeros_like(scores_QG, dtype=torch.bool)
    return mask_QG.scatter_(1, selection.clamp(min=0)[:, None], (selection >= 0)[:, None])
