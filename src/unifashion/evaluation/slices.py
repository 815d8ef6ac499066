"""The groups that a query is counted in, besides its category: how long its feedback is, and what its target looks like.

Attributes are read from ``attributes.jsonl`` below the data root, where there is one (the embedded catalogue has it; you may
write one for photos of your own):
    {"image": "fashionGen/image/0.jpg", "category": "dress", "colour": "orange", "pattern": "dotted", ...}
"""

import os
from pathlib import Path

from unifashion.data.annotations import read_jsonl, text_of

FILE = "attributes.jsonl"
WORD_RANGES = ((4, "1-4"), (8, "5-8"), (12, "9-12"))
MORE_WORDS = "13+"

Attributes = dict[str, dict[str, str]]


def feedback_words(text: str) -> str:
    """Return the range that the number of words of a text lies in: 1-4, 5-8, 9-12 or 13+."""
    num_words = len(text.split())
    return next((name for most, name in WORD_RANGES if num_words <= most), MORE_WORDS)


def read_attributes(root: Path) -> Attributes:
    """Return the attributes of every photo that has some, by its absolute path; empty ones are left out.

    The file may lie in ``root`` or, as a data set may be named by its own folder, in the folder above it.

    Raises:
        UserError: a row that names no image, or an attribute that is not text.
    """
    home = next((folder for folder in (root, root.parent) if (folder / FILE).is_file()), None)
    if home is None:
        return {}
    attributes: Attributes = {}
    for where, row in read_jsonl(home / FILE):
        values = {name.replace("_", " "): text_of(row, name, where, default="") for name in row if name != "image"}
        attributes[absolute(home / text_of(row, "image", where))] = {name: v for name, v in values.items() if v}
    return attributes


def absolute(path: Path) -> str:
    """Return the path as ranked lists name images: absolute, links not followed."""
    return os.path.abspath(path)  # noqa: PTH100  (Path.resolve would follow links)
