"""Several data sets as one training set: what is in it, what is held out, and which rows an epoch draws.

    --dataset fashiongen:1+fashion200k:0.5+fashioniq-cap:2

The weight of a set says how often an epoch passes over it: 1 is every row once, 2 every row twice, 0.5 half of the rows, and
the other half in the next epoch (``epoch_rows``). So a set is drawn in proportion to weight x size.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unifashion.data.annotations import NoSet, NoSplit
from unifashion.data.datasets import spec_of
from unifashion.data.records import ComposedSplit, ImageText
from unifashion.data.settings import DataSettings
from unifashion.data.splits import is_composed, read_composed, read_pairs, validation_images

log = logging.getLogger(__name__)

TRAINED_ON_VAL = "trained-on-val"


@dataclass(frozen=True, slots=True)
class TrainingPairs:
    """The image-text pairs of all sets, one set after the other.

    sizes: how many of them come from each set.
    weights: of each set.
    missing: names of images that are listed but do not exist.
    excluded: how many pairs were left out because a validation split shows their image.
    """

    pairs: tuple[ImageText, ...]
    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    missing: tuple[str, ...]
    excluded: int


def parts(data: DataSettings) -> list[DataSettings]:
    """Return the settings of each data set of a mixture, as if it were the only one."""
    return [replace(data, dataset=name) for name in data.mixture()]


def validation_part(data: DataSettings) -> DataSettings | None:
    """Return the settings of the first data set that can be validated on (a mixture is not), or None where none can.

    Its validation split is read here, so that errors in it are reported before training. None is logged as a warning.

    Raises:
        UserError: a set is not there, its validation split is malformed, or has leaky captions.
    """
    reasons = []
    for part in filter(lambda part: spec_of(part.dataset).headline is not None, parts(data)):
        try:
            (read_composed if is_composed(part.dataset) else read_pairs)(part, "val")
        except NoSet:
            raise
        except NoSplit as error:
            reasons.append(str(error))
            continue
        return part
    why = "; ".join(reasons) or f"{data.dataset} is for training only; mix in a set such as fashiongen to validate on"
    log.warning("training runs without validation and keeps only its last weights: %s", why)
    return None


def read_training_pairs(data: DataSettings) -> TrainingPairs:
    """Read the training rows of every image-text set named by ``data.dataset``.

    No image of a validation split is among them, neither of these sets nor of FashionIQ's val galleries where FashionIQ is
    below the data root; how many pairs that excludes is logged. With ``data.include_val`` the validation splits are training
    rows too, and nothing is excluded. In a mixture, products are named ``SET/product``, so that two sets share one only where
    they show the same file: then it is the product of the first.

    Raises:
        UserError: a set is not there or malformed, or holds no image-text pairs.
    """
    each = parts(data)
    # All sets first: an image of one set's val split may be a training image of another (Fashion-IQ-Cap and FashionIQ).
    held_out: set[Path] = set()
    if not data.include_val:
        held_out = held_out.union(*(validation_images(part) for part in each))
    pairs: list[ImageText] = []
    missing: list[str] = []
    sizes: list[int] = []
    num_listed = 0
    owners: dict[Path, str] = {}
    for part in each:
        start = len(pairs)
        for split in _splits(part):
            kept = [pair for pair in split.pairs if pair.image not in held_out]
            num_listed += len(split.pairs)
            pairs += _renamed(kept, part.dataset, owners) if len(each) > 1 else kept
            missing += split.missing
        sizes.append(len(pairs) - start)
    excluded = num_listed - len(pairs)
    if excluded:
        log.warning("%s: %d training pairs show validation images and are left out", data.dataset, excluded)
    else:
        log.info("%s: no training pair shows one of %d validation images", data.dataset, len(held_out))
    return TrainingPairs(tuple(pairs), tuple(sizes), tuple(data.mixture().values()), tuple(missing), excluded)


def _renamed(pairs: Sequence[ImageText], dataset: str, owners: dict[Path, str]) -> list[ImageText]:
    """Name products after their set, or as the earlier product that shows one of their images; adds them to ``owners``.

    Product ids are only unique within a set: of two sets, "17" must not count as one product, whose rows are never negatives of
    one another, while one photo in two sets must, or it would be its own hard negative.
    """
    names = {pair.product: owners[pair.image] for pair in pairs if pair.image in owners}
    renamed = [replace(pair, product=names.get(pair.product, f"{dataset}/{pair.product}")) for pair in pairs]
    owners |= {pair.image: pair.product for pair in renamed}
    return renamed


def _splits(part: DataSettings) -> list:
    splits = [read_pairs(part, "train")]
    if part.include_val:
        try:
            splits.append(read_pairs(part, "val"))
        except NoSplit as error:
            log.warning("%s has no validation split to include: %s", part.dataset, error)
    return splits


def read_training_queries(data: DataSettings) -> list[ComposedSplit]:
    """Read the training splits of every composed set named by ``data.dataset``; with ``include_val`` its val splits too.

    Raises:
        UserError: a set is not there or malformed, or holds no composed queries to train on.
    """
    names = ("train", "val") if data.include_val else ("train",)
    return [split for part in parts(data) for name in names for split in read_composed(part, name)]


def epoch_rows(sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int) -> list[int]:
    """Return the rows of one epoch, set after set and in rising order: what the sampler then shuffles.

    A set of ``n`` rows and weight ``w`` gives ``round(w n)`` rows (at least one). Its rows are dealt from one endless sequence
    of shuffled passes, and each epoch continues where the last one stopped: after any number of epochs, two rows of a set differ
    by at most one in how often they were drawn. The result depends on the arguments alone. With all weights 1 it is every row
    once.

    Args:
        sizes: rows of each set; the rows of all sets are counted in one sequence, one set after the other.
        weights: of each set, above 0.
        seed: seed of the passes.
        epoch: index of the epoch, from 0.
    """
    rows: list[int] = []
    first = 0
    for index, (size, count) in enumerate(zip(sizes, epoch_sizes(sizes, weights), strict=True)):
        rows += sorted(first + row for row in _deal(size, epoch * count, count, f"{seed}/{index}"))
        first += size
    return rows


def epoch_sizes(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Return how many rows of each set an epoch draws: ``round(weight * size)``, and at least one of a set that has any."""
    return [max(round(size * weight), 1) if size else 0 for size, weight in zip(sizes, weights, strict=True)]


def _deal(size: int, start: int, count: int, seed: str) -> list[int]:
    """Return ``count`` rows of the endless sequence of shuffled passes over ``size`` rows, from position ``start``.

    Each pass is shuffled from a seed of its own, so any epoch can be computed without those before it, as a resumed run needs.
    """
    dealt: list[int] = []
    while len(dealt) < count:
        index, offset = divmod(start + len(dealt), size)
        whole_pass = list(range(size))
        random.Random(f"{seed}/{index}").shuffle(whole_pass)
        dealt += whole_pass[offset : offset + count - len(dealt)]
    return dealt
