"""Write the README's table of results from run files, so that no number in it was typed by hand.

    python -m unifashion.evaluation.results README.md runs/quickstart/pretrain runs/quickstart/cir_ft

replaces what stands between ``<!-- results -->`` and ``<!-- /results -->`` in the file.
"""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from unifashion.errors import UserError, exit_with_one_sentence
from unifashion.evaluation.scores import MEAN, Score, read_scores

_MARKERS = re.compile(r"(<!-- results -->\n).*(<!-- /results -->)", re.DOTALL)


def results_table(runs: Sequence[Path]) -> str:
    """Return a Markdown table: one line per run and protocol, with date, machine and config below it.

    Raises:
        UserError: a run without ``run.json`` or without validated scores.
    """
    lines = ["| run | protocol | N | gallery | scores (%) | marks |", "|---|---|---|---|---|---|"]
    facts = []
    for run in runs:
        try:
            about = json.loads((run / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"{run} is not a run folder: no readable run.json") from None
        files = sorted(run.glob("validate/*/scores.json"))
        if not files:
            raise UserError(f"{run} has no scores yet; run vail.sh on it first")
        for file in files:
            lines += _lines(run.as_posix(), read_scores(file))
        minutes = about.get("seconds", 0) / 60
        facts.append(
            f"- `{run.as_posix()}`: {about['started'][:10]}, {about['machine']}, {minutes:.1f} minutes, commit "
            f"`{about['git'][:10]}`, settings in its `config.yaml`, {about['data']['used']}"
        )
    return "\n".join([*lines, "", *facts])


def _lines(run: str, scores: Sequence[Score]) -> list[str]:
    """Return one line per protocol; where there are categories, the values are their macro mean."""
    protocols: dict[str, list[Score]] = {}
    for score in scores:
        protocols.setdefault(score.protocol, []).append(score)
    lines = []
    for protocol, group in protocols.items():
        shown = [score for score in group if score.category in ("", MEAN)]
        parts = [score for score in group if score.category != MEAN and score.metric != MEAN]
        values = ", ".join(f"{score.metric} **{score.value:.1f}**" for score in shown)
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
    file.write_text(_MARKERS.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text), encoding="utf-8")


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
