"""Data sets by name: which reader, which kind of record. A new data set is one file, its name in config.py, and a line here.

All but ``is_composed`` and ``training_texts`` read one set; data/mixture.py trains on several.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from unifashion.config import COMPOSED_SETS, DataSettings
from unifashion.data import circo, cirr, fashiongen, fashioniq
from unifashion.data.annotations import NoSplit
from unifashion.data.fashion200k import read_fashion200k
from unifashion.data.own_catalogue import read_own_catalogue
from unifashion.data.records import ComposedSplit, PairSplit
from unifashion.data.synthetic import is_synthetic
from unifashion.errors import UserError

log = logging.getLogger(__name__)


def is_composed(dataset: str) -> bool:
    """Return whether a data set (or mixture) holds composed queries (reference + feedback) rather than images with texts."""
    return dataset.split("+")[0].partition(":")[0].strip() in COMPOSED_SETS


def has_validation(dataset: str) -> bool:
    """Return whether a data set has a split to validate on; Fashion-IQ-Cap only trains."""
    return dataset != "fashioniq-cap"


def read_pairs(data: DataSettings, split: str) -> PairSplit:
    """Read one split (train or val) of an image-text set.

    Raises:
        UserError: the set is malformed, or it holds no image-text pairs.
        NoSplit: the set or this split of it is not there.
    """
    root = data.root()
    if data.dataset == "fashiongen":
        return fashiongen.read_fashiongen(root, split)
    if data.dataset == "fashion200k":
        return read_fashion200k(root, {"val": "test"}.get(split, split))
    if data.dataset == "fashioniq-cap":
        if split != "train" and not data.include_val:
            raise NoSplit("fashioniq-cap only trains: name a set with a validation split, such as fashiongen, first")
        return fashioniq.read_fashioniq_cap(root, split, data.allow_leaky_captions)
    if data.dataset == "catalogue":
        return read_own_catalogue(root, split)
    raise UserError(f"{data.dataset} holds composed queries, not images with texts")


def read_composed(data: DataSettings, split: str) -> list[ComposedSplit]:
    """Read one split (train, val or test) of a composed-retrieval set: one record a category, where it has categories.

    Raises:
        UserError: the set is malformed, or it holds no composed queries.
        NoSplit: the set or this split of it is not there.
    """
    if data.dataset == "cirr":
        return [cirr.read_cirr(data.root(), {"test": "test1"}.get(split, split))]
    if data.dataset == "circo":
        if split == "train":
            raise NoSplit("circo only evaluates: train on --dataset cirr or fashioniq")
        return [circo.read_circo(data.root(), split)]
    if data.dataset == "fashioniq":
        return [
            fashioniq.read_fashioniq(data.root(), category, split, data.allow_leaky_captions)
            for category in fashioniq.CATEGORIES
        ]
    raise UserError(f"{data.dataset} holds images with texts, not composed queries")


def validation_images(data: DataSettings) -> set[Path]:
    """Return the images that training on an image-text set must not see: its val split, and FashionIQ's below the data root.

    Raises:
        UserError: a malformed file.
    """
    images: set[Path] = set()
    try:
        images |= {pair.image for pair in read_pairs(data, "val").pairs}
    except NoSplit as error:
        log.debug("%s: no validation images are held out (%s)", data.dataset, error)
    try:
        images |= fashioniq.val_images(data.root())
    except NoSplit:
        pass
    return images


def read_blocks(data: DataSettings) -> PairSplit | None:
    """Return the rows of ``fashiongen/blocks100``, or None where the set does not come with them."""
    has_them = (fashiongen.find_root(data.root()) / fashiongen.BLOCKS).is_file()
    return fashiongen.read_fashiongen_blocks(data.root()) if has_them else None


def training_texts(data: DataSettings) -> Iterator[str]:
    """Yield the training texts of all chosen sets, and feedback where FashionIQ lies below the same data root.

    A vocabulary built from them also fits the composed queries of phase 2.
    """
    chosen = [replace(data, dataset=name) for name in data.mixture()]
    for part in chosen:
        if not is_composed(part.dataset):
            for pair in read_pairs(part, "train").pairs:
                yield pair.text
        elif part.dataset != "fashioniq":
            for split in read_composed(part, "train"):
                for query in split.queries:
                    yield from query.feedback
    try:
        root = fashioniq.find_root(data.root())
    except NoSplit:
        return
    for category in fashioniq.CATEGORIES:
        split = fashioniq.read_fashioniq(root, category, "train")
        for query in split.queries:
            yield from query.feedback
        yield from split.captions.values()


def root_marks(data: DataSettings) -> tuple[str, ...]:
    """Return what every score on this data must say: "synthetic" (embedded catalogue), "leaky" (guided captions)."""
    marks = ("synthetic",) if is_synthetic(data.root()) else ()
    if data.dataset == "fashioniq" and fashioniq.has_leaky_captions(data.root(), "val"):
        marks = (*marks, "leaky")
    return marks
