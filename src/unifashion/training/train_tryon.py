"""Train try-on from settings: read, build, fit, save."""

import json
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from unifashion.data.images import ImageError
from unifashion.data.skipped import check_missing
from unifashion.data.splits import read_tryon
from unifashion.data.synthetic import is_synthetic
from unifashion.data.tryon import ROOTS, TryOnSplit
from unifashion.errors import UserError, require
from unifashion.evaluation.tryon_validation import Shown, validate_tryon
from unifashion.models.blocks_vae import BlockAutoencoder
from unifashion.models.context_adapter import load_adapter
from unifashion.seeding import seed_everything
from unifashion.training.checkpoint import find_checkpoint
from unifashion.training.resume import check_data
from unifashion.training.run_folder import check_run, fingerprint, open_run
from unifashion.training.schedule import make_plateau
from unifashion.training.tasks.tryon import TryOnTask
from unifashion.training.trainer import Cadence, Trainer, Validation, make_accelerator
from unifashion.tryon.dataset import LatentCache, RowSampler, TryOnRows, map_names, needed_files
from unifashion.tryon.loading import load_pipeline, quiet_libraries, start_pipeline
from unifashion.tryon.maps import load_maps, to_unit
from unifashion.tryon.pipeline import TryOnPipeline
from unifashion.tryon.qformer_context import QFormerContext, check_retriever
from unifashion.tryon.settings import TryOnDataSettings, TryOnModelSettings, TryOnTrainingSettings, data_root
from unifashion.tryon.tiny import tiny_pipeline

log = logging.getLogger(__name__)


VAE_ITEMS = 200


def train(data: TryOnDataSettings, model: TryOnModelSettings, training: TryOnTrainingSettings) -> Path | None:
    """Run one training and return its run folder (None on all but the main process).

    Problems with the input are reported before the run folder is made.

    Raises:
        UserError: unusable settings, data or weights; a loss that is not finite.
    """
    quiet_libraries()
    require("torchmetrics", "the validation of a try-on training")
    check_run(training)
    if model.trains_qformer and training.cache_latents:
        raise UserError(f"--trainable {model.trainable} changes what is cached in every step: add --no-cache-latents")
    accelerator = make_accelerator(training, find_unused=model.trains_qformer)
    names = map_names(data.control, warped_mask=training.atv_weight > 0)
    with accelerator.main_process_first():
        train_split, used = read_split(data, "train", names)
    size = (data.height, data.width)
    needed = training.batch_size * accelerator.num_processes
    if len(train_split.items) < needed:
        raise UserError(f"a step takes {needed} pairs but there are {len(train_split.items)}; lower --batch-size")
    shown = validation_pairs(data, training)
    described = {"set": data.dataset, "used": used, "fingerprint": fingerprint(_files(train_split))}
    checkpoint = _checkpoint(Path(training.resume), described) if training.resume else None
    context = QFormerContext(model.retriever, accelerator.device) if model.retriever else None
    seed_everything(training.seed, "weights")
    pipe = _build(data, model, checkpoint, train_split, context)
    if context is not None:
        context.apply(pipe.qformer)
    if context is not None and model.trains_qformer:
        context.train_qformer()
    pipe.check(*size, training.validation_inference_steps)
    rows = TryOnRows(train_split.items, names, size, training)
    if isinstance(pipe.vae, BlockAutoencoder) and checkpoint is None and not model.init_from:
        share = pipe.vae.fit(_pictures(rows))
        log.info("the toy's VAE explains %.1f %% of the variance of the training pictures", 100 * share)
    trainer = _trainer(pipe, rows, model, training, accelerator, context, shown, data.num_workers)
    with open_run(training) if accelerator.is_main_process else nullcontext() as run:
        if run is not None and not training.resume:
            run.describe((data, model, training), rows=len(rows.items), data=described, synthetic=_synthetic(data))
        trainer.run = run
        if training.tracker != "none":
            accelerator.init_trackers("unifashion-tryon")
        if training.resume:
            # Found again, now that nobody else can continue the run.
            trainer.resume(find_checkpoint(Path(training.resume)))
        trainer.fit()
        accelerator.end_training()
    return run.path if run is not None else None


def _checkpoint(run: Path, described: dict[str, str]) -> Path | None:
    """Return the checkpoint that a run continues from.

    Raises:
        UserError: no run there, one of version 0.1, or other training data than it was started with.
    """
    check_data(run, described)
    if (run / "resume.pt").is_file():
        raise UserError(
            f"--resume {run}: version 0.1 kept this run in resume.pt, which later versions cannot continue from; "
            f"start a new run with --init-from {run}"
        )
    return find_checkpoint(run)


def outcome(run: Path) -> str:
    """Return the closing message of a finished run: its folder, its last validation, and the picture of it."""
    lines = [f"the run is kept in {run}"]
    last = json.loads((run / "run.json").read_text(encoding="utf-8")).get("validation")
    if last:
        lines.append(
            f"paired SSIM of {last['pairs']} test pairs: {last['ssim']:.4f} (the person with the garment hidden: "
            f"{last['ssim_agnostic']:.4f}); see {run}/validation/step-{last['step']}.png"
        )
    return "\n".join(lines)


