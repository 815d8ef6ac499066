"""Runs side by side: only what ``scores.comparable`` allows, and only where N and gallery agree too.

Two runs that answered exactly the same queries are also compared query by query, which shows smaller differences than
two overlapping intervals do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from unifashion.apps.report.answer_sections import AT
from unifashion.apps.report.curves import recall_figure
from unifashion.apps.report.glossary import DIRECTIONS
from unifashion.apps.report.load_runs import Run, by_protocol, grouped, over_all_categories
from unifashion.apps.report.score_tables import joined
from unifashion.evaluation.bootstrap import interval
from unifashion.evaluation.ranked_lists import RankedList
from unifashion.evaluation.scores import Score, comparable

Query = tuple[str, str, str, tuple[str, ...]]  # direction, image, text, targets


@dataclass(frozen=True)
class Measured:
    """The scores of one run under one protocol, and the answers it gave under it."""

    run: Run
    scores: Sequence[Score]
    answers: Sequence[RankedList]

    @property
    def sizes(self) -> set[tuple[str, str, int, int | None]]:
        """Return N and gallery of everything that was measured."""
        return {(score.category, score.metric, score.n, score.gallery) for score in self.scores}

    @cached_property
    def by_query(self) -> dict[Query, RankedList]:
        """Return the answers by query and targets; a repeated query keeps its first answer."""
        answers: dict[Query, RankedList] = {}
        for answer in self.answers:
            answers.setdefault((answer.direction, answer.image, answer.text, answer.targets), answer)
        return answers

    def groups(self, direction: str) -> list[list[Query]]:
        """Return the queries in groups of equal weight: by category for composed ones, as the protocols average."""
        queries = [query for query, answer in self.by_query.items() if answer.direction == direction]
        groups = grouped(queries, lambda query: self.by_query[query].category if direction == "composed" else "")
        return list(groups.values())


def compare(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what several runs have in common side by side, for comparison.html."""
    groups, remarks = _comparable_groups(
        [
            Measured(run, scores, [answer for answer in evaluation.answers if answer.protocol == protocol])
            for run in runs
            for evaluation in run.evaluations
            for protocol, scores in by_protocol(evaluation.scores).items()
        ]
    )
    shared = [group for group in groups if len({measured.run.name for measured in group}) > 1]
    return {
        "tables": [_table(group, f"side-by-side-{index}") for index, group in enumerate(shared, 1)],
        "remarks": remarks,
    }


def _comparable_groups(everything: Sequence[Measured]) -> tuple[list[list[Measured]], list[str]]:
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
                    "with a different N or gallery: they were measured on different data and are not compared."
                ] = None
        else:
            groups.append([measured])
    return groups, list(remarks)


def _table(group: Sequence[Measured], name: str) -> dict[str, Any]:
    first = group[0].scores[0]
    columns = [(score.category, score.metric) for score in over_all_categories(group[0].scores)]
    return {
        "title": f"{first.protocol} on {first.dataset}, {first.split}",
        "metrics": [metric for _, metric in columns],
        "lines": [_line(measured, columns) for measured in group],
        "curves": _curves(group, name),
    }


def _line(measured: Measured, columns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    scores = {(score.category, score.metric): score for score in measured.scores}
    return {
        "run": measured.run.name,
        "scores": [scores.get(column) for column in columns],
        "num_queries": max(score.n for score in measured.scores),
        "gallery": joined(score.gallery for score in measured.scores if score.gallery is not None) or "–",
        "marks": measured.run.marks,
    }


def _curves(group: Sequence[Measured], name: str) -> list[dict[str, Any]]:
    """Draw the runs that answered exactly the same queries, per direction, and say how each differs from the first."""
    answered = [measured for measured in group if measured.answers]
    same = [measured for measured in answered if measured.by_query.keys() == answered[0].by_query.keys()]
    if len(same) < 2:
        return []
    curves = []
    for direction in dict.fromkeys(answer.direction for answer in same[0].answers):
        lines = {
            one.run.name: [[one.by_query[query] for query in group] for group in one.groups(direction)] for one in same
        }
        title = f"{DIRECTIONS[direction]}, {same[0].scores[0].protocol}"
        figure = recall_figure(f"{name}-{direction}", title, lines)
        curves.append({"figure": figure, "differences": [_difference(same[0], other, direction) for other in same[1:]]})
    return curves


def _difference(one: Measured, other: Measured, direction: str) -> str:
    """Return how many more queries the other run answers within the first ten, query by query, with its interval."""
    gains = [
        [(other.by_query[query].rank < AT) - (one.by_query[query].rank < AT) for query in queries]
        for queries in one.groups(direction)
    ]
    change = 100 * sum(sum(values) / len(values) for values in gains) / len(gains)
    low, high = interval(gains)
    if low is None or high is None:  # all queries changed alike, so resampling them changes nothing
        verdict = ", the same for every query" if change else ", no difference at all"
    else:
        chance = "the difference may be chance" if low <= 0 <= high else "more than chance explains"
        verdict = f" (95 % interval {low:+.1f} to {high:+.1f}, over the same queries), {chance}"
    return f"{other.run.name} against {one.run.name}: {change:+.1f} points of recall at {AT}{verdict}."
