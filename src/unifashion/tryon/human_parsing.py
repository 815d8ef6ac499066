"""Where the parts of a person are: pose points and label maps, in the formats of VITON-HD and DressCode.

Pose points come as BODY-25 (VITON-HD: openpose_json/N_keypoints.json) or as 18 points in pixels of a
photo of 384 x 512 (DressCode: keypoints/N_2.json); right and left are the person's own. Label maps hold one label per pixel:
LIP's 20 in the form of VITON-HD's image-parse-v3, where 10 is the skin of neck and chest, or the 18 of ATR (DressCode:
label_maps/N_4.png).
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unifashion.data.annotations import read_json_object
from unifashion.data.images import ImageError, load_stored
from unifashion.errors import UserError

log = logging.getLogger(__name__)

Point = tuple[float, float]
Pose = dict[str, Point]
Points = np.ndarray[Any, np.dtype[Any]]  # (N, 3): x, y, confidence
Size = tuple[int, int]  # width, height in pixels
Labels = np.ndarray[Any, np.dtype[np.uint8]]

_UPPER = ("nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist")
_LEGS = ("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle")
BODY_25 = {**{name: index for index, name in enumerate(_UPPER)}, **{name: 9 + k for k, name in enumerate(_LEGS)}}
COCO_18 = {**{name: index for index, name in enumerate(_UPPER)}, **{name: 8 + k for k, name in enumerate(_LEGS)}}
KEYPOINT_HEIGHT = 512  # of the photos that DressCode's points refer to
CERTAIN = 0.05  # least confidence of a point that counts as detected
OUTSIDE = 1.1  # sides of the photo; detectors guess a hip a little below the edge, but not further


@dataclass(frozen=True)
class Scheme:
    """The labels of each body part; ``held``: shoes and bags. ``face_has_neck``: the neck counts as face."""

    name: str
    head: tuple[int, ...]
    face: int
    neck: tuple[int, ...]
    upper: tuple[int, ...]
    dress: tuple[int, ...]
    lower: tuple[int, ...]
    arms: tuple[int, int]  # left, right
    legs: tuple[int, ...]
    held: tuple[int, ...]
    count: int
    face_has_neck: bool = False


LIP = Scheme(
    name="LIP",
    head=(1, 2, 4, 13), face=13, neck=(10,), upper=(5, 7, 11), dress=(6,), lower=(9, 12), arms=(14, 15), legs=(8, 16, 17),
    held=(18, 19), count=20,
)  # fmt: skip
ATR = Scheme(
    name="ATR",
    head=(1, 2, 3, 11), face=11, neck=(), upper=(4, 17), dress=(7,), lower=(5, 6, 8), arms=(14, 15), legs=(12, 13),
    held=(9, 10, 16), count=18, face_has_neck=True,
)  # fmt: skip


def read_body_25(path: Path, size: Size) -> Pose:
    """Return the points of the largest person in a file of OpenPose, in pixels of the photo; undetected ones are absent.

    Coordinates may be pixels of the photo, of the file's own ``canvas_width`` and ``canvas_height``, or shares of the sides
    (0 to 1, or -1 to 1 from the middle).

    Args:
        path: the file.
        size: width and height of the photo.

    Raises:
        UserError: not such a file, nobody in it, nobody with a shoulder, or points outside of the photo.
    """
    document = read_json_object(path)
    people = document.get("people")
    if not isinstance(people, list):
        raise UserError(f"{path}: no list 'people'; expected the output of OpenPose")
    if not people:
        raise UserError(f"{path}: no person was detected in the photo (the list 'people' is empty); leave the pair out")
    everyone = [_points(path, _triples(person), 25) for person in people]
    largest = max(everyone, key=_extent)
    if len(everyone) > 1:
        log.info("%s: %d persons; the largest is taken", path, len(everyone))
    canvas = document.get("canvas_width"), document.get("canvas_height")
    has_canvas = all(isinstance(side, int | float) and 0 < side < 10**6 for side in canvas)
    return _pose(path, largest, BODY_25, size, canvas if has_canvas else size)


def read_coco_18(path: Path, size: Size) -> Pose:
    """Return the points of a file of DressCode in pixels of a photo; arguments and errors as ``read_body_25``."""
    rows = read_json_object(path).get("keypoints")
    canvas = (size[0] * KEYPOINT_HEIGHT / size[1], KEYPOINT_HEIGHT)
    return _pose(path, _points(path, rows if isinstance(rows, list) else [], 18), COCO_18, size, canvas)


def _triples(person: Any) -> list[Any]:
    values = person.get("pose_keypoints_2d") if isinstance(person, dict) else None
    return [values[k : k + 3] for k in range(0, len(values), 3)] if isinstance(values, list) else []


def _points(path: Path, rows: list[Any], count: int) -> Points:
    try:
        points = np.array([[float(value) for value in row[:3]] for row in rows])
    except (TypeError, ValueError, OverflowError):
        points = np.empty(0)
    if points.shape != (count, 3) or not np.isfinite(points).all():
        raise UserError(f"{path}: expected {count} points of x, y and confidence")
    return points


def _is_sure(points: Points) -> Points:
    return np.asarray((points[:, 2] > CERTAIN) & (np.abs(points[:, :2]).sum(axis=1) > 0))


def _extent(points: Points) -> float:
    """Return how large a person is: width plus height of the box around the points."""
    sure = points[_is_sure(points), :2]
    return float(np.ptp(sure, axis=0).sum()) if len(sure) else 0.0


def _pose(path: Path, points: Points, index_of: dict[str, int], size: Size, canvas: Any) -> Pose:
    sure = _is_sure(points)
    places = points[:, :2].copy()
    if sure.sum() > 1 and np.abs(places[sure]).max() <= 1:  # shares of the sides
        places = (places + 1) / 2 if places[sure].min() < 0 else places
        canvas = (1, 1)
    places *= np.array(size) / np.array(canvas)
    sure &= (places >= 0).all(axis=1)
    beyond = sure & (places > OUTSIDE * np.array(size)).any(axis=1)
    if beyond.any():
        x, y = places[beyond].max(axis=0)
        raise UserError(
            f"{path}: points reach to ({x:.0f}, {y:.0f}), but the photo has {size[0]} x {size[1]} pixels; the pose belongs to "
            "another size or photo (name its size as canvas_width and canvas_height in the file)"
        )
    pose = {name: (float(places[n, 0]), float(places[n, 1])) for name, n in index_of.items() if sure[n]}
    if "right shoulder" not in pose and "left shoulder" not in pose:
        raise UserError(
            f"{path}: no person was detected in the photo (no shoulder among the points); leave the pair out"
        )
    return pose


def check_fit(path: Path, labels: Labels, pose: Pose, scheme: Scheme) -> None:
    """Raise ``ImageError`` where the labels do not fit the pose: they use other numbers, or one of them is of another photo.

    A label fits where it is possible at a point: the head at the nose, clothes or skin at shoulders, elbows, hips and knees.
    """
    own, others = _fitting(labels, pose, scheme), {one.name: _fitting(labels, pose, one) for one in (LIP, ATR)}
    best = max(others, key=lambda name: others[name])
    if others[best] > own:
        raise ImageError(
            path, f"its labels fit the pose by the numbers of {best}, not by those of {scheme.name}; renumber them"
        )
    if own < 0.5:
        raise ImageError(
            path, f"only {own:.0%} of the pose's points lie on the body it shows; one of them is of another photo"
        )


def _fitting(labels: Labels, pose: Pose, scheme: Scheme) -> float:
    clothes = scheme.upper + scheme.dress + scheme.lower
    skin = scheme.arms + scheme.neck + scheme.legs
    height, width = labels.shape
    fits = []
    for name, (x, y) in pose.items():
        part = name.rpartition(" ")[2]
        allowed = scheme.head if part == "nose" else clothes + skin + scheme.held
        if part in ("neck", "shoulder"):
            allowed += scheme.head  # long hair
        if part != "ankle":  # often at the edge of the photo, or in a shoe
            fits.append(labels[min(int(y), height - 1), min(int(x), width - 1)] in allowed)
    return sum(fits) / len(fits) if fits else 1.0


def read_labels(path: Path, scheme: Scheme, size: tuple[int, int]) -> Labels:
    """Return a label map (H, W) in the photo's size.

    Args:
        path: an indexed or grey picture.
        scheme: the meaning of its labels.
        size: width and height of the photo.

    Raises:
        ImageError: not a picture, colours in place of labels, labels beyond the scheme, another aspect ratio than the photo's.
    """
    picture = load_stored(path)
    if picture.mode not in ("L", "P", "1"):
        raise ImageError(path, f"a label map holds one number per pixel (mode P or L), this is {picture.mode}")
    if abs(picture.width * size[1] / (picture.height * size[0]) - 1) > 0.02:
        raise ImageError(
            path, f"{picture.width} x {picture.height} pixels do not fit the photo of {size[0]} x {size[1]}"
        )
    labels = np.asarray(picture.resize(size, Image.Resampling.NEAREST), dtype=np.uint8)
    if labels.max() >= scheme.count:
        raise ImageError(path, f"holds the number {labels.max()}; labels are 0 to {scheme.count - 1}")
    if not labels.any():
        raise ImageError(path, "all pixels are background")
    return labels
