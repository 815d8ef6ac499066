"""Zero cross-attention: how the decoder of the denoiser attends to the garment, and the loss that keeps its attention smooth.

    h <- h + zero_conv(T(h, garment))        T: self-attention, cross-attention to the garment's positions, feed-forward

The zero convolution starts at zero, so a fresh block changes nothing. Shapes: B rows, C channels, H x W positions of the
decoder, h x w positions of the garment, L = H * W, G = h * w, N heads, D width of a head.
"""

import torch
import torch.nn.functional as F
from diffusers.models.attention import Attention, BasicTransformerBlock
from torch import Tensor, nn

from unifashion.distributed import mean_over_ranks


class WarpBlock(nn.Module):
    """One zero cross-attention block of StableVITON (Kim et al., 2024)."""

    def __init__(self, width: int, garment_width: int, num_heads: int, num_groups: int = 32) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.block = BasicTransformerBlock(width, num_heads, width // num_heads, cross_attention_dim=garment_width)
        self.proj_out = nn.Conv2d(width, width, 1)
        self.zero_conv = zero(nn.Conv2d(width, width, 1))

    def forward(
        self, h_BCHW: Tensor, garment_BChw: Tensor, attention_centre: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return the changed features, and on request the centre of each position's attention (B, H, W, 2), row and column."""
        size, (rows, columns) = h_BCHW.shape[-2:], garment_BChw.shape[-2:]
        garment_BGC = garment_BChw.flatten(2).transpose(1, 2)
        x_BLC = self.proj_in(self.norm(h_BCHW)).flatten(2).transpose(1, 2)
        block = self.block
        x_BLC = x_BLC + block.attn1(block.norm1(x_BLC))
        query_BLC = block.norm2(x_BLC)
        centre_BHW2 = (
            expected_position(block.attn2, query_BLC, garment_BGC, (rows, columns)) if attention_centre else None
        )
        x_BLC = x_BLC + block.attn2(query_BLC, garment_BGC)
        x_BLC = x_BLC + block.ff(block.norm3(x_BLC))
        warped_BCHW = self.proj_out(x_BLC.transpose(1, 2).unflatten(2, size)) + h_BCHW
        h_BCHW = h_BCHW + self.zero_conv(warped_BCHW)
        return h_BCHW, centre_BHW2.unflatten(1, size) if centre_BHW2 is not None else None


def zero(module: nn.Module) -> nn.Module:
    """Set all weights of a module to zero and return it."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def expected_position(attention: Attention, query_BLC: Tensor, garment_BGC: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the mean (row, column) that each query attends to, over garment positions and heads: (B, L, 2), pixels.

    The attention weights are computed again, in float32, because fused attention does not return them.

    Args:
        attention: the cross-attention, for its query and key maps and its number of heads.
        query_BLC: its normalised input.
        garment_BGC: its keys' input, positions row by row.
        size: rows and columns of the garment's map, with G = rows * columns.
    """
    q_BNLD = attention.to_q(query_BLC).unflatten(2, (attention.heads, -1)).transpose(1, 2)
    k_BNGD = attention.to_k(garment_BGC).unflatten(2, (attention.heads, -1)).transpose(1, 2)
    rows, columns = size
    # bf16 has 8 bits of mantissa, too few for a mean over hundreds of positions.
    with torch.autocast(query_BLC.device.type, enabled=False):
        weight_BNLG = (q_BNLD.float() @ k_BNGD.float().transpose(2, 3) * attention.scale).softmax(-1)
        row_G = torch.arange(rows, device=query_BLC.device).repeat_interleave(columns)
        column_G = torch.arange(columns, device=query_BLC.device).repeat(rows)
        return weight_BNLG.mean(1) @ torch.stack([row_G, column_G], dim=1).to(weight_BNLG)


def attention_total_variation(centre_BHW2: Tensor, region_BHW: Tensor) -> Tensor:
    """Return how much the attention centre jumps between neighbours inside the region (StableVITON's loss, before its weight).

    Args:
        centre_BHW2: expected (row, column) on the garment of every position.
        region_BHW: true where the garment is on the person; a pair counts if both ends are inside.

    Returns:
        mean |difference| of vertical neighbours plus that of horizontal ones, summed over both coordinates; the means run
        over the pairs of the whole batch. Without a pair: 0, with gradient zero (the original divides by zero).
    """
    # Keeps the loss in the graph when no pair counts, which DDP needs on every process.
    total = centre_BHW2.sum() * 0
    for dim in (1, 2):
        length = centre_BHW2.shape[dim] - 1
        first, second = (centre_BHW2.narrow(dim, start, length) for start in (0, 1))
        both = region_BHW.narrow(dim, 0, length) & region_BHW.narrow(dim, 1, length)
        jumps = ((first - second).abs().sum(-1) * both).sum()
        # Of all processes: the mean of their losses is then the loss of the whole batch, however the garments are distributed.
        total = total + jumps / mean_over_ranks(both.sum()).clamp(min=1)
    return total


def warp_region(mask_B1HW: Tensor, latent_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return the region (B, h, w) of the loss from the mask of the garment on the person, 1 = garment.

    As in the original: resize (nearest) to the latent's size, invert, resize (nearest) to the attention map's size, threshold at
    a half, invert back.
    """
    outside = 1 - F.interpolate(mask_B1HW.float(), latent_size)
    return F.interpolate(outside, size)[:, 0] < 0.5
