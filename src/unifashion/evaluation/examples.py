"""A look behind the numbers: queries with the five best results of each, the right ones framed in green.

Queries are spread evenly over the ranked lists; nothing is chosen by its result.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from unifashion.data.contact_sheet import contact_sheet
from unifashion.data.images import load_image
from unifashion.evaluation.ranked_lists import RankedList
from unifashion.io import replacing

GREEN, GREY = (30, 160, 60), (150, 150, 150)
FILE = "examples.png"


def write_examples(folder: Path, ranked_lists: Sequence[RankedList]) -> Path:
    """Draw ``examples.png`` into ``folder``, whole or not at all."""
    with replacing(folder / FILE) as unfinished:
        examples_sheet(ranked_lists).save(unfinished, format="png")
    return folder / FILE


def examples_sheet(ranked_lists: Sequence[RankedList], num_rows: int = 6, cell: int = 130) -> Image.Image:
    """Draw ``num_rows`` queries that look for images, each with its best results.

    Args:
        ranked_lists: of a validation; those that rank texts are left out.
        num_rows: queries to show.
        cell: side of a picture, pixels.
    """
    of_images = [ranked for ranked in ranked_lists if ranked.direction != "i2t"]
    chosen = [round(step * (len(of_images) - 1) / max(num_rows - 1, 1)) for step in range(num_rows)]
    rows = [of_images[index] for index in dict.fromkeys(chosen)]
    columns = 1 + max(len(ranked.top) for ranked in rows)
    blank = Image.new("RGB", (cell, cell), "white")
    images: list[Image.Image] = []
    captions: list[str] = []
    frames: dict[int, tuple[int, int, int]] = {}
    for ranked in rows:
        if ranked.image:
            frames[len(images)] = GREY
        images.append(load_image(Path(ranked.image)) if ranked.image else blank)
        captions.append(ranked.text)
        for index in range(columns - 1):
            item = ranked.top[index] if index < len(ranked.top) else None
            if item is not None and item.hit:
                frames[len(images)] = GREEN
            images.append(load_image(Path(item.image)) if item is not None else blank)
            captions.append(f"{index + 1}" if item is not None else "")
    return contact_sheet(images, columns, cell, captions, frames)
