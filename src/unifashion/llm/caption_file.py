"""A file of captions that can be continued after a run was killed.

captions.jsonl                {"id": "17", "image": "shop/17.jpg", "caption": "A red dress ..."}, in the order of the images
captions.jsonl.part           new rows while they are written; the next run with the same settings continues there
captions.settings.json        model and decoding; a run with different ones must name another file or overwrite
captions.quarantine.csv       images without a caption, with the reason (only if there were any)
"""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from unifashion.data.image_files import SUFFIXES, PassedOver, is_utf8, list_images
from unifashion.data.images import ImageError, ImageTransform, load_image
from unifashion.data.skipped import SkippedImages
from unifashion.errors import UserError
from unifashion.io import atomic_write, claim, cut_torn_line, disk_errors, lock_beside, open_file, write_json
from unifashion.llm.captioner import Captioner
from unifashion.models.generation import Decoding

log = logging.getLogger(__name__)

Row = dict[str, str]


@dataclass(frozen=True)
class Job:
    """What is captioned, and how."""

    images: Sequence[Path]
    out: Path
    decoding: Decoding
    instruction: str | None = None
    batch_size: int = 32
    num_workers: int = 0
    seed: int = 0
    progress: bool = True


def find_files(names: Sequence[str], passed_over: PassedOver) -> list[Path]:
    """Return the images that files and folders name; a folder means all images below it, sorted.

    ``passed_over`` gets the other files of the folders.

    Raises:
        UserError: no such file or folder, or a folder without images.
    """
    files: list[Path] = []
    for path in map(Path, names):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; name images, or folders of images")
        if not is_utf8(str(path)):
            raise UserError(f"{str(path)!a}: the name is not UTF-8, so no caption file can hold it; rename it")
        inside = list_images(path, passed_over=passed_over) if path.is_dir() else [path]
        if not inside:
            others = f" ({passed_over.summary()})" if passed_over.names else ""
            raise UserError(
                f"{path}: no images in this folder; expected files that end in {', '.join(SUFFIXES)}{others}"
            )
        files += inside
    return list(dict.fromkeys(files))


def name_images(images: Sequence[Path]) -> list[str]:
    """Return an id for every image: its file name without suffix, or the path where names repeat, with suffix if it must be."""
    stems = [image.stem for image in images]
    paths = [image.with_suffix("").as_posix() for image in images]
    return next((ids for ids in (stems, paths) if len(set(ids)) == len(ids)), [image.as_posix() for image in images])


def caption_files(captioner: Captioner, job: Job, made_with: dict[str, Any], overwrite: bool = False) -> SkippedImages:
    """Caption images into ``job.out``, continuing where an earlier run with the same settings stopped.

    Rows of other images in the file are kept, before those of this job.

    Args:
        captioner: the model.
        job: images, file, decoding.
        made_with: what else must be the same to continue: the checkpoint.
        overwrite: start anew, whatever exists.

    Returns:
        the images that could not be read, or for which the model gave no caption; they have no row.

    Raises:
        UserError: the file exists and was made with other settings, holds other things, is being written by another call, or
            cannot be written; no image gets a caption.
    """
    settings = {**made_with, "decoding": vars(job.decoding), "instruction": job.instruction, "seed": job.seed}
    part = job.out.with_name(f"{job.out.name}.part")
    with lock_beside(job.out, f"-o {job.out}: another call is writing it; wait until it ends, or name another file"):
        _claim(job.out, part, settings, overwrite)
        rows = _read_part(part) | _read_rows(job.out)
        _check_ids(job, rows)
        with disk_errors(part):
            skipped = _write(captioner, job, part, rows)
        _write_skipped(job.out, skipped)
        if len(skipped) == len(job.images):
            if not rows:
                part.unlink()
            raise UserError(f"none of the {len(job.images)} images got a caption; {skipped.summary()}")
        others = [image for image in rows if image not in {*map(str, job.images)}]
        _write_rows(job.out, (rows[image] for image in [*others, *map(str, job.images)] if image in rows))
        part.unlink(missing_ok=True)
    return skipped


