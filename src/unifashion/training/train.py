"""Train one phase from settings: read, build, fit, keep."""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from transformers import logging as transformers_logging

from unifashion.config import DataSettings, EvaluationSettings, ModelSettings, TrainingSettings
from unifashion.data.batches import ComposedRows, PairRows, Photos, TrainingSet
from unifashion.data.feedback import prepare_text
from unifashion.data.images import ImageTransform
from unifashion.data.sets import is_composed, read_composed, read_pairs, training_texts
from unifashion.errors import UserError
from unifashion.evaluation.scores import Score, check_missing
from unifashion.models.build import build_model
from unifashion.models.presets import VARIANTS
from unifashion.models.unifashion import UniFashion
from unifashion.training.run_folder import RunFolder, fingerprint
from unifashion.training.tasks import find_task
from unifashion.training.trainer import Trainer, make_accelerator

log = logging.getLogger(__name__)


def train(
    data: DataSettings,
    model: ModelSettings,
    training: TrainingSettings,
    evaluation: EvaluationSettings,
    evaluate: Callable[[UniFashion], tuple[list[Score], float]],
) -> Path | None:
    """Run one phase and return its run folder (None on all but the main process).

    Everything that can be wrong with the input is found before the run folder is made.

    Raises:
        UserError: unusable settings, data or start checkpoint; a loss that is not finite.
    """
    transformers_logging.set_verbosity_error()
    make_task = find_task(model.blip_model_name)
    photos = Photos(ImageTransform(data.image_size, pad=data.pad, ratio=data.pad_ratio), keep=data.cache_images)
    rows, described = _read_rows(data, model, photos)
    corpus: Callable[[], Iterable[str]] = partial(map, prepare_text, training_texts(data))
    network = build_model(model, data, corpus, training.seed)
    accelerator = make_accelerator(training, make_task)
    needed = training.batch_size * accelerator.num_processes
    if len(rows) < needed:
        raise UserError(f"a step takes {needed} rows but the training set has {len(rows)}; lower --batch-size")
    run = RunFolder(Path(training.output_dir), training.overwrite) if accelerator.is_main_process else None
    if run is not None:
        run.describe((data, model, training, evaluation), rows=len(rows), data=described)
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
    trainer.fit()
    accelerator.end_training()
    return run.path if run is not None else None


def _read_rows(
    data: DataSettings, model: ModelSettings, photos: Photos
) -> tuple[PairRows | ComposedRows, dict[str, str]]:
    """Read the training rows and describe them for ``run.json``.

    Raises:
        UserError: the data set does not fit the model, or nothing of it is there.
    """
    wants_composed = VARIANTS[model.blip_model_name].has_prompt_tokens
    if is_composed(data.dataset) != wants_composed:
        kind = (
            "composed queries (--dataset fashioniq)" if wants_composed else "images with texts (--dataset fashiongen)"
        )
        raise UserError(f"{model.blip_model_name} trains on {kind}, not on {data.dataset}")
    if not wants_composed:
        split = read_pairs(data, "train")
        used = check_missing(len(split.pairs), len(split.pairs) + len(split.missing), data.max_missing, "images")
        files = ((pair.image, pair.text) for pair in split.pairs)
        return PairRows(split.pairs, photos), {"set": split.dataset, "used": used, "fingerprint": fingerprint(files)}
    splits = read_composed(data, "train")
    composed = ComposedRows(splits, photos)
    listed = sum(len(split.queries) for split in splits)
    used = check_missing(len(composed), listed, data.max_missing)
    files = ((split.images[q.reference], f"{q.target} {q.feedback}") for split in splits for q in split.answerable())
    return composed, {"set": data.dataset, "used": used, "fingerprint": fingerprint(files)}
