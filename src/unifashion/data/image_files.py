"""Which files of a folder are images. Apart from images.py, so that looking for them loads neither torch nor Pillow."""

from pathlib import Path

from unifashion.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def find_images(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by name without suffix; where a name has several, .png is taken first.

    The folder is listed once, not searched below. A folder that does not exist has no images.

    Raises:
        UserError: the folder cannot be listed.
    """
    if not folder.is_dir():
        return {}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}); check its permissions") from None
    images: dict[str, Path] = {}
    for path in paths:
        suffix = path.suffix.lower()
        best = images.get(path.stem)
        if suffix in SUFFIXES and (best is None or SUFFIXES.index(suffix) < SUFFIXES.index(best.suffix.lower())):
            images[path.stem] = path
    return images
