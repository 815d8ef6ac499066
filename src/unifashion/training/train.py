"""Train one phase from settings: read, build, fit, save."""

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import logging as transformers_logging

from unifashion.config import (
    LOSSES,
    DataSettings,
    EvaluationSettings,
    LanguageModelSettings,
    ModelSettings,
    TrainingSettings,
    drawing_shape,
)
from unifashion.data.batches import ComposedRows, PairRows, Photos, TrainingSet
from unifashion.data.feature_cache import TOWER_HASH_SIZE, FeatureCache, key_of
from unifashion.data.feedback import prepare_text
from unifashion.data.images import DrawingTransform, ImageTransform
from unifashion.data.mixture import epoch_sizes, read_training_pairs, read_training_queries
from unifashion.data.sampler import EpochSampler
from unifashion.data.skipped import check_missing, first_readable
from unifashion.data.splits import is_composed, training_texts
from unifashion.errors import UserError
from unifashion.evaluation.scores import Score
from unifashion.models.presets import VARIANTS
from unifashion.models.pretrained import weights_hash
from unifashion.models.unifashion import UniFashionModel
from unifashion.training.build import build_model
from unifashion.training.checkpoint import find_checkpoint
from unifashion.training.compilation import compile_blocks
from unifashion.training.objective import choose_losses
from unifashion.training.resume import check_data
from unifashion.training.run_folder import RunFolder, check_run, fingerprint, open_run
from unifashion.training.schedule import make_schedule
from unifashion.training.tasks import task_class
from unifashion.training.tasks.contrastive import ContrastiveTask
from unifashion.training.tasks.task import Task
from unifashion.training.trainer import Cadence, Trainer, Validation, make_accelerator

log = logging.getLogger(__name__)

# Of the model that a task trains, in evaluation mode, and its losses.
Evaluate = Callable[[Any, Sequence[str]], tuple[list[Score], float | None]]


