"""What run folders hold, read for the report: facts, curves, evaluations. Nothing is computed here, and nothing is required."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unifashion.errors import UserError
from unifashion.evaluation.answers import Answer, read_answers
from unifashion.evaluation.scores import Score, read_scores

MARKS = {
    "synthetic": "The data is drawn, not photographed: the numbers show that the code works, not how good a model is.",
    "incomplete": "Images were missing: the numbers are those of a part of the data set and compare with no others.",
    "leaky": "Captions were written with the query's own words: the numbers are flattered and are no measure of retrieval.",
    "untrained": "The model was never trained: the numbers show the level of chance.",
    "trained-on-val": "The model has seen the validation data in training: the numbers do not say how well it generalises.",
}


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on one data set, and its answers where they were kept."""

    folder: Path
    scores: list[Score]
    answers: list[Answer]

    @property
    def title(self) -> str:
        """Return data set and split."""
        return f"{self.scores[0].dataset} {self.scores[0].split}"


@dataclass(frozen=True)
class Run:
    """A training run, or a folder with nothing but evaluations."""

    name: str
    facts: dict[str, Any]
    losses: list[dict[str, float]] = field(default_factory=list)  # rows of train_metrics.csv
    validation: list[dict[str, str]] = field(default_factory=list)  # rows of validation_metrics.csv
    evaluations: list[Evaluation] = field(default_factory=list)


def read_run(folder: Path) -> Run:
    """Read a run folder, whatever of it is there.

    Raises:
        UserError: it holds neither a run nor scores, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name a run, such as runs/pretrain")
    facts = _facts(folder)
    files = sorted({*folder.glob("scores.json"), *folder.glob("validate/*/scores.json")})
    if facts is None and not files:
        raise UserError(f"{folder} holds no run and no scores: expected run.json or scores.json in it")
    evaluations = [Evaluation(file.parent, read_scores(file), list(read_answers(file.parent))) for file in files]
    return Run(
        name=folder.as_posix(),
        facts=facts or {},
        losses=[_numbers(row) for row in _rows(folder / "train_metrics.csv")],
        validation=_rows(folder / "validation_metrics.csv"),
        evaluations=[evaluation for evaluation in evaluations if evaluation.scores],
    )


def _facts(folder: Path) -> dict[str, Any] | None:
    path = folder / "run.json"
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = None
    if not isinstance(facts, dict):
        raise UserError(f"{path} is damaged; remove it, or name another run")
    return facts


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _numbers(row: dict[str, str]) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in row.items()}
    except (TypeError, ValueError):
        raise UserError(f"train_metrics.csv holds a row that is no numbers: {row}; remove it") from None
