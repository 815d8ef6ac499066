"""A look behind the numbers: queries with their best five answers, the right one framed in green.

Queries are spread evenly over the split; nothing is chosen by its result.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from unifashion.data.contact_sheet import contact_sheet
from unifashion.data.images import load_image
from unifashion.evaluation.ranks import top_k

GREEN, GREY = (30, 160, 60), (150, 150, 150)
NUM_ANSWERS = 5


def examples_sheet(
    queries: Sequence[tuple[Path | None, str]],
    scores_QG: Tensor,
    targets: Sequence[set[int]],
    gallery: Sequence[Path],
    num_rows: int = 6,
    cell: int = 130,
) -> Image.Image:
    """Draw ``num_rows`` queries, each with its best answers.

    Args:
        queries: reference image (None for a query of words alone) and words, per query.
        scores_QG: similarity of query and gallery item.
        targets: gallery rows that are right, per query.
        gallery: image of every gallery row.
        num_rows: queries to show.
        cell: side of a picture, pixels.
    """
    chosen = [round(step * (len(queries) - 1) / max(num_rows - 1, 1)) for step in range(num_rows)]
    chosen = list(dict.fromkeys(chosen))
    best_QK = top_k(scores_QG[chosen], min(NUM_ANSWERS, len(gallery)))
    images: list[Image.Image] = []
    captions: list[str] = []
    frames: dict[int, tuple[int, int, int]] = {}
    for query, answers in zip(chosen, best_QK.tolist(), strict=True):
        reference, words = queries[query]
        if reference is not None:
            frames[len(images)] = GREY
        images.append(load_image(reference) if reference else Image.new("RGB", (cell, cell), "white"))
        captions.append(words)
        for place, row in enumerate(answers, 1):
            if row in targets[query]:
                frames[len(images)] = GREEN
            images.append(load_image(gallery[row]))
            captions.append(f"{place}")
    return contact_sheet(images, 1 + best_QK.shape[1], cell, captions, frames)
