"""How a photo gets into the page: as a ``data:`` address, because the page has no other files."""

import base64
import io
from pathlib import Path

from PIL import Image

from unifashion.data.images import ImageError, load_image

PHOTO_SIDE, SHEET_SIDE = 160, 1100  # pixels


def data_address(path: str | Path, side: int = PHOTO_SIDE) -> str | None:
    """Return a JPEG of at most ``side`` pixels as a ``data:`` address; None where the photo cannot be read any more.

    The JPEG is re-encoded from pixels, so that nothing else in a file gets into the page.
    """
    try:
        image = load_image(Path(path))
    except ImageError:
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
