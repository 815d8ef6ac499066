"""Draw a garment as a product photo: shapes first, then cloth, then light.

Geometry is kept apart from paint: ``shapes`` gives the outline of every part in unit coordinates (x to the right from the
middle, y down, the picture is 1 x 1), so that other writers can place the same garment on a person or derive masks from it.
Everything is drawn ``SCALE`` times larger and then reduced, for smooth edges. Same garment, same seed, same pixels.
"""

import math
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from unifashion.apps.toy_catalogue.garment import COLOURS, Garment

SCALE = 3

Point = tuple[float, float]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Shapes:
    """Outlines of one garment: cloth that is one piece, what is cut out at the neck, and lines sewn on top."""

    body: list[Point]
    sleeves: list[list[Point]]
    neck: list[Point]
    collar: list[list[Point]]
    seams: list[list[Point]]
    buttons: list[Point]


def shapes(garment: Garment, rng: random.Random) -> Shapes:
    """Return the outlines of a garment, with small variations in cut."""

    def vary(value: float, share: float = 0.05) -> float:
        return value * (1 + share * rng.uniform(-1, 1))

    top, shoulder_y = 0.10, 0.135
    neck_width = vary(0.085)
    shoulder = vary(0.205 if garment.sleeve != "sleeveless" else 0.155)
    dress = garment.category == "dress"
    waist_y = 0.40
    hem_y = {
        "dress": {"short": 0.62, "medium": 0.78, "long": 0.95},
        "shirt": {"short": 0.48, "medium": 0.64, "long": 0.80},
        "top": {"short": 0.46, "medium": 0.62, "long": 0.78},
    }[garment.category][garment.length]
    hem_y += rng.uniform(-0.012, 0.012)
    chest = vary(0.19)
    waist = vary(0.135 if dress else {"shirt": 0.19, "top": 0.165}[garment.category])
    flare = {"dress": 0.36, "shirt": 0.02, "top": 0.10}[garment.category]
    hem = waist + flare * (hem_y - waist_y) + vary(0.02, 0.5)
    armpit_y = 0.27
    right = [
        (neck_width, top),
        (shoulder, shoulder_y),
        (shoulder * 0.97 if garment.sleeve != "sleeveless" else 0.145, 0.20),
        (chest, armpit_y),
        (waist + 0.6 * (chest - waist) * 0.3, 0.34),
        (waist, waist_y),
        ((waist + hem) / 2 + (0.012 if dress else 0), (waist_y + hem_y) / 2),
        (hem, hem_y),
    ]
    hem_curve = [(hem * x, hem_y + 0.022 * (1 - x * x)) for x in (0.5, 0.0, -0.5)]
    body = [*right, *hem_curve, *[(-x, y) for x, y in reversed(right)]]
    return Shapes(
        body=body,
        sleeves=_sleeves(garment, shoulder, shoulder_y, chest, armpit_y, rng),
        neck=_neck(garment.neckline, neck_width, top),
        collar=_collar(neck_width, top) if garment.neckline == "collar" else [],
        seams=[[(-waist, waist_y), (0, waist_y + 0.008), (waist, waist_y)]] if dress else [],
        buttons=[(0.0, y) for y in np.arange(0.25, hem_y - 0.02, 0.075)] if garment.category == "shirt" else [],
    )


def _sleeves(
    garment: Garment, shoulder: float, shoulder_y: float, chest: float, armpit_y: float, rng: random.Random
) -> list[list[Point]]:
    if garment.sleeve == "sleeveless":
        return []
    if garment.sleeve == "short-sleeved":
        out, inner = (shoulder + 0.125, 0.285), (chest + 0.065, 0.335)
    else:
        out, inner = (shoulder + 0.185, 0.66), (shoulder + 0.115, 0.675)
    swing = rng.uniform(-0.015, 0.025)
    out, inner = (out[0] + swing, out[1]), (inner[0] + swing, inner[1])
    elbow = [((shoulder + out[0]) / 2 + 0.03, (shoulder_y + out[1]) / 2)]
    right = [
        (shoulder - 0.05, shoulder_y - 0.014),
        (shoulder, shoulder_y),
        *elbow,
        out,
        inner,
        (chest - 0.01, armpit_y),
    ]
    return [right, [(-x, y) for x, y in right]]


def _neck(neckline: str, width: float, top: float) -> list[Point]:
    above = [(-width, top - 0.03), (width, top - 0.03)]
    if neckline == "v-neck":
        return [*above, (width, top), (0.0, top + 0.19), (-width, top)]
    if neckline == "square neck":
        return [
            *above,
            (width + 0.015, top),
            (width + 0.01, top + 0.115),
            (-width - 0.01, top + 0.115),
            (-width - 0.015, top),
        ]
    depth = 0.055 if neckline == "collar" else 0.075
    angles = [math.pi * step / 12 for step in range(13)]
    return [*above, *[(width * math.cos(a), top + depth * math.sin(a)) for a in angles]]


