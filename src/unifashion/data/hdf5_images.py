"""Images that are rows of an HDF5 file, named like files: ``fashiongen_256_256_train.h5#123`` is its row 123.

``images.load_image`` reads them in place, so such a name can be used wherever an image file can. A file is opened when its first
image is read, once in every process, and is closed when four others have been opened after it, when it has changed on disk, or
with the process.
"""

import math
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unifashion.errors import UserError, require
from unifashion.io import open_file

SUFFIXES = (".h5", ".hdf5")
IMAGES = "input_image"
# What h5py raises on damaged bytes.
DAMAGED = (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError, MemoryError)
RATIO = 1100  # of values to the bytes of the file; deflate, the strongest of ``FILTERS``, packs 1032 : 1 at best
MAX_ROWS = 2_000_000  # FashionGen has 260,480
MAX_BYTES = 2**28  # of one image, text or chunk, unpacked: 40 times a photo of 1500 x 1500
FILTERS = (
    1,
    2,
    3,
    4,
    5,
    6,
    32000,
)  # those within HDF5 and h5py; others are loaded as programs from wherever a plugin lies
CACHE = 8 * 2**20  # bytes of decompressed chunks a file keeps; neighbouring images often share theirs


def member(file: Path, row: int) -> Path:
    """Return the name of one image of an HDF5 file."""
    return file.with_name(f"{file.name}#{row}")


def split_member(path: Path) -> tuple[Path, int] | None:
    """Return file and row of such a name, or None for every other path."""
    name, separator, row = path.name.rpartition("#")
    if not (separator and row.isdecimal() and len(row) < 19 and name.lower().endswith(SUFFIXES)):
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
        open_file(file, sys.maxsize).close()
        return h5py.File(file, "r", locking=False, rdcc_nbytes=CACHE)
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; see dataset/README.md for where to get it") from None
    except DAMAGED as error:
        reason = str(error).partition("(")[2].rstrip(")") or getattr(error, "strerror", "") or "unreadable"
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


def has(file: Any, key: str) -> bool:
    """Return whether an open HDF5 file has a key. (``in`` would follow a link, and open the file that it names.)"""
    return bool(file.id.links.exists(key.encode()))


def column(file: Any, key: str, path: Path) -> Any:
    """Return a data set of an open HDF5 file, or a group of that name; nothing of it is read yet.

    Raises:
        UserError: values that are in another file (links, virtual data sets, external storage); objects and texts of any length;
            a filter that is not part of HDF5; more values than the file can hold; one that takes more than ``MAX_BYTES``.
    """
    import h5py

    if not has(file, key):
        raise UserError(f"{path}: no {key!r}; it has {', '.join(map(repr, file)) or 'no keys'}")
    if file.id.links.get_info(key.encode()).type != h5py.h5l.TYPE_HARD:
        raise UserError(f"{path}: {key!r} is a link; only values of the file itself are read")
    values = file[key]
    if not isinstance(values, h5py.Dataset):
        return values
    if values.is_virtual or values.external:
        raise UserError(f"{path}: {key!r} is kept in another file; only values of the file itself are read")
    if values.dtype.kind not in "biufS":
        raise UserError(f"{path}: {key!r} holds {values.dtype}; only numbers and texts of fixed length are read")
    plan = values.id.get_create_plist()
    foreign = [number for number in map(plan.get_filter, range(plan.get_nfilters())) if number[0] not in FILTERS]
    if foreign:
        raise UserError(
            f"{path}: {key!r} is packed with filter {foreign[0][0]}, which is not part of HDF5; pack it with gzip"
        )
    _check_size(values, key, path)
    return values


def _check_size(values: Any, key: str, path: Path) -> None:
    size = path.stat().st_size
    if math.prod(values.shape) * values.dtype.itemsize > RATIO * size or values.shape[:1] > (MAX_ROWS,):
        raise UserError(f"{path}: {key!r} claims {list(values.shape)} values, too many for a file of {size:,} bytes")
    pieces = (values.shape[1:], values.chunks or ())
    if max(math.prod(piece) * values.dtype.itemsize for piece in pieces) > MAX_BYTES:
        raise UserError(f"{path}: one piece of {key!r} takes more than {MAX_BYTES >> 20} MiB; fetch it again")


def images_of(file: Any, path: Path) -> Any:
    """Return the images of an open HDF5 file; errors as ``column``.

    Raises:
        UserError: they are not uint8 RGB images.
    """
    images = column(file, IMAGES, path)
    shape: tuple[int, ...] = getattr(images, "shape", ())
    kind = getattr(images, "dtype", "a group")
    if len(shape) != 4 or shape[-1] != 3 or kind != np.uint8 or 0 in shape[1:]:
        raise UserError(f"{path}: {IMAGES!r} must be uint8 [N, height, width, 3], found {kind} {list(shape)}")
    return images


@lru_cache(maxsize=4)
def _images(file: Path, process: int, changed: int) -> Any:
    # ``process`` and ``changed`` are only keys of the cache. A handle that parent and child both use after a fork may return
    # wrong pixels without an error, so each loader process opens its own.
    return images_of(open_hdf5(file), file)
