"""The person without the garment: the mask of what try-on paints, from pose and label map, for downloads without it.

The mask covers what another garment may cover: body and arms as thick strokes along the pose, neck and chest, and the whole
worn garment with a margin, so that its outline does not reveal what was worn. It leaves out head and hair, hands, held objects,
and the clothes of the other half of the body: below an upper garment the lower clothes and legs, above a lower one the upper
body. For a dress, all of the body is painted. The strokes follow VITON-HD's own recipe (10/16 of the shoulder distance wide). A
hand is the skin of an arm beyond its wrist, even in front of the body.
"""

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from unifashion.tryon.human_parsing import Labels, Point, Pose, Scheme

Half = Literal["upper", "lower", "dress"]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
GREY = (128, 128, 128)
SIDES = ("left", "right")


def agnostic_mask(labels: Labels, pose: Pose, scheme: Scheme, half: Half = "upper") -> Image.Image:
    """Return the mask of what is painted (mode L, 255 = paint), in the size of the label map.

    Args:
        labels: label of every pixel, (H, W).
        pose: points in its pixels, at least one shoulder.
        scheme: what the labels mean.
        half: where the garment is worn.
    """
    frame = Frame(pose)
    margin = max(int(frame.width / 16), 1)
    strokes = Image.new("L", labels.shape[::-1])
    pen = ImageDraw.Draw(strokes)
    kept = _is(labels, scheme.head + scheme.held)
    if half == "lower":
        worn = scheme.lower + scheme.legs
        kept |= _is(labels, scheme.upper + scheme.dress + scheme.arms + scheme.neck)
    else:
        worn = scheme.upper + scheme.dress + scheme.neck + scheme.arms
        kept &= ~_neck(labels, frame, scheme)  # a neckline may be cut lower or higher than the worn one
        kept |= _hands(labels, pose, scheme, margin)
        _draw_torso(pen, frame)
    if half == "upper":
        kept |= _is(labels, scheme.lower + scheme.legs)
    else:
        worn += scheme.lower + scheme.legs
        _draw_legs(pen, frame)
    # The strokes make the mask the same for a vest and a coat; the label map adds what is wider than the body, such as a skirt.
    painted = (np.asarray(strokes) > 0) | grow(_is(labels, worn), 2 * margin)
    return Image.fromarray(np.where(painted & ~kept, 255, 0).astype(np.uint8))


def agnostic_picture(photo: Image.Image, mask: Image.Image) -> Image.Image:
    """Return the photo with grey where the mask (of any size) is at least half."""
    paint = mask.convert("L").resize(photo.size, Image.Resampling.NEAREST).point(lambda value: 255 * (value >= 128))
    return Image.composite(Image.new("RGB", photo.size, GREY), photo, paint)


def grow(mask: Mask, pixels: int) -> Mask:
    """Return the mask with ``pixels`` more on all sides (a square around every pixel)."""
    side = 2 * pixels + 1  # the maximum over a square is that over rows, then over columns, at a fraction of the cost
    grown = F.max_pool2d(torch.from_numpy(mask)[None, None].float(), (side, 1), 1, (pixels, 0))
    grown = F.max_pool2d(grown, (1, side), 1, (0, pixels))
    return np.asarray(grown[0, 0].numpy() > 0)


class Frame:
    """The points that the strokes run along; those that the pose lacks are estimated from the others.

    ``width`` is the shoulder distance as seen from the front: from the side the shoulders are close together, but the torso is as
    long, so the width is at least 0.55 of its length.
    """

    def __init__(self, pose: Pose) -> None:
        self.points = dict(pose)
        known = [side for side in SIDES if f"{side} shoulder" in pose]
        hips = [np.array(pose[f"{side} hip"]) for side in SIDES if f"{side} hip" in pose]
        if len(known) == 1:  # mirrored at the neck, else at the middle of the body
            one = np.array(pose[f"{known[0]} shoulder"])
            middle = np.array(pose.get("neck", (hips[0][0] if hips else one[0], one[1])))
            self.points[f"{SIDES[known[0] == 'left']} shoulder"] = _point(2 * middle - one)
        left, right = (np.array(self.points[f"{side} shoulder"]) for side in SIDES)
        self.chest = (left + right) / 2
        apart = float(np.linalg.norm(left - right))
        length = float(np.linalg.norm(np.mean(hips, axis=0) - self.chest)) if hips else 1.5 * apart
        self.width = max(apart, 0.55 * length, 1.0)
        middle = np.mean(hips, axis=0) if hips else self.chest + np.array([0.0, 1.5 * self.width])
        across = (left - right) / max(apart, 1.0)
        self.hips = {"left": middle + across * self.width / 2, "right": middle - across * self.width / 2}

    def chain(self, *names: str) -> list[Point]:
        """Return the points of these names, up to the first that is unknown."""
        points: list[Point] = []
        for name in names:
            if name not in self.points:
                break  # a stroke from shoulder to wrist without the elbow would cross the body
            points.append(self.points[name])
        return points