def _write(captioner: Captioner, job: Job, part: Path, rows: dict[str, Row]) -> SkippedImages:
    """Add the rows that are missing, batch by batch; a batch is captioned as a whole, as if nothing had stopped it."""
    skipped = SkippedImages()
    names, images = name_images(job.images), [*map(str, job.images)]
    starts = range(0, len(images), job.batch_size)
    batches = [list(range(first, min(first + job.batch_size, len(images)))) for first in starts]
    left = [batch for batch in batches if any(images[index] not in rows for index in batch)]
    if rows:
        log.info("%d of %d images already have captions", sum(image in rows for image in images), len(images))
    with (
        part.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
        tqdm(
            total=len(images),
            initial=len(images) - sum(map(len, left)),
            desc="captions",
            disable=not job.progress,
            dynamic_ncols=True,
        ) as bar,
    ):
        for batch in _loader(captioner.transform, job, left):
            good = [(index, pixels) for index, pixels, reason in batch if not reason]
            for index, _, reason in batch:
                if reason and images[index] not in rows:
                    skipped.add(job.images[index], reason)
            if any(images[index] not in rows for index, _ in good):
                pixels = torch.stack([pixels for _, pixels in good])
                captions = captioner.caption_pixels(pixels, job.decoding, job.instruction, job.seed + good[0][0])
                new: dict[str, Row] = {
                    images[index]: {"id": names[index], "image": images[index], "caption": caption}
                    for (index, _), caption in zip(good, captions, strict=True)
                    if images[index] not in rows and caption
                }
                for (index, _), caption in zip(good, captions, strict=True):
                    if not caption and images[index] not in rows:
                        skipped.add(job.images[index], "the model gave no caption")
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new.values()))
                file.flush()
                rows |= new
            bar.update(len(batch))
    return skipped


def _claim(out: Path, part: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make sure that what exists was made with the same settings."""
    record = _beside(out, "settings.json")
    if overwrite:
        for path in (out, part, record):
            path.unlink(missing_ok=True)
    begun = out.exists() or part.exists()
    if begun and not claim(record, settings, f"-o {out}", "name another file, or --overwrite it"):
        raise UserError(f"-o {out}: it already exists; name another file, or --overwrite it")
    write_json(record, settings)


def _beside(out: Path, what: str) -> Path:
    """Return where a file about the captions goes; captions.txt and captions.jsonl have their own."""
    return out.with_name(f"{out.stem if out.suffix == '.jsonl' else out.name}.{what}")


def _read_rows(out: Path) -> dict[str, Row]:
    """Return the rows of a finished file by their images.

    Raises:
        UserError: a line that is not one of our rows.
    """
    if not out.exists():
        return {}
    rows: dict[str, Row] = {}
    for number, line in enumerate(_lines(out), 1):
        row = _row(line)
        if row is None:
            raise UserError(
                f"{out}, row {number}: not a row of captions; remove it, name another file with -o, or --overwrite this one"
            )
        rows.setdefault(row["image"], row)
    return rows


def _read_part(part: Path) -> dict[str, Row]:
    """Return the rows of a part; a damaged one is left out, and its image captioned again."""
    cut_torn_line(part)
    rows = [_row(line) for line in _lines(part)] if part.exists() else []
    if damaged := rows.count(None):
        log.warning("%s: %d damaged rows; their images are captioned again", part, damaged)
    return {row["image"]: row for row in reversed(rows) if row is not None}


def _lines(path: Path) -> list[bytes]:
    # Split at \n alone: splitlines() would also split at the \u2028 that a caption may hold.
    try:
        with open_file(path, sys.maxsize) as file:
            return [line for line in file.read().split(b"\n") if line]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); remove it, or name another file with -o") from None


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("id", "image", "caption"))
    return row if is_ours else None


def _check_ids(job: Job, rows: dict[str, Row]) -> None:
    """Raise where a row that exists would get another id, or share one with an image of this job."""
    names = dict(zip(name_images(job.images), map(str, job.images), strict=True))
    ids = {image: name for name, image in names.items()}
    for image, row in rows.items():
        if ids.get(image, row["id"]) != row["id"] or names.get(row["id"], image) != image:
            raise UserError(
                f"-o {job.out}: it holds {image} with the id {row['id']!r}, which these images would change or use again; "
                "name another file, or --overwrite it"
            )


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    atomic_write(path, text.encode("utf-8", "backslashreplace"), durable=True)


def _write_skipped(out: Path, skipped: SkippedImages) -> None:
    path = _beside(out, "quarantine.csv")
    path.unlink(missing_ok=True)
    if len(skipped):
        skipped.write(path)


class _Pixels(Dataset[tuple[int, Tensor, str]]):
    """(index, uint8 pixels, why it is broken or '')."""

    def __init__(self, transform: ImageTransform, images: Sequence[Path]) -> None:
        self.transform, self.images = transform, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Tensor, str]:
        try:
            return index, self.transform(load_image(self.images[index])), ""
        except ImageError as error:
            return index, torch.empty(0, dtype=torch.uint8), error.reason


def _loader(transform: ImageTransform, job: Job, batches: list[list[int]]) -> Iterator[list[tuple[int, Tensor, str]]]:
    loader: DataLoader[Any] = DataLoader(
        _Pixels(transform, job.images), batch_sampler=batches, num_workers=job.num_workers, collate_fn=list
    )
    return iter(loader)
