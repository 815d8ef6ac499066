"""Numbers that papers print, to stand beside ours where, and only where, the protocol is the same (``published.json``)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from unifashion.evaluation.scores import Score


@dataclass(frozen=True)
class PublishedRow:
    """One model's numbers: (category, metric) -> percent. ``note`` says what a reader must know before comparing."""

    model: str
    values: dict[tuple[str, str], float]
    note: str = ""


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    return content


def source() -> str:
    """Return where the numbers are printed."""
    return str(_content()["source"])


def published_rows(protocol: str, scores: Sequence[Score]) -> list[PublishedRow]:
    """Return the rows that may stand beside one protocol's scores.

    None for another protocol, data set or split than the papers', for drawn, incomplete or leaky data, and for a part of the
    benchmark (told by its galleries): what is not the benchmark compares with nothing that is.

    Args:
        protocol: name of the protocol.
        scores: all scores of one evaluation.
    """
    own = [score for score in scores if score.protocol == protocol]
    if (
        not own
        or own[0].split != "val"
        or any({"synthetic", "incomplete", "leaky"} & set(score.marks) for score in own)
    ):
        return []
    for table in _content()["protocols"]:
        if (table["protocol"], table["dataset"]) == (protocol, own[0].dataset) and _is_whole(
            table["needs"], protocol, scores
        ):
            keys = [_key(column) for column in table["columns"]]
            return [
                PublishedRow(row["model"], dict(zip(keys, row["values"], strict=True)), row.get("note", ""))
                for row in table["rows"]
            ]
    return []


def _is_whole(needs: Sequence[dict[str, Any]], protocol: str, scores: Sequence[Score]) -> bool:
    """Return whether every gallery that tells the size of the benchmark is large enough."""
    gallery = {(score.protocol, score.category, score.metric): score.gallery or 0 for score in scores}
    return all(
        gallery.get((need.get("protocol", protocol), need["category"], need["metric"]), 0) >= need["gallery"]
        for need in needs
    )


def _key(column: str) -> tuple[str, str]:
    """Return (category, metric) of a column: "dress R@10" has a category, "i2t R@1" has none."""
    first, _, rest = column.partition(" ")
    return ("", column) if first in ("i2t", "t2i") else (first, rest)
