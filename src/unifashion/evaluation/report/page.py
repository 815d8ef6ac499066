"""The page: from run folders to one HTML file that needs nothing else, and its figures as PNG beside it."""

import os
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path

from unifashion.errors import UserError
from unifashion.evaluation.answers import Answer, Shown
from unifashion.evaluation.bootstrap import interval
from unifashion.evaluation.published import published_rows, source
from unifashion.evaluation.report import html
from unifashion.evaluation.report.evidence import MARKS, Evaluation, Run, read_run
from unifashion.evaluation.report.figures import Figure, line_figure, recall_figure
from unifashion.evaluation.report.html import text
from unifashion.evaluation.report.pictures import Album, choose
from unifashion.evaluation.scores import MEAN, Score

DIRECTIONS = {"t2i": "text to image", "i2t": "image to text", "composed": "photo and feedback to image"}
NUM_SLICES = 12  # of one kind, the largest


def write_report(runs: Sequence[Path], out: Path, figures: Path | None = None) -> tuple[Path, list[Path]]:
    """Write the report of some runs.

    Args:
        runs: run folders, or folders with a ``scores.json``.
        out: HTML file; replaced whole or not at all.
        figures: folder for the PNGs; default: beside the page, named after it.

    Returns:
        the page, and the PNG files.

    Raises:
        UserError: a folder that is no run, or a place that cannot be written.
    """
    read = [read_run(run) for run in runs]
    album, drawn = Album(), []
    parts = [_head(read)]
    for run in read:
        section, figures_of_run = _run_section(run, album)
        parts.append(section)
        drawn += figures_of_run
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    title = "UniFashion report: " + ", ".join(run.name for run in read)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{style}</style></head><body>{parts[0]}<main>{''.join(parts[1:])}</main>{_foot()}</body></html>\n"
    )
    folder = figures or out.with_name(f"{out.stem}_figures")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = out.with_name(f".{out.name}.{os.getpid()}")
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(out)
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / f"{figure.name}.png" for figure in drawn]
        for path, figure in zip(written, drawn, strict=True):
            path.write_bytes(figure.png)
    except OSError as error:
        raise UserError(
            f"the report cannot be written to {out} ({error.strerror}); name another file with -o"
        ) from None
    return out, written


def _head(runs: Sequence[Run]) -> str:
    names = ", ".join(run.name for run in runs)
    marks = dict.fromkeys(mark for run in runs for e in run.evaluations for score in e.scores for mark in score.marks)
    warnings = "".join(
        f'<p class="mark"><strong>{text(mark)}</strong> {text(MARKS.get(mark, "See the data set."))}</p>'
        for mark in marks
    )
    return (
        f"<header><h1>UniFashion report</h1><p class='soft'>{text(names)} · made on {date.today().isoformat()}</p>"
        f"{warnings}</header>"
    )


def _foot() -> str:
    return (
        "<footer><p class='soft'>Recall at k counts the queries whose target is among the first k of the gallery, in percent. "
        "Ties count against the model. Numbers below a value are its 95 % bootstrap interval over queries. Two numbers compare "
        "only if protocol, data set and split are the same and both are measured on all of it.</p></footer>"
    )


def _run_section(run: Run, album: Album) -> tuple[str, list[Figure]]:
    slug = "".join(letter if letter.isalnum() else "-" for letter in run.name).strip("-")
    parts = [f"<section><h2>{text(run.name)}</h2>", _facts(run)]
    drawn: list[Figure] = []
    if run.losses:
        drawn += _learning_curves(run, slug)
        curves = "".join(html.figure(figure.svg, figure.alt, figure.alt) for figure in drawn)
        parts.append(f'<h3>Learning curves</h3><div class="pair">{curves}</div>')
    if not run.evaluations:
        parts.append("<p>This run has not been validated yet: <code>bash vail.sh</code> writes its scores.</p>")
    for evaluation in run.evaluations:
        part, figures = _evaluation_section(evaluation, slug, album)
        parts.append(part)
        drawn += figures
    return "".join(parts) + "</section>", drawn


def _facts(run: Run) -> str:
    about = run.facts
    data, versions, best = about.get("data") or {}, about.get("versions") or {}, about.get("best")
    seconds = about.get("seconds")
    state = about.get("state")
    note = {
        "running": "The run is not finished, or was stopped by force: what follows is as far as it came.",
        "interrupted": "The run was interrupted; --resume goes on with it.",
        "failed": "The run stopped with an error.",
    }.get(str(state), "")
    pairs = [
        ("state", state),
        ("data", ", ".join(str(data[key]) for key in ("set", "used") if data.get(key))),
        ("started", about.get("started")),
        ("took", f"{seconds / 60:.1f} minutes" if isinstance(seconds, int | float) else None),
        ("machine", about.get("machine")),
        ("commit", str(about["git"])[:10] if about.get("git") else None),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("best", f"{best['value']:.2f} after epoch {best['epoch']}" if isinstance(best, dict) else None),
        ("broken images", about.get("broken_images") or None),
    ]
    return html.facts(pairs) + (f'<p class="mark">{note}</p>' if note else "")


