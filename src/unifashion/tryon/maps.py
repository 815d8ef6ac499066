"""From try-on files to pixels of one size, and the augmentation that keeps all maps of an item aligned.

What an item becomes (uint8 until the device):

    image  agnostic  densepose  garment    (3, H, W)       sketch: likewise, its grey in all channels
    keep                                   (1, H, W)       255 = keep, 0 = paint: the agnostic mask inverted
    warped_mask                            (1, H, W)       255 = the garment on the person

Masks are thresholded at half (grey >= 128) and then resized, which leaves soft edges, as in the original. A map with another
aspect ratio than the photo is an error: it belongs to another picture.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unifashion.data.images import ImageError, load_image
from unifashion.data.tryon import TryOnItem

Maps = dict[str, Tensor]
COLOURED = ("image", "agnostic", "garment")
ON_PERSON = ("image", "agnostic", "densepose", "keep", "warped_mask", "sketch")
MASKS = ("keep", "warped_mask")
RATIO_TOLERANCE = 0.02


def load_maps(item: TryOnItem, names: Sequence[str], height: int, width: int) -> Maps:
    """Load the maps of an item that are asked for, under the names of the table above.

    Raises:
        ImageError: a file that cannot be read, or whose sides do not fit the person's photo.
    """
    loaded: Maps = {}
    shape: tuple[int, int] | None = None
    for name in sorted(names, key=lambda name: name != "image"):
        path = item.maps["agnostic_mask" if name == "keep" else name]
        picture = load_image(path)
        if name in ON_PERSON:
            shape = shape or picture.size
            _check_sides(path, picture.size, shape)
        loaded[name] = to_map(picture, name, height, width)
    return loaded


def to_map(picture: Image.Image, name: str, height: int, width: int) -> Tensor:
    """Turn an RGB picture into the map ``name``: (3 or 1, H, W) uint8, resized to exactly that size."""
    if name not in MASKS:
        return _pixels(picture.resize((width, height), Image.Resampling.BICUBIC))
    grey = picture.convert("L").point(lambda value: 255 * ((value >= 128) != (name == "keep")))
    return _pixels(grey.resize((width, height), Image.Resampling.BILINEAR))


def _pixels(picture: Image.Image) -> Tensor:
    array = np.asarray(picture)
    array = array[..., None] if array.ndim == 2 else array
    return torch.from_numpy(array.copy()).permute(2, 0, 1).contiguous()


def _check_sides(path: Path, size: tuple[int, int], expected: tuple[int, int]) -> None:
    ratio = (size[0] / size[1]) / (expected[0] / expected[1])
    if abs(ratio - 1) > RATIO_TOLERANCE:
        raise ImageError(
            path,
            f"{size[0]} x {size[1]} pixels do not fit the person's photo of {expected[0]} x {expected[1]}; "
            "both must show the same frame",
        )


def to_unit(pixels: Tensor) -> Tensor:
    """Return uint8 images as float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_share(mask: Tensor) -> Tensor:
    """Return uint8 masks as float32 in [0, 1]."""
    return mask.float() / 255


# Augmentation ---------------------------------------------------------------------------------------------------------


def augment_maps(
    maps: Mapping[str, Tensor], generator: torch.Generator, flip: bool = True, colour: bool = True, move: bool = False
) -> Maps:
    """Augment all maps of one item with the same draws, so that they stay aligned.

    Args:
        maps: of one item.
        generator: source of every draw, on the CPU.
        flip: mirror everything, p 0.5.
        colour: hue, saturation and value by up to (5, 5, 5) of (180, 255, 255), p 0.5; then brightness by (-0.1, 0.02) and
            contrast by (-0.3, 0.3), p 0.5; the same for person, agnostic person and garment photo.
        move: shift by up to 0.2 of the sides and scale by up to 0.2, p 0.5; the maps of the person by one draw, the garment
            photo by another. Edges are repeated.
    """
    draw = torch.rand(16, generator=generator).tolist()
    out = dict(maps)
    if flip and draw[0] < 0.5:
        out = {name: pixels.flip(-1) for name, pixels in out.items()}
    if move:
        for coin, shift_and_scale, chosen in (
            (draw[1], draw[2:5], [name for name in out if name in ON_PERSON]),
            (draw[5], draw[6:9], [name for name in out if name not in ON_PERSON]),
        ):
            if coin < 0.5:
                out |= {name: _moved(out[name], *shift_and_scale) for name in chosen}
    if colour:
        for name in COLOURED:
            if name in out and draw[9] < 0.5:
                out[name] = _shift_hsv(out[name], *(2 * value - 1 for value in draw[10:13]))
            if name in out and draw[13] < 0.5:
                brightness, contrast = -0.1 + 0.12 * draw[14], 0.6 * draw[15] - 0.3
                adjusted = out[name].float() * (1 + contrast) + 255 * brightness
                out[name] = adjusted.round().clamp(0, 255).to(torch.uint8)
    return out


def _moved(pixels: Tensor, x: float, y: float, size: float) -> Tensor:
    """Shift and scale one map by draws in 0..1."""
    scale = 1 / (0.8 + 0.4 * size)
    theta = torch.tensor([[[scale, 0.0, 0.8 * (x - 0.5)], [0.0, scale, 0.8 * (y - 0.5)]]])
    grid = F.affine_grid(theta, [1, *pixels.shape], align_corners=False)
    moved = F.grid_sample(pixels[None].float(), grid, padding_mode="border", align_corners=False)
    return moved[0].round().to(torch.uint8)


def _shift_hsv(pixels: Tensor, hue: float, saturation: float, value: float) -> Tensor:
    """Shift by draws in -1..1; the hue wraps around, the others are clipped."""
    hsv = np.asarray(Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert("HSV")).astype(np.int16)
    hsv += np.array([round(hue * 5 * 256 / 180), round(saturation * 5), round(value * 5)], dtype=np.int16)
    hsv[..., 0] %= 256
    shifted = Image.fromarray(hsv.clip(0, 255).astype(np.uint8), mode="HSV").convert("RGB")
    return _pixels(shifted)
