"""FashionIQ: find the target garment from a reference image and two sentences of feedback.

    fashionIQ_dataset/
      captions/cap.{dress,shirt,toptee}.{train,val,test}.json
          [{"target": "B008BHCT58", "candidate": "B003FGW7MK", "captions": ["is solid black", "has longer sleeves"]}, ...]
      image_splits/split.{dress,shirt,toptee}.{train,val,test}.json      ["B003FGW7MK", ...]
      images/B003FGW7MK.png                                              or .jpg, .webp ... (data/image_files.py)
      captions_llava/next_llava.{split}.{category}.caption.json          optional (Fashion-IQ-Cap)
          [{"image": "B003FGW7MK", "caption": "The dress is ...", "text_guidance": ""}, ...]

The test split has no targets. Many image links are dead: missing images are counted by evaluation, not dropped here.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unifashion.data.annotations import HELP, NoSplit, find_folder, read_json_list, text_of, texts_of
from unifashion.data.image_files import find_images
from unifashion.data.records import ComposedQuery, ComposedSplit, ImageText, PairSplit
from unifashion.errors import UserError, nearest

log = logging.getLogger(__name__)

FOLDER = "fashionIQ_dataset"
CATEGORIES = ("dress", "shirt", "toptee")
SPLITS = ("train", "val", "test")


def read_fashioniq(data_root: Path, category: str, split: str, allow_leaky: bool = False) -> ComposedSplit:
    """Read one category of one split, in the order of the annotation files.

    Args:
        data_root: the folder that holds ``fashionIQ_dataset``, or that folder itself.
        category: dress, shirt or toptee.
        split: train, val or test.
        allow_leaky: accept generated captions of val and test that were written with the query's words. This is logged, and
            ``has_leaky_captions`` returns whether scores must carry the mark.

    Raises:
        UserError: an unknown category or split, a missing or malformed file, leaky captions.
    """
    for value, known, what in ((category, CATEGORIES, "category"), (split, SPLITS, "split")):
        if value not in known:
            raise UserError(f"unknown FashionIQ {what} {value!r}{nearest(value, known)}; known: {', '.join(known)}")
    root = find_root(data_root)
    queries_file = root / "captions" / f"cap.{category}.{split}.json"
    queries = _read_queries(queries_file, split)
    names_file = root / "image_splits" / f"split.{category}.{split}.json"
    listed = read_json_list(names_file, str)
    gallery = tuple(dict.fromkeys(listed))
    if not queries or not gallery:
        empty, what = (names_file, "images") if queries else (queries_file, "queries")
        raise UserError(f"{empty}: split {split} of {category} has no {what}; fetch it again")
    if len(gallery) < len(listed):
        log.warning("%s repeats %d names; each counts once", names_file, len(listed) - len(gallery))
    named = {name for query in queries for name in (query.reference, query.target) if name is not None}
    if named - set(gallery):
        log.warning("%s lacks %d images that queries name", names_file, len(named - set(gallery)))
    on_disk = find_images(root / "images")
    return ComposedSplit(
        dataset="fashioniq",
        split=split,
        category=category,
        queries=queries,
        gallery=gallery,
        images={name: on_disk[name] for name in [*gallery, *sorted(named - set(gallery))] if name in on_disk},
        captions=_read_captions(_caption_file(root, category, split), split, allow_leaky),
    )


def read_fashioniq_cap(data_root: Path, split: str, allow_leaky: bool = False) -> PairSplit:
    """Read the images that have a generated caption (Fashion-IQ-Cap), as images with texts; every image is its own product.

    An image with captions in several categories counts once, with the first.

    Args:
        data_root: the folder that holds ``fashionIQ_dataset``, or that folder itself.
        split: train, val or test.
        allow_leaky: as for ``read_fashioniq``.

    Raises:
        UserError: an unknown split, a malformed file, leaky captions.
        NoSplit: FashionIQ is not there, or has no captions of this split.
    """
    if split not in SPLITS:
        raise UserError(f"unknown FashionIQ split {split!r}{nearest(split, SPLITS)}; known: {', '.join(SPLITS)}")
    root = find_root(data_root)
    on_disk = find_images(root / "images")
    pairs: dict[str, ImageText] = {}
    missing: dict[str, None] = {}
    for category in CATEGORIES:
        for name, caption in _read_captions(_caption_file(root, category, split), split, allow_leaky).items():
            if name in on_disk:
                pairs.setdefault(name, ImageText(on_disk[name], caption, name, category))
            else:
                missing[name] = None
    if not pairs and not missing:
        raise NoSplit(f"{root} has no captions_llava/next_llava.{split}.*.caption.json with captions; {HELP}")
    return PairSplit("fashioniq-cap", split, tuple(pairs.values()), tuple(missing))


def val_images(data_root: Path) -> set[Path]:
    """Return the images of all val galleries that are on disk; none without annotation files.

    Raises:
        UserError: a malformed split file.
        NoSet: FashionIQ is not there.
    """
    root = find_root(data_root)
    files = (root / "image_splits" / f"split.{category}.val.json" for category in CATEGORIES)
    names = {name for file in files if file.is_file() for name in read_json_list(file, str)}
    return {path for name, path in find_images(root / "images").items() if name in names}


def training_texts(data_root: Path) -> Iterator[str]:
    """Yield the feedback of every training query, and the training captions; raises as ``read_fashioniq``."""
    for category in CATEGORIES:
        split = read_fashioniq(data_root, category, "train")
        for query in split.queries:
            yield from query.feedback
        yield from split.captions.values()


def find_root(data_root: Path) -> Path:
    """Return the folder that holds FashionIQ's ``captions``; ``NoSet`` where there is none."""
    return find_folder(data_root, "FashionIQ", (FOLDER, "."), ("captions/",), f"{FOLDER}/captions")


