"""FashionGen: image-to-text and text-to-image retrieval, three protocols on embeddings that a model has already computed.

    fashiongen/sub100     1 positive and 100 negatives of the query's sub-category, 5 draws (FAME-ViL; the field's standard)
    fashiongen/blocks100  consecutive blocks of 100 rows (the original UniFashion code)
    fashiongen/full       all validation images and all product texts (``catalogue.full``)

Shapes: N images, V vectors of an image, M texts, D width, R rows, Q queries, C candidates of a query.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifashion.data.splits import read_blocks
from unifashion.errors import UserError
from unifashion.evaluation.protocols.catalogue import FULL, KS, two_way_metrics
from unifashion.evaluation.protocols.inputs import EmbeddedPairs, ProductEmbeddings
from unifashion.evaluation.protocols.registry import PairProtocol, register
from unifashion.evaluation.ranks import gathered_scores, target_ranks
from unifashion.evaluation.scores import Measurement

log = logging.getLogger(__name__)

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """The queries of one draw and their candidates, as row indices; the positive is each query's first candidate."""

    queries: Codes  # (Q,)
    candidates: Codes  # (Q, C)
    absent: NDArray[np.bool_]  # (Q, C), columns that stay empty because the whole gallery has too few other products
    num_filled: int  # queries whose sub-category was too small


def sub100(
    embeddings: ProductEmbeddings,
    *,
    num_draws: int = 5,
    num_queries: int = 1000,
    num_negatives: int = 100,
    seed: int = 0,
    ks: Sequence[int] = KS,
) -> list[Measurement]:
    """Rank one positive among ``num_negatives`` items of the same sub-category; average over independent draws.

    A draw takes ``num_queries`` random queries (all of them where there are fewer: see ``n``). i2t: queries are images,
    candidates texts; t2i: queries are texts, candidates images. The positive is a random item of the query's product.
    Negatives are drawn without replacement from the other products of its sub-category, then from other sub-categories
    where it has too few; ``note`` says how often. Another product is a negative even if its text is the same, as it is
    in the published protocol, so 100 % may be out of reach. Draw i uses seed ``seed + i``, regardless of the draws before it.

    With another number of negatives than 100 the protocol is named after it (``fashiongen/sub100-neg99``). Where the whole
    gallery has too few other products the lists are shorter: ``gallery`` is then the shortest and the rows are marked
    "short-gallery". Raises ``UserError`` for missing sub-categories and where there is only one product.
    """
    product_subcategory = _product_subcategories(embeddings)
    if min(num_draws, num_queries, num_negatives) < 1:
        raise UserError("fashiongen/sub100 needs at least one draw, query and negative: raise the one that is 0")
    if seed < 0:
        raise UserError(f"the seed of fashiongen/sub100 must not be negative, got {seed}")
    image_code_N, text_code_M = embeddings.image_codes.cpu().numpy(), embeddings.text_codes.cpu().numpy()
    sides = {"i2t": (image_code_N, text_code_M), "t2i": (text_code_M, image_code_N)}
    seeds = tuple(range(seed, seed + num_draws))
    # A generator of its own for every draw and direction: a draw does not depend on the others, and image queries
    # and text queries are not correlated.
    draws = {
        direction: [
            draw_candidates(
                *side, product_subcategory, num_queries, num_negatives, np.random.default_rng([one, stream])
            )
            for one in seeds
        ]
        for stream, (direction, side) in enumerate(sides.items())
    }
    ranks = {name: [_draw_ranks(embeddings, name, draw) for draw in drawn] for name, drawn in draws.items()}
    gallery = {name: min(int((~draw.absent).sum(1).min()) for draw in drawn) for name, drawn in draws.items()}
    return two_way_metrics(
        "fashiongen/sub100" if num_negatives == 100 else f"fashiongen/sub100-neg{num_negatives}",
        ranks,
        gallery,
        ks,
        seeds=seeds,
        marks=("short-gallery",) if min(gallery.values()) <= num_negatives else (),
        note=_fill_note(draws),
    )


