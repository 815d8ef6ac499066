"""Scores as text: a table for the terminal, and the README's table of results, so that no number in it was typed by hand.

    python -m unifashion.evaluation.results README.md runs/quickstart/pretrain runs/quickstart/cir_ft

replaces what is between ``<!-- results -->`` and ``<!-- /results -->`` in the file.
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from unifashion.errors import UserError, exit_with_one_sentence
from unifashion.evaluation.metrics import metric_row
from unifashion.evaluation.scores import MEAN, Score, read_scores
from unifashion.io import atomic_write, read_json

_MARKERS = re.compile(r"(<!-- results -->\n).*(<!-- /results -->)", re.DOTALL)


# The terminal -----------------------------------------------------------------------------------------------------------


def format_table(rows: Sequence[Score]) -> str:
    """Return the rows as plain text for a terminal.

    One line per (data set, protocol, category), metrics as columns, then N, gallery, missing and marks; a block of lines
    per data set, split and model, under a heading; below it the ties rule, the seeds and the notes. Below a value is its
    interval, if it has one. N and gallery are those of the parts of a mean, joined by "/" where directions differ. The
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
            raise ValueError(f"{row.protocol} {row.category} {row.metric} appears twice")
        line[row.metric] = row
    header = ["protocol", "category", *metrics, "N", "gallery", "missing", "marks"]
    cells = []
    for key, line in lines.items():
        cells.append([*key, *(_value(line.get(metric)) for metric in metrics), *_context(list(line.values()))])
        intervals = [_interval(line.get(metric)) for metric in metrics]
        if any(intervals):
            cells.append(["", "", *intervals, "", "", "", ""])
    first = rows[0]
    remarks = [
        *(["under each value: its 95 % bootstrap interval over queries"] if any(map(_interval, rows)) else []),
        *([f"ties: {', '.join(ties)}"] if (ties := dict.fromkeys(row.ties for row in rows if row.ties)) else []),
        *dict.fromkeys(f"seeds of {row.protocol}: {' '.join(map(str, row.seeds))}" for row in rows if row.seeds),
        *dict.fromkeys(f"{row.protocol}: {row.note}" for row in rows if row.note),
    ]
    heading = f"{first.dataset} {first.split}, model {first.model}"
    return "\n".join([heading, *_align([header, *cells], num_left=2), *remarks])


def _value(row: Score | None) -> str:
    if row is None:
        return "-"
    digits = metric_row(row.metric).digits + 1
    return f"{row.value:.{digits}f}" + ("" if row.std is None else f"±{row.std:.{digits}f}")


def _interval(row: Score | None) -> str:
    if row is None or row.low is None or row.high is None:
        return ""
    digits = metric_row(row.metric).digits
    return f"{row.low:.{digits}f}-{row.high:.{digits}f}"


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


# The README -----------------------------------------------------------------------------------------------------------


def results_table(runs: Sequence[Path]) -> str:
    """Return a Markdown table: one line per run and protocol, with date, machine and config below it.

    Raises:
        UserError: a run without ``run.json`` or without validated scores.
    """
    lines = ["| run | protocol | N | gallery | scores (%) | marks |", "|---|---|---|---|---|---|"]
    sources = []
    for run in runs:
        source = _source(run)
        files = sorted(run.glob("validate/*/scores.json"))
        if not files:
            raise UserError(f"{run} has no scores yet; run vail.sh on it first")
        for file in files:
            lines += _lines(run.as_posix(), read_scores(file))
        sources.append(source)
    return "\n".join([*lines, "", *sources])


def _source(run: Path) -> str:
    """Return the line that says when, where and on what a run was made."""
    record = read_json(run / "run.json")
    if record is None:
        raise UserError(f"{run} is not a run folder: no readable run.json")
    try:
        minutes = record.get("seconds", 0) / 60
        return (
            f"- `{run.as_posix()}`: {record['started'][:10]}, {record['machine']}, {minutes:.1f} minutes, commit "
            f"`{record['git'][:10]}`, settings in its `config.yaml`, {record['data']['used']}"
        )
    except (AttributeError, KeyError, TypeError, OverflowError):
        raise UserError(f"{run}/run.json is damaged: leave the run out, or train it again") from None


def _lines(run: str, scores: Sequence[Score]) -> list[str]:
    """Return one line per protocol; where there are categories, the values are their macro mean."""
    protocols: dict[str, list[Score]] = {}
    for score in scores:
        protocols.setdefault(score.protocol, []).append(score)
    lines = []
    for protocol, group in protocols.items():
        shown = [score for score in group if score.category in ("", MEAN)]
        parts = [score for score in group if score.category != MEAN and score.metric != MEAN]
        values = ", ".join(f"{score.metric} **{score.value:.{metric_row(score.metric).digits}f}**" for score in shown)
        num = "/".join(_distinct((score.category, str(score.n)) for score in parts))
        gallery = "/".join(_distinct((score.category, str(score.gallery)) for score in parts))
        marks = " ".join(dict.fromkeys(mark for score in group for mark in score.marks))
        lines.append(f"| {run} | {protocol} | {num} | {gallery} | {values} | {marks} |")
    return lines


def _distinct(values: Iterable[tuple[str, str]]) -> list[str]:
    """Return the values without repetition inside a category."""
    return [value for _, value in dict.fromkeys(values)]


def update(file: Path, runs: Sequence[Path]) -> None:
    """Put the table between the markers of ``file``.

    Raises:
        UserError: no such file, or no markers in it.
    """
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if not _MARKERS.search(text):
        raise UserError(f"{file} has no <!-- results --> and <!-- /results --> to write between")
    table = results_table(runs)
    atomic_write(file, _MARKERS.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text))


@exit_with_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and update one file."""
    parser = argparse.ArgumentParser(description="Write the table of results into a Markdown file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    arguments = parser.parse_args(argv)
    update(arguments.file, arguments.runs)


if __name__ == "__main__":
    main()
