"""The output files of a captioning run, in the formats that the readers of the data take."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unifashion.apps.fashioniq_captions.editing import edit
from unifashion.apps.fashioniq_captions.journal import Entry
from unifashion.apps.fashioniq_captions.photos import Photo
from unifashion.apps.fashioniq_captions.settings import PhotoSettings, data_root
from unifashion.data.own_catalogue import TABLE
from unifashion.io import atomic_write, write_csv, write_jsonl


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
    metadata: Mapping[str, Any],
) -> list[Path]:
    """Write the captions of ``photos`` and a file about the run; each is replaced whole or not at all.

    They are not forced to disk: all of them can be made again from the journal, which is.

    Args:
        settings: which data set and split.
        out: folder.
        photos: those that have a caption, in order.
        entries: the model's words by key.
        metadata: of the run; ``edit`` says whether people are removed.
    """
    captions = {
        photo.key: edit(entry.text, entry.finished) if metadata["edit"] else " ".join(entry.text.split())
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
            _write_json(path, rows)
    else:
        write_jsonl(paths[0], (_row(photo, captions, entries, out) for photo in photos))
    if settings.dataset == "vitonhd":  # MGD's captions.json: the digits of a garment's name -> texts
        _write_json(paths[1], {photo.name.partition("_")[0]: [captions[photo.key]] for photo in photos})
    if settings.dataset == "images" and len(paths) > 1:
        table = ({"image": _relative(photo.image, out), "text": captions[photo.key]} for photo in photos)
        write_csv(paths[1], ("image", "text"), table)
    marks = ["leaky"] if settings.split != "train" and any(photo.guidance for photo in photos) else []
    _write_json(out / f"captioning.{settings.split}.json", {**metadata, "marks": marks})
    return paths


def _write_json(path: Path, value: Any) -> None:
    """Write JSON whose captions a person can read in any language."""
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _row(photo: Photo, captions: Mapping[str, str], entries: Mapping[str, Entry], out: Path) -> dict[str, str]:
    row = {"id": photo.name, "image": _relative(photo.image, out.parent), "caption": captions[photo.key]}
    attributes = entries[photo.key].attributes
    return row | ({"attributes": attributes} if attributes else {})


def _relative(image: Path, folder: Path) -> str:
    return image.relative_to(folder).as_posix() if image.is_relative_to(folder) else image.as_posix()