def draw_candidates(
    query_product: Codes,
    gallery_product: Codes,
    product_subcategory: Codes,
    num_queries: int,
    num_negatives: int,
    rng: np.random.Generator,
) -> Draw:
    """Draw queries without replacement and, for each, a positive and negatives as ``sub100`` describes.

    ``query_product`` and ``gallery_product`` give the product code of every row, ``product_subcategory`` the sub-category
    code of every product.
    """
    gallery_subcategory = product_subcategory[gallery_product]
    rows_of_product = _rows_by_code(gallery_product, len(product_subcategory))
    rows_of_subcategory = _rows_by_code(gallery_subcategory, int(product_subcategory.max()) + 1)
    query_Q = rng.choice(len(query_product), size=min(num_queries, len(query_product)), replace=False)
    candidate_QC = np.empty((len(query_Q), 1 + num_negatives), dtype=np.int64)
    absent_QC = np.zeros(candidate_QC.shape, dtype=bool)
    num_filled = 0
    for row, product in enumerate(query_product[query_Q]):
        subcategory = product_subcategory[product]
        pool = rows_of_subcategory[subcategory]
        pool = pool[gallery_product[pool] != product]
        # Rows are drawn, not products: a product with many photos is a negative more often.
        negatives = rng.choice(pool, size=min(num_negatives, len(pool)), replace=False)
        if len(pool) < num_negatives:
            num_filled += 1
            others = np.flatnonzero(gallery_subcategory != subcategory)
            num_wanted = min(num_negatives - len(pool), len(others))
            negatives = np.concatenate([negatives, rng.choice(others, size=num_wanted, replace=False)])
        candidate_QC[row] = rng.choice(rows_of_product[product])
        candidate_QC[row, 1 : 1 + len(negatives)] = negatives
        absent_QC[row, 1 + len(negatives) :] = True
    return Draw(query_Q, candidate_QC, absent_QC, num_filled)


def blocks100(image_RVD: Tensor, text_RD: Tensor, *, block: int = 100, ks: Sequence[int] = KS) -> list[Measurement]:
    """Rank every row's partner among the ``block`` rows of its block, in both directions; rows are in annotation order.

    Row i of ``image_RVD`` and of ``text_RD`` belong together. The last incomplete block is dropped (``note`` says how many
    rows). Two rows of one product are negatives of each other, as in the original code.
    Raises ``UserError`` where the rows do not fill one block.
    """
    if len(image_RVD) != len(text_RD):
        raise ValueError(f"{len(image_RVD)} images for {len(text_RD)} texts: rows must be pairs")
    num_blocks, num_dropped = divmod(len(text_RD), block)
    if num_blocks == 0:
        raise UserError(
            f"fashiongen/blocks100 needs {block} rows and has {num_dropped}: complete the validation annotations and images"
        )
    row_BX = torch.arange(num_blocks * block, device=text_RD.device).view(num_blocks, block)
    t2i_BXX = gathered_scores(text_RD, image_RVD, row_BX, row_BX)
    partner_R = torch.arange(block, device=text_RD.device).repeat(num_blocks)
    ranks = {
        "i2t": [target_ranks(t2i_BXX.mT.reshape(-1, block), partner_R)],
        "t2i": [target_ranks(t2i_BXX.reshape(-1, block), partner_R)],
    }
    note = f"{num_dropped} rows after the last whole block dropped" if num_dropped else ""
    return two_way_metrics("fashiongen/blocks100", ranks, {"i2t": block, "t2i": block}, ks, note=note)


