"""Two sets of pictures compared: the Frechet distance (FID) and the kernel distance (KID) between their features.

Features are a network's outputs for pictures of 299 x 299 pixels, resized as clean-fid does: each channel by itself, as floats,
bicubic, then clipped to 0..255 and not rounded (Parmar et al., 2022). The distances themselves are torchmetrics', which is
imported where it is used: reading the table of metrics does not need it. Shapes: N pictures, F features.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

INCEPTION_SIDE = 299  # pixels
NUM_SUBSETS, MAX_SUBSET = 100, 1000


def clean_pixels(image: Image.Image, side: int = INCEPTION_SIDE) -> Tensor:
    """Return a picture (3, side, side), float32, 0..255: every channel resized by itself, as floats, as clean-fid does."""
    # Pillow resizes an RGB image in bytes, and rounds; a channel of floats (mode F) it resizes exactly. The difference is what
    # made FIDs of different programs incomparable. Clipped, as clean-fid has done since March 2022: bicubic overshoots at edges.
    channels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)
    resized = [Image.fromarray(channel).resize((side, side), Image.Resampling.BICUBIC) for channel in channels]
    return torch.from_numpy(np.stack([np.asarray(channel).clip(0, 255) for channel in resized]))


@torch.no_grad()
def features(
    files: Sequence[Path],
    read: Callable[[Path], Image.Image],
    network: nn.Module,
    batch_size: int,
    device: torch.device | str,
    progress: bool,
) -> Tensor:
    """Return the features (N, F) of files, on the CPU."""
    network.eval()
    parts = []
    with tqdm(total=len(files), desc="features", disable=not progress, dynamic_ncols=True) as bar:
        for first in range(0, len(files), batch_size):
            batch = files[first : first + batch_size]
            pixels = torch.stack([clean_pixels(read(path)) for path in batch])
            parts.append(network(pixels.to(device)).flatten(1).cpu())
            bar.update(len(batch))
    return torch.cat(parts)


def frechet_distance(first_NF: Tensor, second_NF: Tensor) -> float:
    """Return the Frechet distance (FID) of two sets of features, taken as samples of normal distributions."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    # torchmetrics adds up in double precision whatever it is given, but rounds the distance to the type of the features; and a
    # small distance is a difference of large traces.
    metric = FrechetInceptionDistance(feature=_AsGiven(first_NF.shape[1]))
    metric.update(first_NF.double(), real=False)
    metric.update(second_NF.double(), real=True)
    return float(metric.compute())


def kernel_distance(first_NF: Tensor, second_NF: Tensor, seed: int = 0) -> tuple[float, float | None]:
    """Return the kernel distance (KID) of two sets of features, and its deviation over the subsets, which the seed draws.

    There is no deviation (None) where every subset is the whole of both sets: those of at most 1000 pictures, equally many.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(len(first_NF), len(second_NF), MAX_SUBSET)
    # torchmetrics draws the subsets from torch's global generator. The seed is set inside a fork of it, so that the number does
    # not depend on what ran before, nor what runs after on the number. In double precision, because KID is a small difference of
    # means of cubes.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that features are kept in memory
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(feature=_AsGiven(first_NF.shape[1]), subsets=NUM_SUBSETS, subset_size=size)
        metric.update(first_NF.double(), real=False)
        metric.update(second_NF.double(), real=True)
        mean, std = metric.compute()
    return float(mean), float(std) if size < max(len(first_NF), len(second_NF)) else None


class _AsGiven(nn.Module):
    """Takes the place of torchmetrics' network: the features have already been computed."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features_NF: Tensor) -> Tensor:
        return features_NF
