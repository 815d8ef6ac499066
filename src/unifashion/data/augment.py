"""Random mirroring, shift, zoom and brightness of training images, for towers that are trained from scratch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(pixels_B3SS: Tensor, generator: torch.Generator, shift: float = 0.06, zoom: float = 0.12) -> Tensor:
    """Return float pixels (B, 3, S, S) in 0..255 of uint8 ones, each image changed by its own draw.

    Hues stay as they are, because texts name them: brightness varies by 10 %, the same for all channels.

    Args:
        pixels_B3SS: uint8 images.
        generator: source of the draws, on the CPU.
        shift: largest shift, as a share of the side.
        zoom: largest enlargement or reduction, as a share.
    """
    rows, device = len(pixels_B3SS), pixels_B3SS.device
    draw_B5 = torch.rand(rows, 5, generator=generator).to(device) * 2 - 1
    mirror_B = torch.where(draw_B5[:, 0] < 0, -1.0, 1.0)
    scale_B = 1 + zoom * draw_B5[:, 1]
    zero_B = torch.zeros_like(scale_B)
    theta_B23 = torch.stack(
        [mirror_B * scale_B, zero_B, 2 * shift * draw_B5[:, 2], zero_B, scale_B, 2 * shift * draw_B5[:, 3]], dim=1
    ).view(rows, 2, 3)
    grid = F.affine_grid(theta_B23, list(pixels_B3SS.shape), align_corners=False)
    moved = F.grid_sample(pixels_B3SS.float(), grid, padding_mode="border", align_corners=False)
    light_B = 1 + 0.1 * draw_B5[:, 4]
    return (moved * light_B[:, None, None, None]).clamp(0, 255)
