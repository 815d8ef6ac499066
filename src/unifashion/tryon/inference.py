"""Draw the pairs of a split, or of a pairs file, into a folder; existing results are kept, so a stopped call can be continued.

    OUT/00891_00.png              a paired result: the person's name
    OUT/00891_00_01430_00.png     an unpaired one: person_garment
    OUT/inference.json            settings, model, counts, and the marks that every score of these pictures must carry
    OUT/examples.png              the first pairs: person, garment, result, and the truth where there is one

Every result has its own seed, made of --seed and its name: the picture does not depend on what else is drawn.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from unifashion.data.skipped import check_missing
from unifashion.data.splits import find_tryon, read_tryon
from unifashion.data.synthetic import is_synthetic
from unifashion.data.tryon import TryOnItem, TryOnSplit
from unifashion.distributed import check_launch
from unifashion.errors import UserError
from unifashion.io import check_output, lock_folder, read_json, replacing, write_json
from unifashion.models.pretrained import weights_hash
from unifashion.seeding import seed_for
from unifashion.tryon.api import TryOn
from unifashion.tryon.dataset import needed_files
from unifashion.tryon.loading import quiet_libraries
from unifashion.tryon.maps import load_maps, to_share, to_unit
from unifashion.tryon.pipeline import TryOnPipeline
from unifashion.tryon.qformer_context import QFormerContext
from unifashion.tryon.results import EXAMPLES, RECORD, check_names, write_examples
from unifashion.tryon.settings import TryOnInferenceSettings, data_root

log = logging.getLogger(__name__)

# What may differ between two calls that fill one folder.
FREE = ("batch_size", "limit", "overwrite", "output_dir", "max_missing", "base")


def run_inference(settings: TryOnInferenceSettings) -> Path | None:
    """Draw, and return the folder of the results (None on all but the main process). Several processes share the pairs.

    Raises:
        UserError: a model, data or folder that cannot be used; a folder that holds results of other settings.
    """
    quiet_libraries()
    check_output(Path(settings.output_dir), "--output-dir")
    check_launch()
    state = PartialState()
    tryon = TryOn.from_pretrained(
        settings.model_path,
        base=settings.base,
        control=settings.control,
        retriever=settings.retriever,
        device=state.device,
        precision=settings.precision,
        scheduler=settings.scheduler,
    )
    pipe, config = tryon.pipe, tryon.pipe.denoiser.config
    size = (settings.height or config.image_size[0], settings.width or config.image_size[1])
    pipe.check(*size, settings.num_inference_steps)
    root = data_root(settings.dataset, settings.data_root)
    names = tuple(dict.fromkeys(("image", "agnostic", "densepose", "keep", "garment", config.control)))
    split = read_tryon(settings.dataset, root, settings.split, needed_files(names), settings.pairs)
    for line in split.missing[:5]:
        log.warning("left out: %s", line)
    listed = len(split.items) + len(split.missing)
    used = check_missing(len(split.items), listed, settings.max_missing, "pairs")
    items = split.items[: settings.limit] if settings.limit else split.items
    out = Path(settings.output_dir)
    record = {
        "settings": {name: value for name, value in asdict(settings).items() if name not in FREE},
        "model": weights_hash(pipe.denoiser.state_dict(), 8),
        "control": config.control,
        "used": used,
        "marks": score_marks(settings, split, find_tryon(settings.dataset, root)),
    }
    check_names(split.items)
    if out.is_file():
        raise UserError(f"--output-dir {out} is a file; name a folder")
    refusal = f"--output-dir {out}: another call is drawing into it; wait until it ends, or name another folder"
    with lock_folder(out, refusal) if state.is_main_process else nullcontext():
        if state.is_main_process:
            _open_folder(out, record, split.items, settings.overwrite)
        state.wait_for_everyone()
        share = items[state.process_index :: state.num_processes]
        todo = [item for item in share if not _path(out, item).is_file()]
        with tqdm(
            total=len(share),
            initial=len(share) - len(todo),
            desc="drawing",
            disable=not state.is_main_process,
            dynamic_ncols=True,
        ) as bar:
            for batch in _batches(todo, settings.batch_size):
                for item, picture in zip(batch, _draw(pipe, batch, size, settings, tryon.context), strict=True):
                    with replacing(_path(out, item), durable=True) as unfinished:
                        picture.save(unfinished, format="PNG")
                    bar.update()
        state.wait_for_everyone()
        if not state.is_main_process:
            return None
        write_examples(out, items, [_path(out, item) for item in items])
    return out


def score_marks(settings: TryOnInferenceSettings, split: TryOnSplit, root: Path) -> list[str]:
    """Return the marks that every score of the results must carry."""
    marks = ["synthetic"] if is_synthetic(root) else []
    if split.missing:
        marks.append("incomplete")
    if settings.repaint:
        marks.append("repaint")
    if settings.start == "ground-truth":
        marks.append("ground-truth-start")
    return marks


def _draw(
    pipe: TryOnPipeline,
    items: Sequence[TryOnItem],
    size: tuple[int, int],
    settings: TryOnInferenceSettings,
    context: QFormerContext | None,
) -> list[Image.Image]:
    control = pipe.denoiser.config.control
    names = ("image", "agnostic", "densepose", "keep", control)
    loaded = [load_maps(item, names, *size) for item in items]
    maps: dict[str, Tensor] = {name: torch.stack([each[name] for each in loaded]) for name in names}
    units = {name: to_share(pixels) if name == "keep" else to_unit(pixels) for name, pixels in maps.items()}
    texts = [item.text for item in items]
    drawn = pipe(
        person=units["image"],
        garment=units[control],
        agnostic_mask=units["keep"],
        densepose=units["densepose"],
        agnostic=units["agnostic"],
        prompt=texts,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        repaint=settings.repaint,
        start=settings.start,
        generator=pipe.seeded([seed_for(settings.seed, item.name) for item in items]),
        rows=context(maps[control], texts) if context else None,
    )
    return list(drawn.images)


def _batches(items: Sequence[TryOnItem], size: int) -> Iterator[Sequence[TryOnItem]]:
    for first in range(0, len(items), max(size, 1)):
        yield items[first : first + max(size, 1)]


def _path(out: Path, item: TryOnItem) -> Path:
    return out / f"{item.name}.png"


def _open_folder(out: Path, record: dict[str, Any], items: Sequence[TryOnItem], overwrite: bool) -> None:
    """Write the record, unless the folder holds results of other settings; ``overwrite`` removes those of ``items`` first."""
    previous = read_json(out / RECORD)
    if overwrite:
        for item in items:
            _path(out, item).unlink(missing_ok=True)
    elif not isinstance(previous, dict) and any(not path.name.startswith(".") for path in out.iterdir()):
        what = f"a damaged {RECORD}" if (out / RECORD).exists() else "other files"
        raise UserError(f"--output-dir {out} holds {what}; name another folder, or add --overwrite")
    differing = [name for name in record if isinstance(previous, dict) and previous.get(name) != record[name]]
    if differing and any(path.name != EXAMPLES for path in out.glob("*.png")):
        assert isinstance(previous, dict), "only then something differs"
        old, new = previous.get("settings"), record["settings"]
        changed = [name for name in new if not isinstance(old, dict) or old.get(name) != new[name]]
        raise UserError(
            f"--output-dir {out} holds results made with another {', '.join(changed or differing)}; name another folder"
            + (", or remove them" if overwrite else ", or add --overwrite")
        )
    write_json(out / RECORD, record)
