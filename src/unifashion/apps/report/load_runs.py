"""Run folders, read for the report: metadata, settings, curves, evaluations. Nothing in them is required.

A run may still be in progress, may have been interrupted, or may be a folder with nothing but a ``scores.json``.
"""

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from unifashion.apps.report.rows import check_rows
from unifashion.errors import UserError
from unifashion.evaluation.ranked_lists import FILE as ANSWERS
from unifashion.evaluation.ranked_lists import RankedList, read_ranked_lists
from unifashion.evaluation.scores import MEAN, Score, read_scores
from unifashion.flags import read_yaml
from unifashion.io import read_json

MAX_BYTES, MAX_COLUMNS = 256 * 2**20, 200  # of a file, and of a table
FAR = 1e30  # what is not below it is not a number that a run has
Row = dict[str, str]
R = TypeVar("R")
S = TypeVar("S", Score, RankedList)


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on one data set, and its answers where they were kept."""

    scores: Sequence[Score]
    answers: Sequence[RankedList]

    @property
    def title(self) -> str:
        """Return data set and split."""
        return f"{self.scores[0].dataset}, {self.scores[0].split}"


@dataclass(frozen=True)
class Run:
    """A training run, or a folder with nothing but evaluations.

    ``metadata`` is its run.json, ``settings`` its config.yaml, ``losses`` and ``validation`` are the rows of its CSV files,
    ``sheet`` is the last sheet of pictures from its validation (try-on).
    """

    folder: Path
    name: str
    metadata: dict[str, Any]
    settings: dict[str, Any]
    losses: list[dict[str, float]]
    validation: list[Row]
    evaluations: list[Evaluation]
    sheet: Path | None

    @property
    def slug(self) -> str:
        """Return the name in a form for URLs and file names."""
        return slug(self.name)

    @property
    def state(self) -> str:
        """Return "complete", "running", "interrupted" or "failed"; empty if there are only scores."""
        return str(self.metadata.get("state", ""))

    @property
    def marks(self) -> list[str]:
        """Return every mark of its scores, and those that its own files imply."""
        marks = [mark for evaluation in self.evaluations for score in evaluation.scores for mark in score.marks]
        marks += [mark for row in self.validation for mark in row.get("marks", "").split()]
        if self.metadata.get("synthetic"):
            marks.append("synthetic")
        if self.settings.get("include_val"):
            marks.append("trained-on-val")
        if self.losses and all(row.get("learning_rate") == 0 for row in self.losses):
            marks.append("untrained")
        return list(dict.fromkeys(marks))

    @property
    def model(self) -> str:
        """Return the model that its settings name, else those that its scores name."""
        names = [self.settings[key] for key in ("blip_model_name", "architecture") if self.settings.get(key)]
        scored = [score.model for evaluation in self.evaluations for score in evaluation.scores if score.model]
        return ", ".join(map(str, names or dict.fromkeys(scored)))

    @property
    def data(self) -> str:
        """Return what it was trained on, else what it was evaluated on."""
        data = self.metadata.get("data")
        trained = [str(data[key]) for key in ("set", "used") if data.get(key)] if isinstance(data, dict) else []
        return ", ".join(trained or [evaluation.title for evaluation in self.evaluations])


def slug(name: str) -> str:
    """Return a name in a form for URLs and file names: Latin letters and digits, joined by hyphens."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "run"


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders, each once, under distinct names.

    Raises:
        UserError: one holds neither a run nor scores, or a file in it is damaged.
    """
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    names = [_short_name(folder) for folder in distinct]
    slugs = [slug(name) for name in names]
    return [
        _read_run(folder, name if slugs.count(own) == 1 else f"{index} {name}")
        for index, (folder, name, own) in enumerate(zip(distinct, names, slugs, strict=True), 1)
    ]


def headline_metric(metrics: Iterable[str]) -> str:
    """Return the metric that represents the others: the mean, else mAP@10, else the first."""
    names = list(metrics)
    return next((name for name in (MEAN, "mAP@10") if name in names), names[0])


def grouped(rows: Iterable[R], key: Callable[[R], str]) -> dict[str, list[R]]:
    """Return the rows under their keys, in their order."""
    groups: dict[str, list[R]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def by_protocol(rows: Iterable[S]) -> dict[str, list[S]]:
    """Return scores or answers under the names of their protocols, in their order."""
    return grouped(rows, lambda row: row.protocol)


def over_all_categories(scores: Sequence[Score]) -> Sequence[Score]:
    """Return the scores that cover all categories; all scores if none does."""
    return [score for score in scores if score.category in ("", MEAN)] or scores


def _short_name(folder: Path) -> str:
    """Return a folder as a reader elsewhere understands it: below the working directory, or its last two parts."""
    path = Path(os.path.abspath(folder))  # noqa: PTH100  (Path.resolve would follow links)
    inside = path.is_relative_to(Path.cwd()) and path != Path.cwd()
    return path.relative_to(Path.cwd()).as_posix() if inside else "/".join(path.parts[1:][-2:])


def _read_run(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name a run, such as runs/pretrain")
    metadata, config = _read_description(folder / "run.json"), folder / "config.yaml"
    files = sorted({*folder.glob("scores.json"), *folder.glob("validate/*/scores.json")})
    if metadata is None and not files:
        raise UserError(f"{folder} holds no run and no scores: expected run.json or scores.json in it")
    evaluations = [evaluation for file in files if file.is_file() for evaluation in _evaluations(file)]
    if metadata is None and not evaluations:
        raise UserError(f"{files[0]} holds no score; run the validation again")
    # By length first: step-900 comes before step-1000.
    sheets = sorted(folder.glob("validation/step-*.png"), key=lambda path: (len(path.name), path.name))
    return Run(
        folder=folder,
        name=name,
        metadata=metadata or {},
        settings=read_yaml(config, flag="") if config.is_file() else {},
        losses=_numbers(folder / "train_metrics.csv"),
        validation=_rows(folder / "validation_metrics.csv"),
        evaluations=evaluations,
        sheet=sheets[-1] if sheets else None,
    )


def _evaluations(file: Path) -> list[Evaluation]:
    """Read scores and answers, and check that they are what an evaluation writes: the sections rely on it.

    A file with the scores of several data sets (``--dataset all``) is one evaluation for each, whose answers lie in the folder
    of its name.

    Raises:
        UserError: they are not; names file and row.
    """
    sets = grouped(_checked(file, read_scores), lambda score: f"{score.dataset}, {score.split}")
    found = []
    for scores in sets.values():
        name = scores[0].dataset
        folder = file.parent if len(sets) == 1 else file.parent / name
        is_inside = len(sets) == 1 or name == Path(name).name != ".."  # whatever a stranger's file calls a data set
        answers = _checked(folder / ANSWERS, lambda path: read_ranked_lists(path.parent)) if is_inside else ()
        found.append(Evaluation(scores, answers))
    return found


def _checked(path: Path, read: Callable[[Path], Sequence[S]]) -> Sequence[S]:
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} has more than {MAX_BYTES // 2**20} MiB, which no evaluation writes; remove it")
    try:
        rows = read(path)
    except (RecursionError, OverflowError):  # brackets within brackets; a number of hundreds of digits
        raise UserError(f"{path} is not what an evaluation writes: run the evaluation again") from None
    check_rows(path, rows)
    return rows


def _read_description(path: Path) -> dict[str, Any] | None:
    """Return the content of ``run.json``; None where there is no file.

    Raises:
        UserError: it holds anything other than names and values.
    """
    if not path.is_file():
        return None
    content = read_json(path) if path.stat().st_size <= MAX_BYTES else None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged; remove it, or name another run")
    return content


def _rows(path: Path) -> list[Row]:
    """Return the rows of a CSV file; of rows that a torn write has left at its end, none.

    Raises:
        UserError: a row has too few or too many cells; names it.
    """
    if not path.is_file():
        return []
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError
        text = path.read_text(encoding="utf-8").rstrip("\0")  # a power cut leaves NUL where the last rows were to be
        header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except (OSError, ValueError, csv.Error):
        raise UserError(f"{path} cannot be read; remove it") from None
    if len(set(header)) < len(header) or len(header) > MAX_COLUMNS:
        raise UserError(f"{path} has two columns of one name, or more than {MAX_COLUMNS}; remove it")
    if rows and len(rows[-1]) != len(header):
        rows.pop()  # the run is still writing it
    for line, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise UserError(f"{path}, row {line}: {len(row)} cells under {len(header)} columns; remove the row")
    return [dict(zip(header, row, strict=True)) for row in rows]


def _numbers(path: Path) -> list[dict[str, float]]:
    """Return the rows of a CSV file of numbers; an empty cell is NaN."""
    rows = []
    for line, row in enumerate(_rows(path), 2):
        try:
            rows.append({name: float(cell or "nan") for name, cell in row.items()})
        except ValueError:
            raise UserError(f"{path}, row {line}: holds a cell that is not a number; remove the row") from None
    if rows and not {"epoch", "step"} & rows[0].keys():
        raise UserError(f"{path} has neither a column 'epoch' nor 'step'; remove it")
    return rows
