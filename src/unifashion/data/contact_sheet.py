"""Images side by side on white, with words under them and coloured frames around the ones that matter."""

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
        frames: colour of the frame by index of the image.
        caption_lines: lines reserved under each row when there are captions.
    """
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    rows = -(-len(images) // columns)
    text_height = LINE * caption_lines if captions is not None else 0
    step_x, step_y = cell + GAP, cell + GAP + text_height
    sheet = Image.new("RGB", (columns * step_x + GAP, max(rows, 1) * step_y + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        x, y = GAP + index % columns * step_x, GAP + index // columns * step_y
        sheet.paste(in_cell(image, cell), (x, y))
        if frames and index in frames:
            pen.rectangle([x, y, x + cell - 1, y + cell - 1], outline=frames[index], width=FRAME)
        if captions is not None:
            sheet.paste(_label(captions[index], cell, caption_lines), (x, y + cell))
    return sheet


def in_cell(image: Image.Image, cell: int) -> Image.Image:
    """Return an image fitted into a square of ``cell`` pixels: what a sheet needs of it, a few pixels of millions."""
    return ImageOps.pad(image.convert("RGB"), (cell, cell), color="white")


def _label(text: str, width: int, max_lines: int) -> Image.Image:
    """Write a text, wrapped at ``width`` pixels; what does not fit is cut and ends in "..."."""
    font = ImageFont.load_default(size=LINE - 3)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > max_lines:
        lines = lines[:max_lines]
        while lines[-1] and font.getlength(f"{lines[-1]}...") > width:
            lines[-1] = lines[-1][:-1]
        lines[-1] += "..."
    label = Image.new("RGB", (width, LINE * max_lines), "white")
    pen = ImageDraw.Draw(label)
    for index, line in enumerate(lines):
        pen.text((0, 1 + index * LINE), line, fill="black", font=font)
    return label
