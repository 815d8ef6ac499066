"""Scores of drawn pictures: SSIM, LPIPS, FID, KID and CLIP-S, in named profiles that are never mixed.

    profile   owner             SSIM                       LPIPS                      FID and KID            CLIP-S
    catvton   CatVTON           RGB                        squeeze                    clean-fid              -
    ladi      LaDI-VTON         RGB, at 512 x 384          alex, at 512 x 384         clean-fid              -
    hrviton   HR-VITON          grey, inner pixels         alex, at 128 x 128         -                      -
    mgd       MGD (design)      -                          -                          clean-fid              ViT-H/14

SSIM and LPIPS compare a result with the photo of the same person in the same garment and exist for paired results alone. FID
and KID compare the results with the photos of the persons. The truth is brought to the size of the result (catvton: Lanczos, for
FID too; hrviton: bilinear); ladi resizes both, bilinear, for SSIM and LPIPS, and hands the files as they are to FID. KID is the
mean over 100 subsets of at most 1000 pictures, times 1000. CLIP-S looks at the box around what was painted, fitted into a white
square, and at the caption: max(100 cos, 0), mean of the pictures. The networks: image_networks.py.

A protocol is ``tryon/PROFILE/PAIRING`` (``design/mgd/PAIRING``). What else changes a number is part of its name: ``+repaint``,
``+jpg`` (results that are not PNG), ``+NAME`` of a network that is not the profile's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from tqdm import tqdm

from unifashion.data.images import load_image
from unifashion.errors import UserError
from unifashion.evaluation.bootstrap import interval
from unifashion.evaluation.image_distances import NUM_SUBSETS, features, frechet_distance, kernel_distance
from unifashion.evaluation.image_networks import INCEPTION as INCEPTION_FILE
from unifashion.evaluation.image_networks import Backbone, ClipScorer, Inception, Lpips, open_clip_scorer, open_lpips
from unifashion.evaluation.scores import Metric

SSIM, LPIPS, FID, KID, CLIP_S = "SSIM", "LPIPS", "FID", "KID x1000", "CLIP-S"
BORDER = 5  # pixels
FEW = 2048  # pictures; below, the covariance of Inception's features is singular
SHAPE_TOLERANCE = 0.02
KID_NOTE = f"the deviation of KID is that over its {NUM_SUBSETS} subsets of the pictures"

Pairing = Literal["paired", "unpaired"]
ProfileName = Literal["catvton", "ladi", "hrviton", "mgd"]


@dataclass(frozen=True)
class Profile:
    """How one group of papers measures. Sizes are (height, width); None = that of the result."""

    name: ProfileName
    metrics: tuple[str, ...]
    grey: bool = False
    backbone: Backbone | None = None
    resample: Image.Resampling = Image.Resampling.BILINEAR
    size: tuple[int, int] | None = None
    lpips_size: tuple[int, int] | None = None
    resized_truth_for_fid: bool = False

    def wanted(self, pairing: Pairing) -> tuple[str, ...]:
        """Return the metrics that a pairing has."""
        return tuple(name for name in self.metrics if pairing == "paired" or name not in (SSIM, LPIPS))


PROFILES: dict[ProfileName, Profile] = {
    "catvton": Profile(
        "catvton",
        (SSIM, LPIPS, FID, KID),
        backbone="squeeze",
        resample=Image.Resampling.LANCZOS,
        resized_truth_for_fid=True,
    ),
    "ladi": Profile("ladi", (SSIM, LPIPS, FID, KID), backbone="alex", size=(512, 384)),
    "hrviton": Profile("hrviton", (SSIM, LPIPS), grey=True, backbone="alex", lpips_size=(128, 128)),
    "mgd": Profile("mgd", (FID, KID, CLIP_S)),
}


@dataclass(frozen=True, slots=True)
class Result:
    """A drawn picture, the photo of the person, and for CLIP-S the mask of what was painted (white) and the caption."""

    picture: Path
    truth: Path
    mask: Path | None = None
    text: str = ""


@dataclass
class Networks:
    """What the metrics look through. ``names`` hold, per metric, the name of one that is not the profile's."""

    inception: nn.Module | None = None
    lpips: Lpips | None = None
    clip: ClipScorer | None = None
    names: dict[str, str] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> "Networks":
        """Move all of them."""
        for module in (self.inception, self.lpips, self.clip):
            if module is not None:
                module.to(device)
        return self

    def can(self, metric: str) -> bool:
        """Return whether a metric has its network; SSIM needs none."""
        needs = {LPIPS: self.lpips, FID: self.inception, KID: self.inception, CLIP_S: self.clip}
        return metric not in needs or needs[metric] is not None


