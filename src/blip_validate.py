"""Validate a retrieval checkpoint: recall as a table, scores.csv and scores.json, and every query's ranked list, answers.jsonl.

    python src/blip_validate.py --dataset fashiongen --blip-model-name blip2_cir_cls --model-path runs/pretrain
    python src/blip_validate.py --dataset fashioniq --blip-model-name blip2_cir_rerank --model-path runs/cir_ft
    python src/blip_validate.py --dataset all --data-root dataset/catalogue --model-path runs/quickstart/unified_cir_ft
    python src/blip_validate.py --dataset cirr --split test --blip-model-name blip2_cir_rerank --model-path runs/cir_ft

``all`` measures what checkpoint and data allow, retrieval, captions and drawing, and says what they lack. The last one writes the
files for the server that scores CIRR's test split (the same with --dataset circo).
After the quickstart, on a laptop: --data-root dataset/catalogue, --model-path runs/quickstart/pretrain or .../cir_ft.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parent))  # runs from a bare clone

from unifashion.config import DataSettings, EvaluationSettings, ModelName
from unifashion.data.settings import ALL
from unifashion.errors import UserError, exit_with_one_sentence
from unifashion.flags import parse, setting


@dataclass(frozen=True)
class CheckpointSettings:
    """Checkpoint: what is validated, and where its scores go."""

    model_path: str | None = setting(None, "a run, a saved model folder or a hub id; required")
    blip_model_name: ModelName | None = setting(
        None, "the named model that the checkpoint must hold; default: whichever it holds"
    )
    split: Literal["val", "test"] = setting(
        "val", "val = scores; test = submission files for the servers of cirr and circo"
    )
    output_dir: str | None = setting(None, "folder for what is written; default: the run, in validate/DATASET")


@exit_with_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, validate one checkpoint, print and save its scores."""
    checkpoint, data, evaluation = parse(
        (CheckpointSettings, DataSettings, EvaluationSettings), argv, __doc__.split("\n")[0]
    )
    if checkpoint.model_path is None:
        raise UserError("--model-path is required: a run, a saved model folder or a hub id")
    if data.dataset == ALL:
        _score_all(checkpoint, data, evaluation)
        return
    from unifashion.distributed import is_main_process
    from unifashion.evaluation.results import format_table
    from unifashion.evaluation.retrieval import submit_checkpoint, validate_checkpoint

    if data.wants_embedded():
        from unifashion.apps.toy_catalogue import provide

        provide(data)
    run = checkpoint.model_path, checkpoint.blip_model_name, checkpoint.output_dir, data, evaluation
    if checkpoint.split == "test":
        for path in submit_checkpoint(*run):
            print(f"{path}: checked and ready for the server")
        return
    scores, folder = validate_checkpoint(*run)
    if not is_main_process():
        return
    print(format_table(scores))
    print(f"scores.json, scores.csv, answers.jsonl and examples.png are in {folder}")


def _score_all(checkpoint: CheckpointSettings, data: DataSettings, evaluation: EvaluationSettings) -> None:
    """Measure everything that checkpoint and data allow, and say what they lack."""
    from unifashion.distributed import is_main_process
    from unifashion.evaluation.all_tasks import score_all, summary
    from unifashion.evaluation.results import format_table

    if checkpoint.split == "test" or checkpoint.blip_model_name is not None:
        raise UserError("--dataset all takes neither --split test nor --blip-model-name; leave them out")
    scores, lacking, folder = score_all(str(checkpoint.model_path), checkpoint.output_dir, data, evaluation)
    if not is_main_process():
        return
    print(format_table(scores))
    for reason in lacking:
        print(f"not measured: {reason}")
    print(" | ".join(f"{title} {value}" for title, value in summary(scores).items()))
    print(f"scores.json and scores.csv are in {folder}, and what they were made from is below it")


if __name__ == "__main__":
    main()