def _learning_curves(run: Run, slug: str) -> list[Figure]:
    names = [name for name in run.losses[0] if name not in ("epoch", "step", "learning_rate", "seconds")]
    curves = {name: [(row["epoch"], row[name]) for row in run.losses] for name in names}
    last = ", ".join(f"{name} {curve[-1][1]:.3g}" for name, curve in curves.items())
    alt = f"Mean losses of each epoch; in the last one: {last}."
    drawn = [line_figure(f"{slug}-losses", alt, curves, "epoch", "loss", markers=len(run.losses) < 30)]
    headline = [row for row in run.validation if row["metric"] == MEAN and row["category"] in ("", MEAN)]
    by_protocol: dict[str, list[tuple[float, float]]] = {}
    for row in headline:
        by_protocol.setdefault(row["protocol"], []).append((float(row["epoch"]), float(row["value"])))
    if by_protocol:
        alt = f"Validation during training: mean recall of each protocol, in percent, on {headline[0]['dataset']}."
        drawn.append(line_figure(f"{slug}-validation", alt, by_protocol, "epoch", "mean recall (%)", markers=True))
    return drawn


def _evaluation_section(evaluation: Evaluation, slug: str, album: Album) -> tuple[str, list[Figure]]:
    scores = evaluation.scores
    name = f"{slug}-{scores[0].dataset}"
    parts = [f"<h3>Scores on {text(evaluation.title)}</h3>", _score_table(scores)]
    parts += [f'<p class="soft">{text(note)}</p>' for note in dict.fromkeys(s.note for s in scores if s.note)]
    parts.append(_published(scores))
    if not evaluation.answers:
        parts.append('<p class="soft">Answers were not kept; a new validation keeps them, and shows them here.</p>')
        return "".join(parts), []
    groups = _groups(evaluation.answers)
    figure = recall_figure(f"{name}-recall", evaluation.answers[0].protocol, groups)
    parts += [
        f"<h3>Recall at k, {text(evaluation.answers[0].protocol)}</h3>",
        html.figure(figure.svg, figure.alt, figure.alt),
    ]
    parts.append(_slices(evaluation.answers))
    parts.append(_examples(evaluation.answers, album))
    return "".join(parts), [figure]


def _score_table(scores: Sequence[Score]) -> str:
    metrics = list(dict.fromkeys(score.metric for score in scores))
    metrics.sort(key=lambda metric: metric == MEAN)
    lines: dict[tuple[str, str], dict[str, Score]] = {}
    for score in scores:
        lines.setdefault((score.protocol, score.category), {})[score.metric] = score
    rows = []
    for (protocol, category), line in lines.items():
        values = [_value(line.get(metric)) for metric in metrics]
        parts = [score for score in line.values() if score.metric != MEAN] or list(line.values())
        num = "/".join(dict.fromkeys(str(score.n) for score in parts))
        gallery = "/".join(dict.fromkeys("-" if score.gallery is None else f"{score.gallery}" for score in parts))
        missing = max(score.missing for score in line.values())
        marks = " ".join(dict.fromkeys(mark for score in line.values() for mark in score.marks))
        cells = [
            text(protocol),
            text(category),
            *values,
            num,
            gallery,
            f"{missing:.3g} %",
            f'<span class="mark">{text(marks)}</span>',
        ]
        rows.append(("", cells))
    header = ["protocol", "category", *metrics, "N", "gallery", "missing", "marks"]
    return html.table(header, rows, "Scores of every protocol, in percent")


def _value(score: Score | None) -> str:
    if score is None:
        return "-"
    spread = f"±{score.std:.1f}" if score.std is not None else ""
    below = (
        f"<small>{score.low:.1f} to {score.high:.1f}</small>"
        if score.low is not None and score.high is not None
        else ""
    )
    return f"{score.value:.1f}{spread}{below}"


