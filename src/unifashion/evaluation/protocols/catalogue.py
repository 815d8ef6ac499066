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
from unifashion.evaluation.bootstrap import interval
from unifashion.evaluation.ranks import (
    Ranking,
    best_query_scores,
    gathered_scores,
    hits_at,
    recall_at,
    target_ranks,
    top_k,
)
from unifashion.evaluation.scores import MEAN, Measurement

KS = (1, 5, 10)
IMAGES_PER_STEP = 1024


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


def both_ways(embeddings: ProductEmbeddings, num_top: int = 5) -> dict[str, Ranking]:
    """Rank all texts for every image ("i2t") and all images for every text ("t2i"), computing each score once.

    A target is any item of the query's product. Images are taken ``IMAGES_PER_STEP`` at a time, so that no N x M matrix is
    ever there; ranks and lists are those of ``target_ranks`` and ``top_k`` on it.
    Raises ``UserError`` where a score is NaN or infinite.
    """
    image_NVD, text_MD = embeddings.images, embeddings.texts
    image_code_N, text_code_M = embeddings.image_codes, embeddings.text_codes
    own_best_M = _best_own_scores(embeddings)
    i2t: list[Ranking] = []
    t2i_rank_M = torch.zeros(len(text_MD), dtype=torch.long, device=text_MD.device)
    t2i_top, t2i_score = t2i_rank_M.new_empty(len(text_MD), 0), text_MD.new_empty(len(text_MD), 0, dtype=torch.float32)
    for start in range(0, len(image_NVD), IMAGES_PER_STEP):
        scores_MC = best_query_scores(text_MD, image_NVD[start : start + IMAGES_PER_STEP])
        own_MC = text_code_M[:, None] == image_code_N[start : start + IMAGES_PER_STEP]
        top_CK = top_k(scores_MC.T, num_top)
        i2t.append(Ranking(target_ranks(scores_MC.T, own_MC.T), top_CK, scores_MC.T.gather(1, top_CK)))
        t2i_rank_M += ((scores_MC >= own_best_M[:, None]) & ~own_MC).sum(dim=1)
        best = scores_MC.topk(min(num_top, scores_MC.shape[1]), dim=1)
        t2i_top, t2i_score = torch.cat([t2i_top, best.indices + start], 1), torch.cat([t2i_score, best.values], 1)
        best = t2i_score.topk(min(num_top, t2i_score.shape[1]), dim=1)
        t2i_top, t2i_score = t2i_top.gather(1, best.indices), best.values
    joined = (torch.cat([getattr(part, name) for part in i2t]) for name in ("ranks", "top", "scores"))
    return {"i2t": Ranking(*joined), "t2i": Ranking(t2i_rank_M, t2i_top, t2i_score)}


def _best_own_scores(embeddings: ProductEmbeddings) -> Tensor:
    """Return every text's score with the best image of its own product, as (M,)."""
    image_code_N, step = embeddings.image_codes, IMAGES_PER_STEP
    own = [(codes_C[:, None] == image_code_N).nonzero() for codes_C in embeddings.text_codes.split(step)]
    text_P = torch.cat([pairs[:, 0] + number * step for number, pairs in enumerate(own)])
    image_P = torch.cat([pairs[:, 1] for pairs in own])
    scores_P = gathered_scores(embeddings.texts, embeddings.images, text_P[:, None], image_P[:, None]).flatten()
    best_M = torch.full((len(embeddings.texts),), -torch.inf, device=scores_P.device)
    return best_M.scatter_reduce(0, text_P, scores_P, "amax")


def full(
    embeddings: ProductEmbeddings,
    ks: Sequence[int] = KS,
    protocol: str = "catalogue/full",
    rankings: Mapping[str, Ranking] | None = None,
) -> list[Measurement]:
    """Return recall over the whole gallery, both ways, from ``rankings`` (default: ``both_ways(embeddings)``).

    Texts and images of other products are negatives even where they are worded or look alike; ties count against us.
    """
    rankings = rankings or both_ways(embeddings)
    ranks = {direction: [ranking.ranks] for direction, ranking in rankings.items()}
    return two_way_metrics(protocol, ranks, {"i2t": len(embeddings.texts), "t2i": len(embeddings.images)}, ks)


def two_way_metrics(
    protocol: str,
    ranks: Mapping[str, Sequence[Tensor]],
    gallery: Mapping[str, int],
    ks: Sequence[int],
    *,
    seeds: tuple[int, ...] = (),
    marks: tuple[str, ...] = (),
    note: str = "",
) -> list[Measurement]:
    """Return recall at every k in every direction, and the mean of all of these, each averaged over draws.

    ``ranks[direction]`` holds the (R,) ranks of each independent draw (one, where nothing is drawn); with several draws
    ``std`` is the sample standard deviation over them. Intervals resample the queries within each draw and direction.
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
    groups = _query_values(ranks, ks)
    intervals = {name: interval(group) for name, group in groups.items()}
    return [
        Measurement(
            protocol=protocol,
            name=name,
            value=fmean(drawn),
            std=stdev(drawn) if len(drawn) > 1 else None,
            n=num_queries[name],
            gallery=sizes[name],
            seeds=seeds,
            marks=marks,
            note=note,
            low=intervals[name][0],
            high=intervals[name][1],
        )
        for name, drawn in values.items()
    ]


def _query_values(ranks: Mapping[str, Sequence[Tensor]], ks: Sequence[int]) -> dict[str, list[Tensor]]:
    """Return what every query contributes to every metric, one (R,) tensor per draw (and per direction for the mean)."""
    groups: dict[str, list[Tensor]] = {MEAN: []}
    for direction, draws in ranks.items():
        for ranks_R in draws:
            hits_RK = hits_at(ranks_R, ks)
            groups[MEAN].append(hits_RK.mean(dim=1))
            for column, k in enumerate(ks):
                groups.setdefault(f"{direction} R@{k}", []).append(hits_RK[:, column])
    return groups
