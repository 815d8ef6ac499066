"""Score rows: what is stored with every number, and how rows are written and read. results.py prints them.

A protocol returns ``Measurement`` rows: a value and the sizes it was computed with. ``as_scores`` adds the run (data set, split,
model, missing data, marks), which makes ``Score`` rows; ``write_scores`` stores them as two files:

    scores.json   [{"dataset": "fashiongen", "protocol": "fashiongen/sub100", "split": "val", "category": "",
                    "metric": "i2t R@1", "value": 65.5, "n": 1000, "gallery": 101, ...}, ...]
    scores.csv    the same columns; marks and seeds are separated by spaces
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from unifashion.errors import UserError
from unifashion.io import lock_folder, open_file, write_csv, write_json

MEAN = "mean"  # the metric that averages the others of its line, and the category that averages categories


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number of a protocol, before it is known which model it belongs to. Fields as in ``Score``."""

    protocol: str
    name: str
    value: float
    n: int
    gallery: int | None
    category: str = ""
    std: float | None = None
    seeds: tuple[int, ...] = ()
    marks: tuple[str, ...] = ()
    note: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """One stored number. Two of them may be compared only where ``comparable`` says so."""

    dataset: str
    protocol: str  # one of the names in the protocols, such as "fashioniq/original"
    split: str
    category: str  # "" where the data set has none, "mean" for the macro mean over categories
    metric: str
    value: float  # percent for recalls
    n: int  # queries (a mean joins those of its parts)
    gallery: int | None  # items a query is compared with; None where a mean joins galleries of several sizes
    missing: float  # share of the listed queries or items that could not be used, percent
    marks: tuple[str, ...]  # what a reader must know first: "synthetic", "incomplete", "leaky", "untrained", ...
    model: str  # checkpoint id
    std: float | None = None  # sample standard deviation over independent draws
    seeds: tuple[int, ...] = ()  # of these draws
    ties: str = "count against the target"  # empty where nothing is ranked
    note: str = ""
    # 95 % bootstrap interval over queries (``bootstrap.interval``); None where there is none, as in older files
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.protocol} {self.metric} is {self.value}, which is not a score")
        for mark in self.marks:
            if not mark or " " in mark:
                raise ValueError(f"a mark is one word, got {mark!r}")

    def row(self) -> dict[str, str | int | float | None]:
        """Return the score as one row of a CSV file: marks and seeds joined by spaces."""
        return {**asdict(self), "marks": " ".join(self.marks), "seeds": " ".join(map(str, self.seeds))}


def as_scores(
    measurements: Iterable[Measurement],
    *,
    dataset: str,
    split: str,
    model: str,
    missing: float = 0.0,
    marks: Sequence[str] = (),
    note: str = "",
) -> list[Score]:
    """Return the measurements of one run as score rows; ``marks`` and ``note`` are joined with the measurement's own."""
    return [
        Score(
            dataset=dataset,
            protocol=one.protocol,
            split=split,
            category=one.category,
            metric=one.name,
            value=one.value,
            n=one.n,
            gallery=one.gallery,
            missing=missing,
            marks=tuple(dict.fromkeys((*marks, *one.marks))),
            model=model,
            std=one.std,
            seeds=one.seeds,
            note="; ".join(text for text in (note, one.note) if text),
            low=one.low,
            high=one.high,
        )
        for one in measurements
    ]


def comparable(a: Score, b: Score) -> bool:
    """Return whether two scores may be compared: same protocol, on the same data set and split, both real or both synthetic."""
    return _compared_by(a) == _compared_by(b)


def _compared_by(score: Score) -> tuple[str, str, str, bool]:
    return score.protocol, score.dataset, score.split, "synthetic" in score.marks


@contextmanager
def scoring_into(folder: Path) -> Iterator[None]:
    """Keep others from ``folder`` while its scores are computed and written: files of two calls must not be mixed.

    Raises:
        UserError: another call is at work in it, or it cannot be written.
    """
    with lock_folder(folder, f"{folder}: another call is at work in it; wait until it ends, or name another folder"):
        yield


def write_scores(folder: Path, rows: Sequence[Score]) -> None:
    """Write ``scores.json`` and ``scores.csv`` into ``folder`` (made if needed); each file is replaced whole or not at all."""
    write_json(folder / "scores.json", [asdict(row) for row in rows], durable=True)  # may be the result of hours
    write_csv(folder / "scores.csv", [field.name for field in fields(Score)], (row.row() for row in rows))


def read_scores(path: Path) -> list[Score]:
    """Read back what ``write_scores`` wrote, from its folder or from the ``scores.json`` in it.

    Raises ``UserError`` where there is no such file or it holds anything but score rows.
    """
    path = path / "scores.json" if path.is_dir() else path
    try:
        with open_file(path) as file:
            rows = json.loads(file.read().decode("utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read scores from {path} ({error.strerror}): name the folder of an evaluation"
        ) from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not a scores.json: run the evaluation again") from None
    try:
        return [_score(row) for row in rows]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise UserError(f"{path} holds a row that is not a score ({error}): run the evaluation again") from None


def _score(row: Any) -> Score:
    score = Score(**{**row, "marks": tuple(row["marks"]), "seeds": tuple(row["seeds"])})
    numbers = (score.value, score.n, score.missing, *score.seeds)
    optional = [value for value in (score.gallery, score.std, score.low, score.high) if value is not None]
    texts = (
        score.dataset,
        score.protocol,
        score.split,
        score.category,
        score.metric,
        score.model,
        score.ties,
        score.note,
    )
    for kind, values in ((int | float, (*numbers, *optional)), (str, (*texts, *score.marks))):
        wrong = [value for value in values if not isinstance(value, kind)]
        if wrong:
            raise TypeError(f"{wrong[0]!r:.40} is of the wrong type")
    return score
