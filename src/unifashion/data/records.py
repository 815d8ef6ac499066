"""The typed records that every reader yields and everything downstream speaks."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ImageText:
    """One photo of one product with the product's text; views of a product share ``product`` and ``text``."""

    image: Path
    text: str
    product: str
    subcategory: str = ""


@dataclass(frozen=True, slots=True)
class PairSplit:
    """One split of an image-text set: the pairs whose image exists, and the names of images that are listed but not there."""

    dataset: str
    split: str
    pairs: tuple[ImageText, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ComposedQuery:
    """``reference`` + ``feedback`` should retrieve ``target``; both are names in the split's gallery.

    ``target`` is None where the annotations hide it (test splits).
    """

    reference: str
    target: str | None
    feedback: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ComposedSplit:
    """One category of one split of a composed-retrieval set, as annotated, and what of it is on disk.

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
