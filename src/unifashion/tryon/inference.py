"""Draw the pairs of a split, or of a pairs file, into a folder; existing results are kept, so a stopped call can be continued.

    OUT/00891_00.png              a paired result: the person's name
    OUT/00891_00_01430_00.png     an unpaired one: person_garment
    OUT/inference.json            settings, model, counts, the pairs that were left out, and the marks that every score of these
                                  pictures must carry
    OUT/examples.png              the first pairs: person, garment, result, and the truth where there is one

A result has the model's size; a photo of another aspect ratio is given back in its own, drawn in a window around the mask.
Every result has its own seed, made of --seed and its name: the picture does not depend on what else is drawn.

Pairs that lack a file are known before anything is drawn, pairs with a damaged one are found while drawing; both are left out.
More of them than --max-missing are an error: of the first kind at once, of the second when all other pairs are drawn. A later
call draws what was mended.
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

from unifashion.data.images import ImageError, load_image
from unifashion.data.skipped import check_missing
from unifashion.data.splits import find_tryon, read_tryon
from unifashion.data.synthetic import is_synthetic
from unifashion.data.tryon import TryOnItem, TryOnSplit
from unifashion.distributed import is_main_process, join_processes, merge_dicts
from unifashion.errors import UserError
from unifashion.io import check_output, lock_folder, read_json, replacing, write_json
from unifashion.models.pretrained import weights_hash
from unifashion.seeding import seed_for
from unifashion.tryon.api import TryOn
from unifashion.tryon.dataset import needed_files
from unifashion.tryon.frame import Frame
from unifashion.tryon.loading import quiet_libraries
from unifashion.tryon.maps import Maps, files_of, read_maps, to_share, to_unit
from unifashion.tryon.pipeline import TryOnPipeline
from unifashion.tryon.qformer_context import QFormerContext
from unifashion.tryon.results import EXAMPLES, RECORD, check_names, write_examples
from unifashion.tryon.settings import TryOnInferenceSettings, data_root

log = logging.getLogger(__name__)

# What may differ between two calls that fill one folder: settings, and what is written about the pairs that were left out.
COUNTS = ("used", "left_out", "marks")
FREE = ("batch_size", "limit", "overwrite", "output_dir", "max_missing", "base")


def run_inference(settings: TryOnInferenceSettings) -> Path | None:
    """Draw, and return the folder of the results (None on all but the main process). Several processes share the pairs.

    Raises:
        UserError: a model, data or folder that cannot be used; a folder that holds results of other settings; on the main
            process, when all others are drawn, too many pairs with a damaged file.
    """
    quiet_libraries()
    check_output(Path(settings.output_dir), "--output-dir")
    join_processes()
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
    check_missing(len(split.items), listed, settings.max_missing, "pairs")
    items = split.items[: settings.limit] if settings.limit else split.items
    out = Path(settings.output_dir)
    record = {
        "settings": {name: value for name, value in asdict(settings).items() if name not in FREE},
        "model": weights_hash(pipe.denoiser.state_dict(), 8),
        "control": config.control,
        **_counts(split, {}),
        "marks": score_marks(settings, split.missing, find_tryon(settings.dataset, root)),
    }
    check_names(split.items)
    if out.is_file():
        raise UserError(f"--output-dir {out} is a file; name a folder")
    refusal = f"--output-dir {out}: another call is drawing into it; wait until it ends, or name another folder"
    with lock_folder(out, refusal) if state.is_main_process else nullcontext():
        if state.is_main_process:
            _open_folder(out, record, split.items, settings.overwrite)
        state.wait_for_everyone()
        own = _draw_share(tryon, items[state.process_index :: state.num_processes], out, size, settings)
        damaged = merge_dicts(own)  # waits for all processes
        if not state.is_main_process:
            return None
        left_out = _counts(split, damaged)["left_out"]
        marks = score_marks(settings, left_out, find_tryon(settings.dataset, root))
        write_json(out / RECORD, {**record, **_counts(split, damaged), "marks": marks})
        drawn = [item for item in items if item.name not in damaged]
        write_examples(out, drawn, [_path(out, item) for item in drawn])
    if not drawn:
        raise UserError(f"nothing could be drawn: {'; '.join(left_out[:3])}")
    check_missing(len(split.items) - len(damaged), listed, settings.max_missing, "pairs")
    return out


def _draw_share(
    tryon: TryOn, items: Sequence[TryOnItem], out: Path, size: tuple[int, int], settings: TryOnInferenceSettings
) -> dict[str, str]:
    """Draw one process's pairs that have no result yet; return, by name, why the others among them cannot be drawn."""
    todo = [item for item in items if not _path(out, item).is_file()]
    damaged: dict[str, str] = {}
    with tqdm(
        total=len(items),
        initial=len(items) - len(todo),
        desc="drawing",
        disable=not is_main_process(),
        dynamic_ncols=True,
    ) as bar:
        for batch in _batches(todo, settings.batch_size):
            loaded = _load(batch, tryon.reads, size, damaged)
            good = [item for item in batch if item.name not in damaged]
            drawn = _draw(tryon.pipe, good, [maps for maps, _ in loaded], settings, tryon.context) if good else []
            for item, picture, (_, frame) in zip(good, drawn, loaded, strict=True):
                whole = picture if frame.is_whole else frame.paste(load_image(item.maps["image"]), picture)
                with replacing(_path(out, item), durable=True) as unfinished:
                    whole.save(unfinished, format="PNG")
            bar.update(len(batch))
    return damaged


