"""Hard negatives for image-text matching: which wrong image and which wrong text each row is paired with.

Shapes: B rows on this rank, M candidates on all ranks.
"""

from typing import Literal

import torch
from torch import Tensor

Mining = Literal["multinomial", "unifashion"]


def same_item(product_B: Tensor, product_M: Tensor, text_B: Tensor, text_M: Tensor) -> Tensor:
    """Return (B, M), True where row and candidate are one product or have one text: never negatives of one another.

    All arguments are integer ids; equal means the same.
    """
    return (product_B[:, None] == product_M) | (text_B[:, None] == text_M)


def hard_negatives(
    scores_BM: Tensor, exclude_mask_BM: Tensor, mining: Mining, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Choose one wrong candidate for every row from its similarity to all.

    Args:
        scores_BM: similarity of row and candidate, the harder the higher (gradients are not followed).
        exclude_mask_BM: True where the candidate may not be chosen, the row's own match included.
        mining: 'multinomial' draws from the softmax of the scores (BLIP-2), 'unifashion' takes the highest.
        generator: source of the draws, on the scores' device.

    Returns:
        index_B, the chosen candidates, and valid_B, False for rows that have nothing to choose from.
    """
    scores_BM = scores_BM.detach().float().masked_fill(exclude_mask_BM, -torch.inf)
    valid_B = ~exclude_mask_BM.all(dim=1)
    # argmax of a row of -inf is 0, a candidate that is not allowed; valid_B tells the caller to leave it out.
    if mining == "unifashion":
        return scores_BM.argmax(dim=1), valid_B
    # The constant keeps distant candidates drawable, and a row without candidates (all nan) valid.
    weights_BM = scores_BM.softmax(dim=1).nan_to_num(1.0) + 1e-4
    weights_BM = torch.where(exclude_mask_BM & valid_B[:, None], 0.0, weights_BM)
    return torch.multinomial(weights_BM, 1, generator=generator)[:, 0], valid_B
