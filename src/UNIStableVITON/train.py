"""Train UNIStableVITON: put a garment (photo or sketch, and words) on a person.

On GPUs, with the paper's settings:   cd src/UNIStableVITON && bash train.sh --init-from SD_FOLDER
Second stage, with the attention loss: bash train.sh --init-from runs/tryon --atv-weight 0.001 --output-dir runs/tryon_atv
On a laptop, on the embedded set:      bash train.sh --config configs/quickstart/tryon.yaml
To continue a run that was stopped:   bash train.sh --resume runs/tryon
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare clone

from unifashion.errors import exit_with_one_sentence
from unifashion.io import check_output
from unifashion.tryon.settings import FREE_ON_RESUME, TryOnDataSettings, TryOnModelSettings, TryOnTrainingSettings

GROUPS = (TryOnDataSettings, TryOnModelSettings, TryOnTrainingSettings)


@exit_with_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, train, print where the run is kept and its last validation."""
    from unifashion.training.resume import parse_settings

    words = sys.argv[1:] if argv is None else argv
    data, model, training = parse_settings(GROUPS, words, __doc__.split("\n")[0], FREE_ON_RESUME)
    check_output(Path(training.resume or training.output_dir), "--resume" if training.resume else "--output-dir")
    from unifashion.data.datasets import spec_of, tryon_sets
    from unifashion.training.train_tryon import outcome, train

    if spec_of(data.dataset, tryon_sets()).embedded:
        from unifashion.apps.toy_catalogue import provide_tryon

        provide_tryon(data.dataset, data.data_root)
    run = train(data, model, training)
    if run is not None:
        print(outcome(run))


if __name__ == "__main__":
    main()
