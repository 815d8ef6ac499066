"""Validate a retrieval model: read a data set, embed it, run its protocols (protocols/), return score rows.

fashiongen    fashiongen/sub100, fashiongen/full, and fashiongen/blocks100 where val100_object.jsonl exists
fashioniq     fashioniq/original, original-noref and union, for every category (blip2_cir_rerank)
cirr, circo   cirr/standard, circo/standard; their test splits become submission files
others        DATASET/full
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from accelerate import Accelerator
from transformers.utils import logging as transformers_logging

from unifashion.config import DataSettings, EvaluationSettings
from unifashion.data.datasets import names, retrieval_sets, spec_of
from unifashion.data.splits import chosen_spec, is_composed, read_composed, root_marks
from unifashion.distributed import is_main_process, join_processes
from unifashion.encoders.embedder import Embedder
from unifashion.encoders.unifashion import UniFashion
from unifashion.errors import UserError
from unifashion.evaluation.composed import score_composed, score_split
from unifashion.evaluation.cross_modal import score_cross_modal
from unifashion.evaluation.examples import write_examples
from unifashion.evaluation.protocols.inputs import split_queries
from unifashion.evaluation.ranked_lists import write_ranked_lists
from unifashion.evaluation.scores import MEAN, Score, as_scores, scoring_into, write_scores
from unifashion.evaluation.submissions import write_submission
from unifashion.io import check_output
from unifashion.models.presets import VARIANTS
from unifashion.models.unifashion import UniFashionModel

log = logging.getLogger(__name__)


def validate(
    model: UniFashionModel,
    data: DataSettings,
    evaluation: EvaluationSettings,
    model_id: str = "",
    marks: Sequence[str] = (),
    progress: bool = True,
    output: Path | None = None,
) -> tuple[list[Score], float]:
    """Score a model on the validation split of ``data.dataset``.

    Args:
        model: the model, on the device it should run on.
        data: data set, root, and how much of it may be missing.
        evaluation: batch size, draws, re-ranking.
        model_id: how score rows name the checkpoint.
        marks: caveats about the checkpoint that every score must carry.
        progress: show progress bars.
        output: folder for answers.jsonl and examples.png, a picture of some queries with their best results; None = neither.

    Returns:
        score rows, and the number that picks the best checkpoint (``headline``).

    Raises:
        UserError: the model was made for another task, or too much of the data is missing.
    """
    embedder = _embedder(model, data, evaluation, progress)
    score = score_composed if is_composed(data.dataset) else score_cross_modal
    result = score(embedder, data, evaluation, keep_lists=output is not None)
    scores = as_scores(
        result.measurements,
        dataset=data.dataset,
        split=result.split,
        model=model_id,
        missing=result.missing,
        marks=(*marks, *model.config.marks, *root_marks(data), *(("incomplete",) if result.missing else ())),
        note=result.note,
    )
    if output is not None and is_main_process():
        write_ranked_lists(output, result.ranked_lists)
        write_examples(output, result.ranked_lists)
    return scores, headline(scores, data.dataset)


def headline(scores: Sequence[Score], dataset: str) -> float:
    """Return the number of the data set's headline (data/datasets.py), or the mean of all values where it is not among them."""
    wanted = spec_of(dataset).headline
    values = [
        score.value for score in scores if (score.protocol, score.metric) == wanted and score.category in ("", MEAN)
    ]
    values = values or [score.value for score in scores]
    return sum(values) / len(values)


def validate_checkpoint(
    model_path: str, model_name: str | None, output_dir: str | None, data: DataSettings, evaluation: EvaluationSettings
) -> tuple[list[Score], Path]:
    """Load a checkpoint, validate it, and return its scores with the folder that they and its ranked lists were written into.

    Raises:
        UserError: no checkpoint there, or one of another model; another call is at work in the folder; see also ``validate``.
    """
    model, folder = _load(model_path, model_name, output_dir, data)
    with scoring_into(folder) if is_main_process() else nullcontext():
        scores, _ = validate(model, data, evaluation, model_path, output=folder)
        if is_main_process():
            write_scores(folder, scores)
    return scores, folder


def submit_checkpoint(
    model_path: str, model_name: str | None, output_dir: str | None, data: DataSettings, evaluation: EvaluationSettings
) -> list[Path]:
    """Load a checkpoint, rank the test split of CIRR or CIRCO, and return the checked files for the set's server.

    Of several processes only the main one writes and returns files. The server wants a list for every query, so no image of a
    query may be missing.

    Raises:
        UserError: a data set without a server, no checkpoint there, missing images; see also ``validate``.
    """
    if not chosen_spec(data).server:
        takers = " and ".join(spec.name for spec in retrieval_sets() if spec.server)
        raise UserError(
            f"--split test writes submission files, which {takers} take; use --split val for {data.dataset}"
        )
    model, folder = _load(model_path, model_name, output_dir, data)
    embedder = _embedder(model, data, evaluation, progress=True)
    (split,) = read_composed(data, "test")
    num_unusable = len(split.queries) - len(split_queries(split))
    if num_unusable:
        raise UserError(
            f"{num_unusable} of the {len(split.queries)} queries of {data.dataset} {split.split} lack images, and its server "
            "expects an answer to every query; complete the images"
        )
    with scoring_into(folder) if is_main_process() else nullcontext():
        scored = score_split(embedder, evaluation, split, data.max_missing)
        return write_submission(folder, scored.split, scored.scores) if is_main_process() else []


def _embedder(model: UniFashionModel, data: DataSettings, evaluation: EvaluationSettings, progress: bool) -> Embedder:
    """Return what embeds the data set, after a check that the model was made for its kind."""
    name, kinds = model.config.model_name, VARIANTS[model.config.model_name].kinds
    if ("composed" if is_composed(data.dataset) else "image-text") not in kinds:
        suitable = names(spec for kind in kinds for spec in retrieval_sets(kind) if spec.headline is not None)
        raise UserError(f"{name} is not evaluated on {data.dataset}; use --dataset {' or '.join(suitable)}")
    return Embedder(model, evaluation.eval_batch_size, data.num_workers, progress)


def _load(
    model_path: str, model_name: str | None, output_dir: str | None, data: DataSettings
) -> tuple[UniFashionModel, Path]:
    """Return the model, on its device, and the folder for its scores."""
    transformers_logging.set_verbosity_error()
    home = Path(model_path) if Path(model_path).is_dir() else Path("runs")
    folder = Path(output_dir) if output_dir is not None else home / "validate" / data.dataset
    check_output(folder, "--output-dir")
    join_processes()
    model = UniFashion.from_pretrained(model_path)
    if model_name not in (None, model.config.model_name):
        raise UserError(
            f"{model_path} holds a {model.config.model_name}, not a {model_name}; "
            f"set --blip-model-name {model.config.model_name}"
        )
    return model.to(Accelerator().device), folder