def train(
    data: DataSettings,
    model: ModelSettings,
    training: TrainingSettings,
    evaluation: EvaluationSettings,
    evaluate: Evaluate | None,
    language: LanguageModelSettings | None = None,
) -> Path | None:
    """Run one phase and return its run folder (None on all but the main process). Without ``evaluate`` nothing is validated.

    Problems with the input are reported before the run folder is made.

    Raises:
        UserError: unusable settings, data or start checkpoint; a loss that is not finite.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # of every save of a head
    language = language or LanguageModelSettings()
    check_run(training)
    photos = Photos(ImageTransform(data.image_size, pad=data.pad, ratio=data.pad_ratio), keep=data.cache_images)
    rows, described = _read_rows(data, model, photos)
    if training.resume:
        check_data(Path(training.resume), described)
    corpus: Callable[[], Iterable[str]] = partial(map, prepare_text, training_texts(data))
    kept = heads_of(model.init_from)
    losses = choose_losses(model, training, language, rows, kept)
    if "q2i" in losses:
        rows = replace(rows, drawings=Photos(_drawing_transform(language, kept), keep=data.cache_images))
    network = build_model(model, data, corpus, training.seed)
    task = make_task(network, rows, data, training, language, losses, kept)
    accelerator = make_accelerator(training, find_unused=not task.uses_all_parameters)
    sampler = make_sampler(rows, training, accelerator)
    if data.feature_cache is not None:
        rows = replace(rows, photos=_cached(rows.images(), photos, data, network, accelerator, training.batch_size))
    if training.compile:
        compile_blocks(network)
    trainer = make_trainer(task, rows, training, accelerator, None, evaluate, data.num_workers, sampler)
    with open_run(training) if accelerator.is_main_process else nullcontext() as run:
        if run is not None and not training.resume:
            more = [language] if {"itg", "q2i"} & set(losses) else []
            run.describe((data, model, training, evaluation, *more), rows=len(rows), data=described)
        trainer.run = run
        if training.tracker != "none":
            accelerator.init_trackers("unifashion")
        if training.resume:
            trainer.resume(find_checkpoint(Path(training.resume)))
        trainer.fit()
        accelerator.end_training()
    return run.path if run is not None else None


def make_sampler(rows: PairRows | ComposedRows, training: TrainingSettings, accelerator: Accelerator) -> EpochSampler:
    """Return the order of the rows.

    Raises:
        UserError: too few rows for one step.
    """
    sampler = EpochSampler(
        *rows.mixture(),
        training.seed,
        training.batch_size,
        training.accumulation_steps,
        accelerator.process_index,
        accelerator.num_processes,
        [rows.text_length(index) for index in range(len(rows))] if training.length_buckets else None,
        training.length_buckets,
    )
    if sampler.steps_per_epoch == 0:
        needed = sampler.global_batch * training.accumulation_steps
        size = sum(epoch_sizes(*rows.mixture()))
        raise UserError(f"a step takes {needed} rows but an epoch of the training set has {size}; lower --batch-size")
    return sampler


def make_trainer(
    task: Task,
    rows: PairRows | ComposedRows,
    training: TrainingSettings,
    accelerator: Accelerator,
    run: RunFolder | None,
    evaluate: Evaluate | None,
    num_workers: int = 0,
    sampler: EpochSampler | None = None,
) -> Trainer:
    """Return the trainer of a retrieval or captioning task, which is counted in epochs; see ``Trainer``."""
    sampler = sampler or make_sampler(rows, training, accelerator)
    return Trainer(
        task,
        TrainingSet(rows, training.seed),
        sampler,
        training,
        accelerator,
        run,
        _validation_of(evaluate) if evaluate is not None and training.eval_every else None,
        partial(make_schedule, settings=training),
        training.max_steps or training.num_epochs * sampler.steps_per_epoch,
        Cadence(save_steps=training.save_steps, validate_epochs=training.eval_every),
        training.grad_cache_chunk,
        num_workers,
    )


def _validation_of(evaluate: Evaluate) -> Callable[[Task], Validation]:
    """Adapt a function that scores a model to what the trainer calls."""

    def validate(task: Task) -> Validation:
        scores, value = evaluate(task.model, task.losses)
        return Validation([score.row() for score in scores], value)

    return validate


def heads_of(init_from: str | None) -> Path | None:
    """Return where the heads of the checkpoint that a run starts from are, a folder or a file; None where it has none."""
    if init_from is None:
        return None
    from unifashion.llm.heads import find_heads

    return find_heads(init_from)


def _drawing_transform(language: LanguageModelSettings, kept: Path | None) -> DrawingTransform:
    """Return what makes a photo as large as it is drawn."""
    if language.diffusion_model is not None or kept is None:
        return DrawingTransform(*drawing_shape(language.drawing_size))
    from unifashion.llm.heads import read_heads

    return DrawingTransform(*drawing_shape(read_heads(kept).drawing_size))


def make_task(
    network: UniFashionModel,
    rows: PairRows | ComposedRows,
    data: DataSettings,
    training: TrainingSettings,
    language: LanguageModelSettings,
    losses: tuple[str, ...],
    kept: Path | None = None,
) -> ContrastiveTask:
    """Return the task of a network, with the heads that its losses need.

    Raises:
        UserError: a head that cannot be loaded, or nothing that is trained.
    """
    make = task_class(network.config.model_name, isinstance(rows, ComposedRows))
    if not {"itg", "q2i"} & set(losses):
        return make(network, training, data.augment, _in_order(make, losses))
    # Here, because the heads import peft and diffusers: slow to import, and optional packages.
    from unifashion.llm.build import Learned, add_heads
    from unifashion.llm.prompts import instruction_for

    learned = Learned(partial(_texts_of, rows), partial(_drawn_sample, rows))
    full = add_heads(network, language, instruction_for(data.dataset), learned, kept, losses)
    own = language.instruction is not None or language.llm is None  # one instruction for all rows
    instructions = () if own else tuple(map(instruction_for, data.mixture()))
    return make(full, training, data.augment, _in_order(make, losses), instructions)


def _in_order(make: type[ContrastiveTask], losses: tuple[str, ...]) -> tuple[str, ...]:
    """Return the losses as the task computes them, with those that a subclass of it adds."""
    return (*losses, *(name for name in make.losses if name not in LOSSES))


def _texts_of(rows: PairRows | ComposedRows) -> list[str]:
    """Return all captions that a language model can learn from."""
    return [text for text in map(rows.answer, range(len(rows))) if text.strip()]


def _drawn_sample(rows: PairRows | ComposedRows, most: int = 512) -> Tensor:
    """Return photos, evenly spaced in the training set, in -1..1, as large as they are drawn."""
    chosen = range(0, len(rows), max(len(rows) // most, 1))
    pixels = [
        first_readable(index, len(rows), lambda row: rows.row(row, random.Random(0)))[1]["drawing"] for index in chosen
    ]
    return torch.stack(pixels).float() / 127.5 - 1


def _cached(
    images: Sequence[Path],
    photos: Photos,
    data: DataSettings,
    network: UniFashionModel,
    accelerator: Accelerator,
    batch_size: int,
) -> FeatureCache:
    """Return a filled feature cache to use in place of the photos; every process computes its share.

    Raises:
        UserError: the tower is trained, or images are augmented: its tokens then change from epoch to epoch.
    """
    if not network.vision.frozen:
        raise UserError("--feature-cache needs a frozen image tower; add --freeze-vision or leave the cache out")
    if data.augment:
        raise UserError("--feature-cache and --augment cannot be combined; add --no-augment")
    tower = network.vision.to(accelerator.device)

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        with accelerator.autocast():
            return tower(pixels.to(accelerator.device))

    tower_hash = weights_hash(tower.state_dict(), TOWER_HASH_SIZE)
    key = key_of(tower_hash, network.image_transform, data.feature_form, accelerator.mixed_precision)
    cache = FeatureCache(Path(data.feature_cache or ""), key, data.feature_form, photos)
    share = accelerator.process_index, accelerator.num_processes
    cache.fill(images, encode, batch_size, share, progress=accelerator.is_main_process)
    accelerator.wait_for_everyone()
    cache.reload()
    return cache


def _read_rows(
    data: DataSettings, model: ModelSettings, photos: Photos
) -> tuple[PairRows | ComposedRows, dict[str, str]]:
    """Read the training rows and describe them for ``run.json``.

    Raises:
        UserError: the data set does not fit the model, or is missing.
    """
    composed, fitting = is_composed(data.dataset), VARIANTS[model.blip_model_name].kinds
    if ("composed" if composed else "image-text") not in fitting:
        kind = "images with texts (--dataset fashiongen)" if composed else "composed queries (--dataset fashioniq)"
        raise UserError(f"{model.blip_model_name} trains on {kind}, not on {data.dataset}")
    if not composed:
        read = read_training_pairs(data)
        used = check_missing(len(read.pairs), len(read.pairs) + len(read.missing), data.max_missing, "images")
        files = ((pair.image, pair.text) for pair in read.pairs)
        rows = PairRows(read.pairs, photos, read.sizes, read.weights)
        return rows, {
            "set": data.dataset,
            "used": used,
            "excluded": str(read.excluded),
            "fingerprint": fingerprint(files),
        }
    splits = read_training_queries(data)
    queries = ComposedRows(splits, photos)
    listed = sum(len(split.queries) for split in splits)
    used = check_missing(len(queries), listed, data.max_missing)
    files = ((split.images[q.reference], f"{q.target} {q.feedback}") for split in splits for q in split.answerable())
    return queries, {"set": data.dataset, "used": used, "fingerprint": fingerprint(files)}
