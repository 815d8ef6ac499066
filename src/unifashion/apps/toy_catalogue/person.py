"""Draw a person who wears a garment, and every map that try-on data sets have beside the photo.

The body shares the unit coordinates of ``drawing.shapes`` (x to the right from the middle, y down), so a product photo, laid over
it by one affine transform, fits its shoulders. That transform is the pose: shift, size and lean, per person.
The agnostic mask follows from the pose alone and thus says nothing about the garment that was worn.
"""

import random
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from unifashion.apps.toy_catalogue.drawing import SCALE, Point

Colour = tuple[int, int, int]

SKINS: tuple[Colour, ...] = ((244, 208, 178), (224, 172, 130), (186, 128, 88), (134, 86, 56), (92, 58, 40))
HAIRS: tuple[Colour, ...] = ((36, 28, 26), (92, 60, 36), (206, 170, 104), (150, 72, 40), (120, 120, 124))
TROUSERS: tuple[Colour, ...] = ((44, 60, 100), (34, 34, 38), (196, 184, 160), (110, 116, 122), (88, 62, 48))
WALLS: tuple[Colour, ...] = ((236, 236, 238), (220, 226, 232), (232, 224, 214), (214, 218, 214))
GREY = (128, 128, 128)

TORSO: list[Point] = [(0.075, 0.085), (0.185, 0.125), (0.165, 0.27), (0.135, 0.42), (0.165, 0.56)]
LEGS: list[Point] = [(0.155, 0.47), (0.185, 0.62), (0.17, 1.1), (0.02, 1.1), (0.0, 0.62)]
ARM: list[Point] = [
    (0.16, 0.125),
    (0.225, 0.16),
    (0.30, 0.40),
    (0.365, 0.66),
    (0.315, 0.68),
    (0.235, 0.42),
    (0.155, 0.27),
]
HAND: tuple[float, float, float, float] = (0.305, 0.655, 0.385, 0.735)
NECK: list[Point] = [(0.045, 0.0), (0.05, 0.075), (0.085, 0.095)]
# What is painted: the torso to below the longest hem, and the arms to the wrists, both with a margin.
PAINTED_TORSO: list[Point] = [(0.10, 0.055), (0.25, 0.095), (0.25, 0.42), (0.27, 0.85)]
PAINTED_ARM: list[Point] = [
    (0.10, 0.045), (0.24, 0.065), (0.36, 0.16), (0.43, 0.28), (0.42, 0.40), (0.46, 0.66), (0.28, 0.73), (0.19, 0.42), (0.10, 0.30)
]  # fmt: skip
# LIP's label ids of the parts in image-parse-v3, and their colours in the palette and in the densepose-like map.
PARSE = {"background": 0, "hair": 2, "upper": 5, "pants": 9, "neck": 10, "face": 13, "left arm": 14, "right arm": 15}
PALETTE: dict[int, Colour] = {
    2: (254, 0, 0),
    5: (254, 85, 0),
    9: (0, 85, 85),
    10: (85, 51, 0),
    13: (0, 0, 254),
    14: (51, 169, 220),
    15: (0, 254, 254),
}
SURFACE: dict[str, Colour] = {
    "torso": (20, 80, 194),
    "legs": (90, 190, 120),
    "right arm": (230, 190, 50),
    "left arm": (160, 200, 60),
    "head": (248, 240, 20),
}
# BODY-25 key points that an upper-body photo shows, as (x, y) in unit coordinates; the rest are 0, 0, 0.
KEYPOINTS: dict[int, Point] = {
    0: (0.0, -0.05), 1: (0.0, 0.12), 2: (-0.17, 0.14), 3: (-0.265, 0.41), 4: (-0.335, 0.665), 5: (0.17, 0.14), 6: (0.265, 0.41),
    7: (0.335, 0.665), 8: (0.0, 0.53), 9: (-0.09, 0.54), 12: (0.09, 0.54), 15: (-0.03, -0.07), 16: (0.03, -0.07),
    17: (-0.065, -0.06), 18: (0.065, -0.06),
}  # fmt: skip