def read_split(
    data: TryOnDataSettings, split: str, names: tuple[str, ...], pairs: str = "paired"
) -> tuple[TryOnSplit, str]:
    """Read a split that has the files for the maps ``names``; return it and how many of its pairs can be used.

    Raises:
        UserError: nothing usable, or more missing than ``max_missing``.
    """
    root = data_root(data.dataset, data.data_root)
    pairs_of_split = read_tryon(data.dataset, root, split, needed_files(names), pairs)
    for line in pairs_of_split.missing[:5]:
        log.warning("left out: %s", line)
    listed = len(pairs_of_split.items) + len(pairs_of_split.missing)
    return pairs_of_split, check_missing(len(pairs_of_split.items), listed, data.max_missing, "pairs")


def validation_pairs(data: TryOnDataSettings, training: TryOnTrainingSettings) -> tuple[Shown, ...]:
    """Return the test pairs that are drawn while training, with their maps; those with a damaged file are passed over.

    Raises:
        UserError: there are none, or more that cannot be used than ``max_missing``.
    """
    names = tuple(dict.fromkeys(("image", "agnostic", "densepose", "keep", "garment", data.control)))
    split, _ = read_split(data, "test", names)
    pairs: list[Shown] = []
    damaged = 0
    for item in split.items:  # now, and not thousands of steps later
        try:
            pairs.append((item, load_maps(item, names, data.height, data.width)))
        except ImageError as error:
            damaged += 1
            log.warning("left out: %s: %s", item.name, error)
        if len(pairs) == max(training.num_validation_images, 1):
            break
    listed = len(split.items) + len(split.missing)
    check_missing(len(split.items) - damaged, listed, data.max_missing, "test pairs")
    return tuple(pairs)


def _build(
    data: TryOnDataSettings,
    model: TryOnModelSettings,
    checkpoint: Path | None,
    split: TryOnSplit,
    context: QFormerContext | None,
) -> TryOnPipeline:
    """Return the pipeline whose denoiser is trained: that of a checkpoint, of ``--init-from``, or a toy."""
    changes: dict[str, Any] = {
        "control": data.control,
        "image_size": (data.height, data.width),
        "adapter_width": context.width if context else None,
        "adapter_kind": model.adapter,
        "retriever": context.weights_hash if context else None,
    }
    if checkpoint is not None:
        pipe = load_pipeline(checkpoint / "model")
        if context is not None:
            check_retriever(pipe.denoiser.config.retriever, context.weights_hash)
        return pipe
    if model.init_from:
        pipe = start_pipeline(model.init_from, model.base, **changes)
    elif model.architecture == "tiny":
        num_rows = context.num_rows if context else 0
        pipe = tiny_pipeline((item.text for item in split.items), num_rows=num_rows, **changes)
    else:
        raise UserError(
            "--init-from is needed: a Stable Diffusion 1.x, inpainting or Paint-by-Example model in diffusers form, a "
            "StableVITON .ckpt, or a try-on run; without any, --architecture tiny trains a toy from scratch"
        )
    if context is not None:
        pipe.words([""], context.num_rows)  # says now whether they fit
    if model.adapter_from is not None:
        load_adapter(pipe.denoiser.adapter, model.adapter_from)
    return pipe


def _trainer(
    pipe: TryOnPipeline,
    rows: TryOnRows,
    model: TryOnModelSettings,
    training: TryOnTrainingSettings,
    accelerator: Accelerator,
    context: QFormerContext | None,
    shown: tuple[Shown, ...],
    num_workers: int,
) -> Trainer:
    """Freeze, move to the device, encode what is cached, and return the trainer."""
    pipe.vae.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    pipe.denoiser.freeze(model.trainable)
    if training.gradient_checkpointing:
        pipe.denoiser.enable_gradient_checkpointing()
    pipe.to(accelerator.device)
    pipe.set_progress_bar_config(disable=True)
    source: TryOnRows | LatentCache = rows
    if training.cache_latents:
        source = LatentCache(rows, pipe, accelerator.device, context, accelerator.is_main_process)

    def evaluate(task: TryOnTask) -> Validation:
        """Draw on the main process; the others wait."""
        if not accelerator.is_main_process:
            return Validation(())
        drawn = validate_tryon(task.pipe, shown, training.validation_inference_steps, context=context)
        row = {"pairs": len(drawn.pictures), "ssim": drawn.ssim, "ssim_agnostic": drawn.ssim_agnostic}
        return Validation([row], sheet=drawn.sheet, logged={"ssim": drawn.ssim})

    return Trainer(
        TryOnTask(pipe, training, context, encoded=training.cache_latents),
        source,
        RowSampler(
            training.batch_size,
            training.max_steps,
            training.accumulation_steps,
            accelerator.process_index,
            accelerator.num_processes,
        ),
        training,
        accelerator,
        None,
        evaluate,
        partial(make_plateau, warmup_steps=training.warmup_steps, decay_steps=training.decay_steps),
        training.max_steps,
        Cadence(training.log_steps, training.save_steps, training.validate_steps),
        num_workers=num_workers,
    )


def _pictures(rows: TryOnRows) -> Tensor:
    """Return some pictures of all the kinds that the VAE will encode, (B, 3, H, W) in [-1, 1]."""
    indices = range(min(len(rows.items), VAE_ITEMS))
    kept = [pixels for index in indices for pixels in rows.readable(index)[1].values() if len(pixels) == 3]
    return to_unit(torch.stack(kept))


def _files(split: TryOnSplit) -> Iterator[tuple[Path, str]]:
    for item in split.items:
        for path in item.maps.values():
            yield path, item.text


def _synthetic(data: TryOnDataSettings) -> bool:
    return is_synthetic(data_root(data.dataset, data.data_root) / ROOTS[0])