def _counts(split: TryOnSplit, damaged: dict[str, str]) -> dict[str, Any]:
    """Return how many pairs can be used, and why each of the others cannot."""
    left_out = [*split.missing, *(f"{name}: {damaged[name]}" for name in sorted(damaged))]
    used = len(split.items) - len(damaged)
    return {"used": f"used {used} of {len(split.items) + len(split.missing)} pairs", "left_out": left_out}


def score_marks(settings: TryOnInferenceSettings, left_out: Sequence[str], root: Path) -> list[str]:
    """Return the marks that every score of the results must carry."""
    marks = ["synthetic"] if is_synthetic(root) else []
    if left_out:
        marks.append("incomplete")
    if settings.repaint:
        marks.append("repaint")
    if settings.start == "ground-truth":
        marks.append("ground-truth-start")
    return marks


def _load(
    items: Sequence[TryOnItem], control: str, size: tuple[int, int], damaged: dict[str, str]
) -> list[tuple[Maps, Frame]]:
    """Return maps and frames of the items that can be read; the others are added to ``damaged``, by name, with the reason."""
    names = ("image", "agnostic", "densepose", "keep", control)
    loaded: list[tuple[Maps, Frame]] = []
    for item in items:
        try:
            loaded.append(read_maps(files_of(item, names), *size))
        except ImageError as error:
            damaged[item.name] = str(error)
            log.warning("left out: %s: %s", item.name, error)
    return loaded


def _draw(
    pipe: TryOnPipeline,
    items: Sequence[TryOnItem],
    loaded: Sequence[Maps],
    settings: TryOnInferenceSettings,
    context: QFormerContext | None,
) -> list[Image.Image]:
    control = pipe.denoiser.config.control
    maps: dict[str, Tensor] = {name: torch.stack([each[name] for each in loaded]) for name in loaded[0]}
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
    compared = [name for name in record if name not in COUNTS]
    differing = [name for name in compared if isinstance(previous, dict) and previous.get(name) != record[name]]
    if differing and any(path.name != EXAMPLES for path in out.glob("*.png")):
        assert isinstance(previous, dict), "only then something differs"
        old, new = previous.get("settings"), record["settings"]
        changed = [name for name in new if not isinstance(old, dict) or old.get(name) != new[name]]
        raise UserError(
            f"--output-dir {out} holds results made with another {', '.join(changed or differing)}; name another folder"
            + (", or remove them" if overwrite else ", or add --overwrite")
        )
    write_json(out / RECORD, record)