@dataclass(frozen=True)
class Wearer:
    """A person and their pose, which maps unit coordinates to fractions of the picture's height."""

    skin: Colour
    hair: Colour
    long_hair: bool
    trousers: Colour
    wall: Colour
    shift: Point
    scale: float
    lean: float

    @classmethod
    def draw(cls, rng: random.Random) -> "Wearer":
        """Draw a person at random."""
        return cls(
            skin=rng.choice(SKINS),
            hair=rng.choice(HAIRS),
            long_hair=rng.random() < 0.5,
            trousers=rng.choice(TROUSERS),
            wall=rng.choice(WALLS),
            shift=(rng.uniform(-0.03, 0.03), rng.uniform(0.19, 0.23)),
            scale=rng.uniform(0.80, 0.88),
            lean=rng.uniform(-0.08, 0.08),
        )


class Figure:
    """One person in one picture: draws photo and maps, all in the same place."""

    def __init__(self, person: Wearer, width: int, height: int) -> None:
        self.person, self.size = person, (width, height)
        self._big = (width * SCALE, height * SCALE)

    def place(self, x: float, y: float) -> Point:
        """Return the position of a unit point in the big canvas, pixels."""
        person, (width, height) = self.person, self._big
        across = (x + person.lean * (y - 0.4)) * person.scale + person.shift[0]
        return width / 2 + across * height, (y * person.scale + person.shift[1]) * height

    def wear(self, flat: Image.Image) -> Image.Image:
        """Lay a square product photo (or its mask, black around) over the body; big canvas."""
        person, (width, height), side = self.person, self._big, flat.width
        # From canvas pixels back to unit coordinates, and from there to the pixels of the product photo.
        a = 1 / (person.scale * height)
        y0 = person.shift[1] * height
        x0 = width / 2 + person.shift[0] * height
        lean = person.lean
        row = (a, -lean * a, -x0 * a + lean * (y0 * a + 0.4))
        matrix = (*(value * side for value in row[:2]), (row[2] + 0.5) * side, 0.0, a * side, -y0 * a * side)
        return flat.transform(self._big, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)

    def photo(self, flat: Image.Image, mask: Image.Image) -> Image.Image:
        """Draw the person in a garment, given as product photo and mask; big canvas."""
        person = self.person
        picture = Image.new("RGB", self._big, person.wall)
        pen = ImageDraw.Draw(picture)
        if person.long_hair:
            pen.ellipse(self._box(-0.115, -0.17, 0.115, 0.12), fill=person.hair)
        shade = tuple(int(value * 0.9) for value in person.skin)
        for part in (TORSO, NECK):
            pen.polygon(self._both(part), fill=shade)
        pen.polygon(self._both(LEGS), fill=person.trousers)
        for side in (-1, 1):
            pen.polygon(self._one(ARM, side), fill=person.skin)
            pen.ellipse(self._hand(side), fill=person.skin)
        picture.paste(self.wear(flat), mask=self.wear(mask))
        self._head(pen)
        return picture

    def _head(self, pen: ImageDraw.ImageDraw) -> None:
        pen.ellipse(self._box(-0.09, -0.185, 0.09, 0.0), fill=self.person.hair)
        pen.ellipse(self._box(-0.07, -0.15, 0.07, 0.035), fill=self.person.skin)
        for x in (-0.028, 0.028):
            pen.ellipse(self._box(x - 0.009, -0.07, x + 0.009, -0.055), fill=(40, 30, 30))
        pen.ellipse(self._box(-0.02, -0.018, 0.02, -0.006), fill=(168, 72, 72))

    def painted(self) -> Image.Image:
        """Return the mask of what try-on paints (mode L, 255 = paint): torso and arms, not head and hands; big canvas."""
        mask = Image.new("L", self._big)
        pen = ImageDraw.Draw(mask)
        pen.polygon(self._both(PAINTED_TORSO), fill=255)
        for side in (-1, 1):
            pen.polygon(self._one(PAINTED_ARM, side), fill=255)
            pen.ellipse(self._hand(side), fill=0)
        pen.ellipse(self._box(-0.075, -0.2, 0.075, 0.035), fill=0)
        return mask

    def agnostic(self, photo: Image.Image) -> Image.Image:
        """Return the photo with grey where the mask says paint."""
        return Image.composite(Image.new("RGB", photo.size, GREY), photo, self.painted())

    def densepose(self) -> Image.Image:
        """Draw the body under the clothes, a colour per part, darker downwards, as a densepose rendering looks."""
        picture = Image.new("RGB", self._big)
        pen = ImageDraw.Draw(picture)
        pen.polygon(self._both(LEGS), fill=SURFACE["legs"])
        pen.polygon(self._both([*NECK, *TORSO]), fill=SURFACE["torso"])
        for side, name in ((-1, "right arm"), (1, "left arm")):
            pen.polygon(self._one(ARM, side), fill=SURFACE[name])
            pen.ellipse(self._hand(side), fill=SURFACE[name])
        pen.ellipse(self._box(-0.07, -0.17, 0.07, 0.035), fill=SURFACE["head"])
        light = Image.linear_gradient("L").transpose(Image.Transpose.FLIP_TOP_BOTTOM).resize(self._big)
        return ImageChops.multiply(picture, Image.merge("RGB", [light.point(lambda value: 128 + value // 2)] * 3))

    def parse(self, mask: Image.Image) -> Image.Image:
        """Return the part of every pixel (mode P, LIP's label ids), for a worn garment given by its product mask; big canvas."""
        parts = Image.new("P", self._big)
        parts.putpalette([value for label in range(256) for value in PALETTE.get(label, (0, 0, 0))])
        pen = ImageDraw.Draw(parts)
        if self.person.long_hair:
            pen.ellipse(self._box(-0.115, -0.17, 0.115, 0.12), fill=PARSE["hair"])
        pen.polygon(self._both([*NECK, *TORSO]), fill=PARSE["neck"])
        pen.polygon(self._both(LEGS), fill=PARSE["pants"])
        for side, name in ((-1, "right arm"), (1, "left arm")):
            pen.polygon(self._one(ARM, side), fill=PARSE[name])
            pen.ellipse(self._hand(side), fill=PARSE[name])
        parts.paste(PARSE["upper"], mask=self.wear(mask).point(lambda value: 255 * (value > 127)))
        pen.ellipse(self._box(-0.09, -0.185, 0.09, 0.0), fill=PARSE["hair"])
        pen.ellipse(self._box(-0.07, -0.15, 0.07, 0.035), fill=PARSE["face"])
        return parts

    def sketch(self, flat: Image.Image, mask: Image.Image) -> Image.Image:
        """Draw the worn garment as white lines on black: its outline, strong, and what its pattern draws, weak; big canvas."""
        worn = self.wear(mask)
        line = 2 * SCALE + 1
        outline = ImageChops.subtract(
            worn.filter(ImageFilter.MaxFilter(line)), worn.filter(ImageFilter.MinFilter(line))
        )
        edges = self.wear(flat).convert("L").filter(ImageFilter.FIND_EDGES).filter(ImageFilter.MaxFilter(3))
        inside = ImageChops.multiply(edges.point(lambda value: min(value * 2, 150)), worn)
        return ImageChops.lighter(outline, inside)

    def keypoints(self) -> dict[str, object]:
        """Return the pose as OpenPose writes it: BODY-25, pixels of the small picture, confidence 1."""
        values = [0.0] * 75
        for index, (x, y) in KEYPOINTS.items():
            px, py = self.place(x, y)
            values[3 * index : 3 * index + 3] = [round(px / SCALE, 2), round(py / SCALE, 2), 1.0]
        return {"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": values}]}

    def small(self, picture: Image.Image) -> Image.Image:
        """Reduce a big canvas to the picture's size; part labels are never interpolated."""
        exact = picture.mode == "P"
        return picture.resize(self.size, Image.Resampling.NEAREST if exact else Image.Resampling.LANCZOS)

    def _one(self, points: list[Point], side: int) -> list[Point]:
        return [self.place(side * x, y) for x, y in points]

    def _both(self, right: list[Point]) -> list[Point]:
        return [*self._one(right, 1), *reversed(self._one(right, -1))]

    def _box(self, x0: float, y0: float, x1: float, y1: float) -> list[Point]:
        (left, top), (right, bottom) = self.place(x0, y0), self.place(x1, y1)
        middle = (left + right) / 2  # an ellipse leans with its centre
        half = (x1 - x0) / 2 * self.person.scale * self._big[1]
        return [(middle - half, top), (middle + half, bottom)]

    def _hand(self, side: int) -> list[Point]:
        x0, y0, x1, y1 = HAND
        return self._box(x0, y0, x1, y1) if side > 0 else self._box(-x1, y0, -x0, y1)
