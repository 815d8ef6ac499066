"""Your own catalogue: a folder of images with a table, or with one text file beside each image.

    my_shop/
      catalogue.csv        image,text,id,subcategory,price
                           photos/0001.jpg,"A red dress with short sleeves.",17,dresses,49.90
      photos/0001.jpg

Columns ``image`` (a path below the folder) and ``text`` are required. An image cell may hold several paths, separated by ``;``,
which are views of one product, and so are rows with one ``id`` (default: every row is a product). ``subcategory`` (or
``category``) and ``split`` (train or val) are used where they exist; ``read_products`` keeps the others as metadata. Without a
``split`` column a tenth of the products, chosen by a hash of their id, is the validation split. The separator may be a comma, a
semicolon or a tab. Without a table, ``0001.txt`` beside ``0001.jpg`` is its text. Markup in texts is removed (markup.py).

To search a catalogue (``read_products``), texts and splits are not needed, and the table may have any name.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unifashion.data.annotations import NoSplit, find_folder, read_text
from unifashion.data.image_files import PassedOver, find_file, is_there, list_images
from unifashion.data.markup import without_markup
from unifashion.data.records import ImageText, PairSplit
from unifashion.errors import UserError, nearest

TABLE = "catalogue.csv"
SPLITS = ("train", "val")
csv.field_size_limit(
    2**31 - 1
)  # of the whole program; by default 131,072 characters, fewer than a picture inside a text
VALIDATION_SHARE = 10  # one product in ten


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a catalogue; ``where`` says where it is listed, ``metadata`` what its other columns hold."""

    where: str
    image: Path
    text: str
    product: str
    subcategory: str
    split: str
    metadata: dict[str, str] = field(default_factory=dict)
    had_markup: bool = False


def read_own_catalogue(folder: Path, split: str, passed_over: PassedOver | None = None) -> PairSplit:
    """Read one split of a catalogue, in the order of its table (or of its file names).

    Without a table, ``passed_over`` gets the files that are no images, in place of the log.

    Raises:
        UserError: no such folder, a malformed table, a column or value that is missing, a path that leaves the folder, a
            product in both splits.
        NoSplit: a split without products.
    """
    if split not in SPLITS:
        raise UserError(f"unknown catalogue split {split!r}{nearest(split, SPLITS)}; known: {', '.join(SPLITS)}")
    rows = _rows(folder, passed_over)
    chosen = [row for row in rows if row.split == split]
    if not chosen:
        raise NoSplit(f"{folder}: none of its {len(rows)} images is in split {split}; add a column 'split' to {TABLE}")
    present = {row.image for row in chosen if is_there(row.image)}
    return PairSplit(
        dataset="catalogue",
        split=split,
        pairs=tuple(ImageText(r.image, r.text, r.product, r.subcategory) for r in chosen if r.image in present),
        missing=tuple(str(row.image) for row in chosen if row.image not in present),
        cleaned=tuple(str(row.image) for row in chosen if row.had_markup),
    )


def find_root(folder: Path) -> Path:
    """Return ``folder`` where it holds a table; ``NoSet`` where it does not (a folder with only images could be anything)."""
    return find_folder(folder, "catalogue", (".",), (TABLE,), TABLE)


def read_products(source: Path, passed_over: PassedOver | None = None) -> list[Row]:
    """Read a folder of images, with or without a table, or a table, to search it: texts may be missing.

    ``passed_over`` gets the files of a folder without a table that are no images, and the images that the table of a folder does
    not name (``_unnamed``).

    Raises:
        UserError: nothing there, no images, a malformed table, a path that leaves the table's folder.
    """
    if is_there(source):
        return list(_table_rows(source, for_training=False))
    if not is_there(source, Path.is_dir):
        raise UserError(f"no catalogue at {source}: name a folder of images, or a CSV file with a column 'image'")
    if has_table(source):  # even if it cannot be read: without the table all ids would change
        rows = list(_table_rows(source / TABLE, for_training=False))
        if passed_over is not None:
            for image in _unnamed(source, rows):
                passed_over.add(str(image.relative_to(source)), reason=f"not named in {TABLE}")
        return rows
    return list(_text_file_rows(source, for_training=False, passed_over=passed_over))


