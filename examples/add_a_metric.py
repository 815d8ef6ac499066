"""Add a metric of try-on results: a function and a row. Then score results with it, as with every other metric.

    python examples/add_a_metric.py RESULTS --data-root DATA

The arguments are those of ``unifashion score-images``. PSNR appears in the terminal's table, in scores.csv, in scores.json and in
the report. Within the package, the function and the row would go into evaluation/metrics.py.

A metric of one result beside its photo is a ``PairMetric``, as here; one of all results together, such as FID, a ``SetMetric``.
Either may name what opens its network (``open_network``), whose file then belongs in the folder of --weights.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs from a bare clone

from unifashion.cli import main as unifashion
from unifashion.errors import exit_with_one_sentence
from unifashion.evaluation.image_inputs import Pair
from unifashion.evaluation.metrics import PairMetric, register

LEAST_ERROR = 1e-10  # equal pictures have no error, and a score must be a finite number: 100 dB is the highest


def psnr(pair: Pair, network: None) -> float:
    """Return the peak signal-to-noise ratio of a result and its photo, in decibels."""
    result, photo = pair.pixels()  # each (1, 3, H, W) in [0, 1], at the size at which the profile compares them
    return -10 * math.log10(max(float((result - photo).square().mean()), LEAST_ERROR))


register(
    PairMetric(
        "PSNR",
        "Peak signal-to-noise ratio of the result and the photo of the same person, in decibels; 100 = equal.",
        higher_is_better=True,
        digits=1,
        compute=psnr,
        profiles=("catvton",),
    )
)


@exit_with_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Score a folder of results."""
    unifashion(["score-images", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    main()
