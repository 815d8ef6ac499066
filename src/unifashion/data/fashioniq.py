"""FashionIQ: find the target garment from a reference image and two sentences of feedback.

    fashionIQ_dataset/
      captions/cap.{dress,shirt,toptee}.{train,val,test}.json
          [{"target": "B008BHCT58", "candidate": "B003FGW7MK", "captions": ["is solid black", "has longer sleeves"]}, ...]
      image_splits/split.{dress,shirt,toptee}.{train,val,test}.json      ["B003FGW7MK", ...]
      images/B003FGW7MK.png                                              or .jpg, .jpeg, .webp
      captions_llava/next_llava.{split}.{category}.caption.json          optional (Fashion-IQ-Cap)
          [{"image": "B003FGW7MK", "caption": "The dress is ...", "text_guidance": ""}, ...]

The test split has no targets. Many images are dead on the web: what is missing is counted by evaluation, not dropped here.
"""

import logging
from pathlib import Path
from typing import Any

from unifashion.data.annotations import HELP, read_json_list, text_of
from unifashion.data.images import find_images
from unifashion.data.records import ComposedQuery, ComposedSplit
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
        allow_leaky: accept generated captions of val and test that were written with the query's words.

    Raises:
        UserError: an unknown category or split, a missing or malformed file, leaky captions.
    """
    for value, known, what in ((category, CATEGORIES, "category"), (split, SPLITS, "split")):
        if value not in known:
            raise UserError(f"unknown FashionIQ {what} {value!r}{nearest(value, known)}; known: {', '.join(known)}")
    root = find_root(data_root)
    queries = _read_queries(root / "captions" / f"cap.{category}.{split}.json")
    names_file = root / "image_splits" / f"split.{category}.{split}.json"
    listed = read_json_list(names_file, str)
    gallery = tuple(dict.fromkeys(listed))
    if not queries or not gallery:
        raise UserError(f"{root}: split {split} of {category} has no {'queries' if gallery else 'images'}")
    if len(gallery) < len(listed):
        log.warning("%s lists %d names twice; each counts once", names_file, len(listed) - len(gallery))
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
        captions=_read_captions(
            root / "captions_llava" / f"next_llava.{split}.{category}.caption.json", split, allow_leaky
        ),
    )


def find_root(data_root: Path) -> Path:
    """Return the folder that holds FashionIQ's ``captions``.

    Raises:
        UserError: there is none.
    """
    for folder in (data_root / FOLDER, data_root):
        if (folder / "captions").is_dir():
            return folder
    raise UserError(f"no FashionIQ in {data_root}: expected {FOLDER}/captions there; {HELP}")


def has_leaky_captions(data_root: Path, split: str) -> bool:
    """Return whether any caption file of the split was written with the words of the queries."""
    folder = find_root(data_root) / "captions_llava"
    paths = [folder / f"next_llava.{split}.{category}.caption.json" for category in CATEGORIES]
    return any(_guided(row, path) for path in paths if path.is_file() for row in read_json_list(path, dict))


def _read_queries(path: Path) -> tuple[ComposedQuery, ...]:
    queries = []
    for number, row in enumerate(read_json_list(path, dict), 1):
        place = f"{path}, row {number}"
        sentences = row.get("captions")
        if not isinstance(sentences, list) or not sentences or not all(isinstance(text, str) for text in sentences):
            raise UserError(f"{place}: 'captions' must be a list of sentences")
        target = text_of(row, "target", place, default="")
        if not target and ".test." not in path.name:
            raise UserError(f"{place}: no 'target'; only the test split hides its targets")
        queries.append(ComposedQuery(text_of(row, "candidate", place), target or None, tuple(sentences)))
    return tuple(queries)


def _read_captions(path: Path, split: str, allow_leaky: bool) -> dict[str, str]:
    if not path.is_file():
        return {}
    captions = {}
    for number, row in enumerate(read_json_list(path, dict), 1):
        place = f"{path}, row {number}"
        if split != "train" and not allow_leaky and _guided(row, place):
            raise UserError(
                f"{place}: this caption was written with the query's own sentences ('text_guidance'), so its scores would leak "
                "the answer; write captions without guidance, or add --allow-leaky-captions and every score is marked leaky"
            )
        captions[text_of(row, "image", place)] = text_of(row, "caption", place).strip()
    return captions


def _guided(row: dict[str, Any], place: str | Path) -> bool:
    return bool(text_of(row, "text_guidance", str(place), default="").strip())