def open_networks(profile: Profile, pairing: Pairing, folder: Path) -> tuple[Networks, list[str]]:
    """Open what a profile needs and ``folder`` has; for what it lacks, one sentence each that says how to get it."""
    networks, lacking = Networks(), []
    wanted = profile.wanted(pairing)

    def opened(metric: str, open_it: Callable[[], Any]) -> Any:
        if metric not in wanted:
            return None
        try:
            return open_it()
        except UserError as error:
            lacking.append(str(error))
            return None

    networks.lpips = opened(LPIPS, lambda: open_lpips(profile.backbone or "alex", folder))
    networks.inception = opened(FID, lambda: Inception(INCEPTION_FILE.find(folder)))
    networks.clip = opened(CLIP_S, lambda: open_clip_scorer(folder))
    return networks, lacking


def score_images(
    results: Sequence[Result],
    profile: Profile,
    pairing: Pairing,
    networks: Networks,
    *,
    repaint: bool = False,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: bool = True,
) -> list[Metric]:
    """Measure results by one profile, as far as there are networks for it.

    Args:
        results: the pictures, each once.
        profile: of ``PROFILES``.
        pairing: whether they show the garment of the photo.
        networks: see ``open_networks``; moved to the device.
        repaint: whether pixels of the photo were pasted back; named in the protocol.
        batch_size: pictures that a network sees at once.
        device: where the networks run.
        seed: of KID's subsets.
        progress: show a bar.

    Raises:
        UserError: no result, one for FID, files that cannot be read, a picture of another shape than the photo's, no mask or
            caption for CLIP-S.
    """
    if not results:
        raise UserError("there are no results to score")
    networks.to(device)
    wanted = [metric for metric in profile.wanted(pairing) if networks.can(metric)]
    name = protocol_name(profile, pairing, results, repaint)
    found: list[Metric] = []
    for metric, values in _compared(results, profile, wanted, networks, device, progress).items():
        low, high = interval([values])
        bounds = (None, None) if low is None or high is None else (low / 100, high / 100)
        full_name = name + _suffix(networks, metric)
        found.append(
            Metric(full_name, metric, float(np.mean(values)), len(values), None, low=bounds[0], high=bounds[1])
        )
    if FID in wanted:
        found += _distances(results, profile, networks, name, batch_size, device, seed, progress)
    if CLIP_S in wanted and networks.clip is not None:
        values = clip_scores(results, networks.clip, batch_size, device, progress)
        found.append(Metric(name + _suffix(networks, CLIP_S), CLIP_S, float(np.mean(values)), len(values), None))
    return found


def protocol_name(profile: Profile, pairing: Pairing, results: Sequence[Result], repaint: bool) -> str:
    """Return the name under which numbers of these results may be compared."""
    kinds = sorted({result.picture.suffix.lower().lstrip(".").replace("jpeg", "jpg") for result in results} - {"png"})
    room = "design" if profile.name == "mgd" else "tryon"
    return "+".join([f"{room}/{profile.name}/{pairing}", *(["repaint"] if repaint else []), *kinds])


def _suffix(networks: Networks, metric: str) -> str:
    return f"+{networks.names[metric]}" if metric in networks.names else ""


# Pictures against their truth -----------------------------------------------------------------------------------------


def ssim(first_BCHW: Tensor, second_BCHW: Tensor, inner: bool = False) -> Tensor:
    """Return the structural similarity (B,) of pictures in [0, 1] (Wang et al., 2004): a Gaussian window of deviation 1.5.

    Single precision, as in the profiles' own scripts: in plain areas equal pictures get up to 0.0001 less than 1. ``inner``
    leaves out the 5 pixels at each edge, where the window hangs over, as scikit-image does.
    """
    found = structural_similarity_index_measure(
        first_BCHW, second_BCHW, data_range=1.0, reduction="none", return_full_image=inner
    )
    if not isinstance(found, tuple):
        return found.reshape(len(first_BCHW))
    return found[1][..., BORDER:-BORDER, BORDER:-BORDER].flatten(1).mean(1)


