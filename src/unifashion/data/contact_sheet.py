"""Images side by side on white, with words under them and coloured frames around the ones that matter."""

import textwrap
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

Colour = tuple[int, int, int]

GAP = 6
LINE = 13
FRAME = 4


def contact_sheet(
    images: Sequence[Image.Image],
    columns: int,
    cell: int,
    captions: Sequence[str] | None = None,
    frames: Mapping[int, Colour] | None = None,
    caption_lines: int = 3,
) -> Image.Image:
    """Lay images out in rows of ``columns`` square cells.

    Args:
        images: RGB images of any size; each is fitted into its cell.
        columns: images per row.
        cell: side of a cell, pixels.
        captions: one text per image, written below it, wrapped and cut to ``caption_lines``.
        frames: colour of the frame by image number.
        caption_lines: lines reserved under each row when there are captions.
    """
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    rows = -(-len(images) // columns)
    text_height = LINE * caption_lines if captions is not None else 0
    step_x, step_y = cell + GAP, cell + GAP + text_height
    sheet = Image.new("RGB", (columns * step_x + GAP, max(rows, 1) * step_y + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=LINE - 3)
    for number, image in enumerate(images):
        x, y = GAP + number % columns * step_x, GAP + number // columns * step_y
        fitted = ImageOps.pad(image.convert("RGB"), (cell, cell), color="white")
        sheet.paste(fitted, (x, y))
        if frames and number in frames:
            pen.rectangle([x, y, x + cell - 1, y + cell - 1], outline=frames[number], width=FRAME)
        if captions is not None:
            words = textwrap.wrap(captions[number], width=max(cell // 5, 8), max_lines=caption_lines, placeholder="...")
            for line, text in enumerate(words):
                pen.text((x, y + cell + 1 + line * LINE), text, fill="black", font=font)
    return sheet