def _collar(width: float, top: float) -> list[list[Point]]:
    right = [(width + 0.015, top - 0.015), (width + 0.045, top + 0.045), (0.05, top + 0.125), (0.0, top + 0.055)]
    return [right, [(-x, y) for x, y in right]]


def draw(garment: Garment, size: int, rng: random.Random) -> Image.Image:
    """Draw one photo of ``size`` x ``size`` pixels; every call with the same ``rng`` state gives the same pixels."""
    side = size * SCALE
    outline = shapes(garment, rng)
    placement = _Placement(side, rng)
    cloth = _mask(side, [placement(p) for p in [_smooth(outline.body), *outline.sleeves]])
    opening = _mask(side, [placement(outline.neck)])
    body = cloth * (1 - opening)

    texture = _cloth(garment, side, placement, rng)
    light = _light(side, placement, rng)
    photo = _background(side, rng)
    photo *= 1 - 0.22 * _blurred(np.roll(cloth, (side // 40, side // 60), axis=(0, 1)), side // 28)[..., None]
    inside = cloth * opening * (0.0 if garment.neckline == "square neck" else 1.0)
    photo = _over(photo, texture * 0.45, inside * (_rows(side) < placement.inside_limit))
    photo = _over(photo, texture * light[..., None], body)
    photo = _sew(photo, garment, outline, texture * light[..., None], body, placement)
    photo = photo * (1 + rng.uniform(-0.05, 0.04))
    image = Image.fromarray(photo.clip(0, 255).astype(np.uint8))
    return image.resize((size, size), Image.Resampling.LANCZOS)


def draw_mask(garment: Garment, size: int, rng: random.Random) -> Image.Image:
    """Draw the mask (mode L, 255 = cloth) of the photo that ``draw`` makes from the same garment, size and ``rng`` state."""
    side = size * SCALE
    outline = shapes(garment, rng)
    placement = _Placement(side, rng)
    cloth = _mask(side, [placement(p) for p in [_smooth(outline.body), *outline.sleeves]]) * (
        1 - _mask(side, [placement(outline.neck)])
    )
    return Image.fromarray((cloth * 255).astype(np.uint8)).resize((size, size), Image.Resampling.LANCZOS)


class _Placement:
    """Where the garment is in the picture: shift, scale and a slight turn; maps unit points to pixels."""

    def __init__(self, side: int, rng: random.Random) -> None:
        self.side = side
        self.scale = 0.96 * (1 + 0.04 * rng.uniform(-1, 1))
        self.turn = math.radians(3 * rng.gauss(0, 1))
        self.shift = (0.5 + 0.02 * rng.uniform(-1, 1), 0.02 * rng.uniform(-1, 1))
        self.inside_limit = side * (0.16 + self.shift[1])

    def __call__(self, points: list[Point]) -> list[Point]:
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        placed = []
        for x, y in points:
            x, y = x * self.scale, (y - 0.5) * self.scale
            placed.append(
                ((x * cos - y * sin + self.shift[0]) * self.side, (x * sin + y * cos + 0.5 + self.shift[1]) * self.side)
            )
        return placed


def _smooth(points: list[Point], steps: int = 6) -> list[Point]:
    """Return a closed Catmull-Rom curve through the points."""
    curve, count = [], len(points)
    for i in range(count):
        p0, p1, p2, p3 = (np.array(points[(i + k) % count]) for k in (-1, 0, 1, 2))
        for step in range(steps):
            t = step / steps
            q = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
            curve.append((float(q[0]) / 2, float(q[1]) / 2))
    return curve


def _mask(side: int, polygons: list[list[Point]]) -> Array:
    """Return 1 inside any of the polygons, else 0, as (side, side)."""
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    for polygon in polygons:
        pen.polygon(polygon, fill=255)
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _blurred(mask: Array, radius: int) -> Array:
    image = Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _rows(side: int) -> Array:
    return np.arange(side, dtype=np.float32)[:, None]


def _over(photo: Array, paint: Array, mask: Array) -> Array:
    return photo * (1 - mask[..., None]) + paint * mask[..., None]


def _background(side: int, rng: random.Random) -> Array:
    """A light studio backdrop: nearly white, a little darker towards one edge."""
    base = np.array([rng.uniform(226, 250)] * 3, dtype=np.float32) + np.float32(rng.uniform(-4, 4)) * np.array(
        [1, 0, -1]
    )
    slope = rng.uniform(0.0, 0.08)
    shade = 1 - slope * _rows(side) / side
    return (base[None, None] * shade[..., None] * np.ones((side, side, 1), np.float32)).astype(np.float32)


def _colour(name: str, rng: random.Random) -> Array:
    """The named colour with a little jitter."""
    light, tint = rng.uniform(0.92, 1.06), [rng.uniform(-8, 8) for _ in range(3)]
    return (np.array(COLOURS[name], dtype=np.float32) * light + np.array(tint, dtype=np.float32)).clip(8, 250)


def _cloth(garment: Garment, side: int, placement: _Placement, rng: random.Random) -> Array:
    """Return the flat cloth, (side, side, 3): first colour, pattern in the second colour."""
    first = _colour(garment.colour, rng)
    cloth = np.broadcast_to(first, (side, side, 3)).astype(np.float32)
    if garment.pattern == "plain":
        return cloth
    second = _colour(garment.second_colour, rng)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    cos, sin = math.cos(placement.turn), math.sin(placement.turn)
    x, y = x * cos + y * sin, y * cos - x * sin
    period = rng.uniform(0.085, 0.105)
    phase = rng.uniform(0, 1)
    if garment.pattern == "striped":
        amount = _band(y / period + phase, 0.5)
    elif garment.pattern == "checked":
        amount = 0.5 * _band(y / period + phase, 0.5) + 0.5 * _band(x / period + phase, 0.5)
    elif garment.pattern == "dotted":
        row = np.floor(y / period + phase)
        dx = (x / period + 0.5 * (row % 2) + phase) % 1 - 0.5
        dy = (y / period + phase) % 1 - 0.5
        amount = (dx**2 + dy**2 < 0.105).astype(np.float32)
    else:
        return _flowers(cloth, second, side, rng)
    return cloth * (1 - amount[..., None]) + second * amount[..., None]


def _band(position: Array, share: float) -> Array:
    return (position % 1 < share).astype(np.float32)


def _flowers(cloth: Array, second: Array, side: int, rng: random.Random) -> Array:
    """Scatter five-petalled flowers with a contrasting centre on a jittered grid."""
    image = Image.fromarray(cloth.astype(np.uint8))
    pen = ImageDraw.Draw(image)
    heart = (250, 214, 70) if second[0] < 200 or second[2] > 120 else (90, 60, 30)
    step = side * 0.135
    for row in range(9):
        for column in range(9):
            cx = (column + 0.5 * (row % 2)) * step + rng.uniform(-0.15, 0.15) * step
            cy = row * step + rng.uniform(-0.15, 0.15) * step
            size, turn = step * rng.uniform(0.17, 0.21), rng.uniform(0, math.tau)
            for petal in range(5):
                angle = turn + math.tau * petal / 5
                px, py = cx + size * 1.15 * math.cos(angle), cy + size * 1.15 * math.sin(angle)
                pen.ellipse([px - size, py - size, px + size, py + size], fill=tuple(int(v) for v in second))
            pen.ellipse([cx - size * 0.6, cy - size * 0.6, cx + size * 0.6, cy + size * 0.6], fill=heart)
    return np.asarray(image, dtype=np.float32)


def _light(side: int, placement: _Placement, rng: random.Random) -> Array:
    """Return the light on the cloth: soft vertical folds, darker towards the sides."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    x = x - placement.shift[0]
    folds = sum(
        rng.uniform(0.015, 0.04)
        * np.sin(math.tau * (rng.uniform(2, 6) * x + rng.uniform(-0.6, 0.6) * y + rng.random()))
        for _ in range(4)
    )
    return (1.02 - 1.1 * x**2 + folds * (0.4 + y)).astype(np.float32)


def _sew(photo: Array, garment: Garment, outline: Shapes, paint: Array, body: Array, placement: _Placement) -> Array:
    """Add what lies on top of the cloth: collar, waist seam, sleeve seams, placket and buttons, and the hem's edge."""
    side = placement.side
    dark = 0.62 if sum(COLOURS[garment.colour]) > 200 else 1.9
    thin = max(side // 140, 1)
    for part in outline.collar:
        photo = _over(photo, paint * 0.86, _mask(side, [placement(part)]))
    lines = Image.new("L", (side, side))
    pen = ImageDraw.Draw(lines)
    edges = [*outline.collar, outline.body]
    for part in [*edges, *outline.sleeves]:
        pen.line([*placement(part), placement(part)[0]], fill=130, width=thin)
    for seam in outline.seams:
        pen.line(placement(seam), fill=200, width=thin * 2)
    if outline.buttons:
        pen.line(
            placement([(0.018, outline.buttons[0][1] - 0.09), (0.018, outline.buttons[-1][1] + 0.04)]),
            fill=120,
            width=thin,
        )
    for x, y in (placement([button])[0] for button in outline.buttons):
        pen.ellipse([x - thin * 2.2, y - thin * 2.2, x + thin * 2.2, y + thin * 2.2], fill=255)
    amount = (
        np.asarray(lines, dtype=np.float32)
        / np.float32(255)
        * np.maximum(body, _mask(side, [placement(p) for p in outline.collar]))
    )
    return _over(photo, paint * dark, amount * np.float32(0.8))
