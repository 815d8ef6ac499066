"""Read one split of the data set that the settings name; its row (datasets.py) says how.

All but ``is_composed`` and ``training_texts`` take a single set; data/mixture.py trains on several.
"""

import logging
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from unifashion.data.annotations import NoSet, NoSplit
from unifashion.data.datasets import DATASETS, DatasetSpec, ReadOptions, retrieval_sets, spec_of, tryon_sets
from unifashion.data.records import ComposedSplit, PairSplit
from unifashion.data.settings import DataSettings
from unifashion.data.synthetic import is_synthetic
from unifashion.data.tryon import TryOnSplit
from unifashion.errors import UserError

log = logging.getLogger(__name__)


def first_spec(dataset: str) -> DatasetSpec:
    """Return the row of a data set, or of the first one of a mixture."""
    return spec_of(dataset.split("+")[0].partition(":")[0].strip())


def chosen_spec(data: DataSettings) -> DatasetSpec:
    """Return the row of the one data set that the settings name.

    Raises:
        UserError: they name a mixture.
    """
    if data.dataset not in data.mixture():
        raise UserError(f"--dataset {data.dataset}: a mixture can only be trained on; name one data set")
    return spec_of(data.dataset)


def is_composed(dataset: str) -> bool:
    """Return whether a data set (or mixture) holds composed queries (reference + feedback) rather than images with texts."""
    return first_spec(dataset).kind == "composed"


def read_pairs(data: DataSettings, split: str) -> PairSplit:
    """Read one split (train, val or test) of an image-text set.

    Raises:
        UserError: the set is malformed, or it holds no image-text pairs.
        NoSplit: the set or this split of it is not there.
    """
    spec = chosen_spec(data)
    if spec.pairs is None:
        raise UserError(f"{spec.name} holds composed queries, not images with texts")
    return spec.pairs(data.root(), _own_name(spec, split, data.include_val), ReadOptions(data.allow_leaky_captions))


def read_composed(data: DataSettings, split: str, needs_images: bool = True) -> list[ComposedSplit]:
    """Read one split (train, val or test) of a composed-retrieval set: one record per category, where it has categories.

    Args:
        data: names the set.
        split: which one.
        needs_images: False where the annotations suffice.

    Raises:
        UserError: the set is malformed, or it holds no composed queries.
        NoSplit: the set or this split of it is not there.
    """
    spec = chosen_spec(data)
    if spec.composed is None:
        raise UserError(f"{spec.name} holds images with texts, not composed queries")
    options = ReadOptions(data.allow_leaky_captions, needs_images)
    return list(spec.composed(data.root(), _own_name(spec, split, data.include_val), options))


def _own_name(spec: DatasetSpec, split: str, include_val: bool) -> str:
    """Return what the set itself calls its train, val or test split.

    Raises:
        NoSplit: it has no such split.
    """
    if split == "train" and split not in spec.splits:
        others = [other.name for other in retrieval_sets(spec.kind) if split in other.splits]
        raise NoSplit(f"{spec.name} is for evaluation only: train on --dataset {' or '.join(others)}")
    if split != "train" and spec.headline is None and not include_val:
        others = [other.name for other in retrieval_sets(spec.kind) if other.headline is not None]
        raise NoSplit(
            f"{spec.name} is for training only: name a set with a validation split, such as {others[0]}, first"
        )
    if split not in spec.splits:
        raise NoSplit(f"{spec.name} has no {split} split; it has {', '.join(spec.splits)}")
    return spec.splits[split]


def find_tryon(dataset: str, root: Path) -> Path:
    """Return a try-on set's own folder at or below a data root; ``NoSplit`` where it is not there."""
    return spec_of(dataset, tryon_sets()).find(root)


def read_tryon(dataset: str, root: Path, split: str, needs: Collection[str], pairs: str = "paired") -> TryOnSplit:
    """Read one split of a try-on set: see ``read_vitonhd`` and ``read_dresscode``, whose arguments and errors these are."""
    reader = spec_of(dataset, tryon_sets()).tryon
    assert reader is not None, "a row of tryon_sets() has one"
    return reader(root, split, needs, pairs)


def validation_images(data: DataSettings) -> set[Path]:
    """Return the images that training on an image-text set must not see.

    They are its val split, and what other sets below the same data root hold out (FashionIQ: the val galleries).

    Raises:
        UserError: a malformed file.
    """
    images: set[Path] = set()
    try:
        images |= {pair.image for pair in read_pairs(data, "val").pairs}
    except NoSplit as error:
        log.debug("%s: no validation images are held out (%s)", data.dataset, error)
    for spec in DATASETS:
        try:
            images.update(spec.held_out(data.root()))
        except NoSplit:
            continue
    return images


def read_blocks(data: DataSettings) -> PairSplit | None:
    """Return the rows of a protocol with fixed blocks, or None where the set does not come with them."""
    return chosen_spec(data).blocks(data.root())


def training_texts(data: DataSettings) -> Iterator[str]:
    """Yield the training texts of all chosen sets, and feedback if FashionIQ is below the same data root.

    A vocabulary built from them also fits the composed queries of phase 2.
    """
    for name in data.mixture():
        part, spec = replace(data, dataset=name), spec_of(name)
        if spec.pairs is not None:
            for pair in read_pairs(part, "train").pairs:
                yield pair.text
        elif spec.vocabulary is None:
            for split in read_composed(part, "train"):
                for query in split.queries:
                    yield from query.feedback
    for spec in DATASETS:
        try:
            yield from spec.vocabulary(data.root()) if spec.vocabulary is not None else ()
        except NoSet:
            continue


def root_marks(data: DataSettings) -> tuple[str, ...]:
    """Return the marks that every score on this data must carry: "synthetic" (embedded catalogue), "leaky" (guided captions)."""
    marks = ("synthetic",) if is_synthetic(data.root()) else ()
    return (*marks, *chosen_spec(data).score_marks(data.root()))
