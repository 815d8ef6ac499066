"""Validate a retrieval checkpoint: recall as a table, scores.csv and scores.json, and every query's ranked list, answers.jsonl.

    python src/blip_validate.py --dataset fashiongen --blip-model-name blip2_cir_cls --model-path runs/pretrain
    python src/blip_validate.py --dataset fashioniq --blip-model-name blip2_cir_rerank --model-path runs/cir_ft
    python src/blip_validate.py --dataset cirr --split test --blip-model-name blip2_cir_rerank --model-path runs/cir_ft

The last one writes the files for the server that scores CIRR's test split (the same with --dataset circo).
After the quickstart, on a laptop: --data-root dataset/catalogue, --model-path runs/quickstart/pretrain or .../cir_ft.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parent))  # runs from a bare clone

from unifashion.config import DataSettings, EvaluationSettings, ModelName
from unifashion.errors import UserError, exit_with_one_sentence
from unifashion.flags import parse, setting


@dataclass(frozen=True)
class CheckpointSettings:
    """Checkpoint: what is validated, and where its scores go."""

    model_path: str | None = setting(None, "a run, a saved model folder or a hub id; required")
    blip_model_name: ModelName = setting("blip2_cir_cls", "the named model that the checkpoint must hold")
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


if __name__ == "__main__":
    main()