def _compared(
    results: Sequence[Result],
    profile: Profile,
    wanted: Sequence[str],
    networks: Networks,
    device: torch.device | str,
    progress: bool,
) -> dict[str, list[float]]:
    """Return SSIM and LPIPS of every result, where wanted."""
    values: dict[str, list[float]] = {metric: [] for metric in (SSIM, LPIPS) if metric in wanted}
    for result in tqdm(results if values else (), desc="comparing", disable=not progress, dynamic_ncols=True):
        picture, truth = _pair(result, profile)
        if SSIM in values:
            pixels = [_share(_grey(image) if profile.grey else image, device) for image in (picture, truth)]
            values[SSIM].append(float(ssim(pixels[0], pixels[1], inner=profile.grey)))
        if LPIPS in values and networks.lpips is not None:
            if profile.lpips_size is not None:
                height, width = profile.lpips_size
                picture, truth = (image.resize((width, height), profile.resample) for image in (picture, truth))
            values[LPIPS].append(float(networks.lpips(*(2 * _share(image, device) - 1 for image in (picture, truth)))))
    return values


def _pair(result: Result, profile: Profile) -> tuple[Image.Image, Image.Image]:
    """Return result and truth at the size at which the profile compares them."""
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
    return picture, _resized(truth, picture.size, profile.resample)


def _resized(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, resample)


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("L")


def _share(image: Image.Image, device: torch.device | str) -> Tensor:
    """Return a picture as (1, C, H, W) in [0, 1]."""
    array = np.asarray(image, dtype=np.float32) / 255
    pixels = torch.from_numpy(array[..., None] if array.ndim == 2 else array)
    return pixels.permute(2, 0, 1)[None].to(device)


# Sets of pictures against one another ---------------------------------------------------------------------------------


def _distances(
    results: Sequence[Result],
    profile: Profile,
    networks: Networks,
    name: str,
    batch_size: int,
    device: torch.device | str,
    seed: int,
    progress: bool,
) -> list[Metric]:
    size = load_image(results[0].picture).size if profile.resized_truth_for_fid else None

    def truth(path: Path) -> Image.Image:
        image = load_image(path)
        if size is None or image.height == size[1]:
            return image
        return image.resize((int(image.width * size[1] / image.height), size[1]), profile.resample)

    assert networks.inception is not None
    drawn_NF, real_NF = (
        features(files, read, networks.inception, batch_size, device, progress)
        for files, read in (
            ([result.picture for result in results], load_image),
            (list(dict.fromkeys(result.truth for result in results)), truth),
        )
    )
    fewest = min(len(drawn_NF), len(real_NF))
    if fewest < 2:
        raise UserError("FID and KID need at least two results and the photos of two persons")
    note = f"FID of fewer than {FEW} pictures is biased upwards" if fewest < FEW else ""
    kid, std = kernel_distance(drawn_NF, real_NF, seed)
    return [
        Metric(name + _suffix(networks, FID), FID, frechet_distance(drawn_NF, real_NF), len(drawn_NF), None, note=note),
        Metric(
            name + _suffix(networks, KID),
            KID,
            1000 * kid,
            len(drawn_NF),
            None,
            std=1000 * std,
            seeds=(seed,),
            note=KID_NOTE,
        ),
    ]


# Pictures against words -----------------------------------------------------------------------------------------------


def clip_scores(
    results: Sequence[Result],
    clip: ClipScorer,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> list[float]:
    """Return CLIP-S of every result.

    Raises:
        UserError: a result without caption or mask, or whose mask is empty.
    """
    values: list[float] = []
    with tqdm(total=len(results), desc="reading", disable=not progress, dynamic_ncols=True) as bar:
        for batch in _batches(results, batch_size):
            pixels = torch.cat([_share(painted_box(result, clip.side), device) for result in batch])
            values += clip(pixels, [result.text for result in batch]).tolist()
            bar.update(len(batch))
    return values


def painted_box(result: Result, side: int) -> Image.Image:
    """Return the box around what was painted, as large as it fits into the middle of a white square.

    Raises:
        UserError: the result has no caption or mask, or nothing in the mask is white.
    """
    if result.mask is None or not result.text.strip():
        lacking = "caption" if result.mask is not None else "agnostic mask"
        raise UserError(f"{result.picture}: CLIP-S needs a caption and an agnostic mask, and there is no {lacking}")
    picture = load_image(result.picture)
    mask = load_image(result.mask).convert("L").point(lambda value: 255 * (value >= 128))
    box = mask.resize(picture.size, Image.Resampling.NEAREST).getbbox()
    if box is None:
        raise UserError(f"{result.mask}: nothing in it is white, so nothing was painted; CLIP-S needs a region")
    cut = picture.crop(box)
    factor = side / max(cut.size)
    cut = cut.resize((max(round(cut.width * factor), 1), max(round(cut.height * factor), 1)), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return canvas


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), max(size, 1)):
        yield items[first : first + max(size, 1)]
