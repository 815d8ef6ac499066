"""FashionGen as it is distributed: one HDF5 file per split, with photos and texts.

fashiongen_256_256_train.h5  fashiongen_256_256_validation.h5
    input_image        uint8 [N, 256, 256, 3]; read in place, never unpacked (data/hdf5_images.py)
    input_description  iso-8859-1 bytes [N, 1]
    input_productID    [N, 1]: rows of one product are its views
    input_subcategory  iso-8859-1 bytes [N, 1], optional
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unifashion.data.hdf5_images import DAMAGED, column, has, images_of, member, open_hdf5
from unifashion.data.records import ImageText, PairSplit
from unifashion.errors import UserError

log = logging.getLogger(__name__)

TEXT, PRODUCT, SUBCATEGORY = "input_description", "input_productID", "input_subcategory"
MAX_BYTES = 2**31  # of a column
ROWS_AT_ONCE, BYTES_AT_ONCE = 10_000, 2**26  # of a column, whose texts are padded to the longest one


def read_fashiongen_hdf5(path: Path, split: str) -> PairSplit:
    """Read the rows of one file, in order: the same records as from the jsonl form of the same data.

    Args:
        path: the HDF5 file.
        split: how the result names it, train or val.

    Raises:
        UserError: not a complete HDF5 file; a key that is missing, or of another length or type.
    """
    try:
        with open_hdf5(path) as file:
            texts, products, subcategories = _read_columns(file, path)
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())}); fetch it again") from None
    blank = sum(not text.strip() for text in texts)
    if blank:
        log.warning("%s: %d descriptions are empty", path, blank)
    rows = enumerate(zip(texts, products, subcategories, strict=True))
    return PairSplit("fashiongen", split, tuple(ImageText(member(path, row), *columns) for row, columns in rows))


def _read_columns(file: Any, path: Path) -> tuple[list[str], list[str], list[str]]:
    """Return texts, products and subcategories."""
    count = len(images_of(file, path))
    if not count:
        raise UserError(f"{path} holds no images; fetch it again")
    texts, products = (_column(file, key, count, path) for key in (TEXT, PRODUCT))
    subcategories = _column(file, SUBCATEGORY, count, path) if has(file, SUBCATEGORY) else [""] * count
    return texts, products, subcategories


def _column(file: Any, key: str, count: int, path: Path) -> list[str]:
    values = column(file, key, path)
    shape = getattr(values, "shape", None)
    if shape not in ((count,), (count, 1)):
        kind = "a group" if shape is None else f"{list(shape)}"
        raise UserError(f"{path}: {key!r} must have one value for each of the {count} images, found {kind}")
    if count * values.dtype.itemsize > MAX_BYTES:
        raise UserError(f"{path}: {key!r} has {count * values.dtype.itemsize:,} bytes; {MAX_BYTES:,} is the limit")
    return list(_texts(values, key, count, path))


def _texts(values: Any, key: str, count: int, path: Path) -> Iterator[str]:
    step = max(min(ROWS_AT_ONCE, BYTES_AT_ONCE // values.dtype.itemsize), 1)
    for start in range(0, count, step):
        for row, value in enumerate(np.asarray(values[start : start + step]).reshape(-1).tolist(), start):
            if isinstance(value, bytes):
                yield value.decode("iso-8859-1")
            elif isinstance(value, int) and not isinstance(value, bool):
                yield str(value)
            else:
                raise UserError(f"{path}, row {row}: {key!r} must be text or a whole number, found {value!r}")
