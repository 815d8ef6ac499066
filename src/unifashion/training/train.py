"""Train one phase from settings: read, build, fit, keep."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import logging as transformers_logging

from unifashion.config import DataSettings, EvaluationSettings, LanguageModelSettings, ModelSettings, TrainingSettings
from unifashion.data.batches import ComposedRows, PairRows, Photos, TrainingSet
from unifashion.data.datasets import is_composed, training_texts
from unifashion.data.feature_cache import FeatureCache, key_of
from unifashion.data.feedback import prepare_text
from unifashion.data.images import ImageTransform
from unifashion.data.mixture import read_training_pairs, read_training_queries
from unifashion.data.skipped import check_missing
from unifashion.errors import UserError
from unifashion.evaluation.scores import Score
from unifashion.models.presets import VARIANTS
from unifashion.models.unifashion import UniFashionModel
from unifashion.training.build import build_model
from unifashion.training.resume import check_data
from unifashion.training.run_folder import RunFolder, fingerprint
from unifashion.training.tasks import find_task
from unifashion.training.trainer import Trainer, make_accelerator

log = logging.getLogger(__name__)


def train(
    data: DataSettings,
    model: ModelSettings,
    training: TrainingSettings,
    evaluation: EvaluationSettings,
    evaluate: Callable[[UniFashionModel], tuple[list[Score], float]] | None,
    language: LanguageModelSettings | None = None,
) -> Path | None:
    """Run one phase and return its run folder (None on all but the main process). Without ``evaluate`` nothing is validated.

    Everything that can be wrong with the input is found before the run folder is made.

    Raises:
        UserError: unusable settings, data or start checkpoint; a loss that is not finite.
    """
    transformers_logging.set_verbosity_error()
    make_task = find_task(model.blip_model_name)
    photos = Photos(ImageTransform(data.image_size, pad=data.pad, ratio=data.pad_ratio), keep=data.cache_images)
    rows, described = _read_rows(data, model, photos)
    if training.resume:
        check_data(Path(training.resume), described)
    corpus: Callable[[], Iterable[str]] = partial(map, prepare_text, training_texts(data))
    network = build_model(model, data, corpus, training.seed)
    if model.blip_model_name == "blip2_cir_full":
        network = _with_heads(network, rows, data, model, language or LanguageModelSettings())
    accelerator = make_accelerator(training, make_task)
    needed = training.batch_size * training.accumulation_steps * accelerator.num_processes
    if len(rows) < needed:
        raise UserError(f"a step takes {needed} rows but the training set has {len(rows)}; lower --batch-size")
    if data.feature_cache is not None:
        rows = replace(rows, photos=_cached(rows.images(), photos, data, network, accelerator, training.batch_size))
    run = _run_folder(training) if accelerator.is_main_process else None
    if run is not None and not training.resume:
        groups = (data, model, training, evaluation, *([language] if language and hasattr(network, "heads") else []))
        run.describe(groups, rows=len(rows), data=described)
    if training.tracker != "none":
        accelerator.init_trackers("unifashion")
    trainer = Trainer(
        make_task(network, training),
        TrainingSet(rows, training.seed),
        training,
        accelerator,
        run,
        evaluate if training.eval_every else None,
        augment_images=data.augment,
        num_workers=data.num_workers,
    )
    if training.resume:
        trainer.resume(Path(training.resume))
    trainer.fit()
    accelerator.end_training()
    return run.path if run is not None else None


def _with_heads(
    network: UniFashionModel,
    rows: PairRows | ComposedRows,
    data: DataSettings,
    model: ModelSettings,
    language: LanguageModelSettings,
) -> UniFashionModel:
    """Add the heads of ``blip2_cir_full``.

    Raises:
        UserError: heads that cannot be had, or rows that have nothing for them to learn.
    """
    from unifashion.llm.build import add_heads  # here, because peft and diffusers take seconds to import
    from unifashion.llm.prompts import instruction_for

    answers = [text for text in map(rows.answer, range(len(rows))) if text.strip()]
    full = add_heads(network, language, instruction_for(data.dataset), lambda: answers, model.init_from)
    if full.drawing is None and not answers:
        raise UserError(
            f"{data.dataset} has no captions to learn from; choose other data, or draw with --diffusion-model"
        )
    if full.drawing is not None and data.feature_cache is not None:
        raise UserError("--feature-cache keeps no pixels, which drawing needs; leave one of them away")
    return full


def _run_folder(training: TrainingSettings) -> RunFolder:
    if training.resume:
        return RunFolder.reopen(Path(training.resume))
    return RunFolder(Path(training.output_dir), training.overwrite)


def _cached(
    images: Sequence[Path],
    photos: Photos,
    data: DataSettings,
    network: UniFashionModel,
    accelerator: Accelerator,
    batch_size: int,
) -> FeatureCache:
    """Return a filled feature cache in the place of the photos; every process computes its share.

    Raises:
        UserError: the tower is trained, or images are augmented: then what it says is never twice the same.
    """
    if not network.vision.frozen:
        raise UserError("--feature-cache needs a frozen image tower; add --freeze-vision or leave the cache away")
    if data.augment:
        raise UserError("--feature-cache and --augment exclude each other; add --no-augment")
    tower = network.vision.to(accelerator.device)

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        with accelerator.autocast():
            return tower(pixels.to(accelerator.device))

    key = key_of(tower, photos.transform, data.feature_form, accelerator.mixed_precision)
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
        UserError: the data set does not fit the model, or nothing of it is there.
    """
    composed, fitting = is_composed(data.dataset), VARIANTS[model.blip_model_name].trains_on
    if ("composed" if composed else "pairs") not in fitting:
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
