"""Fashion200K: photos of women's fashion and short descriptions, as distributed or in the jsonl form of UniFashion.

    fashion200K/
      labels/dress_train_detect_all.txt  ...  labels/top_test_detect_all.txt       path, detection score, description, by tabs
          women/dresses/cocktail_dresses/51727804/51727804_0.jpeg <tab> 0.87 <tab> beige v-neck dress
      annotation_pairs_train.jsonl  annotation_pairs_test.jsonl (or _val)          read instead of labels/ where they exist
          {"image_path": "women/.../51727804_0.jpeg", "caption": "beige v-neck dress"}
      annotation_train_object.jsonl  ...     {"all_images": ["women/...", ...], "caption": "..."}, the views of a product
      women/<category>/<subcategory>/<product>/<product>_<view>.jpeg

Images that no object row names are views of one product if they are in one folder.
"""

import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from unifashion.data.annotations import HELP, NoSplit, find_folder, read_jsonl, read_text, text_of, texts_of
from unifashion.data.image_files import find_file, is_there
from unifashion.data.records import ImageText, PairSplit
from unifashion.errors import UserError, nearest

log = logging.getLogger(__name__)

FOLDER = "fashion200K"
SPLITS = {"train": ("train",), "test": ("test", "val")}  # how file names may call them


def read_fashion200k(data_root: Path, split: str) -> PairSplit:
    """Read one split, in the order of its files; rows whose image does not exist are named in ``missing``.

    An image that is listed twice counts once, with its first description; this is logged.

    Args:
        data_root: the folder that holds ``fashion200K``, or that folder itself.
        split: train or test.

    Raises:
        UserError: an unknown split, or a malformed file.
        NoSplit: the set or this split of it is not there.
    """
    if split not in SPLITS:
        raise UserError(f"unknown Fashion200K split {split!r}{nearest(split, list(SPLITS))}; known: train, test")
    root = find_root(data_root)
    texts: dict[str, str] = {}
    repeated = 0
    for name, text in _rows(root, split):
        repeated += name in texts
        texts.setdefault(name, text)
    blank = sum(not text.strip() for text in texts.values())
    if repeated or blank:
        log.warning(
            "%s, %s: %d rows repeat an image and are left out, %d texts are empty", root, split, repeated, blank
        )
    products = _products(root, split)
    pairs, missing = [], []
    for name, text in texts.items():
        image = find_file(root, name)
        if is_there(image):
            pairs.append(ImageText(image, text, products.get(name, _product(name)), _subcategory(name)))
        else:
            missing.append(name)
    return PairSplit("fashion200k", split, tuple(pairs), tuple(missing))


def find_root(data_root: Path) -> Path:
    """Return the folder that holds Fashion200K's annotations; ``NoSet`` where there is none."""
    return find_folder(
        data_root,
        "Fashion200K",
        (FOLDER, "."),
        ("labels/*_detect_all.txt", "annotation_pairs_*.jsonl"),
        f"{FOLDER}/labels/*_train_detect_all.txt",
    )


def _rows(root: Path, split: str) -> Iterator[tuple[str, str]]:
    """Yield (image, description) in the order of the files."""
    table = _first_file(root, "annotation_pairs_{}.jsonl", split)
    if table is not None:
        for where, row in read_jsonl(table):
            yield text_of(row, "image_path", where), text_of(row, "caption", where, blank=True)
        return
    labels = sorted(path for name in SPLITS[split] for path in (root / "labels").glob(f"*_{name}_detect_all.txt"))
    if not labels:
        raise NoSplit(f"{root} has no labels/*_{split}_detect_all.txt and no annotation_pairs_{split}.jsonl; {HELP}")
    for path in labels:
        for number, line in enumerate(read_text(path).split("\n"), 1):
            if line.strip():
                yield _label(line.rstrip("\r"), f"{path}, row {number}")


def _label(line: str, where: str) -> tuple[str, str]:
    columns = line.split("\t")
    if len(columns) != 3 or not columns[0].strip():
        raise UserError(f"{where}: expected path, score and description separated by tabs, found {line[:60]!r}")
    try:
        float(columns[1])
    except ValueError:
        raise UserError(f"{where}: the second column must be a detection score, found {columns[1]!r}") from None
    return columns[0].strip(), columns[2]


def _products(root: Path, split: str) -> dict[str, str]:
    """Return the product of every image that the object file names, if there is one."""
    path = _first_file(root, "annotation_{}_object.jsonl", split)
    products: dict[str, str] = {}
    for where, row in read_jsonl(path) if path is not None else ():
        views = texts_of(row, "all_images", where)
        if not views:
            raise UserError(f"{where}: 'all_images' is empty; a product needs at least one image")
        products |= dict.fromkeys(views, _product(views[0]))
    return products


def _first_file(root: Path, pattern: str, split: str) -> Path | None:
    paths = [root / pattern.format(name) for name in SPLITS[split]]
    return next((path for path in paths if path.is_file()), None)


def _product(name: str) -> str:
    """Return the folder of an image, which is the number of its product; an image without one is its own product."""
    return PurePosixPath(name).parent.name or name


def _subcategory(name: str) -> str:
    parts = PurePosixPath(name).parts
    return parts[2] if len(parts) > 3 else ""