def _unnamed(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """Return the images that a table does not name, in those folders directly below its own where it names others.

    Where it names images beside itself, in all folders. A data root may hold a table and other data sets.
    """
    named = {row.image for row in rows}
    tops = {image.relative_to(folder).parts[:-1][:1] for image in named}
    homes = [folder] if () in tops else [folder.joinpath(*top) for top in sorted(tops)]
    return [image for home in homes for image in list_images(home, passed_over=PassedOver()) if image not in named]


def has_table(folder: Path) -> bool:
    """Return whether a folder has a table; a broken link or a pipe of that name is an error of who reads it."""
    return os.path.lexists(folder / TABLE)


def read_photos(folder: Path, passed_over: PassedOver | None = None) -> list[Row]:
    """Read a folder of images without a table, each with a text file beside it; ``passed_over`` as in ``list_images``.

    Raises:
        UserError: no images, or one without a text.
    """
    return list(_text_file_rows(folder, passed_over=passed_over))


def _rows(folder: Path, passed_over: PassedOver | None) -> list[Row]:
    if not is_there(folder, Path.is_dir):
        raise UserError(f"no catalogue at {folder}: name a folder of images with a {TABLE} (--data-root)")
    rows = list(_table_rows(folder / TABLE)) if has_table(folder) else read_photos(folder, passed_over)
    split_of: dict[str, str] = {}
    for row in rows:
        if split_of.setdefault(row.product, row.split) != row.split:
            raise UserError(f"{row.where}: product {row.product} is in both splits; give all its rows the same split")
    return rows


def read_table(path: Path, needed_columns: Sequence[str] = ("image", "text")) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and values of every row, stripped, under the columns' names in lower case.

    Raises:
        UserError: not CSV, a required column that is missing or occurs twice, a row with more values than columns or without a
            required one, no rows.
    """
    text = read_text(path)
    separator = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns = _columns(reader, path, needed_columns)
    empty = True
    while (row := _next_row(reader, path)) is not None:
        where = f"{path}, line {reader.line_num}"
        beyond = row.pop(None, None) or ()  # type: ignore[call-overload]
        if not any(value and value.strip() for value in (*row.values(), *beyond)):
            continue  # spreadsheets write rows of separators alone
        if any(value.strip() for value in beyond):
            raise UserError(f"{where}: more values than columns; put texts with a separator in double quotes")
        values = {name: (row[name] or "").strip() for name in columns}
        for needed in needed_columns:
            if not values[needed]:
                raise UserError(f"{where}: {needed} is empty")
        empty = False
        yield reader.line_num, values
    if empty:
        raise UserError(f"{path} has a header but no rows; add one row for each image")


def _table_rows(path: Path, for_training: bool = True) -> Iterator[Row]:
    folder = path.parent
    lines: dict[tuple[Path, str], int] = {}
    for line, values in read_table(path, ("image", "text") if for_training else ("image",)):
        where = f"{path}, line {line}"
        images = [_inside(folder, name, where) for name in views_of(folder, values.pop("image"))]
        for image in images:
            use = (image, "" if for_training else values.get("id", ""))  # products may share a photo in an index
            if use in lines:
                raise UserError(f"{where}: image {image.name} is already on line {lines[use]}; list it once")
            lines[use] = line
        product = values.get("id") or images[0].relative_to(folder).as_posix()
        split = values.get("split", "").lower() or _split_of(product)
        if for_training and split not in SPLITS:
            raise UserError(f"{where}: split {split!r} is neither train nor val{nearest(split, SPLITS)}")
        subcategory = values.get("subcategory") or values.get("category") or ""
        words, had_markup = _plain(values.pop("text", ""), where, for_training)
        metadata = {name: value for name, value in values.items() if value}
        yield from (Row(where, image, words, product, subcategory, split, metadata, had_markup) for image in images)


def _plain(text: str, where: str, for_training: bool) -> tuple[str, bool]:
    """Return a text without markup, and whether it had any."""
    plain = without_markup(text)
    if for_training and text and not plain:
        raise UserError(f"{where}: the text is markup without words; write a text, or remove the row")
    return plain, plain != text


def _columns(reader: "csv.DictReader[str]", path: Path, needed_columns: Sequence[str]) -> list[str]:
    """Return the names of the columns, in lower case, and make the reader use them."""
    try:
        columns = [column.strip().lower() for column in reader.fieldnames or []]
    except csv.Error as error:
        raise UserError(f"{path}, line 1: not CSV ({error})") from None
    reader.fieldnames = columns
    for name in (*needed_columns, *filter(None, columns)):
        if columns.count(name) != 1:
            how_many = "no" if name not in columns else "more than one"
            hint = nearest(name, columns) if how_many == "no" else ""
            raise UserError(f"{path}: {how_many} column {name!r}{hint}; it has {', '.join(columns)}")
    return columns


def _next_row(reader: "csv.DictReader[str]", path: Path) -> dict[str, str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num + 1}: not CSV ({error}); check its double quotes") from None


def views_of(folder: Path, cell: str) -> list[str]:
    """Return the paths in an image cell: one, or several separated by ``;``; a file whose name has a ``;`` is one."""
    names = [name.strip() for name in cell.split(";") if name.strip()]
    return [cell] if len(names) < 2 or is_there(find_file(folder, cell)) else names


def _inside(folder: Path, name: str, where: str) -> Path:
    """Return ``folder / name``. Links are not followed: a link in the folder may lead anywhere."""
    root = os.path.normpath(folder.absolute())
    path = Path(os.path.normpath(find_file(Path(root), name)))
    if not path.is_relative_to(root):
        raise UserError(f"{where}: image {name} is outside {folder}; give paths relative to that folder")
    return folder / path.relative_to(root)


def _text_file_rows(folder: Path, for_training: bool = True, passed_over: PassedOver | None = None) -> Iterator[Row]:
    images = list_images(folder, passed_over=passed_over)
    if not images:
        others = f" ({passed_over.summary()})" if passed_over and passed_over.names else ""
        raise UserError(f"{folder} has neither {TABLE} nor images{others}; name a folder of images")
    for image in images:
        text_file = image.with_suffix(".txt")
        text = " ".join(read_text(text_file).split()) if text_file.is_file() else ""
        if for_training and not text:
            raise UserError(f"{image} has no text: write {text_file.name} beside it, or a {TABLE} for the folder")
        product = image.relative_to(folder).with_suffix("").as_posix()
        words, had_markup = _plain(text, str(text_file), for_training)
        yield Row(str(image), image, words, product, "", _split_of(product), had_markup=had_markup)


def _split_of(product: str) -> str:
    """Return the split given by a hash of the product's id: the same on every machine, whatever else is in the table."""
    hashed = int.from_bytes(hashlib.sha256(product.encode()).digest()[:4], "big")
    return "val" if hashed % VALIDATION_SHARE == 0 else "train"
