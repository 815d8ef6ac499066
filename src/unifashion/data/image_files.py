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
    "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
}
SUFFIXES = tuple(chain.from_iterable(FORMATS.values()))
HEIC_SUFFIXES = (".heic", ".heif")
HEIC = "convert them to JPEG first, for example with: magick mogrify -format jpg *.heic"


class PassedOver:
    """Names in a folder that are not listed, by the reason."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}

    def add(self, name: str, is_folder: bool = False, reason: str = "") -> None:
        """Add a file or folder by its path below the folder that is listed; without a reason, its name says why."""
        file = name.rpartition(os.sep)[2]
        if reason:
            pass
        elif file.startswith("."):
            reason = "hidden"
        elif not is_utf8(file):
            reason = "with a name that is not UTF-8 (rename them)"
        elif is_folder:
            reason = "linked (a link to a folder is not followed)"
        elif file.lower().endswith(HEIC_SUFFIXES):
            reason = f".heic ({HEIC})"
        else:
            reason = file.lower()[file.rfind(".") :] if "." in file else "without a suffix"
        self.names.setdefault(reason, []).append(name)

    def summary(self) -> str:
        """Return one sentence: how many of each kind, with an example; empty where nothing was passed over."""
        kinds = sorted(self.names.items(), key=lambda kind: (-len(kind[1]), kind[0]))
        parts = [f"{len(names):,} {reason}, such as {min(names)!a}" for reason, names in kinds]
        total = sum(map(len, self.names.values()))
        return f"{total:,} file{'s' if total > 1 else ''} passed over: {'; '.join(parts)}" if total else ""


def list_images(folder: Path, below: bool = True, passed_over: PassedOver | None = None) -> list[Path]:
    """Return the images of a folder, sorted; a folder that does not exist has none.

    A file is an image if its name ends in one of ``SUFFIXES``; what is in it, or that it is a pipe, is found out by who opens it.
    Passed over, counted and named: other files (but not the text beside an image), what is hidden (``._1.jpg`` is no image),
    linked folders (they may form a circle), and names that are not UTF-8, which no table can hold.

    Args:
        folder: where to look.
        below: in its subfolders too.
        passed_over: gets the others, in place of the log.

    Raises:
        UserError: a folder that cannot be listed.
    """
    images: list[Path] = []
    others: list[str] = []
    for home, folders, names in os.walk(folder, onerror=_cannot_list):
        chosen = {name for name in names if _is_image(name) and is_utf8(name)}
        images += [Path(home, name) for name in chosen]
        searched = [name for name in folders if below and _is_searched(Path(home, name))]
        passed = [*names, *(set(folders) - set(searched) if below else ())]
        texts = {f"{Path(name).stem}.txt" for name in chosen}
        others += [str(Path(home, name).relative_to(folder)) for name in passed if name not in chosen | texts]
        folders[:] = searched
    found = passed_over or PassedOver()
    for name in others:
        found.add(name, (folder / name).is_dir())
    if others and passed_over is None:
        log.info("%s: %s", folder, found.summary())
    return sorted(images)


def _cannot_list(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise UserError(f"{error.filename} cannot be listed ({error.strerror}); check its permissions") from None


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _is_searched(folder: Path) -> bool:
    return not folder.name.startswith(".") and not folder.is_symlink() and is_utf8(folder.name)


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
