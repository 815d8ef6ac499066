"""Scores as a table: a group of lines per protocol, a line per category or direction, metrics as columns."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from unifashion.apps.report.glossary import DIRECTIONS, is_tryon
from unifashion.apps.report.load_runs import by_protocol
from unifashion.evaluation.metrics import metric_row
from unifashion.evaluation.scores import MEAN, Score


def score_table(scores: Sequence[Score]) -> dict[str, Any]:
    """Lay out the scores of one evaluation for scores.html; what holds for all of them is said once, in ``remark``."""
    first = scores[0]
    mixed = len({(score.marks, score.missing) for score in scores}) > 1
    remarks = [f"Model {first.model}"] if first.model else []
    if not mixed:
        remarks.append(f"Marks: {', '.join(first.marks)}" if first.marks else "No marks")
        remarks.append(f"{first.missing:.3g} % of the data is missing" if first.missing else "Nothing is missing")
    remarks += [f"Ties {ties}" for ties in dict.fromkeys(score.ties for score in scores) if ties]
    if any(score.low is not None for score in scores):
        remarks.append("Under each number: its 95 % bootstrap interval over queries")
    if any(score.std is not None for score in scores):
        remarks.append("±: standard deviation over draws")
    unit = "" if any(is_tryon(score.protocol) for score in scores) else ", in percent"
    return {
        "caption": f"Scores on {first.dataset}, {first.split} split{unit}",
        "remark": ". ".join(remarks) + ".",
        "metrics": sorted(dict.fromkeys(_metric(score)[1] for score in scores), key=lambda metric: metric == MEAN),
        "mixed": mixed,  # then every line has its own share of missing data and its own marks
        "protocols": {protocol: _lines(own) for protocol, own in by_protocol(scores).items()},
        "notes": list(dict.fromkeys(f"{score.protocol}: {score.note}." for score in scores if score.note)),
    }


def fixed(value: float, metric: str) -> str:
    """Return a value with as many digits as its metric is printed with."""
    return f"{value:.{metric_row(metric).digits}f}"


def joined(counts: Iterable[int | None]) -> str:
    """Return distinct counts, as 1,000/101; a dash for None, where a mean joins galleries of several sizes."""
    return "/".join(dict.fromkeys("–" if count is None else f"{count:,}" for count in counts))


def _lines(scores: Sequence[Score]) -> list[dict[str, Any]]:
    lines: dict[tuple[str, str], dict[str, Score]] = {}
    for score in scores:
        direction, metric = _metric(score)
        lines.setdefault((score.category, direction), {})[metric] = score
    return [_line(*key, line, several=len(lines) > 1) for key, line in lines.items()]


def _line(category: str, direction: str, line: dict[str, Score], several: bool) -> dict[str, Any]:
    # A mean joins queries and galleries of its parts: the sizes shown are those of the parts, if they are in the line.
    parts = [score for metric, score in line.items() if metric != MEAN] or list(line.values())
    whole = "both ways" if several and set(line) == {MEAN} else "all queries"
    return {
        "label": DIRECTIONS[direction] if direction else category or whole,
        "strong": several and category in ("", MEAN) and not direction,
        "scores": line,
        "num_queries": joined(score.n for score in parts),
        "gallery": joined(score.gallery for score in parts),
        "missing": max(score.missing for score in line.values()),
        "marks": list(dict.fromkeys(mark for score in line.values() for mark in score.marks)),
    }


def _metric(score: Score) -> tuple[str, str]:
    """Return direction and name of a metric: "i2t R@1" has a direction, "R@10" has none."""
    match = re.fullmatch(r"(i2t|t2i) (.+)", score.metric)
    return (match[1], match[2]) if match else ("", score.metric)
