"""A look behind the numbers: queries with their best five answers, the right ones framed in green.

Queries are spread evenly over the answers; nothing is chosen by its result.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from unifashion.data.contact_sheet import contact_sheet
from unifashion.data.images import load_image
from unifashion.evaluation.ranked_lists import Answer

GREEN, GREY = (30, 160, 60), (150, 150, 150)
FILE = "examples.png"


def write_examples(folder: Path, answers: Sequence[Answer]) -> Path:
    """Draw ``examples.png`` into ``folder``, whole or not at all."""
    path, unfinished = folder / FILE, folder / f".{FILE}"
    examples_sheet(answers).save(unfinished, format="png")
    unfinished.replace(path)
    return path


def examples_sheet(answers: Sequence[Answer], num_rows: int = 6, cell: int = 130) -> Image.Image:
    """Draw ``num_rows`` queries that look for images, each with its best answers.

    Args:
        answers: of a validation; those that look for texts are passed over.
        num_rows: queries to show.
        cell: side of a picture, pixels.
    """
    found = [answer for answer in answers if answer.direction != "i2t"]
    chosen = [round(step * (len(found) - 1) / max(num_rows - 1, 1)) for step in range(num_rows)]
    rows = [found[index] for index in dict.fromkeys(chosen)]
    columns = 1 + max(len(answer.top) for answer in rows)
    blank = Image.new("RGB", (cell, cell), "white")
    images: list[Image.Image] = []
    captions: list[str] = []
    frames: dict[int, tuple[int, int, int]] = {}
    for answer in rows:
        if answer.image:
            frames[len(images)] = GREY
        images.append(load_image(Path(answer.image)) if answer.image else blank)
        captions.append(answer.text)
        for place in range(columns - 1):
            shown = answer.top[place] if place < len(answer.top) else None
            if shown is not None and shown.hit:
                frames[len(images)] = GREEN
            images.append(load_image(Path(shown.image)) if shown is not None else blank)
            captions.append(f"{place + 1}" if shown is not None else "")
    return contact_sheet(images, columns, cell, captions, frames)