def _published(scores: Sequence[Score]) -> str:
    parts = []
    for protocol in dict.fromkeys(score.protocol for score in scores):
        rows = published_rows(protocol, scores)
        if not rows:
            continue
        ours = {(score.category, score.metric): score.value for score in scores if score.protocol == protocol}
        keys = list(dict.fromkeys(key for row in rows for key in row.values))
        notes = [row for row in rows if row.note]
        lines = [
            (
                "",
                [
                    text(row.model) + "*" * bool(row.note),
                    *(f"{row.values[key]:.2f}" if key in row.values else "-" for key in keys),
                ],
            )
            for row in rows
        ]
        lines.append(("ours", ["this model", *(f"{ours[key]:.2f}" if key in ours else "-" for key in keys)]))
        header = ["model", *(" ".join(part for part in key if part) for key in keys)]
        parts.append(f"<h3>Beside published numbers, {text(protocol)}</h3>")
        parts.append(html.table(header, lines, f"Published numbers under {protocol}"))
        parts += [f'<p class="soft">* {text(row.model)}: {text(row.note)}</p>' for row in notes]
        parts.append(f'<p class="soft">Source: {text(source())}.</p>')
    if parts:
        return "".join(parts)
    return (
        '<p class="soft">No published number stands here: papers print other protocols, or these scores are not measured on '
        "the whole benchmark.</p>"
    )


def _groups(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """Group answers by category where they are composed, else by direction."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        label = answer.category if answer.direction == "composed" and answer.category else DIRECTIONS[answer.direction]
        groups.setdefault(label, []).append(answer)
    return groups


def _slices(answers: Sequence[Answer]) -> str:
    """Return recall at 10 by every kind of slice that the answers name."""
    parts = []
    for direction in dict.fromkeys(answer.direction for answer in answers):
        chosen = [answer for answer in answers if answer.direction == direction]
        kinds = dict.fromkeys(kind for answer in chosen for kind in answer.slices)
        rows = [row for kind in kinds for row in _slice_rows(kind, chosen)]
        if rows:
            parts.append(f"<h3>By group, {DIRECTIONS[direction]}</h3>")
            parts.append(
                html.table(["group", "R@10", "95 % interval", "N"], rows, f"Recall at 10 by group, {direction}")
            )
    return "".join(parts)


def _slice_rows(kind: str, answers: Sequence[Answer]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[float]] = {}
    for answer in answers:
        if kind in answer.slices:
            groups.setdefault(answer.slices[kind], []).append(float(answer.rank < 10))
    largest = sorted(groups, key=lambda name: (-len(groups[name]), name))[:NUM_SLICES]
    rows = []
    for name in sorted(largest):
        hits = groups[name]
        value, (low, high) = 100 * sum(hits) / len(hits), interval([hits])
        bar = f'<span class="bar" style="width:{value / 25:.2f}rem"></span>{value:.1f}'
        sure = f"{low:.1f} to {high:.1f}" if low is not None else "-"
        rows.append(("", [f"{text(kind)}: {text(name)}", bar, sure, f"{len(hits):,}"]))
    return rows


def _examples(answers: Sequence[Answer], album: Album) -> str:
    parts = []
    for direction in dict.fromkeys(answer.direction for answer in answers):
        hits, misses = choose([answer for answer in answers if answer.direction == direction])
        parts.append(f"<h3>Answers, {DIRECTIONS[direction]}</h3>")
        parts.append(
            '<p class="soft">Drawn by chance (seed 0): queries whose target is among the first five, and others.</p>'
        )
        parts.append(f'<div class="pair"><div>{_queries(hits, album)}</div><div>{_queries(misses, album)}</div></div>')
    return "".join(parts)


def _queries(answers: Iterable[Answer], album: Album) -> str:
    return "".join(_query(answer, album) for answer in answers)


def _query(answer: Answer, album: Album) -> str:
    words = f"<p>{text(answer.text)}</p>" if answer.text else ""
    cells = [_cell(answer.image, "", "asked with", "asked", album)] if answer.image else []
    for place, shown in enumerate(answer.top, 1):
        cells.append(
            _cell(shown.image, shown.text, f"{place}{' target' if shown.hit else ''}", "hit" * shown.hit, album)
        )
    if not any(shown.hit for shown in answer.top) and answer.targets:
        target = (
            Shown("", answer.targets[0], 0.0, True)
            if answer.direction == "i2t"
            else Shown(answer.targets[0], "", 0.0, True)
        )
        cells.append(
            _cell(target.image, target.text, f"target, place {answer.rank + 1} of {answer.gallery:,}", "hit", album)
        )
    return f'<div class="query">{words}<div class="strip">{"".join(cells)}</div></div>'


def _cell(image: str, words: str, label: str, kind: str, album: Album) -> str:
    if words:
        shown = f'<span class="words">{text(words)}</span>'
    else:
        address = album.address(image)
        alt = f"{label}: {Path(image).name}"
        shown = f'<img src="{address}" alt="{text(alt)}">' if address else '<span class="none">photo not there</span>'
    return f'<div class="cell {kind}">{shown}<span>{text(label)}</span></div>'
