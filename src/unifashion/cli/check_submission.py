"""Check a file for the server of CIRR or CIRCO before it is uploaded.

unifashion check-submission cirr_recall.json cirr_recall_subset.json --dataset cirr
unifashion check-submission circo.json --dataset circo --data-root /data
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unifashion.data.datasets import names, retrieval_sets
from unifashion.flags import REQUIRED, argument, setting

SERVER_SETS = names(spec for spec in retrieval_sets() if spec.server)


@dataclass(frozen=True)
class Settings:
    """Check: which files, against which queries."""

    file: tuple[Path, ...] = argument("a submission file, of this or another program")
    dataset: str = setting(REQUIRED, "whose server it is for", choices=SERVER_SETS)
    data_root: str | None = setting(None, "folder with the data set's annotations [$UNIFASHION_DATA, else dataset/]")
    split: Literal["val", "test"] = setting("test", "split whose queries it answers")


def run(settings: Settings) -> None:
    """Check each file and say what it holds."""
    from unifashion.config import DataSettings
    from unifashion.data.splits import read_composed
    from unifashion.evaluation.submissions import check_submission

    data = DataSettings(data_root=settings.data_root, dataset=settings.dataset)
    (split,) = read_composed(data, settings.split, needs_images=False)
    for file in settings.file:
        sys.stdout.write(f"{file} is valid. {check_submission(file, split)}\n")
