"""Masks as other programs write them, read as one thing: white (255) where something is painted, black elsewhere.

    grey of any depth       half of its range or more is white; where there are only two values, the brighter one: 0 and 1 (SAM,
                            numpy), 0 and 255, 0 and 65535
    a colour on black       the colour: a palette with one class (VOC), red strokes
    transparent, one colour strokes on a layer of their own, whatever their colour: what was drawn (Gradio, GIMP, Photoshop)
    transparent, a photo    a photo with a hole: the hole (inpainting tools)

Everything else is an error with a reason: a photo or an agnostic picture, a map of several labels, a mask that paints nothing or
all, or one that is inverted.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unifashion.data.images import ImageError, open_stored
from unifashion.errors import UserError

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Levels = np.ndarray[Any, np.dtype[Any]]  # (H, W) of numbers, or (H, W, 3) of colours

RANGES = (1, 255, 65535)  # white in masks of 1, 8 and 16 bits; the first that holds the brightest pixel
BLACK, SAME = 64, 48  # of 255: a darker pixel is background; colours that differ less are one colour
COLOURFUL = 24  # of 255: the difference of channels from which on a pixel is not grey (JPEG adds some to grey ones)
MAX_MIDDLE = (
    1 / 3
)  # of the pixels: those between black and white; soft masks have up to 15 % of them, photos 84 % and more
WHITE_IS_PAINTED = "save it in black and white, white where something is painted"


def read_mask(source: str | Path | Image.Image, is_optional: bool = False) -> Image.Image:
    """Return a mask (mode L, 0 or 255, its own size) of a file or Pillow image in any of the forms above.

    Args:
        source: the mask.
        is_optional: it may be empty, or cover everything: where a garment is on a person, as against what is painted.

    Raises:
        ImageError: it cannot be read, or is no mask.
    """
    picture, path = open_stored(source)
    try:
        painted = _painted(picture)
        if not is_optional:
            _check_painted(painted)
    except UserError as error:
        raise ImageError(path, str(error)) from None
    return Image.fromarray(painted.astype(np.uint8) * 255)


def _painted(picture: Image.Image) -> Mask:
    if picture.mode == "P" or (picture.mode in ("L", "RGB") and "transparency" in picture.info):
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    if "A" in picture.getbands() or picture.mode == "RGBa":
        return _of_layer(np.asarray(picture.convert("RGBA")))
    if picture.mode in ("1", "L", "I", "F") or picture.mode.startswith("I;16"):
        return _of_grey(np.nan_to_num(np.asarray(picture).astype(np.float64)))
    return _of_colours(np.asarray(picture.convert("RGB")))


def _of_layer(rgba_HW4: Levels) -> Mask:
    opaque = rgba_HW4[..., 3] >= 128
    if opaque.all():
        return _of_colours(rgba_HW4[..., :3])
    if not opaque.any():
        raise UserError("all of it is transparent, so nothing is painted; " + WHITE_IS_PAINTED)
    colours = rgba_HW4[..., :3][opaque]
    if _is_one_colour(colours):
        if opaque[[0, 0, -1, -1], [0, -1, 0, -1]].all():
            raise UserError(f"one colour with a transparent part can mean either of them; {WHITE_IS_PAINTED}")
        return opaque
    brightness = colours.max(axis=-1)
    if ((brightness < BLACK) | (colours.min(axis=-1) > 255 - BLACK)).mean() > 0.95:  # black and white with soft alpha
        return opaque & (rgba_HW4[..., :3].max(axis=-1) >= 128)
    return ~opaque


def _of_colours(rgb_HW3: Levels) -> Mask:
    brightest = rgb_HW3.max(axis=-1)
    if (brightest - rgb_HW3.min(axis=-1) > COLOURFUL).mean() < 0.01:
        return _of_grey(rgb_HW3.astype(np.float64).mean(axis=-1).round())
    painted = brightest >= BLACK
    if painted.all() or not _is_one_colour(rgb_HW3[painted]):
        raise UserError(f"this is a picture in colours, not a mask; {WHITE_IS_PAINTED}")
    return np.asarray(painted)


def _is_one_colour(colours_N3: Levels) -> bool:
    """Return whether nearly all pixels are near one colour; JPEG and soft edges add some that are not."""
    middle = np.median(colours_N3, axis=0)
    return bool((np.abs(colours_N3 - middle).max(axis=-1) < SAME).mean() > 0.95)


def _of_grey(values_HW: Levels) -> Mask:
    low, high = float(values_HW.min()), float(values_HW.max())
    white = next((limit for limit in RANGES if high <= limit), high)
    if low == high:
        return np.full(values_HW.shape, high >= white / 2)
    if ((values_HW == low) | (values_HW == high)).all():
        return np.asarray(values_HW == high)
    if ((values_HW > 0.05 * white) & (values_HW < 0.95 * white)).mean() > MAX_MIDDLE:
        raise UserError(
            f"much of it is neither black nor white: a photo or another map, not a mask; {WHITE_IS_PAINTED}"
        )
    return np.asarray(values_HW >= np.ceil(white / 2))


def _check_painted(painted: Mask) -> None:
    if painted.all() or not painted.any():
        what = "white: all of the photo would be painted" if painted.all() else "black: nothing would be painted"
        raise UserError(f"the mask is all {what}; white is what is painted, black what is kept")
    edges = np.concatenate([painted[0], painted[-1], painted[:, 0], painted[:, -1]])
    height, width = painted.shape
    middle = painted[height // 3 : -(height // 3) or None, width // 3 : -(width // 3) or None]
    if edges.mean() > 0.9 and middle.mean() < 0.5:
        raise UserError(
            "white surrounds black here, so it seems inverted; white is what is painted, black what is kept"
        )
