"""What try-on metrics are computed from: results with their photos, prepared as each profile does; profiles are never mixed.

    profile   owner             SSIM                       LPIPS                      FID and KID            CLIP-S
    catvton   CatVTON           RGB                        squeeze                    clean-fid              -
    ladi      LaDI-VTON         RGB, at 512 x 384          alex, at 512 x 384         clean-fid              -
    hrviton   HR-VITON          grey, inner pixels         alex, at 128 x 128         -                      -
    mgd       MGD (design)      -                          -                          clean-fid              ViT-H/14

SSIM and LPIPS compare a result with the photo of the same person in the same garment and exist for paired results only. FID
and KID compare the set of results with the set of photos. The photo is resized to the size of the result (catvton: Lanczos, for
FID too; hrviton: bilinear); ladi resizes both, bilinear, for SSIM and LPIPS, and gives the files to FID as they are. CatVTON's
script keeps a photo that it has resized under the photo's own name: a .jpg is compressed anew, at Pillow's quality 75, before it
is compared. The profile catvton does so too; catvton-lossless is the same without it, and not what papers print. KID is the mean
over 100 subsets of at most 1000 pictures, times 1000. CLIP-S looks at the box around the painted region, fitted into a white
square, and at the caption: 100 cos, mean over the pictures, not below 0. The networks: image_networks.py.

The rows of metrics.py say which metrics a profile has. Shapes: B rows, N pictures, F features.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from unifashion.data.images import load_image
from unifashion.errors import UserError
from unifashion.evaluation.image_distances import features
from unifashion.evaluation.image_networks import Backbone
from unifashion.tryon.masks import read_mask

BORDER = 5  # pixels; half of SSIM's window
SHAPE_TOLERANCE = 0.02
JPEG_SUFFIXES, JPEG_QUALITY = (".jpg", ".jpeg"), 75  # Pillow's own quality, which CatVTON's script leaves as it is

Pairing = Literal["paired", "unpaired"]
ProfileName = Literal["catvton", "catvton-lossless", "ladi", "hrviton", "mgd"]
Device = torch.device | str


@dataclass(frozen=True)
class Profile:
    """How one group of papers measures. Sizes are (height, width); None = that of the result."""

    name: ProfileName
    grey: bool = False
    backbone: Backbone = "alex"
    resample: Image.Resampling = Image.Resampling.BILINEAR
    size: tuple[int, int] | None = None
    lpips_size: tuple[int, int] | None = None
    resized_truth_for_fid: bool = False
    jpeg_truth: bool = False


_CATVTON = Profile(
    "catvton", backbone="squeeze", resample=Image.Resampling.LANCZOS, resized_truth_for_fid=True, jpeg_truth=True
)
PROFILES: dict[ProfileName, Profile] = {
    "catvton": _CATVTON,
    "catvton-lossless": replace(_CATVTON, name="catvton-lossless", jpeg_truth=False),
    "ladi": Profile("ladi", size=(512, 384)),
    "hrviton": Profile("hrviton", grey=True, lpips_size=(128, 128)),
    "mgd": Profile("mgd"),
}


@dataclass(frozen=True, slots=True)
class Result:
    """A generated picture, the photo of the person, and for CLIP-S the mask of what was painted (white) and the caption."""

    picture: Path
    truth: Path
    mask: Path | None = None
    text: str = ""


# One result beside its photo ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A result and the photo it should show, both at the size at which the profile compares them."""

    picture: Image.Image
    truth: Image.Image
    profile: Profile
    device: Device = "cpu"

    @classmethod
    def read(cls, result: Result, profile: Profile, device: Device = "cpu") -> "Pair":
        """Read both files.

        Raises:
            UserError: a file that is not a picture, one whose shape differs from its photo's, one too small for SSIM's window.
        """
        picture, truth = load_image(result.picture), load_image(result.truth)
        ratio = (picture.width / picture.height) / (truth.width / truth.height)
        if abs(ratio - 1) > SHAPE_TOLERANCE:
            raise UserError(
                f"{result.picture} has {picture.width} x {picture.height} pixels, which is not the shape of {result.truth} "
                f"({truth.width} x {truth.height}); score results of the whole photo"
            )
        if profile.size is not None:
            picture = _resized(picture, (profile.size[1], profile.size[0]), profile.resample)
        if min(picture.size) <= 2 * BORDER:
            raise UserError(
                f"{result.picture} has {picture.width} x {picture.height} pixels; SSIM needs more than {2 * BORDER}"
            )
        return cls(picture, _resized_truth(result.truth, truth, picture.size, profile), profile, device)

    def pixels(self, grey: bool = False, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Return result and photo as (1, C, H, W) in [0, 1]; ``size`` = (height, width), None = as they are."""
        images = [image.convert("L") if grey else image for image in (self.picture, self.truth)]
        if size is not None:
            images = [_resized(image, (size[1], size[0]), self.profile.resample) for image in images]
        return to_pixels(images[0], self.device), to_pixels(images[1], self.device)


def _resized(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, resample)


def _resized_truth(path: Path, image: Image.Image, size: tuple[int, int], profile: Profile) -> Image.Image:
    """Return a photo at the size of the results, and compressed anew where the profile's script does so."""
    resized = _resized(image, size, profile.resample)
    if resized is image or not profile.jpeg_truth or path.suffix.lower() not in JPEG_SUFFIXES:
        return resized
    file = io.BytesIO()
    resized.save(file, "JPEG", quality=JPEG_QUALITY)
    return Image.open(file).convert("RGB")


def to_pixels(image: Image.Image, device: Device) -> Tensor:
    """Return a picture as (1, C, H, W) in [0, 1]."""
    array = np.asarray(image, dtype=np.float32) / 255
    pixels = torch.from_numpy(array[..., None] if array.ndim == 2 else array)
    return pixels.permute(2, 0, 1)[None].to(device)


# All results at once --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """All results of a folder, for metrics of sets; ``seed`` is for those that draw subsets."""

    results: Sequence[Result]
    profile: Profile
    batch_size: int = 32
    device: Device = "cpu"
    seed: int = 0
    progress: bool = True
    _features: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def features(self, network: nn.Module) -> tuple[Tensor, Tensor]:
        """Return a network's features of the results (N, F) and of the photos (M, F), computed once for all metrics.

        Raises:
            UserError: fewer than two of either, too few to compute a distance.
        """
        if id(network) not in self._features:
            files = [result.picture for result in self.results]
            photos = list(dict.fromkeys(result.truth for result in self.results))
            self._features[id(network)] = (
                features(files, load_image, network, self.batch_size, self.device, self.progress),
                features(photos, self._truth_reader(), network, self.batch_size, self.device, self.progress),
            )
        drawn_NF, real_MF = self._features[id(network)]
        if min(len(drawn_NF), len(real_MF)) < 2:
            raise UserError("FID and KID need at least two results and the photos of two persons")
        return drawn_NF, real_MF

    def _truth_reader(self) -> Callable[[Path], Image.Image]:
        if not self.profile.resized_truth_for_fid:
            return load_image
        height = load_image(self.results[0].picture).height

        def read(path: Path) -> Image.Image:
            image = load_image(path)
            size = int(image.width * height / image.height), height
            return image if image.height == height else _resized_truth(path, image, size, self.profile)

        return read


def painted_box(result: Result, side: int) -> Image.Image:
    """Return what CLIP-S looks at: the ``painted_region`` of a result that has a caption.

    Raises:
        UserError: the result has no caption or mask, or nothing in the mask is white.
    """
    if result.mask is None or not result.text.strip():
        lacking = "caption" if result.mask is not None else "agnostic mask"
        raise UserError(f"{result.picture}: CLIP-S needs a caption and an agnostic mask, and there is no {lacking}")
    return painted_region(result.picture, result.mask, side)


def painted_region(path: Path, mask: Path, side: int | None = None) -> Image.Image:
    """Return the box around what a mask paints in a picture, in the middle of a white square.

    Args:
        path: of the picture, which may have another size than the mask.
        mask: of what is painted (white).
        side: of the square, in pixels, into which the box is scaled; None = the longer side of the box, as it is.

    Raises:
        UserError: a file that cannot be read, or nothing in the mask is white.
    """
    picture = load_image(path)
    box = read_mask(mask).resize(picture.size, Image.Resampling.NEAREST).getbbox()
    if box is None:
        raise UserError(f"{mask}: what it paints is smaller than a pixel of {path}, so there is no region to look at")
    cut = picture.crop(box)
    side = side or max(cut.size)
    factor = side / max(cut.size)
    cut = cut.resize((max(round(cut.width * factor), 1), max(round(cut.height * factor), 1)), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return canvas
