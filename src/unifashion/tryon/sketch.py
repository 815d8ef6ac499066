"""Sketches of garments: white lines on black, as in MGD's multimodal sets.

If the weights of an edge network are given, it draws the sketch: a TorchScript file that takes (1, 3, H, W) in 0..1 and returns
the edge probability per pixel, (1, 1, H, W), or several such maps, of which the last is used, as with PiDiNet and HED. Without
one, the inner lines are weak, from a difference of Gaussians with the soft threshold of XDoG (Winnemoeller et al. 2012), and the
outline is strong, from the mask. Both sides of an edge count, so that black and white cloth are drawn alike: XDoG's own threshold
would fill black cloth.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from unifashion.errors import UserError, one_line
from unifashion.models.weight_files import read_torchscript
from unifashion.tryon.agnostic import Mask, grow

SIGMA, WIDER = 2.0, 1.6  # sigma of the finer Gaussian, pixels at 1024 rows; that of the coarser one, as a multiple
STEEP, LIMIT = 60.0, 0.014  # soft threshold: tanh(STEEP * (difference - LIMIT))
INNER = 0.7  # strength of the inner lines, relative to the outline's
Pixels = np.ndarray[Any, np.dtype[np.uint8]]
WHITE = (255, 255, 255)


class Sketcher:
    """Draws sketches of garments; ``name`` says with what.

    Args:
        model: file of an edge network; None = lines without one.
        trusted: whether that file, which is a program, may run.

    Raises:
        UserError: a file that is not trusted, or not a TorchScript network.
    """

    def __init__(self, model: Path | None = None, trusted: bool = False) -> None:
        self.network: torch.jit.ScriptModule | None = None
        self.name = "lines"
        if model is None:
            return
        if not model.is_file():
            raise UserError(
                f"--sketch-model {model} does not exist; without the flag, lines are drawn without a network"
            )
        if not trusted:
            raise UserError(
                f"--sketch-model {model} is a TorchScript program, which can read and write your files; if you trust where it "
                "comes from, add --trust-sketch-model"
            )
        try:
            self.network = read_torchscript(model)
        except UserError:
            raise
        except Exception:  # a damaged archive raises anything
            raise UserError(
                f"--sketch-model {model} is not a TorchScript file; save the network with torch.jit.trace(...).save(FILE)"
            ) from None
        digest = hashlib.blake2b(model.read_bytes(), digest_size=6).hexdigest()
        self.name = f"{model.name} {digest}"

    def __call__(self, photo: Image.Image, garment: Mask) -> Image.Image:
        """Return the sketch (mode L, the photo's size) of the part of a photo that a mask (H, W) shows.

        Raises:
            UserError: the network fails on the photo or does not return a map of its size.
        """
        shown = Image.composite(photo, Image.new("RGB", photo.size, WHITE), Image.fromarray(garment))
        if self.network is None:
            return Image.fromarray(_draw(shown, garment))
        edges = self._run(self.network, shown)
        return Image.fromarray(np.where(grow(garment, 3), edges, 0).astype(np.uint8))

    @torch.no_grad()
    def _run(self, network: torch.jit.ScriptModule, shown: Image.Image) -> Pixels:
        pixels = torch.from_numpy(np.asarray(shown).copy()).permute(2, 0, 1)[None].float() / 255
        try:
            maps = network(pixels)
        except RuntimeError as error:
            raise UserError(f"--sketch-model fails on a photo: {one_line(error)}") from None
        edges = maps[-1] if isinstance(maps, Sequence) else maps
        if not isinstance(edges, Tensor) or edges.squeeze().shape != pixels.shape[-2:]:
            raise UserError(f"--sketch-model must return one map of {tuple(pixels.shape[-2:])} pixels")
        drawn: Pixels = (edges.squeeze().float().clamp(0, 1) * 255).round().byte().numpy()
        return drawn


def _draw(shown: Image.Image, garment: Mask) -> Pixels:
    """Return outline and inner lines."""
    scale = shown.height / 1024
    line = max(round(4 * scale), 1)
    grey = torch.from_numpy(np.asarray(shown.convert("L")).copy()).float() / 255
    lines = difference_lines(grey, SIGMA * max(scale, 0.25)).numpy()
    inside = ~grow(~garment, 3 * line)
    outline = grow(garment, line) & grow(~garment, line)
    soft = Image.fromarray((outline * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(max(scale, 0.3)))
    drawn = np.where(inside, lines * 255 * INNER, 0)
    return np.maximum(np.asarray(soft, dtype=np.float64), drawn).round().astype(np.uint8)


def difference_lines(grey: Tensor, sigma: float) -> Tensor:
    """Return the ink (0..1) of the lines of a grey picture (H, W) in 0..1."""
    fine, coarse = (_blur(grey, sigma * factor) for factor in (1.0, WIDER))
    return torch.tanh(STEEP * ((fine - coarse).abs() - LIMIT)).clamp(min=0)


def _blur(grey: Tensor, sigma: float) -> Tensor:
    reach = int(3 * sigma) + 1
    kernel = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    rows = F.conv1d(F.pad(grey[:, None], (reach, reach), mode="replicate"), kernel)[:, 0]
    return F.conv1d(F.pad(rows.T[:, None], (reach, reach), mode="replicate"), kernel)[:, 0].T
