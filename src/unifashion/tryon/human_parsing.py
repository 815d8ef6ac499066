"""Where the parts of a person are: pose points and label maps, in the formats of VITON-HD and DressCode.

Pose points come as BODY-25 in the photo's pixels (VITON-HD: openpose_json/N_keypoints.json) or as 18 points in pixels of a
photo of 384 x 512 (DressCode: keypoints/N_2.json); right and left are the person's own. Label maps hold one label per pixel:
LIP's 20 in the form of VITON-HD's image-parse-v3, where 10 is the skin of neck and chest, or the 18 of ATR (DressCode:
label_maps/N_4.png).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unifashion.data.annotations import read_json_object
from unifashion.data.images import ImageError, load_stored
from unifashion.errors import UserError

Point = tuple[float, float]
Pose = dict[str, Point]
Labels = np.ndarray[Any, np.dtype[np.uint8]]

_UPPER = ("nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist")
_LEGS = ("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle")
BODY_25 = {**{name: index for index, name in enumerate(_UPPER)}, **{name: 9 + k for k, name in enumerate(_LEGS)}}
COCO_18 = {**{name: index for index, name in enumerate(_UPPER)}, **{name: 8 + k for k, name in enumerate(_LEGS)}}
KEYPOINT_HEIGHT = 512  # of the photos that DressCode's points refer to
CERTAIN = 0.05  # least confidence of a point that counts as detected


@dataclass(frozen=True)
class Scheme:
    """The labels of each body part; ``held``: shoes and bags. ``face_has_neck``: the neck counts as face."""

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
    head=(1, 2, 4, 13), face=13, neck=(10,), upper=(5, 7, 11), dress=(6,), lower=(9, 12), arms=(14, 15), legs=(8, 16, 17),
    held=(18, 19), count=20,
)  # fmt: skip
ATR = Scheme(
    head=(1, 2, 3, 11), face=11, neck=(), upper=(4, 17), dress=(7,), lower=(5, 6, 8), arms=(14, 15), legs=(12, 13),
    held=(9, 10, 16), count=18, face_has_neck=True,
)  # fmt: skip


def read_body_25(path: Path) -> Pose:
    """Return the points of the first person in a file of OpenPose; those that were not detected are absent.

    Raises:
        UserError: not such a file, nobody in it, or nobody with a shoulder.
    """
    people = read_json_object(path).get("people")
    if not isinstance(people, list):
        raise UserError(f"{path}: no list 'people'; expected the output of OpenPose")
    if not people:
        raise UserError(f"{path}: no person was detected in the photo (the list 'people' is empty); leave the pair out")
    values = people[0].get("pose_keypoints_2d") if isinstance(people[0], dict) else None
    rows = [values[k : k + 3] for k in range(0, len(values), 3)] if isinstance(values, list) else []
    return _pose(path, rows, BODY_25, 25, 1.0)


def read_coco_18(path: Path, height: int) -> Pose:
    """Return the points of a file of DressCode in pixels of a photo ``height`` pixels high; errors as ``read_body_25``."""
    rows = read_json_object(path).get("keypoints")
    return _pose(path, rows if isinstance(rows, list) else [], COCO_18, 18, height / KEYPOINT_HEIGHT)


def _pose(path: Path, rows: list[Any], index_of: dict[str, int], count: int, scale: float) -> Pose:
    try:
        points = np.array([[float(value) for value in row[:3]] for row in rows])
    except (TypeError, ValueError, OverflowError):
        points = np.empty(0)
    if points.shape != (count, 3) or not np.isfinite(points).all():
        raise UserError(f"{path}: expected {count} points of x, y and confidence")
    sure = (points[:, 2] > CERTAIN) & (points[:, 0] >= 0) & (points[:, 1] >= 0) & (points[:, :2].sum(1) > 0)
    pose = {name: (points[n, 0] * scale, points[n, 1] * scale) for name, n in index_of.items() if sure[n]}
    if "right shoulder" not in pose and "left shoulder" not in pose:
        raise UserError(
            f"{path}: no person was detected in the photo (no shoulder among the points); leave the pair out"
        )
    return pose


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
