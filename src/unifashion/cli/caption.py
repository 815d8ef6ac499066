"""Describe images in words, by a blip2_cir_cls (Q-Former) or a blip2_cir_full (language model).

    unifashion caption photo.jpg my_shop/ --model runs/caption_ft -o captions.jsonl
    unifashion caption --dataset fashiongen --data-root dataset/catalogue --model runs/quickstart/pretrain -o captions.jsonl

Rows are {"id", "image", "caption"}. With --dataset, references.jsonl beside it holds the captions by people, {"id", "captions"}:
``cd src && python metrics.py`` scores the two. A run that was stopped continues with the same command.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unifashion.data.datasets import names, retrieval_sets
from unifashion.errors import UserError
from unifashion.flags import REQUIRED, SEEDS, UNLIMITED, argument, setting


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Captions: of which images, by which model, and how its words are chosen."""

    image: tuple[str, ...] = argument("image files, or folders of images", ())
    model: str = setting(REQUIRED, "a run, a saved model folder or a hub id")
    output: Path = setting(Path("captions.jsonl"), "file to write", short="-o")
    dataset: str | None = setting(None, "caption a data set instead", choices=names(retrieval_sets("image-text")))
    data_root: str | None = setting(None, "folder that holds the data sets [$UNIFASHION_DATA, else dataset/]")
    split: Literal["train", "val"] = setting("val", "of the data set")
    num_beams: int = setting(1, "beam search; 1 = greedy", least=1, most=64)
    sample: bool = setting(False, "sample words instead of taking the likeliest")
    top_p: float = setting(0.9, "share of probability that --sample draws from", above=0, most=1)
    max_new_tokens: int = setting(48, "longest caption", least=1, most=2**16)
    instruction: str | None = setting(None, "what the language model is asked [as in training]")
    llm: str | None = setting(None, "where the frozen language model is [where it was in training]")
    batch_size: int = setting(32, "images per batch", least=1, most=4096)
    num_workers: int = setting(0, "processes that load images", most=256)
    seed: int = setting(0, "of --sample", below=SEEDS)
    limit: int | None = setting(None, "only the first N images", least=1, most=UNLIMITED)
    overwrite: bool = setting(False, "start over where the output already exists")

    def __post_init__(self) -> None:
        if bool(self.image) == bool(self.dataset):
            raise UserError("name images or folders of images, or a data set with --dataset; one of the two")


def run(settings: Settings) -> None:
    """Caption and say where the result is."""
    from unifashion.config import DataSettings
    from unifashion.data.image_files import PassedOver
    from unifashion.data.splits import read_pairs
    from unifashion.io import check_output, write_jsonl
    from unifashion.llm.caption_file import Job, caption_files, find_files, name_images
    from unifashion.llm.captioner import Captioner
    from unifashion.models import pretrained
    from unifashion.models.generation import Decoding

    out = settings.output
    check_output(out, "--output", is_file=True)
    decoding = Decoding(settings.max_new_tokens, 0, settings.num_beams, settings.sample, settings.top_p)
    references: dict[Path, str] = {}
    if settings.dataset:
        data = DataSettings(data_root=settings.data_root, dataset=settings.dataset)
        if data.wants_embedded():
            from unifashion.apps.toy_catalogue import provide

            provide(data)
        references = {pair.image: pair.text for pair in read_pairs(data, settings.split).pairs}
    passed_over = PassedOver()
    images = (list(references) if settings.dataset else find_files(settings.image, passed_over))[: settings.limit]
    captioner = Captioner.from_pretrained(settings.model, llm=settings.llm)
    path = pretrained.resolve(settings.model).path
    metadata = {"model": str(path), "written": (path / pretrained.CONFIG).stat().st_mtime if path.is_dir() else None}
    job = Job(images, out, decoding, settings.instruction, settings.batch_size, settings.num_workers, settings.seed)
    skipped = caption_files(captioner, job, metadata, settings.overwrite)
    ids = {name: image for name, image in zip(name_images(images), images, strict=True) if image not in skipped.reasons}
    sys.stdout.write(f"{len(ids)} of {len(images)} images have captions in {out}; {skipped.summary()}\n")
    if passed_over.names:
        sys.stdout.write(f"{passed_over.summary()}\n")
    if settings.dataset:
        path = out.with_name("references.jsonl")
        texts = ((name, references[image]) for name, image in ids.items())
        write_jsonl(path, ({"id": name, "captions": [text]} for name, text in texts if text.strip()))
        sys.stdout.write(f"the captions by people are in {path}\n")
