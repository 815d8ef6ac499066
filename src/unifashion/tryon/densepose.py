"""The body's surface in colours: DressCode has the part index of every pixel, VITON-HD a picture.

DensePose's own visualiser colours part n of 24 with the colour map parula at n / 24 on black, and VITON-HD's image-densepose is
such a picture; so a model trained on one set sees the other in the same colours.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unifashion.data.images import ImageError, load_stored, open_image, open_stored

PARTS = 24
SPREAD = 20  # of 255: a deviation that the places on a body part have, and JPEG noise has not
# Parula at ten equal steps, 8 bit RGB; straight lines between them.
ANCHORS = (
    (53, 42, 135), (15, 92, 221), (18, 125, 216), (7, 156, 207), (21, 177, 180), (89, 189, 140), (165, 190, 107), (225, 185, 82),
    (252, 206, 46), (249, 251, 14),
)  # fmt: skip


def read_surface(source: str | Path | Image.Image) -> Image.Image:
    """Return the body's surface (RGB, its own size): a picture as it is, a map of part numbers in colours.

    Part numbers may also be the first or last channel of a picture in colours (DensePose's IUV). A picture that is all black
    says that no body is known.

    Raises:
        ImageError: it cannot be read, or shows one colour.
    """
    picture, path = open_stored(source)
    values = np.asarray(picture)
    if picture.mode in ("L", "P") and values.max() <= PARTS:
        return _coloured(values)
    if picture.mode == "RGB" and values.any():
        highest = values.max(axis=(0, 1))
        part = next((k for k in (0, 2) if highest[k] <= PARTS), None)
        if part is not None and (_is_grey(values) or _is_iuv(values, part)):
            return _coloured(values[..., part])
    rgb = open_image(picture)
    colours = np.asarray(rgb)
    if colours.any() and (colours == colours[0, 0]).all():
        raise ImageError(path, "shows one colour; a body surface has the colours of DensePose's parts on black")
    return rgb


def _is_grey(values_HW3: np.ndarray[Any, Any]) -> bool:
    return bool((values_HW3 == values_HW3[..., :1]).all())


def _is_iuv(values_HW3: np.ndarray[Any, Any], part: int) -> bool:
    """Return whether the other channels vary within the largest part, as places on it do; in a picture a part has one colour."""
    parts = values_HW3[..., part]
    largest = np.bincount(parts.ravel())[1:].argmax() + 1
    return bool(values_HW3[parts == largest].std(axis=0).max() > SPREAD)


def colour_parts(path: Path) -> Image.Image:
    """Return the picture (RGB, its size) of a map of part numbers.

    Raises:
        ImageError: not a map of the numbers 0 to 24.
    """
    picture = load_stored(path)
    if picture.mode not in ("L", "P"):
        raise ImageError(path, f"a map of body parts holds one number per pixel (mode P or L), this is {picture.mode}")
    parts = np.asarray(picture)
    if parts.max() > PARTS:
        raise ImageError(path, f"holds the number {parts.max()}; body parts are 0 to {PARTS}")
    return _coloured(parts)


def _coloured(parts_HW: np.ndarray[Any, Any]) -> Image.Image:
    steps = np.linspace(0, PARTS, len(ANCHORS))
    table = np.stack([np.interp(np.arange(PARTS + 1), steps, channel) for channel in np.array(ANCHORS).T], axis=1)
    table[0] = 0
    return Image.fromarray(table.round().astype(np.uint8)[parts_HW])
