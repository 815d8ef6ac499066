"""What run folders hold, read for the report: facts, settings, curves, evaluations. Nothing in them is required.

A run may still be running, may have been interrupted, or may be a folder with nothing but a ``scores.json``.
"""

import csv
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unifashion.errors import UserError
from unifashion.evaluation.ranked_lists import Answer, read_answers
from unifashion.evaluation.scores import MEAN, Score, read_scores

Row = dict[str, str]


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on one data set, and its answers where they were kept."""

    scores: Sequence[Score]
    answers: Sequence[Answer]

    @property
    def title(self) -> str:
        """Return data set and split."""
        return f"{self.scores[0].dataset}, {self.scores[0].split}"


@dataclass(frozen=True)
class Run:
    """A training run, or a folder with nothing but evaluations.

    ``losses`` and ``validation`` are the rows of its CSV files, ``picture`` is the last one drawn in validation (try-on).
    """

    folder: Path
    name: str
    facts: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    losses: list[dict[str, float]] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    picture: Path | None = None

    @property
    def slug(self) -> str:
        """Return the name as it can stand in an address and a file name."""
        return re.sub(r"[^A-Za-z0-9]+", "-", self.name).strip("-") or "run"

    @property
    def marks(self) -> list[str]:
        """Return every mark of its scores, and those that its own files tell."""
        found = [mark for evaluation in self.evaluations for score in evaluation.scores for mark in score.marks]
        found += [mark for row in self.validation for mark in row.get("marks", "").split()]
        if self.facts.get("synthetic"):
            found.append("synthetic")
        if self.settings.get("include_val"):
            found.append("trained-on-val")
        if self.losses and all(row.get("learning_rate") == 0 for row in self.losses):
            found.append("untrained")
        return list(dict.fromkeys(found))


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders, each once, under names that tell them apart.

    Raises:
        UserError: one holds neither a run nor scores, or a file in it is damaged.
    """
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    names = [_short(folder) for folder in distinct]
    slugs = [re.sub(r"\W+", "-", name) for name in names]
    return [
        _read_run(folder, name if slugs.count(slug) == 1 else f"{number} {name}")
        for number, (folder, name, slug) in enumerate(zip(distinct, names, slugs, strict=True), 1)
    ]


def summary(scores: Sequence[Score]) -> Score:
    """Return the number that stands for a protocol: its mean, else its mAP@10, else its first."""
    whole = [score for score in scores if score.category in ("", MEAN)] or scores
    return next((score for wanted in (MEAN, "mAP@10") for score in whole if score.metric == wanted), whole[0])


def by_protocol(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Return the scores under the names of their protocols, in their order."""
    found: dict[str, list[Score]] = {}
    for score in scores:
        found.setdefault(score.protocol, []).append(score)
    return found


def _short(folder: Path) -> str:
    """Return a folder as a reader elsewhere understands it: below the working directory, or its last two parts."""
    path = Path(os.path.abspath(folder))  # noqa: PTH100  (Path.resolve would follow links)
    inside = path.is_relative_to(Path.cwd()) and path != Path.cwd()
    return path.relative_to(Path.cwd()).as_posix() if inside else "/".join(path.parts[1:][-2:])


def _read_run(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name a run, such as runs/pretrain")
    facts = _facts(folder)
    files = sorted({*folder.glob("scores.json"), *folder.glob("validate/*/scores.json")})
    if facts is None and not files:
        raise UserError(f"{folder} holds no run and no scores: expected run.json or scores.json in it")
    evaluations = [Evaluation(read_scores(file), read_answers(file.parent)) for file in files]
    if facts is None and not any(evaluation.scores for evaluation in evaluations):
        raise UserError(f"{files[0]} holds no score; run the validation again")
    pictures = sorted(folder.glob("validation/step-*.png"), key=lambda path: (len(path.name), path.name))
    return Run(
        folder=folder,
        name=name,
        facts=facts or {},
        settings=_settings(folder / "config.yaml"),
        losses=_numbers(folder / "train_metrics.csv"),
        validation=_rows(folder / "validation_metrics.csv"),
        evaluations=[evaluation for evaluation in evaluations if evaluation.scores],
        picture=pictures[-1] if pictures else None,
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


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        settings = None
    if not isinstance(settings, dict):
        raise UserError(f"{path} is damaged; remove it, or name another run")
    return settings


def _rows(path: Path) -> list[Row]:
    """Return the rows of a CSV; a last one that is still being written is left out.

    Raises:
        UserError: another row has too few or too many cells.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, ValueError, csv.Error):
        raise UserError(f"{path} cannot be read; remove it") from None
    if rows and len(rows[-1]) != len(header):
        rows.pop()
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise UserError(f"{path}, row {number}: {len(row)} cells under {len(header)} columns; remove the row")
    return [dict(zip(header, row, strict=True)) for row in rows]


def _numbers(path: Path) -> list[dict[str, float]]:
    numbers = []
    for number, row in enumerate(_rows(path), 2):
        try:
            numbers.append({name: float(value) if value else math.nan for name, value in row.items()})
        except ValueError:
            raise UserError(f"{path}, row {number}: holds a cell that is no number; remove the row") from None
    return numbers
