"""Add a data set in one file: a reader, and one row that says everything else. Then train, validate and examine it by its name.

    python examples/add_a_dataset.py train --config configs/quickstart/pretrain.yaml --dataset shoes --data-root my_data
    python examples/add_a_dataset.py validate --dataset shoes --data-root my_data --model-path runs/quickstart/pretrain
    python examples/add_a_dataset.py unifashion doctor my_data

The first word chooses the program (blip_train.py, blip_validate.py, the ``unifashion`` command), the others are its arguments.
Within the package, the reader would be data/shoes.py and the row one more of ``DATASETS`` in data/datasets.py.

The layout, made up for this example:

    my_data/shoes/
      train.csv  val.csv      photo,product,text
                              photos/17.jpg,17,"a red ankle boot with laces"
      photos/17.jpg           several photos may show one product
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs from a bare clone

from unifashion.data.annotations import NoSplit, find_folder
from unifashion.data.datasets import DatasetSpec, ReadOptions, register
from unifashion.data.own_catalogue import read_table
from unifashion.data.records import ImageText, PairSplit
from unifashion.errors import UserError, exit_with_one_sentence

PROGRAMS = ("train", "validate", "unifashion")


def find_shoes(data_root: Path) -> Path:
    """Return the folder of the set: ``shoes`` below the data root, or the data root itself; ``NoSet`` if there is none."""
    return find_folder(data_root, "shoes", ("shoes", "."), ("train.csv", "val.csv"), "shoes/train.csv")


def read_shoes(data_root: Path, split: str, options: ReadOptions) -> PairSplit:
    """Read one split. A photo that is listed but does not exist is reported as missing in every score.

    Raises:
        UserError: a malformed table.
        NoSplit: the set or this split of it does not exist.
    """
    folder = find_shoes(data_root)
    table = folder / f"{split}.csv"
    if not table.is_file():
        raise NoSplit(f"{table} does not exist")
    rows = [row for _, row in read_table(table, needed_columns=("photo", "product", "text"))]
    pairs = [ImageText(folder / row["photo"], row["text"], row["product"]) for row in rows]
    exists = [pair.image.is_file() for pair in pairs]
    return PairSplit(
        dataset="shoes",
        split=split,
        pairs=tuple(pair for pair, there in zip(pairs, exists, strict=True) if there),
        missing=tuple(row["photo"] for row, there in zip(rows, exists, strict=True) if not there),
    )


register(
    DatasetSpec(
        name="shoes",
        title="Shoes",
        find=find_shoes,
        pairs=read_shoes,
        headline=("shoes/full", "mean"),  # what picks the best checkpoint: all of val as the gallery, the mean recall
        instruction="Describe the shoe.",
        folder="shoes",
        licence="none: made up",
        source="this file",
        prepare="archives",
        takes="its archive",
    )
)


@exit_with_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Call the program that the first word names."""
    # Imported here, after the row: the settings list the names of the data sets in --help when they are imported.
    import blip_train
    import blip_validate
    from unifashion import cli

    program, *words = (sys.argv[1:] if argv is None else argv) or [""]
    if program not in PROGRAMS:
        raise UserError(f"the first word must be one of {', '.join(PROGRAMS)}, found {program!r}")
    {"train": blip_train.main, "validate": blip_validate.main, "unifashion": cli.main}[program](words)


if __name__ == "__main__":
    main()
