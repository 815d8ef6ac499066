"""Score rows: what is printed and stored with every number, and how rows are written, read and shown.

A protocol returns ``Metric`` rows: a value and the sizes it was computed with. ``as_scores`` adds the run (data set, split,
model, missing data, marks), which makes ``Score`` rows; ``write_scores`` stores them as two files:

    scores.json   [{"dataset": "fashiongen", "protocol": "fashiongen/sub100", "split": "val", "category": "",
                    "metric": "i2t R@1", "value": 65.5, "n": 1000, "gallery": 101, ...}, ...]
    scores.csv    the same columns; marks and seeds are separated by spaces
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from unifashion.errors import UserError

FINE = ("SSIM", "LPIPS")  # metrics from 0 to 1, shown with more digits
MEAN = "mean"  # name of the metric that averages the others of its line, and of the category that averages categories


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a protocol, before it is known whose it is. Fields as in ``Score``."""

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
    """One stored number. Two of them may stand side by side only where ``comparable`` says so."""

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
    low: float | None = (
        None  # 95 % bootstrap interval over queries (``bootstrap.interval``); None where there is none, as in
    )
    high: float | None = None  # files that were written before intervals were

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.protocol} {self.metric} is {self.value}, which is no score")
        for mark in self.marks:
            if not mark or " " in mark:
                raise ValueError(f"a mark is one word, got {mark!r}")

    def row(self) -> dict[str, str | int | float | None]:
        """Return the score as one row of a CSV file: marks and seeds joined by spaces."""
        return {**asdict(self), "marks": " ".join(self.marks), "seeds": " ".join(map(str, self.seeds))}


def as_scores(
    metrics: Iterable[Metric],
    *,
    dataset: str,
    split: str,
    model: str,
    missing: float = 0.0,
    marks: Sequence[str] = (),
    note: str = "",
) -> list[Score]:
    """Return the metrics of one run as score rows; ``marks`` and ``note`` are joined with the metric's own."""
    return [
        Score(
            dataset=dataset,
            protocol=metric.protocol,
            split=split,
            category=metric.category,
            metric=metric.name,
            value=metric.value,
            n=metric.n,
            gallery=metric.gallery,
            missing=missing,
            marks=tuple(dict.fromkeys((*marks, *metric.marks))),
            model=model,
            std=metric.std,
            seeds=metric.seeds,
            note="; ".join(text for text in (note, metric.note) if text),
            low=metric.low,
            high=metric.high,
        )
        for metric in metrics
    ]


def comparable(a: Score, b: Score) -> bool:
    """Return whether two scores may be compared: same protocol, on the same data set and split, both real or both synthetic."""
    return _compared_by(a) == _compared_by(b)


def _compared_by(score: Score) -> tuple[str, str, str, bool]:
    return score.protocol, score.dataset, score.split, "synthetic" in score.marks


def write_scores(folder: Path, rows: Sequence[Score]) -> None:
    """Write ``scores.json`` and ``scores.csv`` into ``folder`` (made if needed); each file is replaced whole or not at all."""
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in fields(Score)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row.row())
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "scores.json", json.dumps([asdict(row) for row in rows], indent=1, allow_nan=False) + "\n")
    _replace(folder / "scores.csv", table.getvalue())


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_scores(path: Path) -> list[Score]:
    """Read back what ``write_scores`` wrote, from its folder or from the ``scores.json`` in it.

    Raises ``UserError`` where there is no such file or it holds anything but score rows.
    """
    path = path / "scores.json" if path.is_dir() else path
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read scores from {path} ({error.strerror}): name the folder of an evaluation"
        ) from None
    except ValueError:
        raise UserError(f"{path} is not a scores.json: run the evaluation again") from None
    try:
        return [Score(**{**row, "marks": tuple(row["marks"]), "seeds": tuple(row["seeds"])}) for row in rows]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} holds a row that is no score ({error}): run the evaluation again") from None


def format_table(rows: Sequence[Score]) -> str:
    """Return the rows as plain text for a terminal.

    One line per (data set, protocol, category), metrics as columns, then N, gallery, missing and marks; a block of lines
    per data set, split and model, under a heading; below it the ties rule, the seeds and the notes. Under a value stands its
    interval, where it has one. N and gallery are those of the parts of a mean, joined by "/" where directions differ. The
    same metric twice in a line is a ``ValueError``.
    """
    blocks: dict[tuple[str, str, str], list[Score]] = {}
    for row in rows:
        blocks.setdefault((row.dataset, row.split, row.model), []).append(row)
    return "\n\n".join(_format_block(block) for block in blocks.values())


def _format_block(rows: Sequence[Score]) -> str:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    metrics.sort(key=lambda metric: metric == MEAN)
    lines: dict[tuple[str, str], dict[str, Score]] = {}
    for row in rows:
        line = lines.setdefault((row.protocol, row.category), {})
        if row.metric in line:
            raise ValueError(f"{row.protocol} {row.category} {row.metric} is there twice")
        line[row.metric] = row
    header = ["protocol", "category", *metrics, "N", "gallery", "missing", "marks"]
    cells = []
    for key, line in lines.items():
        cells.append([*key, *(_value(line.get(metric)) for metric in metrics), *_context(list(line.values()))])
        intervals = [_interval(line.get(metric)) for metric in metrics]
        if any(intervals):
            cells.append(["", "", *intervals, "", "", "", ""])
    first = rows[0]
    facts = [
        *(["under each value: its 95 % bootstrap interval over queries"] if any(map(_interval, rows)) else []),
        *([f"ties: {', '.join(dict.fromkeys(row.ties for row in rows))}"] if first.ties else []),
        *dict.fromkeys(f"seeds of {row.protocol}: {' '.join(map(str, row.seeds))}" for row in rows if row.seeds),
        *dict.fromkeys(f"{row.protocol}: {row.note}" for row in rows if row.note),
    ]
    heading = f"{first.dataset} {first.split}, model {first.model}"
    return "\n".join([heading, *_align([header, *cells], num_left=2), *facts])


def _value(row: Score | None) -> str:
    if row is None:
        return "-"
    digits = digits_of(row.metric, 2)
    return f"{row.value:.{digits}f}" + ("" if row.std is None else f"±{row.std:.{digits}f}")


def _interval(row: Score | None) -> str:
    if row is None or row.low is None or row.high is None:
        return ""
    digits = digits_of(row.metric, 1)
    return f"{row.low:.{digits}f}-{row.high:.{digits}f}"


def digits_of(metric: str, usual: int) -> int:
    """Return how many digits after the point a metric is shown with."""
    return usual + 2 if metric in FINE else usual


def _context(line: Sequence[Score]) -> list[str]:
    parts = [row for row in line if row.metric != MEAN] or line
    return [
        "/".join(dict.fromkeys(str(row.n) for row in parts)),
        "/".join(dict.fromkeys("-" if row.gallery is None else str(row.gallery) for row in parts)),
        "/".join(dict.fromkeys(f"{row.missing:.3g} %" for row in line)),
        " ".join(dict.fromkeys(mark for row in line for mark in row.marks)) or "-",
    ]


def _align(table: Sequence[Sequence[str]], num_left: int) -> list[str]:
    """Pad cells to columns: the first ``num_left`` and the last to the left, numbers between them to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left = {*range(num_left), len(widths) - 1}
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
