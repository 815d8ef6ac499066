"""What a model answered to every query of its full-gallery protocol: the raw material of the report.

``answers.jsonl`` lies beside ``scores.json``, one row a query:
    {"protocol": "fashioniq/original", "direction": "composed", "category": "dress", "text": "is red and longer",
     "image": "images/B001.jpg", "targets": ["images/B002.jpg"], "rank": 3, "gallery": 3817,
     "top": [{"image": "images/B009.jpg", "text": "", "score": 0.71, "hit": false}, ...], "slices": {"feedback words": "5-8"}}
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from unifashion.data.annotations import read_jsonl
from unifashion.errors import UserError

Direction = Literal["t2i", "i2t", "composed"]
NUM_SHOWN = 5  # answers kept per query


@dataclass(frozen=True, slots=True)
class Shown:
    """One item of a ranked list: an image (path) or a text, its score, and whether it is a target."""

    image: str
    text: str
    score: float
    hit: bool


@dataclass(frozen=True, slots=True)
class Answer:
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
    top: tuple[Shown, ...]
    slices: dict[str, str] = field(default_factory=dict)


def write_answers(folder: Path, answers: Iterable[Answer]) -> Path:
    """Write ``answers.jsonl`` into ``folder`` (made if needed), whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path, unfinished = folder / "answers.jsonl", folder / ".answers.jsonl"
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
    unfinished.replace(path)
    return path


def read_answers(folder: Path) -> Sequence[Answer]:
    """Read back what ``write_answers`` wrote; empty where the evaluation kept none.

    Raises:
        UserError: a row that is not an answer (names file and row).
    """
    path = folder / "answers.jsonl"
    if not path.is_file() or not path.stat().st_size:
        return []
    answers = []
    for place, row in read_jsonl(path):
        try:
            top = tuple(Shown(**item) for item in row["top"])
            answers.append(Answer(**{**row, "targets": tuple(row["targets"]), "top": top}))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{place}: not an answer ({error}); run the validation again") from None
    return answers
