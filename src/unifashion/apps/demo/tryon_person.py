"""The person of any photo, with the maps that a try-on model also reads.

The model reads the agnostic mask (white = redrawn) and a DensePose map of the body. Where they are missing, a box over the
middle of the photo from neck to hips replaces the mask, and black (no body known) the map. That gives only an impression: the
model was trained on real maps, and good results need them.
"""

from collections.abc import Mapping

from PIL import Image, ImageDraw

from unifashion.apps.demo.errors import RequestError
from unifashion.tryon.api import Person
from unifashion.tryon.frame import RATIO_TOLERANCE

TORSO = (0.2, 0.16, 0.8, 0.68)  # left, top, right, bottom of the box, as fractions of the photo


def make_person(photo: Image.Image, maps: Mapping[str, Image.Image]) -> Person:
    """Return photo and maps; what is missing is substituted.

    Args:
        photo: RGB.
        maps: "mask" and "pose", of the same frame as the photo; either may be missing.

    Raises:
        RequestError: a map whose shape differs from the photo's.
    """
    for name, picture in maps.items():
        ratio = picture.width / picture.height * photo.height / photo.width
        if abs(ratio - 1) > RATIO_TOLERANCE:
            raise RequestError(f"The shape of the {name} differs from the photo's; both must show the same frame.")
    mask = maps.get("mask") or torso_mask(photo.width, photo.height)
    return Person(photo, mask, maps.get("pose") or Image.new("RGB", photo.size))


def torso_mask(width: int, height: int) -> Image.Image:
    """Return a mask that is white where the upper body of a person in the middle is."""
    mask = Image.new("RGB", (width, height))
    left, top, right, bottom = TORSO
    box = (left * width, top * height, right * width - 1, bottom * height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius=width // 16, fill="white")
    return mask
