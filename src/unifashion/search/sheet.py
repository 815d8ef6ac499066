"""A picture of a search: the references with the words first, in blue frames, then the answers with their scores."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from unifashion.data.contact_sheet import contact_sheet, in_cell
from unifashion.data.images import ImageError, open_image
from unifashion.errors import UserError
from unifashion.io import replacing
from unifashion.search.retriever import Hit

COLUMNS, CELL = 5, 200
BLUE = (40, 90, 200)


def write_sheet(path: Path, text: str, references: Sequence[str | Path], hits: Sequence[Hit]) -> None:
    """Write the picture.

    Raises:
        UserError: the file cannot be written, or its name does not end like a picture's.
    """
    cells = [(in_cell(open_image(reference), CELL), text or Path(reference).name) for reference in references]
    cells = cells or [(Image.new("RGB", (CELL, CELL), (235, 238, 245)), text)]
    num_queries = len(cells)
    cells += [(_picture(hit), f"{rank}. {hit.score:.3f} {_words(hit)}") for rank, hit in enumerate(hits, 1)]
    images, captions = zip(*cells, strict=True)
    sheet = contact_sheet(images, COLUMNS, CELL, captions, dict.fromkeys(range(num_queries), BLUE))
    form = Image.registered_extensions().get(path.suffix.lower())
    if form not in Image.SAVE:
        raise UserError(f"--sheet {path}: no picture has this ending; name a .png or .jpg file")
    with replacing(path) as unfinished:
        sheet.save(unfinished, form)


def _picture(hit: Hit) -> Image.Image:
    try:
        return in_cell(open_image(hit.image), CELL)
    except ImageError:
        return Image.new("RGB", (CELL, CELL), "grey")  # moved or damaged since it was indexed


def _words(hit: Hit) -> str:
    return str(hit.metadata.get("title") or hit.metadata.get("text") or hit.id)
