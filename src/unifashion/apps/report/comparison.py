"""Runs side by side: only what ``scores.comparable`` allows, and only where N and gallery agree too.

Two runs that answered the very same queries are also compared query by query, which tells smaller differences than two
intervals that overlap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from unifashion.apps.report import html
from unifashion.apps.report.curves import compared_figure
from unifashion.apps.report.figures import Figure
from unifashion.apps.report.glossary import DIRECTIONS
from unifashion.apps.report.html import text
from unifashion.apps.report.load_runs import Run, by_protocol
from unifashion.apps.report.score_tables import value
from unifashion.evaluation.bootstrap import interval
from unifashion.evaluation.ranked_lists import Answer
from unifashion.evaluation.scores import MEAN, Score, comparable

Key = tuple[str, str, str, tuple[str, ...]]
AT = 10


@dataclass(frozen=True)
class Measured:
    """The scores of one run under one protocol, and the answers it gave under it."""

    run: Run
    scores: Sequence[Score]
    answers: Sequence[Answer]

    @property
    def sizes(self) -> set[tuple[str, str, int, int | None]]:
        """Return N and gallery of everything that was measured."""
        return {(score.category, score.metric, score.n, score.gallery) for score in self.scores}

    @property
    def queries(self) -> dict[Key, Answer]:
        """Return the answers by what was asked and wanted; the same query twice keeps its first answer."""
        found: dict[Key, Answer] = {}
        for answer in self.answers:
            found.setdefault((answer.direction, answer.image, answer.text, answer.targets), answer)
        return found


def comparison(runs: Sequence[Run], level: int) -> tuple[str, list[Figure]]:
    """Return tables and recall curves of what runs have in common, or the sentence that they have nothing in common."""
    if len(runs) < 2:
        return "", []
    groups, remarks = _groups([measured for run in runs for measured in _measured(run)])
    shared = [group for group in groups if len({measured.run.name for measured in group}) > 1]
    parts, figures = [html.heading(level, "Side by side", "side-by-side")], []
    if not shared:
        parts.append(
            "<p>No two of these runs were measured under the same protocol, on the same data set and split: their numbers do "
            "not compare, and none are set side by side.</p>"
        )
    for number, group in enumerate(shared, 1):
        part, drawn = _shared(group, level + 1, f"side-by-side-{number}")
        parts.append(part)
        figures += drawn
    return "".join(parts) + "".join(map(html.soft, remarks)), figures


def _measured(run: Run) -> list[Measured]:
    return [
        Measured(run, scores, [answer for answer in evaluation.answers if answer.protocol == protocol])
        for evaluation in run.evaluations
        for protocol, scores in by_protocol(evaluation.scores).items()
    ]


def _groups(everything: Sequence[Measured]) -> tuple[list[list[Measured]], list[str]]:
    """Return what may be compared, in groups, and a remark on what has the same name but other sizes."""
    groups: list[list[Measured]] = []
    remarks: dict[str, None] = {}
    for measured in everything:
        for group in groups:
            if comparable(group[0].scores[0], measured.scores[0]):
                if group[0].sizes == measured.sizes:
                    group.append(measured)
                    break
                remarks[
                    f"{measured.run.name} and {group[0].run.name} both have scores under {measured.scores[0].protocol}, but "
                    "with another N or gallery: they are measured on other data, and are not compared."
                ] = None
        else:
            groups.append([measured])
    return groups, list(remarks)


def _shared(group: Sequence[Measured], level: int, name: str) -> tuple[str, list[Figure]]:
    first = group[0].scores[0]
    whole = [score for score in group[0].scores if score.category in ("", MEAN)] or group[0].scores
    metrics = [(score.category, score.metric) for score in whole]
    rows = []
    for measured in group:
        found = {(score.category, score.metric): score for score in measured.scores}
        num = max(score.n for score in measured.scores)
        galleries = dict.fromkeys(f"{score.gallery:,}" for score in measured.scores if score.gallery is not None)
        marks = html.marks([*measured.run.marks, *(mark for score in measured.scores for mark in score.marks)])
        cells = [value(found.get(metric)) for metric in metrics]
        rows.append([text(measured.run.name), *cells, f"{num:,}", "/".join(galleries) or "–", marks])
    header = ["run", *(metric for _, metric in metrics), "N", "gallery", "marks"]
    title = f"{first.protocol} on {first.dataset}, {first.split}"
    parts = [html.heading(level, title), html.table(header, [("", rows)], title, hide_caption=True)]
    figures = []
    kept = [measured for measured in group if measured.answers]
    answered = [measured for measured in kept if _same(kept[0], measured)]
    for direction in dict.fromkeys(answer.direction for answer in answered[0].answers) if len(answered) > 1 else ():
        runs = {measured.run.name: _parts(measured, direction) for measured in answered}
        figure = compared_figure(f"{name}-{direction}", f"{DIRECTIONS[direction]}, {first.protocol}", runs)
        figures.append(figure)
        parts.append(figure.html())
        parts += [html.soft(_difference(answered[0], other, direction)) for other in answered[1:]]
    return "".join(parts), figures


def _same(one: Measured, other: Measured) -> bool:
    return one.queries.keys() == other.queries.keys()


def _parts(measured: Measured, direction: str) -> list[list[Answer]]:
    """Return the answers in groups that weigh the same: by category for composed queries, as the protocols average."""
    groups: dict[str, list[Answer]] = {}
    for answer in measured.queries.values():
        if answer.direction == direction:
            groups.setdefault(answer.category if direction == "composed" else "", []).append(answer)
    return list(groups.values())


def _difference(one: Measured, other: Measured, direction: str) -> str:
    """Return how many more queries the other run finds among the first ten, query by query, with its interval."""
    first, second = one.queries, other.queries
    groups: dict[str, list[int]] = {}
    for key, answer in first.items():
        if answer.direction == direction:
            gained = (second[key].rank < AT) - (answer.rank < AT)
            groups.setdefault(answer.category if direction == "composed" else "", []).append(gained)
    change = 100 * sum(sum(values) / len(values) for values in groups.values()) / len(groups)
    low, high = interval(list(groups.values()))
    sure = "" if low is None else f" (95 % interval {low:+.1f} to {high:+.1f}, over the same queries)"
    told = (
        "no difference at all"
        if low is None or high is None
        else "the difference may be chance"
        if low <= 0 <= high
        else "more than chance explains"
    )
    return f"{other.run.name} against {one.run.name}: {change:+.1f} points of recall at {AT}{sure}, {told}."
