"""Which files of a folder are images. Apart from images.py, so that looking for them loads neither torch nor Pillow."""

import logging
import os
import unicodedata
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from unifashion.errors import UserError

log = logging.getLogger(__name__)

# The formats that are decoded, by Pillow's names, and the suffixes of their files. Pillow knows many more, some of which start
# other programs (EPS runs Ghostscript); none of them is ever tried. Of several files with one name, the first suffix is taken.
FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
}
SUFFIXES = tuple(chain.from_iterable(FORMATS.values()))
NUM_NAMED = 3  # names in a line of the log; the level DEBUG names all


def list_images(folder: Path, below: bool = True) -> list[Path]:
    """Return the images of a folder, sorted; a folder that does not exist has none.

    A file is an image if its name ends in one of ``SUFFIXES``; what is in it, or that it is a pipe, is found out by who opens it.
    Passed over, and named in the log: other files, what is hidden (``._1.jpg`` is no image), linked folders (they may form a
    circle), and names that are not UTF-8, which no table can hold.

    Args:
        folder: where to look.
        below: in its subfolders too.

    Raises:
        UserError: a folder that cannot be listed.
    """
    images: list[Path] = []
    others: list[str] = []
    for home, folders, names in os.walk(folder, onerror=_cannot_list):
        chosen = {name for name in names if _is_image(name) and _can_be_written(name)}
        images += [Path(home, name) for name in chosen]
        searched = [name for name in folders if below and _is_searched(Path(home, name))]
        passed = [*names, *(set(folders) - set(searched) if below else ())]
        others += [str(Path(home, name).relative_to(folder)) for name in passed if name not in chosen]
        folders[:] = searched
    if others:
        shown = ", ".join(ascii(name) for name in sorted(others)[:NUM_NAMED])
        log.info("%s: %d names are not those of images and are passed over, such as %s", folder, len(others), shown)
        log.debug("%s: passed over: %s", folder, ", ".join(map(ascii, sorted(others))))
    return sorted(images)


def _cannot_list(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise UserError(f"{error.filename} cannot be listed ({error.strerror}); check its permissions") from None


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _is_searched(folder: Path) -> bool:
    return not folder.name.startswith(".") and not folder.is_symlink() and _can_be_written(folder.name)


def _can_be_written(name: str) -> bool:
    if not is_utf8(name):
        log.warning("%s is left out: its name is not UTF-8; rename it", ascii(name))
    return is_utf8(name)


def is_utf8(name: str) -> bool:
    """Return whether a name can be written: bytes of a file name that are not UTF-8 are halves of characters in Python."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_images(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by name without suffix; where a name has several, .png is taken first.

    The folder is listed once, not searched below. A folder that does not exist has no images.

    Raises:
        UserError: the folder cannot be listed.
    """
    images: dict[str, Path] = {}
    for path in list_images(folder, below=False):
        best = images.get(path.stem)
        if best is None or SUFFIXES.index(path.suffix.lower()) < SUFFIXES.index(best.suffix.lower()):
            images[path.stem] = path
    return images


def is_there(path: Path, is_kind: Callable[[Path], bool] = Path.is_file) -> bool:
    """Return whether a file exists; False for a name that no file system accepts, such as one of thousands of letters."""
    try:
        return is_kind(path)
    except (OSError, ValueError):
        return False


def find_file(folder: Path, name: str) -> Path:
    r"""Return the file that a table names, however its path is spelled; as it stands where none is there.

    Tables made on Windows have ``\`` between folders; macOS stores an accent apart from its letter, other systems do not.
    """
    plain = name.replace("\\", "/")
    spellings = dict.fromkeys((name, plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))))
    return next((folder / spelling for spelling in spellings if is_there(folder / spelling)), folder / name)
