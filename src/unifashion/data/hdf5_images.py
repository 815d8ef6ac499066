"""Images that are rows of an HDF5 file, named like files: ``fashiongen_256_256_train.h5#123`` is its row 123.

``images.load_image`` reads them in place, so such a name can be used wherever an image file can. A file is opened when its first
image is read, once in every process, and is closed when four others have been opened after it, when it has changed on disk, or
with the process.
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unifashion.errors import UserError, require

SUFFIXES = (".h5", ".hdf5")
IMAGES = "input_image"
DAMAGED = (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError)  # what h5py raises on damaged bytes
CACHE = 8 * 2**20  # bytes of decompressed chunks a file keeps; neighbouring images often share theirs


def member(file: Path, row: int) -> Path:
    """Return the name of one image of an HDF5 file."""
    return file.with_name(f"{file.name}#{row}")


def split_member(path: Path) -> tuple[Path, int] | None:
    """Return file and row of such a name, or None for every other path."""
    name, separator, row = path.name.rpartition("#")
    if not (separator and row.isdecimal() and name.lower().endswith(SUFFIXES)):
        return None
    return path.with_name(name), int(row)


def open_hdf5(file: Path) -> Any:
    """Open an HDF5 file to read, without a lock (shared and read-only disks have none).

    Raises:
        UserError: missing, truncated, or not HDF5.
    """
    require("h5py", str(file))
    import h5py

    try:
        return h5py.File(file, "r", locking=False, rdcc_nbytes=CACHE)
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; see dataset/README.md for where to get it") from None
    except OSError as error:
        reason = str(error).partition("(")[2].rstrip(")") or error.strerror or "unreadable"
        raise UserError(f"{file} is not a whole HDF5 file ({reason}); fetch it again") from None


def read_image(file: Path, row: int) -> NDArray[np.uint8]:
    """Return the pixels (height, width, 3) of one row.

    Raises:
        UserError: the file cannot be read, or has no such row.
    """
    try:
        images = _images(file, os.getpid(), file.stat().st_mtime_ns if file.exists() else 0)
        if not row < images.shape[0]:
            raise IndexError(row)
        pixels = images[row]
    except IndexError:
        raise UserError(f"the file has no image {row}") from None
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"damaged image ({' '.join(str(error).split())})") from None
    return np.asarray(pixels)


def check_images(images: Any, file: Path) -> int:
    """Return how many images a data set of an HDF5 file holds.

    Raises:
        UserError: it does not hold uint8 RGB images.
    """
    shape: tuple[int, ...] = getattr(images, "shape", ())
    kind = getattr(images, "dtype", "a group")
    if len(shape) != 4 or shape[-1] != 3 or kind != np.uint8:
        raise UserError(f"{file}: {IMAGES!r} must be uint8 [N, height, width, 3], found {kind} {list(shape)}")
    return int(shape[0])


@lru_cache(maxsize=4)
def _images(file: Path, process: int, changed: int) -> Any:
    # ``process`` and ``changed`` are only keys of the cache. A handle that parent and child both use after a fork may return
    # wrong pixels without an error, so each loader process opens its own.
    images = open_hdf5(file).get(IMAGES)
    check_images(images, file)
    return images
