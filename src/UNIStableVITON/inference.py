"""Try-on with UNIStableVITON: draw the pairs of VITON-HD (or MGD's, or your own in its layout) into a folder.

On a GPU:      cd src/UNIStableVITON && bash inference.sh --model-path runs/tryon --pairs unpaired
On a laptop:   bash inference.sh --dataset catalogue --model-path runs/quickstart/tryon --output-dir runs/quickstart/results
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare clone

from unifashion.errors import exit_with_one_sentence
from unifashion.flags import parse
from unifashion.tryon.settings import TryOnInferenceSettings


@exit_with_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, draw, print where the pictures are and what was left out."""
    (settings,) = parse((TryOnInferenceSettings,), argv, __doc__.split("\n")[0])
    from unifashion.data.datasets import spec_of, tryon_sets
    from unifashion.tryon.inference import run_inference
    from unifashion.tryon.results import outcome

    if spec_of(settings.dataset, tryon_sets()).embedded:
        from unifashion.apps.toy_catalogue import provide_tryon

        provide_tryon(settings.dataset, settings.data_root)
    out = run_inference(settings)
    if out is not None:
        print(outcome(out))


if __name__ == "__main__":
    main()
