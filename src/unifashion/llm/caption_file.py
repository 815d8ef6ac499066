"""A file of captions that can be continued after a run was killed.

captions.jsonl                {"id": "17", "image": "shop/17.jpg", "caption": "A red dress ..."}, in the order of the images
captions.jsonl.part           the same while it is written; the next run with the same settings continues there
captions.settings.json        model and decoding; a run with different ones must name another file or overwrite
captions.quarantine.csv       images that could not be read, with the reason (only if there were any)
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from unifashion.data.image_files import SUFFIXES, is_utf8, list_images
from unifashion.data.images import ImageError, ImageTransform, load_image
from unifashion.data.skipped import SkippedImages
from unifashion.errors import UserError
from unifashion.io import claim, cut_torn_line, disk_errors, move_file, write_json
from unifashion.llm.captioner import Captioner
from unifashion.models.generation import Decoding

log = logging.getLogger(__name__)


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


def find_files(names: Sequence[str]) -> list[Path]:
    """Return the images that files and folders name; a folder means all images below it, sorted.

    Raises:
        UserError: no such file or folder, or a folder without images.
    """
    files: list[Path] = []
    for path in map(Path, names):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; name images, or folders of images")
        if not is_utf8(str(path)):
            raise UserError(f"{str(path)!a}: the name is not UTF-8, so no caption file can hold it; rename it")
        inside = list_images(path) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path}: no images in this folder; expected files that end in {', '.join(SUFFIXES)}")
        files += inside
    return list(dict.fromkeys(files))


def name_images(images: Sequence[Path]) -> list[str]:
    """Return an id for every image: its file name without suffix, or the whole path where names repeat."""
    stems = [image.stem for image in images]
    return stems if len(set(stems)) == len(stems) else [image.with_suffix("").as_posix() for image in images]


def caption_files(captioner: Captioner, job: Job, made_with: dict[str, Any], overwrite: bool = False) -> SkippedImages:
    """Caption images into ``job.out``, continuing where an earlier run with the same settings stopped.

    Args:
        captioner: the model.
        job: images, file, decoding.
        made_with: what else must be the same to continue: the checkpoint.
        overwrite: start anew, whatever exists.

    Returns:
        the images that could not be read; they have no row.

    Raises:
        UserError: the file exists and was made with other settings, or cannot be written; no image can be read.
    """
    settings = {**made_with, "decoding": vars(job.decoding), "instruction": job.instruction, "seed": job.seed}
    part = job.out.with_name(f"{job.out.name}.part")
    with disk_errors(f"-o {job.out}:", "name another file"):
        job.out.parent.mkdir(parents=True, exist_ok=True)
        _claim(job.out, part, settings, overwrite)
        done = _captioned(part)
        skipped = _write(captioner, job, part, done)
        _write_skipped(job.out, skipped)
        if len(skipped) == len(job.images):
            part.unlink()
            raise UserError(f"none of the {len(job.images)} images can be read; {skipped.summary()}")
        move_file(part, job.out)
    return skipped


def _write(captioner: Captioner, job: Job, part: Path, done: set[str]) -> SkippedImages:
    """Append the rows that are missing, batch by batch."""
    skipped = SkippedImages()
    names = name_images(job.images)
    left = [index for index, image in enumerate(job.images) if str(image) not in done]
    if done:
        log.info("%d of %d images already have captions", len(job.images) - len(left), len(job.images))
    with (
        part.open("a", encoding="utf-8", newline="\n") as file,
        tqdm(
            total=len(job.images),
            initial=len(job.images) - len(left),
            desc="captions",
            disable=not job.progress,
            dynamic_ncols=True,
        ) as bar,
    ):
        for batch in _loader(captioner.transform, job, left):
            good = [(index, pixels) for index, pixels, reason in batch if not reason]
            for index, _, reason in batch:
                if reason:
                    skipped.add(job.images[index], reason)
            if good:
                pixels = torch.stack([pixels for _, pixels in good])
                captions = captioner.caption_pixels(pixels, job.decoding, job.instruction, job.seed + good[0][0])
                rows = [
                    {"id": names[index], "image": str(job.images[index]), "caption": caption}
                    for (index, _), caption in zip(good, captions, strict=True)
                ]
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
                file.flush()
            bar.update(len(batch))
    return skipped


def _claim(out: Path, part: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make sure that an existing file was made with the same settings, and turn it into the part to continue."""
    record = out.with_name(f"{out.stem}.settings.json")
    if overwrite:
        for path in (out, part, record):
            path.unlink(missing_ok=True)
    begun = out.exists() or part.exists()
    if begun and not claim(record, settings, f"-o {out}", "name another file, or --overwrite it"):
        raise UserError(f"-o {out}: it already exists; name another file, or --overwrite it")
    write_json(record, settings)
    if out.exists() and not part.exists():
        move_file(out, part)


def _captioned(part: Path) -> set[str]:
    """Return the images that have rows."""
    cut_torn_line(part)
    if not part.exists():
        return set()
    return {json.loads(line)["image"] for line in part.read_text(encoding="utf-8").split("\n") if line}


def _write_skipped(out: Path, skipped: SkippedImages) -> None:
    path = out.with_name(f"{out.stem}.quarantine.csv")
    path.unlink(missing_ok=True)
    if len(skipped):
        skipped.write(path)


class _Pixels(Dataset[tuple[int, Tensor, str]]):
    """(index, uint8 pixels, why it is broken or '')."""

    def __init__(self, transform: ImageTransform, images: Sequence[Path], left: Sequence[int]) -> None:
        self.transform, self.images, self.left = transform, images, left

    def __len__(self) -> int:
        return len(self.left)

    def __getitem__(self, position: int) -> tuple[int, Tensor, str]:
        index = self.left[position]
        try:
            return index, self.transform(load_image(self.images[index])), ""
        except ImageError as error:
            return index, torch.empty(0, dtype=torch.uint8), error.reason


def _loader(transform: ImageTransform, job: Job, left: Sequence[int]) -> Iterator[list[tuple[int, Tensor, str]]]:
    loader: DataLoader[Any] = DataLoader(
        _Pixels(transform, job.images, left), batch_size=job.batch_size, num_workers=job.num_workers, collate_fn=list
    )
    return iter(loader)
