"""The part of a photo that a try-on model sees, in the model's own aspect ratio: nobody is squeezed.

A photo of another ratio is cropped to the largest window of the model's ratio around what is painted; where the painted region
does not fit into it, the photo is padded instead. What was drawn is pasted back where the window lay.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

RATIO_TOLERANCE = 0.02  # aspect ratios that differ less are one: sides are rounded to whole pixels

Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]  # left, top, right, bottom, in widths and heights of the photo


@dataclass(frozen=True)
class Frame:
    """The window ``box`` of a photo; its sides may lie outside, which is padded."""

    box: Box = (0.0, 0.0, 1.0, 1.0)

    @classmethod
    def around(cls, photo: Size, seen: Size, painted: Image.Image | None = None) -> "Frame":
        """Return the window of a photo for a model that sees pictures of another size.

        Args:
            photo: size of the photo.
            seen: size of what the model sees.
            painted: the mask, any size: the window holds all that is white in it; None = the photo's middle.
        """
        ratio = (seen[0] / seen[1]) / (photo[0] / photo[1])
        if abs(ratio - 1) <= RATIO_TOLERANCE:
            return cls()
        width, height = min(ratio, 1.0), min(1 / ratio, 1.0)
        left, top, right, bottom = _extent(painted)
        if right - left > width or bottom - top > height:
            width, height = max(ratio, 1.0), max(1 / ratio, 1.0)
        x, y = _start((left + right) / 2, width), _start((top + bottom) / 2, height)
        return cls((x, y, x + width, y + height))

    @property
    def is_whole(self) -> bool:
        """Return whether the model sees the photo as it is."""
        return self == Frame()

    def cut(self, picture: Image.Image, size: Size, resample: Image.Resampling, fill: int | None = None) -> Image.Image:
        """Return the window of the photo, or of one of its maps, in the size that the model sees.

        Args:
            picture: of any size; it shows the whole photo.
            size: of the result.
            resample: how it is scaled.
            fill: grey of what lies outside; None = the edge's pixels go on.
        """
        left, top, right, bottom = self.box
        x, y = max(-left, 0.0), max(-top, 0.0)  # how much lies outside, on either side alike
        if x or y:
            picture = _padded(picture, round(x * picture.width), round(y * picture.height), fill)
            return picture.resize(size, resample)
        box = (left * picture.width, top * picture.height, right * picture.width, bottom * picture.height)
        return picture.resize(size, resample, box=box if not self.is_whole else None)

    def paste(self, photo: Image.Image, drawn: Image.Image) -> Image.Image:
        """Return the photo with what was drawn in its window, in the photo's size."""
        left, top, right, bottom = self.box
        x, y = round(left * photo.width), round(top * photo.height)
        size = round(right * photo.width) - x, round(bottom * photo.height) - y
        pasted = photo.copy()
        pasted.paste(drawn if drawn.size == size else drawn.resize(size, Image.Resampling.BICUBIC), (x, y))
        return pasted


def fit(picture: Image.Image, size: Size, resample: Image.Resampling) -> Image.Image:
    """Return a whole picture, such as a garment's, in a size; one of another ratio is padded with the pixels of its edge."""
    ratio = (size[0] / size[1]) / (picture.width / picture.height)
    if abs(ratio - 1) > RATIO_TOLERANCE:
        x, y = max(ratio - 1, 0) / 2, max(1 / ratio - 1, 0) / 2
        picture = _padded(picture, round(x * picture.width), round(y * picture.height), None)
    return picture.resize(size, resample)


def _extent(painted: Image.Image | None) -> Box:
    box = painted.getbbox() if painted is not None else None
    if painted is None or box is None:
        return 0.5, 0.5, 0.5, 0.5
    return box[0] / painted.width, box[1] / painted.height, box[2] / painted.width, box[3] / painted.height


def _start(middle: float, length: float) -> float:
    """Return where a window of a length begins: around the middle, inside the photo, or over both of its edges alike."""
    return (1 - length) / 2 if length >= 1 else min(max(middle - length / 2, 0.0), 1 - length)


def _padded(picture: Image.Image, x: int, y: int, fill: int | None) -> Image.Image:
    pixels = np.asarray(picture)
    sides = ((y, y), (x, x), (0, 0))[: pixels.ndim]
    if fill is None:
        return Image.fromarray(np.pad(pixels, sides, mode="edge"))
    return Image.fromarray(np.pad(pixels, sides, constant_values=fill))
