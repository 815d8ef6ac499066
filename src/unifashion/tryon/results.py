"""The folder of try-on results.

    RESULTS/00891_00.png              a paired result: the person's name (.png, .jpg, .webp ...)
    RESULTS/00891_00_01430_00.png     an unpaired one: person_garment
    RESULTS/inference.json            what our inference wrote: the settings and marks that its scores carry, and what it left out
    RESULTS/examples.png              the first pairs: person, garment, result, and the truth where there is one

Results of other programs need no ``inference.json``; the flags then replace it.
"""

import contextlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from unifashion.data.contact_sheet import contact_sheet
from unifashion.data.images import ImageError, load_image
from unifashion.data.tryon import TryOnItem
from unifashion.errors import UserError
from unifashion.io import read_json, replacing

RECORD, EXAMPLES = "inference.json", "examples.png"
NUM_EXAMPLES, CELL = 8, 160


def read_record(folder: Path) -> dict[str, Any]:
    """Return the content of ``inference.json``; empty if there is none.

    Raises:
        UserError: no such folder, or a damaged file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name the one that holds the results")
    path = folder / RECORD
    if not path.is_file():
        return {}
    record = read_json(path)
    values = record if isinstance(record, dict) else {}
    if not isinstance(values.get("settings"), dict) or not isinstance(values.get("marks"), list):
        raise UserError(f"{path} is damaged; draw the results again, or remove it and name --pairs yourself")
    return values


def outcome(folder: Path) -> str:
    """Return the closing message of a call that drew: the folder, how many pairs could be used, and the first that could not."""
    record = read_record(folder)
    left_out = record["left_out"]
    return f"the results are in {folder}; {record['used']}" + (f", left out: {left_out[0]}" if left_out else "")


def check_names(items: Sequence[TryOnItem]) -> None:
    """Raise ``UserError`` where the results of two pairs would be one file, as with persons ``a`` and ``a_b``.

    Names that differ in capitals or in the form of an accent are one file on some systems, so they are on all.
    """
    owners: dict[str, TryOnItem] = {}
    for item in items:
        name = unicodedata.normalize("NFC", item.name).casefold()
        other = owners.setdefault(name, item)
        if other is not item or name == Path(EXAMPLES).stem:
            with_what = f"the pair {_pair(other)}" if other is not item else "the sheet of examples"
            raise UserError(
                f"the pair {_pair(item)} and {with_what} would both be {item.name}.png; rename a photo, or leave one out "
                "with --pairs FILE"
            )


def _pair(item: TryOnItem) -> str:
    return " ".join(part for part in (item.category, item.person, item.garment) if part)


def write_examples(folder: Path, items: Sequence[TryOnItem], pictures: Sequence[Path]) -> None:
    """Write ``examples.png``: the first pairs with their results, two per line; pairs with a damaged file are passed over."""
    shown = [pair for pair in zip(items, pictures, strict=True) if "garment" in pair[0].maps]
    paired = all(item.is_paired for item, _ in shown[:NUM_EXAMPLES])
    heads = ["person", "garment", "result", *(["truth"] if paired else [])]
    cells: list[Image.Image] = []
    for item, picture in shown:
        person = item.maps["agnostic" if paired and "agnostic" in item.maps else "image"]
        files = [person, item.maps["garment"], picture, *([item.maps["image"]] if paired else [])]
        with contextlib.suppress(ImageError):
            cells += [load_image(path) for path in files]
        if len(cells) == NUM_EXAMPLES * len(heads):
            break
    if not cells:
        return
    sheet = contact_sheet(cells, 2 * len(heads), CELL, heads * (len(cells) // len(heads)), caption_lines=1)
    with replacing(folder / EXAMPLES) as unfinished:
        sheet.save(unfinished, format="PNG")
