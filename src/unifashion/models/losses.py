"""Retrieval and captioning losses. Pure functions of tensors: no model, no device, no process group.

Shapes: B = rows on this rank, M = rows on all ranks, Q = query tokens, D = embedding width, L = text tokens, V = words.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def best_query_scores(image_BQD: Tensor, text_MD: Tensor) -> Tensor:
    """Score every image against every text by its best-matching query token, as a (B, M) matrix."""
    # The max over the queries is the image's score: one query may match the sleeve, another the pattern.
    return torch.einsum("bqd,md->bmq", image_BQD, text_MD).amax(dim=-1)


def contrastive_loss(scores_BM: Tensor, exclude_mask_BM: Tensor | None = None, offset: int = 0) -> Tensor:
    """InfoNCE in one direction: row ``i`` matches column ``offset + i``.

    ``exclude_mask_BM`` is True where a column may not serve as a negative of a row (another view of the same product, the same
    text); those entries leave the softmax. The match itself always stays. With several ranks the columns come from all
    of them and ``offset`` is ``rank * B``; the mean over ranks is then the loss of the whole batch on one device.
    """
    target_B = torch.arange(offset, offset + len(scores_BM), device=scores_BM.device)
    if exclude_mask_BM is not None:
        not_self_BM = torch.ones_like(exclude_mask_BM).scatter(1, target_B[:, None], False)
        # The lowest number rather than -inf: a row in which all others are excluded must give a loss of 0, not nan.
        scores_BM = scores_BM.masked_fill(exclude_mask_BM & not_self_BM, torch.finfo(scores_BM.dtype).min)
    return F.cross_entropy(scores_BM, target_B)


def matching_loss(logits_R2: Tensor, label_R: Tensor, num_pairs: Tensor | None = None) -> Tensor:
    """Cross-entropy of 'do this image and this text belong together', mean over the R pairs.

    ``num_pairs`` replaces R in the mean, as ``num_targets`` does in ``language_loss``.
    """
    if num_pairs is None:
        return F.cross_entropy(logits_R2, label_R)
    return F.cross_entropy(logits_R2, label_R, reduction="sum") / num_pairs


def language_loss(
    logits_BLV: Tensor, ids_BL: Tensor, mask_BL: Tensor, smoothing: float = 0.1, num_targets: Tensor | None = None
) -> Tensor:
    """Next-token cross-entropy with label smoothing, mean over the targets that are not padding.

    Position ``i`` predicts token ``i + 1``; the closing [SEP] is a target. ``num_targets`` replaces the local number of
    targets in the mean (several ranks: the mean number over ranks, so that the mean over ranks is the global loss).
    """
    targets_BL = ids_BL[:, 1:].masked_fill(mask_BL[:, 1:] == 0, -100)
    total = F.cross_entropy(
        logits_BLV[:, :-1].flatten(0, 1), targets_BL.flatten(), label_smoothing=smoothing, reduction="sum"
    )
    return total / ((targets_BL != -100).sum() if num_targets is None else num_targets).clamp(min=1)
