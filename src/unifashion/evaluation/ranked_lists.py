"""What evaluating a model yields: numbers, and for every query the head of its ranked list, which the report is made from.

``answers.jsonl`` holds the ranked lists of the main protocol and lies beside ``scores.json``, one row per query:
    {"protocol": "fashioniq/original", "direction": "composed", "category": "dress", "text": "is red and longer",
     "image": "images/B001.jpg", "targets": ["images/B002.jpg"], "rank": 3, "gallery": 3817,
     "top": [{"image": "images/B009.jpg", "text": "", "score": 0.71, "hit": false}, ...], "slices": {"feedback words": "5-8"}}
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from unifashion.data.annotations import read_jsonl
from unifashion.errors import UserError
from unifashion.evaluation.scores import Measurement
from unifashion.io import write_jsonl

Direction = Literal["t2i", "i2t", "composed"]
NUM_SHOWN = 5  # items kept per query
FILE = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class RankedItem:
    """One item of a ranked list: an image (path) or a text, its score, and whether it is a target."""

    image: str
    text: str
    score: float
    hit: bool


@dataclass(frozen=True, slots=True)
class RankedList:
    """One query, the rank of its best target (0 = first, ties count against it) and the head of its ranked list.

    ``image`` is "" for a text query, ``text`` is "" for an image query. ``targets`` are image paths, or texts for i2t.
    ``slices`` names the groups this query is counted in: {"category": "dress", "feedback words": "5-8"}.
    """

    protocol: str
    direction: Direction
    category: str
    text: str
    image: str
    targets: tuple[str, ...]
    rank: int
    gallery: int
    top: tuple[RankedItem, ...]
    slices: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationResult:
    """What scoring a model on one data set yields, before it is known which checkpoint it was."""

    split: str  # as the data set calls it
    measurements: list[Measurement]
    missing: float  # share of the listed queries or images that could not be used, percent
    note: str  # "used N of M ..." where something is missing
    ranked_lists: list[RankedList]  # empty where they were not asked for


def write_ranked_lists(folder: Path, ranked_lists: Iterable[RankedList]) -> Path:
    """Write ``answers.jsonl`` into ``folder`` (made if needed), whole or not at all."""
    write_jsonl(folder / FILE, map(asdict, ranked_lists))
    return folder / FILE


def read_ranked_lists(folder: Path) -> Sequence[RankedList]:
    """Read back what ``write_ranked_lists`` wrote; empty where the evaluation kept none.

    Raises:
        UserError: a row that is not a ranked list (names file and row).
    """
    path = folder / FILE
    if not path.is_file() or not path.stat().st_size:
        return []
    ranked_lists = []
    for where, row in read_jsonl(path):
        try:
            top = tuple(RankedItem(**item) for item in row["top"])
            ranked_lists.append(RankedList(**{**row, "targets": tuple(row["targets"]), "top": top}))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{where}: not a ranked list ({error}); run the validation again") from None
    return ranked_lists
