"""Files of captions, predicted or written by people, read into one table of id -> captions.

A file is .jsonl (one row a line), or .json that holds a list of rows, COCO's {"annotations": [rows]}, or {id: caption} and
{id: [captions]}. A row has an id, one or several captions, and any other keys; these are all understood:

    {"id": "10000", "image": "image_val/10000.jpg", "caption": "..."}     our predictions
    {"id": "10000", "captions": ["...", "..."]}                           our references
    {"image_id": 42, "caption": "..."}                                    COCO; several rows of one id are several references
    {"image": "B008BHCT58", "caption": "...", "text_guidance": ""}        Fashion-IQ-Cap
    {"index": "10000", "description": "..."}                              FashionGen
    {"image_path": "women/dresses/1/1_0.jpeg", "caption": "..."}          Fashion200K

The id is the first of image_id, id, index, image and image_path that a row has. Of an image path only the file name counts,
without its suffix, so that "images/B008BHCT58.png" and "B008BHCT58" are the same item.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unifashion.data.annotations import parse_json, read_jsonl, read_text, text_of, texts_of
from unifashion.data.image_files import SUFFIXES
from unifashion.errors import UserError

ID_KEYS = ("image_id", "id", "index", "image", "image_path")
TEXT_KEYS = ("captions", "caption", "description", "text")


@dataclass
class CaptionTable:
    """One file of captions.

    captions: every id's distinct captions, in file order, with white space collapsed; a caption may be empty.
    images: the image of an id as the file names it, where it does.
    guided: whether a caption was written with words of the query (Fashion-IQ-Cap's ``text_guidance``).
    """

    path: Path
    captions: dict[str, list[str]] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    guided: bool = False


def read_captions(path: Path) -> CaptionTable:
    """Read a file of captions in any of the forms above.

    Raises:
        UserError: missing, empty, not UTF-8, not JSON; a row without id or caption (names file and row).
    """
    table = CaptionTable(path)
    for where, row in _rows(path):
        name = _id_of(row, where)
        texts = table.captions.setdefault(name, [])
        texts += [text for text in dict.fromkeys(map(_clean, _texts_of(row, where))) if text not in texts]
        if isinstance(row.get("image"), str):
            table.images.setdefault(name, row["image"])
        table.guided |= bool(row.get("text_guidance"))
    return table


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = "" if path.suffix == ".jsonl" else read_text(path)
    if not text or _holds_several(text):  # lines of JSON, perhaps under the name .json
        yield from read_jsonl(path)
        return
    value = parse_json(text, path)
    if isinstance(value, dict):
        value = value["annotations"] if isinstance(value.get("annotations"), list) else _mapping_rows(value)
    if not isinstance(value, list):
        raise UserError(f"{path}: expected a list of rows or an object, found a {type(value).__name__}")
    for line, row in enumerate(value, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {line}: expected an object with an id and a caption, found {row!r:.40}")
        yield f"{path}, row {line}", row


def _holds_several(text: str) -> bool:
    """Return whether a text goes on after its first JSON object."""
    text = text.strip()
    try:
        return text.startswith("{") and json.JSONDecoder().raw_decode(text)[1] < len(text)
    except (ValueError, RecursionError):
        return False


def _mapping_rows(value: dict[str, Any]) -> list[dict[str, Any]]:
    if _first(value, ID_KEYS) and _first(value, TEXT_KEYS):  # a single row
        return [value]
    return [{"id": name, "captions" if isinstance(texts, list) else "caption": texts} for name, texts in value.items()]


def _id_of(row: dict[str, Any], where: str) -> str:
    key = _first(row, ID_KEYS)
    if key is None:
        raise UserError(
            f"{where}: no id; a row needs one of {', '.join(ID_KEYS)}, it has {', '.join(row) or 'no keys'}"
        )
    name = text_of(row, key, where).strip()
    is_image = key.startswith("image") and Path(name).suffix.lower() in SUFFIXES
    return Path(name).stem if is_image else name


def _texts_of(row: dict[str, Any], where: str) -> list[str]:
    key = _first(row, TEXT_KEYS)
    if key is None:
        raise UserError(f"{where}: no caption; a row needs one of {', '.join(TEXT_KEYS)}, it has {', '.join(row)}")
    return texts_of(row, key, where) if isinstance(row[key], list) else [text_of(row, key, where, blank=True)]


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((key for key in keys if row.get(key) is not None), None)


def _clean(text: str) -> str:
    return " ".join(text.split())
