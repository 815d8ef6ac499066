"""Sketches of garments, in their own photo or as a person wears them: white lines on black, as in MGD's multimodal sets.

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
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from unifashion.errors import UserError, one_line
from unifashion.models.weight_files import read_torchscript
from unifashion.tryon.agnostic import Mask, grow

SIGMA, WIDER = 2.0, 1.6  # sigma of the finer Gaussian, pixels at 1024 rows; that of the coarser one, as a multiple
STEEP, LIMIT = 60.0, 0.014  # soft threshold: tanh(STEEP * (difference - LIMIT))
INNER = 0.7  # strength of the inner lines, relative to the outline's
Pixels = np.ndarray[Any, np.dtype[np.uint8]]
WHITE = (255, 255, 255)
PLAIN = (
    4  # of 255: how much the background of a product photo may vary; more, and white cloth on light grey is background
)
COARSE = 128  # rows of the small picture in which the background is followed inwards from the edge


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

    def __call__(self, photo: Image.Image, garment: Mask | None = None) -> Image.Image:
        """Return the sketch (mode L, the photo's size) of the part of a photo that a mask (H, W) shows.

        Args:
            photo: RGB, of a garment alone or of a person.
            garment: where the garment is; None = what stands out from the photo's background.

        Raises:
            UserError: the network fails on the photo or does not return a map of its size.
        """
        garment = product_region(photo) if garment is None else garment
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


def place(photo: Image.Image, garment: Mask, worn: Mask) -> tuple[Image.Image, Mask]:
    """Return a garment's photo and mask on the canvas of a person's, stretched to the box of what the person wears.

    MGD has a network bend the garment around the body; this only says where it is and what is on it.

    Raises:
        UserError: one of the masks is empty.
    """
    box, target = (Image.fromarray(mask).getbbox() for mask in (garment, worn))
    if box is None or target is None:
        raise UserError("the garment's photo and the person's must both show a garment")
    size = target[2] - target[0], target[3] - target[1]
    canvas, mask = Image.new("RGB", worn.shape[::-1], WHITE), Image.new("L", worn.shape[::-1])
    canvas.paste(photo.crop(box).resize(size, Image.Resampling.BICUBIC), target)
    mask.paste(Image.fromarray(garment).convert("L").crop(box).resize(size, Image.Resampling.NEAREST), target)
    return canvas, np.asarray(mask) > 0


def product_region(photo: Image.Image) -> Mask:
    """Return where the product is in a photo (H, W): all but the plain background, which is what the photo's edge shows."""
    pixels = np.asarray(photo.convert("RGB")).astype(np.int16)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    is_plain = np.abs(pixels - np.median(edge, axis=0)).max(axis=-1) < PLAIN
    size = max(round(COARSE * photo.width / photo.height), 1), COARSE
    small = Image.fromarray(is_plain).convert("L").resize(size, Image.Resampling.BOX)
    framed = Image.new("L", (size[0] + 2, size[1] + 2), 255)  # so that all of the edge belongs together
    framed.paste(small.point(lambda share: 255 * (share > 250)), (1, 1))
    ImageDraw.floodfill(framed, (0, 0), 128)
    outside = framed.point(lambda value: 255 * (value == 128)).crop((1, 1, size[0] + 1, size[1] + 1))
    return np.asarray(~(is_plain & (np.asarray(outside.resize(photo.size, Image.Resampling.BILINEAR)) > 0)))


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
