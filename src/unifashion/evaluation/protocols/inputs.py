"""The inputs of protocols: embedded products, or a split with the scores of its queries.

Shapes: N images, V vectors of an image, M texts, D width, Q queries (``split_queries``), G gallery images (``split_gallery``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unifashion.config import DataSettings, EvaluationSettings
from unifashion.data.records import ComposedQuery, ComposedSplit, ImageText, texts_of_products
from unifashion.encoders.embedder import Embedder
from unifashion.errors import UserError
from unifashion.evaluation.ranks import Ranking

# Images with texts ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ProductEmbeddings:
    """Embedded photos and texts of products; every product has at least one of each.

    Raises ``ValueError`` where lengths differ and ``UserError`` for a product without a photo or without a text.
    """

    images: Tensor  # (N, V, D)
    texts: Tensor  # (M, D)
    image_product: Sequence[str]  # N product ids
    text_product: Sequence[str]  # M product ids
    image_subcategory: Sequence[str] = ()  # N names; only protocols that draw within a sub-category need them

    def __post_init__(self) -> None:
        sizes = len(self.image_product), len(self.text_product)
        if sizes != (len(self.images), len(self.texts)):
            raise ValueError(f"{sizes} product ids for {len(self.images)} images and {len(self.texts)} texts")
        if len(self.image_subcategory) not in (0, len(self.image_product)):
            raise ValueError(f"{len(self.image_subcategory)} sub-categories for {len(self.image_product)} images")
        if not len(self.image_product):
            raise UserError("there are no images to evaluate: check the data set's folder and split")
        with_image, with_text = set(self.image_product), set(self.text_product)
        for product in sorted(with_image ^ with_text):
            has = "an image but no text" if product in with_image else "a text but no image"
            raise UserError(f"product {product!r} has {has}: every product needs both to be evaluated")

    @cached_property
    def products(self) -> tuple[str, ...]:
        """The product ids, each once, in order of their first image."""
        return tuple(dict.fromkeys(self.image_product))

    @cached_property
    def image_codes(self) -> Tensor:
        """The index in ``products`` of every image's product, on the embeddings' device."""
        return self._codes(self.image_product)

    @cached_property
    def text_codes(self) -> Tensor:
        """The index in ``products`` of every text's product, on the embeddings' device."""
        return self._codes(self.text_product)

    def _codes(self, ids: Sequence[str]) -> Tensor:
        code_of = {product: code for code, product in enumerate(self.products)}
        return torch.tensor([code_of[product] for product in ids], device=self.images.device)


@dataclass(frozen=True, eq=False)
class EmbeddedPairs:
    """A split of images with texts, embedded, and its full gallery ranked; the input of a protocol for such a set."""

    pairs: Sequence[ImageText]
    embeddings: ProductEmbeddings
    rankings: Mapping[str, Ranking]  # "i2t" and "t2i"
    data: DataSettings
    evaluation: EvaluationSettings
    embedder: Embedder

    @cached_property
    def text_of(self) -> dict[str, str]:
        """The text of every product, which is that of its first view; in the order of ``embeddings.texts``."""
        return texts_of_products(self.pairs)


# Composed queries -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ScoredSplit:
    """A split without its broken images, and the score of every query with every gallery image."""

    split: ComposedSplit
    scores: Tensor  # (Q, G)
    captioned: Tensor | None = None  # (Q, G), with the gallery's generated captions


def split_queries(split: ComposedSplit) -> list[ComposedQuery]:
    """Return the queries that can be scored, in annotation order: their images, and all of their set, are on disk."""
    return [query for query in split.answerable() if all(name in split.images for name in query.members)]


def split_gallery(split: ComposedSplit) -> tuple[str, ...]:
    """Return the listed gallery names that have an image, each once, in the order of the split file."""
    return tuple(dict.fromkeys(name for name in split.gallery if name in split.images))


def columns_of(names: Sequence[Sequence[str]], gallery: Sequence[str]) -> Tensor:
    """Return the gallery column of every name, as (rows, longest row); -1 pads, and stands for names not in the gallery."""
    column_of = {name: column for column, name in enumerate(gallery)}
    longest = max(map(len, names), default=0)
    return torch.tensor(
        [[column_of.get(name, -1) for name in row] + [-1] * (longest - len(row)) for row in names], dtype=torch.long
    ).view(len(names), longest)
