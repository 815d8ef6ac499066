"""How a photo gets into the page: as a ``data:`` address, because the page has no other files.

Which photos these are is written in the files of a run, and a run may come from a stranger: a page that is handed on must not
hold whatever those files name. Only pictures of the run's own folder are shown, where links do not lead out of it, and of the
data folders that the user names; what the run itself calls its data root is not believed.
"""

import base64
import io
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from unifashion.data.images import ImageError, load_image

PHOTO_SIDE, SHEET_SIDE = 160, 1100  # pixels


class Photos:
    """The pictures that one run may show; ``outside`` are the folders of those that it named and may not."""

    def __init__(self, folder: Path, data_roots: Sequence[Path]) -> None:
        self._folder = folder.resolve()
        self._data_roots = [_absolute(root) for root in data_roots]
        self.outside: dict[str, None] = {}

    def address(self, path: str | Path, side: int = PHOTO_SIDE) -> str | None:
        """Return a JPEG of at most ``side`` pixels as a ``data:`` address; None where the photo is gone, or not of this run."""
        try:
            wanted = _absolute(path)
            real = wanted.resolve()
            # Links inside a data folder were made by its owner, who named it; those inside a run came with the run.
            is_own = real.is_relative_to(self._folder) or any(map(wanted.is_relative_to, self._data_roots))
            is_file = is_own and real.is_file()
        except (OSError, ValueError, RuntimeError):  # no file system accepts the name, or it is a link to itself
            return None
        if not is_own:
            self.outside[str(wanted.parent)] = None
        return _encode(wanted, side) if is_file else None


def _absolute(path: str | Path) -> Path:
    """Return a path without ``..``; links are not followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100


@cache  # a photo that is shown twice is encoded once
def _encode(path: Path, side: int) -> str | None:
    """Return an address that holds the pixels of a picture and nothing else of its file."""
    try:
        image = load_image(path)
    except ImageError:
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
