"""``unifashion caption``: describe images in words, by a blip2_cir_cls (Q-Former) or a blip2_cir_full (language model).

unifashion caption photo.jpg my_shop/ --model runs/caption_ft -o captions.jsonl
unifashion caption --dataset fashiongen --data-root dataset/catalogue --model runs/quickstart/pretrain \
    -o runs/quickstart/captions/predictions.jsonl

Rows are {"id", "image", "caption"}. With --dataset, references.jsonl beside it holds what people wrote, {"id", "captions"}:
``cd src && python metrics.py`` scores the two. A run that was stopped goes on when it is called again.
"""

import argparse
import sys
from pathlib import Path

from unifashion.data.datasets import names, retrieval_sets


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="image files, or folders of images")
    parser.add_argument("--model", metavar="PATH", required=True, help="a run, a saved model folder or a hub id")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("captions.jsonl"),
        help="what is written [%(default)s]",
    )
    parser.add_argument("--dataset", choices=names(retrieval_sets("image-text")), help="caption a data set instead")
    parser.add_argument(
        "--data-root", metavar="PATH", help="folder that holds the data sets [$UNIFASHION_DATA, else dataset/]"
    )
    parser.add_argument("--split", choices=("train", "val"), default="val", help="of the data set [%(default)s]")
    parser.add_argument("--num-beams", metavar="N", type=int, default=1, help="beam search; 1 = greedy [%(default)s]")
    parser.add_argument("--sample", action="store_true", help="draw words instead of taking the likeliest")
    parser.add_argument(
        "--top-p",
        metavar="P",
        type=float,
        default=0.9,
        help="share of probability that --sample draws from [%(default)s]",
    )
    parser.add_argument("--max-new-tokens", metavar="N", type=int, default=48, help="longest caption [%(default)s]")
    parser.add_argument("--instruction", metavar="TEXT", help="what the language model is asked [as in training]")
    parser.add_argument("--llm", metavar="NAME", help="where the frozen language model is [where it was in training]")
    parser.add_argument("--batch-size", metavar="N", type=int, default=32, help="images at once [%(default)s]")
    parser.add_argument(
        "--num-workers", metavar="N", type=int, default=0, help="processes that load images [%(default)s]"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of --sample [%(default)s]")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N images")
    parser.add_argument("--overwrite", action="store_true", help="begin anew where the output is there already")


def run(flags: argparse.Namespace) -> None:
    """Caption and say where the result is."""
    from unifashion.apps.toy_catalogue import provide
    from unifashion.config import DataSettings
    from unifashion.data.splits import read_pairs
    from unifashion.errors import UserError
    from unifashion.io import write_jsonl
    from unifashion.llm.caption_file import Job, caption_files, find_files, name_images
    from unifashion.llm.captioner import Captioner
    from unifashion.models import pretrained
    from unifashion.models.generation import Decoding

    if bool(flags.images) == bool(flags.dataset):
        raise UserError("name images or folders of images, or a data set with --dataset; one of the two")
    if flags.batch_size < 1 or flags.num_workers < 0 or (flags.limit is not None and flags.limit < 1):
        raise UserError("--batch-size and --limit must be at least 1, --num-workers must not be negative")
    decoding = Decoding(flags.max_new_tokens, 0, flags.num_beams, flags.sample, flags.top_p)
    texts: dict[Path, str] = {}
    if flags.dataset:
        data = DataSettings(data_root=flags.data_root, dataset=flags.dataset)
        provide(data)
        split = read_pairs(data, flags.split)
        texts = {pair.image: pair.text for pair in split.pairs}
    images = (list(texts) if flags.dataset else find_files(flags.images))[: flags.limit]
    captioner = Captioner.from_pretrained(flags.model, llm=flags.llm)
    place = pretrained.resolve(flags.model).path
    facts = {"model": str(place), "written": (place / pretrained.CONFIG).stat().st_mtime if place.is_dir() else None}
    job = Job(images, flags.output, decoding, flags.instruction, flags.batch_size, flags.num_workers, flags.seed)
    left_out = caption_files(captioner, job, facts, flags.overwrite)
    named = [
        (name, image) for name, image in zip(name_images(images), images, strict=True) if image not in left_out.reasons
    ]
    sys.stdout.write(f"{len(named)} of {len(images)} images have captions in {flags.output}; {left_out.summary()}\n")
    if flags.dataset:
        place = flags.output.with_name("references.jsonl")
        write_jsonl(place, ({"id": name, "captions": [texts[image]]} for name, image in named if texts[image].strip()))
        sys.stdout.write(f"what people wrote is in {place}\n")
