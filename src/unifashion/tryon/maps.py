"""From try-on files to pixels of one size, and the augmentation that keeps all maps of an item aligned.

What an item becomes (uint8 until the device):

    image  agnostic  densepose  garment    (3, H, W)
    garment-sketch  sketch                 (3, H, W)       of the garment's photo, of the worn garment; grey in all channels
    keep                                   (1, H, W)       255 = keep, 0 = paint: the agnostic mask inverted
    warped_mask                            (1, H, W)       255 = the garment on the person

Masks (masks.py) are black or white and then resized, which leaves soft edges, as in the original. Every map of a person is
compared with the photo: one that shows another frame, another photo or nothing of the body is an error.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unifashion.data.images import ImageError, open_image
from unifashion.data.tryon import TryOnItem
from unifashion.tryon.densepose import read_surface
from unifashion.tryon.frame import RATIO_TOLERANCE, Frame, fit
from unifashion.tryon.masks import read_mask

Maps = dict[str, Tensor]
Picture = Image.Image | Path | str
COLOURED = ("image", "agnostic", "garment")
ON_PERSON = ("image", "agnostic", "densepose", "keep", "warped_mask", "sketch")
MASKS = ("keep", "warped_mask")
FILE = {"keep": "agnostic_mask"}  # maps whose file has another name
# Where it is kept, an agnostic picture (JPEG) differs from its photo by 2 of 255 at most, of 8 real and 96 embedded persons, and
# from those of other real persons by 23 and more; of what is painted, a body covers 57 % and more (the embedded ones).
MAX_DIFFERENCE, MIN_BODY = 12, 0.05
STRIDE = 4  # pixels; the comparison looks at a sixteenth of them


def load_maps(item: TryOnItem, names: Sequence[str], height: int, width: int) -> Maps:
    """Load the maps of an item that are asked for, under the names of the table above.

    Raises:
        ImageError: a file that cannot be read, or that is no such map of the person's photo.
    """
    return read_maps(files_of(item, names), height, width)[0]


def files_of(item: TryOnItem, names: Sequence[str]) -> dict[str, Path]:
    """Return the files that these maps of an item are read from."""
    return {name: item.maps[FILE.get(name, name)] for name in names}


def read_maps(pictures: Mapping[str, Picture] | Mapping[str, Path], height: int, width: int) -> tuple[Maps, Frame]:
    """Return the maps of one person and garment, and which part of the photo they show.

    Args:
        pictures: files (``files_of``) or images by the names of the table above; "keep" is the agnostic mask, white = paint.
        height: of the maps. A photo of another aspect ratio is cropped or padded (frame.py), a garment's is padded.
        width: likewise.

    Raises:
        ImageError: a picture that cannot be read, or that is no such map of the person's photo.
    """
    named = {name: _name(picture, name) for name, picture in pictures.items()}
    on_person = [name for name in sorted(pictures, key=lambda name: name != "image") if name in ON_PERSON]
    opened: dict[str, Image.Image] = {}
    for name in dict.fromkeys((*on_person, *pictures)):
        try:
            opened[name] = open_map(pictures[name], name)
        except ImageError as error:
            raise ImageError(named[name], error.reason) from None
        if name in ON_PERSON:
            _check_sides(named[name], opened[name].size, opened[on_person[0]].size)
    frame = Frame.around(opened[on_person[0]].size, (width, height), opened.get("keep")) if on_person else Frame()
    maps = {name: to_map(picture, name, height, width, frame) for name, picture in opened.items()}
    _check_same_photo(maps, named)
    return maps, frame


def open_map(picture: Picture, name: str) -> Image.Image:
    """Return one map as a picture: a mask (L, white = painted), a body surface in colours, or RGB.

    Raises:
        ImageError: it cannot be read, or is no such map.
    """
    if name in MASKS:
        return read_mask(picture, is_optional=name == "warped_mask")
    return read_surface(picture) if name == "densepose" else open_image(picture)


def to_map(picture: Image.Image, name: str, height: int, width: int, frame: Frame | None = None) -> Tensor:
    """Turn a picture of ``open_map`` into the map ``name``: (3 or 1, H, W) uint8, what the frame shows of it in that size."""
    size = (width, height)
    if name in MASKS:
        white = picture.convert("L").point(lambda value: 255 * (value >= 128))
        cut = (frame or Frame()).cut(white, size, Image.Resampling.BILINEAR, fill=0)
        return 255 - _pixels(cut) if name == "keep" else _pixels(cut)
    if name in ON_PERSON:
        fill = 0 if name == "densepose" else None
        return _pixels((frame or Frame()).cut(picture, size, Image.Resampling.BICUBIC, fill))
    return _pixels(fit(picture, size, Image.Resampling.BICUBIC))


def _pixels(picture: Image.Image) -> Tensor:
    array = np.asarray(picture)
    array = array[..., None] if array.ndim == 2 else array
    return torch.from_numpy(array.copy()).permute(2, 0, 1).contiguous()


def _name(picture: Picture, name: str) -> Path:
    own = getattr(picture, "filename", "") if isinstance(picture, Image.Image) else picture
    return Path(own or FILE.get(name, name))


def _check_sides(path: Path, size: tuple[int, int], expected: tuple[int, int]) -> None:
    ratio = (size[0] / size[1]) / (expected[0] / expected[1])
    if abs(ratio - 1) > RATIO_TOLERANCE:
        raise ImageError(
            path,
            f"{size[0]} x {size[1]} pixels do not fit the person's photo of {expected[0]} x {expected[1]}; "
            "both must show the same frame",
        )


def _check_same_photo(maps: Maps, named: Mapping[str, Path]) -> None:
    """Raise ``ImageError`` where the mask leaves out the body, or the agnostic picture shows another photo."""
    if "keep" not in maps:
        return
    seen = {name: pixels[:, ::STRIDE, ::STRIDE].float() for name, pixels in maps.items()}
    painted, kept = seen["keep"][0] < 128, seen["keep"][0] == 255
    if "densepose" in seen and painted.any():
        body = seen["densepose"].amax(0) >= 32
        if body.any() and body[painted].float().mean() < MIN_BODY and painted[body].float().mean() < MIN_BODY:
            raise ImageError(
                named["keep"],
                f"what it paints lies beside the body of {named['densepose']}; one of them is of another photo",
            )
    if "agnostic" in seen and "image" in seen and kept.any():
        difference = float((seen["agnostic"] - seen["image"]).abs().mean(0)[kept].mean())
        if difference > MAX_DIFFERENCE:
            raise ImageError(
                named["agnostic"],
                f"where nothing is painted it differs from {named['image']} by {difference:.0f} of 255 on average: "
                "it is of another photo",
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
