"""Scores as tables: every protocol with its sizes and intervals, and published numbers where they may stand beside."""

import re
from collections.abc import Sequence

from unifashion.apps.report import html
from unifashion.apps.report.glossary import DIRECTIONS, is_tryon, protocol_words
from unifashion.apps.report.html import text
from unifashion.apps.report.load_runs import by_protocol
from unifashion.apps.report.published import published_rows, source
from unifashion.evaluation.scores import MEAN, Score, digits_of

Line = tuple[str, str]  # category and direction


def score_table(scores: Sequence[Score]) -> str:
    """Return a table: a group of lines per protocol, a line per category or direction, metrics as columns.

    What is the same everywhere, such as marks, is said once above it.
    """
    metrics = list(dict.fromkeys(_metric(score)[1] for score in scores))
    metrics.sort(key=lambda metric: metric == MEAN)
    shared = len({(score.marks, score.missing) for score in scores}) == 1
    groups = []
    for protocol, own in by_protocol(scores).items():
        lines: dict[Line, dict[str, Score]] = {}
        for score in own:
            direction, metric = _metric(score)
            lines.setdefault((score.category, direction), {})[metric] = score
        rows = [_line(where, line, metrics, shared, len(lines) > 1) for where, line in lines.items()]
        words = protocol_words(protocol)
        groups.append((f"{text(protocol)}{f'<span>{text(words)}</span>' if words else ''}", rows))
    header = ["", *metrics, "N", "gallery", *([] if shared else ["missing", "marks"])]
    unit = "" if any(is_tryon(score.protocol) for score in scores) else ", in percent"
    caption = f"Scores on {scores[0].dataset}, {scores[0].split} split{unit}"
    facts = [f"Model {scores[0].model}" if scores[0].model else "", _shared_facts(scores) if shared else ""]
    facts += [f"Ties {ties}" for ties in dict.fromkeys(score.ties for score in scores) if ties]
    if any(score.low is not None for score in scores):
        facts.append("Under each number: its 95 % bootstrap interval over queries")
    if any(score.std is not None for score in scores):
        facts.append("±: standard deviation over draws")
    notes = dict.fromkeys(f"{score.protocol}: {score.note}." for score in scores if score.note)
    return (
        html.soft(". ".join(fact for fact in facts if fact) + ".")
        + html.table(header, groups, caption, hide_caption=True)
        + "".join(map(html.soft, notes))
    )


def _metric(score: Score) -> tuple[str, str]:
    """Return direction and name of a metric: "i2t R@1" has a direction, "R@10" has none."""
    found = re.fullmatch(r"(i2t|t2i) (.+)", score.metric)
    return (found[1], found[2]) if found else ("", score.metric)


def _line(where: Line, line: dict[str, Score], metrics: Sequence[str], shared: bool, several: bool) -> list[str]:
    category, direction = where
    whole = category in ("", MEAN) and not direction
    label = DIRECTIONS[direction] if direction else category
    if not label:
        label = "both ways" if several and set(line) == {MEAN} else "all queries"
    parts = [score for metric, score in line.items() if metric != MEAN] or list(line.values())
    sizes = [
        "/".join(dict.fromkeys(f"{score.n:,}" for score in parts)),
        "/".join(dict.fromkeys("–" if score.gallery is None else f"{score.gallery:,}" for score in parts)),
    ]
    if not shared:
        sizes += [f"{max(score.missing for score in line.values()):.3g} %"]
        sizes += [html.marks(mark for score in line.values() for mark in score.marks)]
    first = f"<strong>{text(label)}</strong>" if whole and several else text(label)
    return [first, *(value(line.get(metric)) for metric in metrics), *sizes]


def _shared_facts(scores: Sequence[Score]) -> str:
    missing = scores[0].missing
    marks = f"Marks: {', '.join(scores[0].marks)}" if scores[0].marks else "No marks"
    return f"{marks}. {f'{missing:.3g} % of the data is missing' if missing else 'Nothing is missing'}"


def value(score: Score | None) -> str:
    """Return a number, its spread over draws, and under it its interval."""
    if score is None:
        return ""
    digits = digits_of(score.metric, 1)
    spread = f"<span>±{score.std:.{digits}f}</span>" if score.std is not None else ""
    low, high = score.low, score.high
    below = "" if low is None or high is None else f"<small>{low:.{digits}f}–{high:.{digits}f}</small>"
    return f"{score.value:.{digits}f}{spread}{below}"


def published(scores: Sequence[Score], level: int, marks: Sequence[str]) -> str:
    """Return published rows with ours below, for each protocol that has some; else one sentence that says why there are none.

    ``marks`` are those of the run: they hold what its scores may not say yet.
    """
    parts = []
    if "trained-on-val" not in marks:
        parts = [_published_table(protocol, scores, level) for protocol in by_protocol(scores)]
    return "".join(parts) or html.soft(f"No published number stands beside these: {_why_none(scores, marks)}.")


def _published_table(protocol: str, scores: Sequence[Score], level: int) -> str:
    rows = published_rows(protocol, scores)
    if not rows:
        return ""
    ours = {(score.category, score.metric): score.value for score in scores if score.protocol == protocol}
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    notes = {row.model: row.note for row in rows if row.note}
    signs = {model: "*" * place for place, model in enumerate(notes, 1)}
    lines = [
        [f"{text(row.model)}{signs.get(row.model, '')}", *(_plain(row.values.get(key)) for key in keys)] for row in rows
    ]
    lines.append(["<strong>this model</strong>", *(_plain(ours.get(key)) for key in keys)])
    header = ["model", *(" ".join(dict.fromkeys(part for part in key if part)) for key in keys)]
    caption = f"Published numbers under {protocol}, in percent"
    return (
        html.heading(level, f"Beside published numbers: {protocol}")
        + html.table(header, [("", lines)], caption, hide_caption=True)
        + "".join(html.soft(f"{signs[model]} {model}: {note}.") for model, note in notes.items())
        + html.soft(f"Source: {source()}. Our numbers are those of the table above.")
    )


def _plain(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def _why_none(scores: Sequence[Score], marks: Sequence[str]) -> str:
    reasons = {
        "synthetic": "papers measure on photos, and this data is drawn",
        "trained-on-val": "this model was trained on the validation data",
        "leaky": "its captions were written with the query's own words",
        "incomplete": "a part of the images is missing",
    }
    found = next((reason for mark, reason in reasons.items() if mark in {*marks, *_marks(scores)}), "")
    return found or (
        f"papers print no number under {', '.join(by_protocol(scores))}, or these scores are not measured on the whole "
        f"{scores[0].dataset} benchmark (N and gallery tell)"
    )


def _marks(scores: Sequence[Score]) -> set[str]:
    return {mark for score in scores for mark in score.marks}