def has_leaky_captions(data_root: Path, split: str) -> bool:
    """Return whether any caption of the split was written with the words of the queries.

    Raises:
        UserError: FashionIQ is not there, or a malformed caption file.
    """
    root = find_root(data_root)
    paths = [_caption_file(root, category, split) for category in CATEGORIES]
    return any(_guided(row, where) for path in paths for where, row in _caption_rows(path))


def _caption_file(root: Path, category: str, split: str) -> Path:
    return root / "captions_llava" / f"next_llava.{split}.{category}.caption.json"


def _read_queries(path: Path, split: str) -> tuple[ComposedQuery, ...]:
    queries = []
    for number, row in enumerate(read_json_list(path, dict), 1):
        where = f"{path}, row {number}"
        sentences = texts_of(row, "captions", where)
        if not sentences:
            raise UserError(f"{where}: 'captions' is empty; a query needs at least one sentence")
        target = text_of(row, "target", where, default="")
        if not target and split != "test":
            raise UserError(f"{where}: no 'target'; only the test split hides its targets")
        queries.append(ComposedQuery(text_of(row, "candidate", where), target or None, tuple(sentences)))
    return tuple(queries)


def _read_captions(path: Path, split: str, allow_leaky: bool) -> dict[str, str]:
    """Return the caption of every image that has one; where an image has several, the first."""
    captions: dict[str, str] = {}
    guided = 0
    for where, row in _caption_rows(path):
        if split != "train" and _guided(row, where):
            guided += 1
            if not allow_leaky:
                raise UserError(
                    f"{where}: this caption was written with the query's own sentences ('text_guidance'), so its scores would "
                    "leak the answer; write captions without guidance, or add --allow-leaky-captions and every score is "
                    "marked leaky"
                )
        name, caption = text_of(row, "image", where), text_of(row, "caption", where, blank=True).strip()
        if caption:
            captions.setdefault(name, caption)
    if guided:
        log.warning(
            "%s: %d captions were written with the queries' own sentences; scores with them are leaky", path, guided
        )
    return captions


def _caption_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.is_file():
        for number, row in enumerate(read_json_list(path, dict), 1):
            yield f"{path}, row {number}", row


def _guided(row: dict[str, Any], where: str) -> bool:
    guidance = row.get("text_guidance")
    sentences = (
        texts_of(row, "text_guidance", where)
        if isinstance(guidance, list)
        else [text_of(row, "text_guidance", where, default="")]
    )
    return any(sentence.strip() for sentence in sentences)
