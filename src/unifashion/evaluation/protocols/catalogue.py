"""Products with photos and texts, matched by product id: the protocols of every such data set.

    DATASET/full           texts and photos of other products are wrong answers, even where they read or look alike
    DATASET/full-by-text   products whose texts are equal are one product; only where there are such products

    embeddings = ProductEmbeddings(image_NVD, text_MD, image_product, text_product)
    full(embeddings)  ->  i2t R@1 ... t2i R@10, mean

Shapes: N images, V vectors of an image, M texts, D width; R = ranks of one direction. "i2t" ranks texts for an image,
"t2i" ranks images for a text. A product may have several photos and several texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev

import torch
from torch import Tensor

from unifashion.data.feedback import equal_texts
from unifashion.evaluation.bootstrap import interval
from unifashion.evaluation.metrics import query_values
from unifashion.evaluation.protocols.inputs import EmbeddedPairs, ProductEmbeddings
from unifashion.evaluation.protocols.registry import PairProtocol, register
from unifashion.evaluation.ranks import Ranking, gathered_scores, merge_reranked, score_matrix, target_ranks, top_k
from unifashion.evaluation.scores import MEAN, Measurement

KS = (1, 5, 10)
EQUAL_TEXTS = "equal-texts"  # the mark of scores where products share a text
IMAGES_PER_STEP = 1024


def both_ways(embeddings: ProductEmbeddings, num_top: int = 5) -> dict[str, Ranking]:
    """Rank all texts for every image ("i2t") and all images for every text ("t2i"), computing each score once.

    A target is any item of the query's product. Images are taken ``IMAGES_PER_STEP`` at a time, so that no N x M
    matrix ever exists; ranks and lists are those of ``target_ranks`` and ``top_k`` on it.
    Raises ``UserError`` where a score is NaN or infinite.
    """
    image_NVD, text_MD = embeddings.images, embeddings.texts
    image_code_N, text_code_M = embeddings.image_codes, embeddings.text_codes
    # A text's rank counts the images that score at least as high as its best own image, which may be in a later step. So these
    # best scores are computed first; then every step can add its images to the count, and no score is needed twice.
    own_best_M = _best_own_scores(embeddings)
    i2t: list[Ranking] = []
    t2i_rank_M = torch.zeros(len(text_MD), dtype=torch.long, device=text_MD.device)
    t2i_top, t2i_score = t2i_rank_M.new_empty(len(text_MD), 0), text_MD.new_empty(len(text_MD), 0, dtype=torch.float32)
    for start in range(0, len(image_NVD), IMAGES_PER_STEP):
        scores_MC = score_matrix(text_MD, image_NVD[start : start + IMAGES_PER_STEP])
        own_MC = text_code_M[:, None] == image_code_N[start : start + IMAGES_PER_STEP]
        top_CK = top_k(scores_MC.T, num_top)
        i2t.append(Ranking(target_ranks(scores_MC.T, own_MC.T), top_CK, scores_MC.T.gather(1, top_CK)))
        t2i_rank_M += ((scores_MC >= own_best_M[:, None]) & ~own_MC).sum(dim=1)
        best = scores_MC.topk(min(num_top, scores_MC.shape[1]), dim=1)
        t2i_top, t2i_score = torch.cat([t2i_top, best.indices + start], 1), torch.cat([t2i_score, best.values], 1)
        best = t2i_score.topk(min(num_top, t2i_score.shape[1]), dim=1)
        t2i_top, t2i_score = t2i_top.gather(1, best.indices), best.values
    parts = zip(*((part.ranks, part.top, part.scores) for part in i2t), strict=True)
    return {"i2t": Ranking(*map(torch.cat, map(list, parts))), "t2i": Ranking(t2i_rank_M, t2i_top, t2i_score)}


def _best_own_scores(embeddings: ProductEmbeddings) -> Tensor:
    """Return every text's score with the best image of its own product, as (M,)."""
    image_code_N, step = embeddings.image_codes, IMAGES_PER_STEP
    own = [(codes_C[:, None] == image_code_N).nonzero() for codes_C in embeddings.text_codes.split(step)]
    text_P = torch.cat([pairs[:, 0] + index * step for index, pairs in enumerate(own)])
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

    Texts and images of other products are negatives even where they read or look alike; ties count against us.
    """
    rankings = rankings or both_ways(embeddings)
    ranks = {direction: [ranking.ranks] for direction, ranking in rankings.items()}
    return two_way_metrics(protocol, ranks, {"i2t": len(embeddings.texts), "t2i": len(embeddings.images)}, ks)


def evaluate_full(split: EmbeddedPairs) -> list[Measurement]:
    """Run the full protocol; with ``rerank`` also with the best of every list re-ordered by the matching head.

    Where products share a text, no model can tell their photos apart by it: the scores are marked, and their note says how many.
    """
    protocol = f"{split.data.dataset}/full"
    measurements = full(split.embeddings, protocol=protocol, rankings=split.rankings)
    measurements += _reranked_full(split, protocol) if split.evaluation.rerank else []
    num_equal = sum(map(len, equal_texts(split.text_of)))
    if not num_equal:
        return measurements
    note = (
        f"{num_equal} of {len(split.text_of)} products share their text with others, which count as wrong answers; "
        f"{protocol}-by-text takes them as one product"
    )
    return [replace(one, marks=(*one.marks, EQUAL_TEXTS), note=note) for one in measurements]


def evaluate_full_by_text(split: EmbeddedPairs) -> list[Measurement]:
    """Run the full protocol on products that are one where their texts are equal; nothing where no texts are."""
    first_of = {product: group[0] for group in equal_texts(split.text_of) for product in group}
    if not first_of:
        return []
    given = split.embeddings
    kept = [row for row, product in enumerate(given.text_product) if first_of.get(product, product) == product]
    embeddings = ProductEmbeddings(
        given.images,
        given.texts[kept],
        [first_of.get(product, product) for product in given.image_product],
        [given.text_product[row] for row in kept],
    )
    return full(embeddings, protocol=f"{split.data.dataset}/full-by-text")


FULL = register(
    PairProtocol(
        "{dataset}/full", "All images of the split against all its texts, both ways.", (), evaluate=evaluate_full
    )
)
register(
    PairProtocol(
        "{dataset}/full-by-text",
        "As full, but products whose texts are equal are one product.",
        (),
        evaluate=evaluate_full_by_text,
    )
)


def _reranked_full(split: EmbeddedPairs, protocol: str) -> list[Measurement]:
    k, embeddings = split.evaluation.rerank, split.embeddings
    paths, texts = [pair.image for pair in split.pairs], list(split.text_of.values())
    scores_MN = score_matrix(embeddings.texts, embeddings.images)
    positive_MN = embeddings.text_codes[:, None] == embeddings.image_codes
    ranks = {}
    for direction, scores_QG, positive_QG in (("i2t", scores_MN.T, positive_MN.T), ("t2i", scores_MN, positive_MN)):
        top_QK = top_k(scores_QG, k)
        query_QK = torch.arange(len(top_QK))[:, None].expand_as(top_QK)
        text_QK, image_QK = (top_QK, query_QK) if direction == "i2t" else (query_QK, top_QK)
        itm_P = split.embedder.match(texts, paths, torch.stack([text_QK.flatten(), image_QK.flatten()], dim=1))
        ranks[direction] = [target_ranks(merge_reranked(scores_QG, top_QK, itm_P.view_as(top_QK)), positive_QG)]
    return two_way_metrics(f"{protocol}+itm{k}", ranks, {"i2t": len(texts), "t2i": len(paths)}, KS)


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
    hits = {
        direction: [[query_values(f"R@{k}", ranks_R) for k in ks] for ranks_R in draws]
        for direction, draws in ranks.items()
    }
    # What every query contributes to a metric: one (R,) tensor per draw, and for the mean one per direction and draw.
    groups = {
        f"{direction} R@{k}": [of_draw[column] for of_draw in draws]
        for direction, draws in hits.items()
        for column, k in enumerate(ks)
    }
    values = {name: [100 * float(hits_R.sum()) / len(hits_R) for hits_R in draws] for name, draws in groups.items()}
    sizes: dict[str, int | None] = {name: gallery[name.split(" ")[0]] for name in groups}
    num_queries = {name: len(draws[0]) for name, draws in groups.items()}
    # The mean averages recalls, not queries: both directions weigh the same, although one usually has more queries.
    values[MEAN] = [fmean(recalls) for recalls in zip(*values.values(), strict=True)]
    groups[MEAN] = [torch.stack(of_draw, dim=1).mean(dim=1) for draws in hits.values() for of_draw in draws]
    sizes[MEAN] = next(iter(gallery.values())) if len(set(gallery.values())) == 1 else None
    num_queries[MEAN] = sum(len(draws[0]) for draws in ranks.values())
    measurements = []
    for name, drawn in values.items():
        low, high = interval(groups[name])
        measurements.append(
            Measurement(
                protocol=protocol,
                name=name,
                value=fmean(drawn),
                n=num_queries[name],
                gallery=sizes[name],
                std=stdev(drawn) if len(drawn) > 1 else None,
                seeds=seeds,
                marks=marks,
                note=note,
                low=low,
                high=high,
            )
        )
    return measurements
