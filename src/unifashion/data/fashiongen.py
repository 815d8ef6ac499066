"""FashionGen: photos of products and their descriptions, one to six views per product.

As distributed, a split is one HDF5 file (data/fashiongen_hdf5.py). The jsonl form below is read instead where it exists.

    fashionGen/
      annotation_train.jsonl  annotation_val.jsonl
          {"index": "10000", "description": "...", "productID": 7, "subcategory": "SHORT SKIRTS", "category": "SKIRTS"}
      annotation_train_object.jsonl  annotation_val_object.jsonl    {"index": "[10000, 10001]", "description": "..."}
      val100_object.jsonl                                           {"index": "15974", "description": "..."}
      image/10000.jpg  image_val/10008.jpg

productID, subcategory and category are optional: without productID the object file says which images are one product, and an
image that it does not name is a product of its own. Images may also be .png, .webp
and so on (data/image_files.py).
"""

import json
import logging
from pathlib import Path
from typing import Any

from unifashion.data.annotations import HELP, NoSplit, find_folder, read_jsonl, text_of
from unifashion.data.image_files import find_images
from unifashion.data.records import ImageText, PairSplit
from unifashion.errors import UserError, nearest

log = logging.getLogger(__name__)

FOLDER = "fashionGen"
IMAGE_FOLDERS = {"train": "image", "val": "image_val"}
BLOCKS = "val100_object.jsonl"
HDF5_FILES = {"train": "fashiongen_256_256_train.h5", "val": "fashiongen_256_256_validation.h5"}


def read_fashiongen(data_root: Path, split: str) -> PairSplit:
    """Read one split, in annotation order; rows whose image does not exist are named in ``missing``.

    Args:
        data_root: the folder that holds ``fashionGen``, or that folder itself.
        split: train or val.

    Raises:
        UserError: an unknown split, a malformed file, an image with two different texts.
        NoSplit: the set or this split of it is not there, in neither form.
    """
    if split not in IMAGE_FOLDERS:
        raise UserError(f"unknown FashionGen split {split!r}{nearest(split, list(IMAGE_FOLDERS))}; known: train, val")
    root = find_root(data_root)
    path = root / f"annotation_{split}.jsonl"
    if not path.is_file():
        if (root / HDF5_FILES[split]).is_file():
            # Here, because the table of data sets is read for every --help, which should not wait for numpy.
            from unifashion.data.fashiongen_hdf5 import read_fashiongen_hdf5

            return read_fashiongen_hdf5(root / HDF5_FILES[split], split)
        raise NoSplit(f"neither {path} nor {HDF5_FILES[split]} exists; {HELP}")
    images = find_images(root / IMAGE_FOLDERS[split])
    products = _products(root / f"annotation_{split}_object.jsonl")
    pairs, missing, repeated = [], [], 0
    texts: dict[str, str] = {}
    for where, row in read_jsonl(path):
        index, text = text_of(row, "index", where), text_of(row, "description", where, blank=True)
        if index in texts:
            if texts[index] != text:
                raise UserError(f"{where}: image {index} already has another description; remove one of its rows")
            repeated += 1
            continue
        texts[index] = text
        product = text_of(row, "productID", where, default=products.get(index, f"image {index}"))
        subcategory = text_of(row, "subcategory", where, default="")
        if index in images:
            pairs.append(ImageText(images[index], text, product, subcategory))
        else:
            missing.append(index)
    num_blank = sum(not text.strip() for text in texts.values())
    if repeated or num_blank:
        log.warning("%s: %d rows repeat another and count once, %d descriptions are empty", path, repeated, num_blank)
    return PairSplit("fashiongen", split, tuple(pairs), tuple(missing))


def has_blocks(data_root: Path) -> bool:
    """Return whether the set comes with the rows of ``fashiongen/blocks100``."""
    return (find_root(data_root) / BLOCKS).is_file()


def read_fashiongen_blocks(data_root: Path) -> PairSplit:
    """Read the rows of ``fashiongen/blocks100`` in order; of a row that lists several views, the first is used.

    Raises:
        UserError: a missing or malformed file.
    """
    root = find_root(data_root)
    images = find_images(root / IMAGE_FOLDERS["val"])
    pairs: list[ImageText] = []
    missing: list[str] = []
    for where, row in read_jsonl(root / BLOCKS):
        index = _views(row, where)[0]
        if index in images:
            text = text_of(row, "description", where, blank=True)
            pairs.append(ImageText(images[index], text, f"row {len(pairs)}"))
        else:
            missing.append(index)
    return PairSplit("fashiongen", "val100", tuple(pairs), tuple(missing))


def find_root(data_root: Path) -> Path:
    """Return the folder that holds FashionGen's annotations; ``NoSet`` where there is none."""
    return find_folder(
        data_root,
        "FashionGen",
        (FOLDER, "."),
        [name for split in HDF5_FILES for name in (f"annotation_{split}.jsonl", HDF5_FILES[split])],
        f"{FOLDER}/annotation_train.jsonl or {FOLDER}/{HDF5_FILES['train']}",
    )


def _products(path: Path) -> dict[str, str]:
    """Return the product of every image from the object file, if there is one."""
    if not path.is_file():
        return {}
    return {
        index: f"views {views[0]}"
        for where, row in read_jsonl(path)
        for views in [_views(row, where)]
        for index in views
    }


def _views(row: dict[str, Any], where: str) -> list[str]:
    """Return the image numbers of a row: "123", "[123, 124]", or that list itself."""
    value = views = row.get("index")
    if not isinstance(views, list):
        value = text_of(row, "index", where)
        try:
            views = json.loads(value)
        except (ValueError, RecursionError):
            views = None
        views = views if isinstance(views, list) else [value]
    if not views or not all(type(view) in (str, int) for view in views):
        raise UserError(f"{where}: 'index' must be an image number or a list of them, found {value!r:.60}")
    return [str(view) for view in views]
