"""The files of a person that maps are made from, beside the photo: label map and pose, in the layouts of both try-on sets."""

from dataclasses import dataclass
from pathlib import Path

from unifashion.data.images import ImageError
from unifashion.errors import UserError
from unifashion.tryon.agnostic import Half
from unifashion.tryon.human_parsing import (
    ATR,
    LIP,
    Labels,
    Pose,
    Scheme,
    Size,
    check_fit,
    read_body_25,
    read_coco_18,
    read_labels,
)

HALVES: dict[str, Half] = {"dresses": "dress", "lower_body": "lower", "upper_body": "upper"}  # by DressCode's folders


@dataclass(frozen=True)
class Body:
    """One person: the photo, and the files that maps are made from (which may be missing)."""

    photo: Path
    labels: Path
    pose: Path
    surface: Path | None
    scheme: Scheme
    half: Half

    @classmethod
    def of(cls, name: str, photo: Path) -> "Body":
        """Return the person of a photo of VITON-HD (SPLIT/image/NAME.jpg) or DressCode (CATEGORY/images/NAME_0.jpg)."""
        home = photo.parent.parent
        if home.name not in HALVES:
            pose = home / "openpose_json" / f"{name}_keypoints.json"
            return cls(photo, home / "image-parse-v3" / f"{name}.png", pose, None, LIP, "upper")
        labels, pose = home / "label_maps" / f"{name}_4.png", home / "keypoints" / f"{name}_2.json"
        surface = home / "dense" / f"{name}_5.png"
        return cls(photo, labels, pose, surface if surface.is_file() else None, ATR, HALVES[home.name])

    def read_pose(self, labels: Labels) -> Pose:
        """Return the points in pixels of the photo, whose size the labels have; labels that do not fit are an error."""
        size = labels.shape[1], labels.shape[0]
        pose = read_body_25(self.pose, size) if self.scheme is LIP else read_coco_18(self.pose, size)
        check_fit(self.labels, labels, pose, self.scheme)
        return pose

    def read_labels(self, size: Size) -> Labels:
        """Return the labels in the photo's size, compared with the pose where that can be read: these maps do without it."""
        labels = read_labels(self.labels, self.scheme, size)
        try:
            self.read_pose(labels)
        except ImageError:
            raise
        except UserError:
            pass
        return labels
