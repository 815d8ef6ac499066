"""Train one phase: cross-modal pre-training (blip2_cir_cls), composed fine-tuning (blip2_cir_rerank), captions (blip2_cir_full).

On GPUs, with the paper's settings:   bash pretrain.sh    then    bash cir_ft.sh --init-from runs/pretrain
or, for captions by a language model, bash pretrain.sh --config configs/caption_ft.yaml --init-from runs/pretrain
On a laptop, on the embedded catalogue:

    python src/blip_train.py --config configs/quickstart/pretrain.yaml
    python src/blip_train.py --config configs/quickstart/cir_ft.yaml
    python src/blip_train.py --config configs/quickstart/caption_ft.yaml

A run that was stopped for any reason continues with --resume RUN as if it had never stopped.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # runs from a bare clone

from unifashion.config import DataSettings, EvaluationSettings, LanguageModelSettings, ModelSettings, TrainingSettings
from unifashion.errors import exit_with_one_sentence
from unifashion.io import check_output


@exit_with_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, train, print where the run is kept."""
    from unifashion.training.resume import parse_settings

    groups = (DataSettings, ModelSettings, TrainingSettings, EvaluationSettings, LanguageModelSettings)
    words = sys.argv[1:] if argv is None else argv
    data, model, training, evaluation, language = parse_settings(groups, words, __doc__.split("\n")[0])
    data.mixture()  # "all" is no set to train on
    check_output(Path(training.resume or training.output_dir), "--resume" if training.resume else "--output-dir")
    if data.feature_cache is not None:
        check_output(Path(data.feature_cache), "--feature-cache")
    from unifashion.data.mixture import validation_part
    from unifashion.evaluation.during_training import rehearse, validate
    from unifashion.training.objective import wanted_losses
    from unifashion.training.train import train

    if data.wants_embedded():
        from unifashion.apps.toy_catalogue import provide

        provide(data)
    part = validation_part(data) if training.eval_every else None
    if part is not None:
        rehearse(part, evaluation, wanted_losses(model, training))  # an epoch is not lost to what is known now
    evaluate = functools.partial(validate, data=part, evaluation=evaluation) if part is not None else None
    run = train(data, model, training, evaluation, evaluate, language)
    if run is not None:
        print(f"the run is kept in {run}")


if __name__ == "__main__":
    main()