def _product_subcategories(embeddings: ProductEmbeddings) -> Codes:
    """Return the sub-category code of every product, which is that of its first image."""
    if not embeddings.image_subcategory or "" in embeddings.image_subcategory:
        raise UserError(
            "fashiongen/sub100 draws negatives of the same sub-category, and some images have none: add 'subcategory' to the "
            "annotation rows, read the .h5 file, or use fashiongen/full"
        )
    if len(embeddings.products) < 2:
        raise UserError(
            f"fashiongen/sub100 has no negatives to draw: every item belongs to product {embeddings.products[0]!r}; "
            "evaluate at least two products"
        )
    first: dict[str, str] = {}
    for product, subcategory in zip(embeddings.image_product, embeddings.image_subcategory, strict=True):
        first.setdefault(product, subcategory)
    return np.unique([first[product] for product in embeddings.products], return_inverse=True)[1].astype(np.int64)


def _rows_by_code(codes: Codes, num_codes: int) -> list[Codes]:
    """Return, for every code, the rows that have it, in order."""
    ends = np.cumsum(np.bincount(codes, minlength=num_codes))
    return np.split(np.argsort(codes, kind="stable"), ends[:-1])


def _draw_ranks(embeddings: ProductEmbeddings, direction: str, draw: Draw) -> Tensor:
    query_Q1, candidate_QC = torch.from_numpy(draw.queries)[:, None], torch.from_numpy(draw.candidates)
    text_QT, image_QI = (candidate_QC, query_Q1) if direction == "i2t" else (query_Q1, candidate_QC)
    scores_QC = gathered_scores(embeddings.texts, embeddings.images, text_QT, image_QI).flatten(1)
    positive_Q = torch.zeros(len(scores_QC), dtype=torch.long)
    return target_ranks(scores_QC, positive_Q, exclude=torch.from_numpy(draw.absent))


def _fill_note(draws: dict[str, list[Draw]]) -> str:
    filled = {name: sum(draw.num_filled for draw in drawn) for name, drawn in draws.items()}
    if not any(filled.values()):
        return ""
    counts = " and ".join(
        f"{count} of {sum(len(draw.queries) for draw in draws[name])} {name}" for name, count in filled.items()
    )
    return f"sub-category too small, filled from others, for {counts} queries"


# Rows of the table ----------------------------------------------------------------------------------------------------


def _evaluate_sub100(split: EmbeddedPairs) -> list[Measurement]:
    if not split.embeddings.image_subcategory:
        log.warning("fashiongen/sub100 left out: the annotation rows have no 'subcategory'")
        return []
    return sub100(
        split.embeddings,
        num_draws=split.evaluation.num_draws,
        num_queries=split.evaluation.num_queries,
        num_negatives=split.evaluation.num_negatives,
        seed=split.evaluation.eval_seed,
    )


def _evaluate_blocks100(split: EmbeddedPairs) -> list[Measurement]:
    """Run ``blocks100`` where the data set has its rows; the existing image vectors are reused."""
    blocks = read_blocks(split.data)
    if blocks is None:
        return []
    row_of = {pair.image: row for row, pair in enumerate(split.pairs)}
    absent = [pair.image.name for pair in blocks.pairs if pair.image not in row_of]
    if absent or blocks.missing:
        log.warning("fashiongen/blocks100 left out: %d of its images cannot be used", len(absent) + len(blocks.missing))
        return []
    image_RVD = split.embeddings.images[[row_of[pair.image] for pair in blocks.pairs]]
    return blocks100(image_RVD, split.embedder.texts([pair.text for pair in blocks.pairs]))


register(
    PairProtocol(
        "fashiongen/sub100",
        "Each query against its answer and 100 others of the same sub-category, averaged over several draws.",
        ("fashiongen",),
        evaluate=_evaluate_sub100,
    )
)
register(replace(FULL, name="fashiongen/full", datasets=("fashiongen",)))  # here, so that it is shown in this order
register(
    PairProtocol(
        "fashiongen/blocks100",
        "Blocks of 100 rows in file order; each row is searched within its block.",
        ("fashiongen",),
        evaluate=_evaluate_blocks100,
    )
)