def _draw_torso(pen: ImageDraw.ImageDraw, frame: Frame) -> None:
    unit = int(frame.width / 16) + 1
    shoulders = [frame.points[f"{side} shoulder"] for side in SIDES]
    left, right = (_point(frame.hips[side]) for side in SIDES)
    _stroke(pen, shoulders, 10 * unit)
    for side in SIDES:
        _stroke(pen, frame.chain(f"{side} shoulder", f"{side} elbow", f"{side} wrist"), 10 * unit)
    pen.polygon([*shoulders, right, left], fill=255)
    _stroke(pen, [shoulders[0], left], 6 * unit)
    _stroke(pen, [shoulders[1], right], 6 * unit)
    _stroke(pen, [left, right], 8 * unit)
    x, y = frame.points.get("neck", _point(frame.chest))
    pen.rectangle([x - 6 * unit, y - 7 * unit, x + 6 * unit, y + 7 * unit], fill=255)


def _draw_legs(pen: ImageDraw.ImageDraw, frame: Frame) -> None:
    unit = int(frame.width / 16) + 1
    waist = [_point(frame.hips[side]) for side in SIDES]
    _stroke(pen, waist, 10 * unit)
    for side in SIDES:
        _stroke(pen, frame.chain(f"{side} hip", f"{side} knee", f"{side} ankle"), 10 * unit)
    ends = [frame.chain(f"{side} hip", f"{side} knee", f"{side} ankle")[-1:] for side in SIDES]
    if all(ends):  # a skirt also covers what is between the legs
        pen.polygon([waist[0], *ends[0], *ends[1], waist[1]], fill=255)


def _stroke(pen: ImageDraw.ImageDraw, points: list[Point], width: int) -> None:
    if len(points) > 1:
        pen.line(points, fill=255, width=width)
    for x, y in points if len(points) > 1 else []:
        half = width / 2
        pen.ellipse([x - half, y - half, x + half, y + half], fill=255)


def _hands(labels: Labels, pose: Pose, scheme: Scheme, margin: int) -> Mask:
    """Return the skin of each arm from a little beyond the wrist (a cuff ends there) as far as a hand reaches."""
    hands = np.zeros(labels.shape, dtype=bool)
    ys, xs = np.indices(labels.shape)
    for side, arm in zip(SIDES, scheme.arms, strict=True):
        if f"{side} elbow" not in pose or f"{side} wrist" not in pose:
            continue  # without the direction of the forearm, a hand cannot be told from a bare arm
        elbow, wrist = (np.array(pose[f"{side} {part}"]) for part in ("elbow", "wrist"))
        length = float(np.linalg.norm(wrist - elbow))
        if length < 1:
            continue
        (ux, uy), (x, y) = (wrist - elbow) / length, wrist
        beyond = (xs - x) * ux + (ys - y) * uy > 0.12 * length
        near = (xs - x) ** 2 + (ys - y) ** 2 < max(0.9 * length, 6 * margin) ** 2
        hands |= (labels == arm) & beyond & near
    return hands


def _neck(labels: Labels, frame: Frame, scheme: Scheme) -> Mask:
    """Return the neck in a label map that counts it as face: all of the face that is lower than a chin can be."""
    if not scheme.face_has_neck:
        return np.zeros(labels.shape, dtype=bool)
    (x0, y0), (x1, y1) = (frame.points[f"{side} shoulder"] for side in SIDES)
    slope = (y1 - y0) / (x1 - x0) if abs(x1 - x0) > 1 else 0.0
    ys, xs = np.indices(labels.shape)
    line = frame.chest[1] + slope * (xs - frame.chest[0]) - 0.25 * frame.width
    return (labels == scheme.face) & (ys > line)


def _is(labels: Labels, parts: tuple[int, ...]) -> Mask:
    return np.isin(labels, parts)


def _point(values: np.ndarray[Any, Any]) -> Point:
    return float(values[0]), float(values[1])
