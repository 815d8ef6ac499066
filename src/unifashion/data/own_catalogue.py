"""Your own catalogue: a folder of images with a table, or with one text file beside each image.

    my_shop/
      catalogue.csv        image,text,id,subcategory,price
                           photos/0001.jpg,"A red dress with short sleeves.",17,dresses,49.90
      photos/0001.jpg

Columns ``image`` (relative to the folder) and ``text`` are needed; ``id`` makes rows views of one product (default: every image
is a product), ``subcategory`` and ``split`` (train or val) are used where they are there, other columns are left to later use.
Without a ``split`` column a tenth of the products, chosen by a hash of their id, is the validation split. The separator may be
a comma, a semicolon or a tab. Without a table, ``0001.txt`` beside ``0001.jpg`` is its text.
"""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unifashion.data.annotations import read_text
from unifashion.data.images import SUFFIXES
from unifashion.data.records import ImageText, PairSplit
from unifashion.errors import UserError, nearest

TABLE = "catalogue.csv"
SPLITS = ("train", "val")
VALIDATION_SHARE = 10  # one product in ten


@dataclass(frozen=True, slots=True)
class _Row:
    image: Path
    text: str
    product: str
    subcategory: str
    split: str


def read_own_catalogue(folder: Path, split: str) -> PairSplit:
    """Read one split of a catalogue, in the order of its table (or of its file names).

    Raises:
        UserError: no such folder or table, a column or value that is missing, a path that leaves the folder, a split
            without products.
    """
    if split not in SPLITS:
        raise UserError(f"unknown catalogue split {split!r}{nearest(split, SPLITS)}; known: {', '.join(SPLITS)}")
    if not folder.is_dir():
        raise UserError(f"no catalogue at {folder}: name a folder of images with a {TABLE} (--data-root)")
    rows = list(_table_rows(folder) if (folder / TABLE).is_file() else _text_file_rows(folder))
    chosen = [row for row in rows if row.split == split]
    if not chosen:
        raise UserError(
            f"{folder}: none of its {len(rows)} images is in split {split}; add a column 'split' to {TABLE}"
        )
    present = {row.image for row in chosen if row.image.is_file()}
    return PairSplit(
        dataset="catalogue",
        split=split,
        pairs=tuple(ImageText(r.image, r.text, r.product, r.subcategory) for r in chosen if r.image in present),
        missing=tuple(str(row.image) for row in chosen if row.image not in present),
    )


def _table_rows(folder: Path) -> Iterator[_Row]:
    path = folder / TABLE
    lines = read_text(path).splitlines(keepends=True)
    separator = max(",;\t", key=lines[0].count)
    reader = csv.DictReader(lines, delimiter=separator)
    columns = [column.strip().lower() for column in reader.fieldnames or []]
    reader.fieldnames = columns
    for needed in ("image", "text"):
        if needed not in columns:
            raise UserError(f"{path}: no column {needed!r}{nearest(needed, columns)}; it has {', '.join(columns)}")
    seen: set[Path] = set()
    for number, row in enumerate(reader, 2):
        place = f"{path}, line {number}"
        values = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
        if None in row:
            raise UserError(f"{place}: more values than columns; put texts with a separator in double quotes")
        if not values["image"] or not values["text"]:
            raise UserError(f"{place}: {'image' if not values['image'] else 'text'} is empty")
        image = _inside(folder, values["image"], place)
        if image in seen:
            raise UserError(f"{place}: image {values['image']} is listed twice; remove one of its rows")
        seen.add(image)
        product = values.get("id") or values["image"]
        split = values.get("split") or _split_of(product)
        if split not in SPLITS:
            raise UserError(f"{place}: split {split!r} is neither train nor val")
        subcategory = values.get("subcategory") or values.get("category") or ""
        yield _Row(image, values["text"], product, subcategory, split)


def _inside(folder: Path, name: str, place: str) -> Path:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{place}: image {name} lies outside {folder}; give paths relative to that folder")
    return path


def _text_file_rows(folder: Path) -> Iterator[_Row]:
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not images:
        raise UserError(f"{folder} has neither {TABLE} nor images; name a folder of images")
    for image in images:
        text_file = image.with_suffix(".txt")
        if not text_file.is_file():
            raise UserError(f"{image} has no text: write {text_file.name} beside it, or a {TABLE} for the folder")
        name = image.relative_to(folder).as_posix()
        yield _Row(image, " ".join(read_text(text_file).split()), name, "", _split_of(name))


def _split_of(product: str) -> str:
    """Return the split that a hash of the product's id gives: the same on every machine, whatever else is in the table."""
    number = int.from_bytes(hashlib.sha256(product.encode()).digest()[:4], "big")
    return "val" if number % VALIDATION_SHARE == 0 else "train"
