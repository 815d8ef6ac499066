"""Check a file for the server of CIRR or CIRCO before it is uploaded.

unifashion check-submission cirr_recall.json cirr_recall_subset.json --dataset cirr
unifashion check-submission circo.json --dataset circo --data-root /data
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unifashion.flags import REQUIRED, argument, setting


@dataclass(frozen=True)
class Settings:
    """Check: which files, against which queries."""

    file: tuple[Path, ...] = argument("a submission file, of this or another program")
    dataset: Literal["cirr", "circo"] = setting(REQUIRED, "whose server it is for")
    data_root: str | None = setting(None, "folder with the data set's annotations [$UNIFASHION_DATA, else dataset/]")
    split: Literal["val", "test"] = setting("test", "split whose queries it answers")


def run(settings: Settings) -> None:
    """Check each file and say what it holds."""
    from unifashion.config import DataSettings
    from unifashion.data.circo import read_circo
    from unifashion.data.cirr import read_cirr
    from unifashion.evaluation.submissions import SERVERS, check_submission

    name = SERVERS[settings.dataset] if settings.split == "test" else settings.split
    root = DataSettings(data_root=settings.data_root, dataset=settings.dataset).root()
    split = read_cirr(root, name) if settings.dataset == "cirr" else read_circo(root, name, needs_images=False)
    for file in settings.file:
        sys.stdout.write(f"{file} is right. {check_submission(file, split)}\n")
