"""Published numbers, shown beside ours only where the protocol is the same (``published.json``)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from unifashion.apps.report.load_runs import by_protocol
from unifashion.evaluation.scores import Score

# Why no published number may be shown beside scores with these marks.
NOT_COMPARABLE = {
    "synthetic": "papers measure on photos, and this data is synthetic",
    "trained-on-val": "this model was trained on the validation data",
    "leaky": "its captions were written with the query's own words",
    "incomplete": "some of the images are missing",
}


@dataclass(frozen=True)
class PublishedRow:
    """One model's numbers: (category, metric) -> percent. ``note`` says what a reader must know before comparing."""

    model: str
    values: dict[tuple[str, str], float]
    note: str = ""


def published_tables(scores: Sequence[Score], marks: Sequence[str]) -> list[dict[str, Any]]:
    """Return published numbers with ours below, for each protocol that has some, for scores.html.

    ``marks`` are those of the run: they may include some that its scores lack.
    """
    if "trained-on-val" in marks:
        return []
    tables = ((protocol, published_rows(protocol, scores)) for protocol in by_protocol(scores))
    return [_table(protocol, rows, scores) for protocol, rows in tables if rows]


def why_no_table(scores: Sequence[Score], marks: Sequence[str]) -> str:
    """Return why no published numbers are shown beside these, as the end of a sentence."""
    carried = {*marks, *(mark for score in scores for mark in score.marks)}
    return next((reason for mark, reason in NOT_COMPARABLE.items() if mark in carried), "") or (
        f"papers report no numbers under {', '.join(by_protocol(scores))}, or these scores do not cover the whole "
        f"{scores[0].dataset} benchmark (see N and gallery)"
    )


def published_rows(protocol: str, scores: Sequence[Score]) -> list[PublishedRow]:
    """Return the rows that may be shown beside one protocol's scores.

    None for another protocol, data set or split than the papers', for synthetic, incomplete or leaky data, and for a part of the
    benchmark (recognised by its galleries): what is not the benchmark is not comparable with what is.

    Args:
        protocol: name of the protocol.
        scores: all scores of one evaluation.
    """
    own = [score for score in scores if score.protocol == protocol]
    marks = {mark for score in own for mark in score.marks}
    if not own or own[0].split != "val" or marks & NOT_COMPARABLE.keys():
        return []
    for table in _content()["protocols"]:
        same = (table["protocol"], table["dataset"]) == (protocol, own[0].dataset)
        if same and _is_whole(table["needs"], protocol, scores):
            keys = [_key(column) for column in table["columns"]]
            return [
                PublishedRow(row["model"], dict(zip(keys, row["values"], strict=True)), row.get("note", ""))
                for row in table["rows"]
            ]
    return []


def source() -> str:
    """Return where the numbers were published."""
    return str(_content()["source"])


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    return content


def _table(protocol: str, rows: Sequence[PublishedRow], scores: Sequence[Score]) -> dict[str, Any]:
    ours = {(score.category, score.metric): score.value for score in scores if score.protocol == protocol}
    noted = [row.model for row in rows if row.note]
    return {
        "protocol": protocol,
        # ("dress", "R@10") is "dress R@10", ("", "i2t R@1") is "i2t R@1", and the mean of means is named once.
        "columns": {key: " ".join(dict.fromkeys(part for part in key if part)) for row in rows for key in row.values},
        "rows": [*rows, PublishedRow("this model", ours)],
        "asterisks": {model: "*" * count for count, model in enumerate(noted, 1)},
        "source": source(),
    }


def _is_whole(needs: Sequence[dict[str, Any]], protocol: str, scores: Sequence[Score]) -> bool:
    """Return whether every gallery that shows the size of the benchmark is large enough."""
    galleries = {(score.protocol, score.category, score.metric): score.gallery or 0 for score in scores}
    return all(
        galleries.get((need.get("protocol", protocol), need["category"], need["metric"]), 0) >= need["gallery"]
        for need in needs
    )


def _key(column: str) -> tuple[str, str]:
    """Return (category, metric) of a column: "dress R@10" has a category, "i2t R@1" has none."""
    first, _, rest = column.partition(" ")
    return ("", column) if first in ("i2t", "t2i") else (first, rest)
