"""Data sets by name: which reader, which kind of record. A new data set is one file and one line here."""

import logging
from collections.abc import Iterator

from unifashion.config import DataSettings
from unifashion.data import fashiongen, fashioniq
from unifashion.data.catalogue import is_synthetic, write_catalogue
from unifashion.data.own_catalogue import read_own_catalogue
from unifashion.data.records import ComposedSplit, PairSplit
from unifashion.errors import UserError

log = logging.getLogger(__name__)


def is_composed(dataset: str) -> bool:
    """Return whether a data set holds composed queries (reference + feedback) rather than images with texts."""
    return dataset == "fashioniq"


def read_pairs(data: DataSettings, split: str) -> PairSplit:
    """Read one split of an image-text set; where no catalogue was named, the embedded one is written first.

    Raises:
        UserError: the set is not there or malformed, or it holds no image-text pairs.
    """
    root = data.root()
    if data.dataset == "fashiongen":
        return fashiongen.read_fashiongen(root, split)
    if data.dataset == "catalogue":
        if data.data_root is None:
            write_catalogue(root)
        return read_own_catalogue(root, split)
    raise UserError(f"{data.dataset} holds composed queries, not images with texts")


def read_composed(data: DataSettings, split: str) -> list[ComposedSplit]:
    """Read all categories of one split of a composed-retrieval set.

    Raises:
        UserError: the set is not there or malformed, or it holds no composed queries.
    """
    if not is_composed(data.dataset):
        raise UserError(f"{data.dataset} holds images with texts, not composed queries")
    return [
        fashioniq.read_fashioniq(data.root(), category, split, data.allow_leaky_captions)
        for category in fashioniq.CATEGORIES
    ]


def read_blocks(data: DataSettings) -> PairSplit | None:
    """Return the rows of ``fashiongen/blocks100``, or None where the set does not come with them."""
    has_them = (fashiongen.find_root(data.root()) / fashiongen.BLOCKS).is_file()
    return fashiongen.read_fashiongen_blocks(data.root()) if has_them else None


def training_texts(data: DataSettings) -> Iterator[str]:
    """Yield the training texts below the data root: those of the chosen set, and feedback where FashionIQ lies beside it.

    A vocabulary built from them also fits the composed queries of phase 2.
    """
    if not is_composed(data.dataset):
        for pair in read_pairs(data, "train").pairs:
            yield pair.text
    try:
        root = fashioniq.find_root(data.root())
    except UserError:
        return
    for category in fashioniq.CATEGORIES:
        split = fashioniq.read_fashioniq(root, category, "train")
        for query in split.queries:
            yield from query.feedback
        yield from split.captions.values()


def root_marks(data: DataSettings) -> tuple[str, ...]:
    """Return what every score on this data must say: "synthetic" (embedded catalogue), "leaky" (guided captions)."""
    marks = ("synthetic",) if is_synthetic(data.root()) else ()
    if is_composed(data.dataset) and fashioniq.has_leaky_captions(data.root(), "val"):
        marks = (*marks, "leaky")
    return marks
