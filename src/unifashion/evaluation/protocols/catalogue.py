"""Products with photos and texts, matched by product id; the protocol ``catalogue/full`` for anybody's own catalogue.

    embeddings = ProductEmbeddings(image_NVD, text_MD, image_product, text_product)
    full(embeddings)  ->  i2t R@1 ... t2i R@10, mean

Shapes: N images, V vectors of an image, M texts, D width; R = ranks of one direction. "i2t" ranks texts for an image,
"t2i" ranks images for a text. A product may have several photos and several texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev

import torch
from torch import Tensor

from unifashion.errors import UserError
from unifashion.evaluation.ranks import best_query_scores, recall_at, target_ranks
from unifashion.evaluation.scores import MEAN, Metric

QUERIES_PER_STEP = 1024


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
        """The place of every image's product in ``products``, on the embeddings' device."""
        return self._codes(self.image_product)

    @cached_property
    def text_codes(self) -> Tensor:
        """The place of every text's product in ``products``, on the embeddings' device."""
        return self._codes(self.text_product)

    def _codes(self, ids: Sequence[str]) -> Tensor:
        place = {product: code for code, product in enumerate(self.products)}
        return torch.tensor([place[product] for product in ids], device=self.images.device)


def full(
    embeddings: ProductEmbeddings, ks: Sequence[int] = (1, 5, 10), protocol: str = "catalogue/full"
) -> list[Metric]:
    """Rank all texts for every image and all images for every text; a hit is any item of the query's product.

    Texts and images of other products are negatives even where they are worded or look alike; ties count against us.
    """
    image_NVD, text_MD = embeddings.images, embeddings.texts
    image_code_N, text_code_M = embeddings.image_codes, embeddings.text_codes
    i2t = [
        target_ranks(best_query_scores(text_MD, image_CVD).T, code_C[:, None] == text_code_M)
        for image_CVD, code_C in zip(
            image_NVD.split(QUERIES_PER_STEP), image_code_N.split(QUERIES_PER_STEP), strict=True
        )
    ]
    t2i = [
        target_ranks(best_query_scores(text_CD, image_NVD), code_C[:, None] == image_code_N)
        for text_CD, code_C in zip(text_MD.split(QUERIES_PER_STEP), text_code_M.split(QUERIES_PER_STEP), strict=True)
    ]
    ranks = {"i2t": [torch.cat(i2t)], "t2i": [torch.cat(t2i)]}
    return two_way_metrics(protocol, ranks, {"i2t": len(text_MD), "t2i": len(image_NVD)}, ks)


def two_way_metrics(
    protocol: str,
    ranks: Mapping[str, Sequence[Tensor]],
    gallery: Mapping[str, int],
    ks: Sequence[int],
    *,
    seeds: tuple[int, ...] = (),
    marks: tuple[str, ...] = (),
    note: str = "",
) -> list[Metric]:
    """Return recall at every k in every direction, and the mean of all of these, each averaged over draws.

    ``ranks[direction]`` holds the (R,) ranks of each independent draw (one, where nothing is drawn); with several draws
    ``std`` is the sample standard deviation over them.
    """
    num_queries = {f"{direction} R@{k}": len(draws[0]) for direction, draws in ranks.items() for k in ks}
    sizes: dict[str, int | None] = {f"{direction} R@{k}": gallery[direction] for direction in ranks for k in ks}
    num_queries[MEAN] = sum(len(draws[0]) for draws in ranks.values())
    sizes[MEAN] = next(iter(gallery.values())) if len(set(gallery.values())) == 1 else None
    values: dict[str, list[float]] = {name: [] for name in num_queries}
    for draw in zip(*ranks.values(), strict=True):
        recalls = {
            f"{direction} {name}": value
            for direction, ranks_R in zip(ranks, draw, strict=True)
            for name, value in recall_at(ranks_R, ks).items()
        }
        for name, value in {**recalls, MEAN: fmean(recalls.values())}.items():
            values[name].append(value)
    return [
        Metric(
            protocol=protocol,
            name=name,
            value=fmean(drawn),
            std=stdev(drawn) if len(drawn) > 1 else None,
            n=num_queries[name],
            gallery=sizes[name],
            seeds=seeds,
            marks=marks,
            note=note,
        )
        for name, drawn in values.items()
    ]
