"""The files that a captioning run leaves, in the forms that the readers of the data take."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unifashion.apps.fashioniq_captions.editing import edit
from unifashion.apps.fashioniq_captions.journal import Entry
from unifashion.apps.fashioniq_captions.photos import Photo
from unifashion.apps.fashioniq_captions.settings import PhotoSettings, data_root
from unifashion.data.own_catalogue import TABLE
from unifashion.io import write_jsonl


def output_paths(settings: PhotoSettings, out: Path, photos: Sequence[Photo]) -> list[Path]:
    """Return the caption files that a run writes."""
    if settings.dataset == "fashioniq":
        groups = dict.fromkeys(photo.group for photo in photos)
        return [out / f"next_llava.{settings.split}.{group}.caption.json" for group in groups]
    if settings.dataset == "images":
        is_beside = out == data_root(settings).absolute()  # a catalogue names photos below its own folder
        return [out / "captions.jsonl", *([out / TABLE] if is_beside else [])]
    paths = [out / f"captions.{settings.split}.jsonl"]
    return [*paths, out / f"captions.{settings.split}.json"] if settings.dataset == "vitonhd" else paths


def write_results(
    settings: PhotoSettings,
    out: Path,
    photos: Sequence[Photo],
    entries: Mapping[str, Entry],
    facts: Mapping[str, Any],
) -> list[Path]:
    """Write the captions of ``photos`` and a file of facts; each is replaced whole or not at all.

    Args:
        settings: which data set and split.
        out: folder.
        photos: those that have a caption, in order.
        entries: the model's words by key.
        facts: of the run; ``edit`` says whether people are taken out.
    """
    captions = {
        photo.key: edit(entry.text, entry.finished) if facts["edit"] else " ".join(entry.text.split())
        for photo in photos
        for entry in [entries[photo.key]]
    }
    paths = output_paths(settings, out, photos)
    if settings.dataset == "fashioniq":
        for path in paths:
            rows = [
                {"image": photo.name, "caption": captions[photo.key], "text_guidance": photo.guidance}
                for photo in photos
                if path.name.split(".")[2] == photo.group
            ]
            _replace(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    else:
        write_jsonl(paths[0], (_row(photo, captions, entries, out) for photo in photos))
    if settings.dataset == "vitonhd":  # MGD's captions.json: a garment's number -> texts
        texts = {photo.name.partition("_")[0]: [captions[photo.key]] for photo in photos}
        _replace(paths[1], json.dumps(texts, indent=1, ensure_ascii=False) + "\n")
    if settings.dataset == "images" and len(paths) > 1:
        _replace(paths[1], _table(photos, captions, out))
    marks = ["leaky"] if settings.split != "train" and any(photo.guidance for photo in photos) else []
    told = json.dumps({**facts, "marks": marks}, indent=1, ensure_ascii=False)
    _replace(out / f"captioning.{settings.split}.json", told + "\n")
    return paths


def _row(photo: Photo, captions: Mapping[str, str], entries: Mapping[str, Entry], out: Path) -> dict[str, str]:
    row = {"id": photo.name, "image": _relative(photo.image, out.parent), "caption": captions[photo.key]}
    attributes = entries[photo.key].attributes
    return row | ({"attributes": attributes} if attributes else {})


def _table(photos: Sequence[Photo], captions: Mapping[str, str], out: Path) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["image", "text"])
    writer.writerows([_relative(photo.image, out), captions[photo.key]] for photo in photos)
    return table.getvalue()


def _relative(image: Path, folder: Path) -> str:
    return image.relative_to(folder).as_posix() if image.is_relative_to(folder) else image.as_posix()


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
