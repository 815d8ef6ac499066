"""The typed records that every reader returns and everything downstream uses."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ImageText:
    """One photo of one product with the product's text; views of a product share ``product`` and ``text``.

    ``image`` is a file, or an image inside an HDF5 file (data/hdf5_images.py); ``load_image`` reads both.
    """

    image: Path
    text: str
    product: str
    subcategory: str = ""


def texts_of_products(pairs: Sequence[ImageText]) -> dict[str, str]:
    """Return one text per product: that of its first view."""
    text_of: dict[str, str] = {}
    for pair in pairs:
        text_of.setdefault(pair.product, pair.text)
    return text_of


@dataclass(frozen=True, slots=True)
class PairSplit:
    """One split of an image-text set.

    pairs: those whose image exists.
    missing: the names of listed images that do not exist.
    cleaned: the names of images from whose text the reader has removed markup.
    """

    dataset: str
    split: str
    pairs: tuple[ImageText, ...]
    missing: tuple[str, ...] = ()
    cleaned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ComposedQuery:
    """``reference`` + ``feedback`` should retrieve ``target``; all are names in the split's gallery.

    ``target`` is None where the annotations hide it (test splits). The other fields are set where a data set has them:

    id: the name of the query in files that a server scores (CIRR pairid, CIRCO id).
    targets: every right answer, ``target`` first (CIRCO); empty means that ``target`` is the only one.
    members: the names of the reference's set of similar images, with the reference (CIRR, six).
    concept: what reference and targets share, in words (CIRCO shared_concept).
    aspects: which kinds of change the feedback asks for (CIRCO semantic_aspects).
    """

    reference: str
    target: str | None
    feedback: tuple[str, ...]
    id: str = ""
    targets: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    concept: str = ""
    aspects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ComposedSplit:
    """One split of a composed-retrieval set (FashionIQ: one category of it), as annotated, and what of it is on disk.

    ``category`` is empty where the set has none (CIRR, CIRCO).

    ``gallery`` holds every listed name once, in the order of the split file; ``images`` only those names, of the gallery or
    of a query, whose file exists; ``captions`` the names that have a generated caption.
    """

    dataset: str
    split: str
    category: str
    queries: tuple[ComposedQuery, ...]
    gallery: tuple[str, ...]
    images: dict[str, Path]
    captions: dict[str, str] = field(default_factory=dict)

    def answerable(self) -> list[ComposedQuery]:
        """Return the queries whose images all exist, in annotation order."""
        return [
            query
            for query in self.queries
            if query.reference in self.images and (query.target is None or query.target in self.images)
        ]
