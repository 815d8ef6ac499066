"""``unifashion check-submission``: does the server of CIRR or CIRCO take this file?

unifashion check-submission cirr_recall.json cirr_recall_subset.json --dataset cirr
unifashion check-submission circo.json --dataset circo --data-root /data
"""

import argparse
import sys
from pathlib import Path

from unifashion.data.datasets import names, retrieval_sets

SERVER_SETS = names(spec for spec in retrieval_sets() if spec.server)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "files", metavar="FILE", nargs="+", type=Path, help="a submission file, of this or another program"
    )
    parser.add_argument("--dataset", choices=SERVER_SETS, required=True, help="whose server it is for")
    parser.add_argument(
        "--data-root", metavar="DIR", help="folder with the data set's annotations [$UNIFASHION_DATA, else dataset/]"
    )
    parser.add_argument(
        "--split", choices=("val", "test"), default="test", help="split whose queries it answers [%(default)s]"
    )


def run(flags: argparse.Namespace) -> None:
    """Check each file and say what it holds."""
    from unifashion.config import DataSettings
    from unifashion.data.splits import read_composed
    from unifashion.evaluation.submissions import check_submission

    data = DataSettings(data_root=flags.data_root, dataset=flags.dataset)
    (split,) = read_composed(data, flags.split, needs_images=False)
    for file in flags.files:
        found = check_submission(file, split)
        sys.stdout.write(f"{file} is right. {found}\n")
