"""The page: from run folders to one HTML file that needs nothing else, and its figures as PNG beside it."""

import os
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import unifashion
from unifashion.apps.report import html
from unifashion.apps.report.answer_sections import answer_sections
from unifashion.apps.report.comparison import comparison
from unifashion.apps.report.curves import first_losses, learning_curves
from unifashion.apps.report.figures import Figure
from unifashion.apps.report.glossary import MARKS, STATES, UNKNOWN_MARK, is_tryon
from unifashion.apps.report.html import text
from unifashion.apps.report.load_runs import Evaluation, Run, read_runs, summary
from unifashion.apps.report.pictures import Album
from unifashion.apps.report.score_tables import published, score_table, value
from unifashion.apps.report.tryon_section import results_grid, validation_sheet
from unifashion.errors import UserError


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
    page, drawn = _page(read_runs(runs))
    folder = figures or out.with_name(f"{out.stem}_figures")
    written = [folder / f"{figure.name}.png" for figure in drawn]
    try:
        for path, figure in zip(written, drawn, strict=True):
            _replace(path, figure.png)
        _replace(out, page.encode("utf-8"))
    except OSError as error:
        raise UserError(
            f"the report cannot be written to {error.filename or out} ({error.strerror}); name another file with -o, or another "
            "folder with --figures"
        ) from None
    return out, written


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _page(runs: Sequence[Run]) -> tuple[str, list[Figure]]:
    album = Album()
    compared, drawn = comparison(runs, 2)
    sections = []
    for run in runs:
        section, figures = _run_section(run, album)
        sections.append(section)
        drawn += figures
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    title = f"UniFashion report: {', '.join(run.name for run in runs)}"
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><style>{style}</style></head><body>{_head(runs)}'
        f"<main>{_overview(runs)}{_section(compared)}{''.join(sections)}</main>{_foot()}</body></html>\n"
    )
    return page, drawn


def _section(content: str) -> str:
    return f"<section>{content}</section>" if content else ""


def _head(runs: Sequence[Run]) -> str:
    where = "".join(f'<li><a href="#{run.slug}">{text(run.name)}</a></li>' for run in runs)
    compared = '<li><a href="#side-by-side">Side by side</a></li>' if len(runs) > 1 else ""
    links = f'<nav aria-label="Contents"><ul>{compared}{where}</ul></nav>' if len(runs) > 1 else ""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    day = date.today()
    return (
        f'<header><p class="brand">UniFashion report</p><h1>{text(title)}</h1>'
        f'<p class="soft">Made on {day.day} {day:%B %Y} with UniFashion {text(unifashion.__version__)}</p>{links}</header>'
    )


def _overview(runs: Sequence[Run]) -> str:
    """Return what the reader must know first: what every mark means, and for several runs one line each."""
    carriers: dict[str, list[str]] = {}
    for run in runs:
        for mark in run.marks:
            carriers.setdefault(mark, []).append(run.name)
    notes = []
    for mark, names in carriers.items():
        whose = f" ({', '.join(names)})" if len(runs) > 1 and len(names) < len(runs) else ""
        notes.append(html.note(f"{MARKS.get(mark, UNKNOWN_MARK)}{whose}", f"{mark[:1].upper()}{mark[1:]}."))
    caveats = f"{html.heading(2, 'Read this first')}{''.join(notes)}" if notes else ""
    return _section(caveats) + (_section(_glance(runs)) if len(runs) > 1 else "")


def _glance(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        trained_on = str(run.settings.get("dataset", "")).split("+")
        own = [one for one in run.evaluations if one.scores[0].dataset in trained_on] or run.evaluations
        first = summary(own[0].scores) if own else None
        measured, number = _measured_while_training(run)
        if first:
            measured, number = f"{text(first.protocol)} {text(first.metric)}", value(first)
        name = f'<a href="#{run.slug}">{text(run.name)}</a>'
        model, data, state = _model(run), _data(run), str(run.facts.get("state", ""))
        rows.append([name, text(model), text(data), text(state), measured, number, html.marks(run.marks)])
    header = ["run", "model", "data", "state", "first measure", "value", "marks"]
    remark = "One number a run, to find one's way. Numbers of different measures do not compare."
    return (
        html.heading(2, "The runs")
        + f'<div class="wordy">{html.table(header, [("", rows)], "The runs and one number of each", hide_caption=True)}</div>'
        + html.soft(remark)
    )


def _measured_while_training(run: Run) -> tuple[str, str]:
    """Return what a run without scores measured at its last validation (try-on), and the number."""
    last = run.facts.get("validation")
    if not isinstance(last, dict) or not isinstance(last.get("ssim"), float):
        return "not validated", value(None)
    return f"SSIM of {text(str(last.get('pairs', '?')))} pairs in training", f"{last['ssim']:.3f}"


def _foot() -> str:
    return (
        '<footer><p class="soft">Recall at k (R@k) counts the queries with a right answer among the first k of the gallery, in '
        "percent. Ties count against the model. Intervals say what the number could have been with other queries of the same "
        "kind; gallery, weights and training seed stay as they are. Two numbers compare only if protocol, data set and split "
        "are the same and both are measured on all of it.</p></footer>"
    )


def _run_section(run: Run, album: Album) -> tuple[str, list[Figure]]:
    parts = [html.heading(2, run.name, run.slug)]
    state = str(run.facts.get("state", ""))
    if state in STATES:
        parts.append(html.note(STATES[state], f"{state[:1].upper()}{state[1:]}."))
    parts.append(_facts(run))
    figures = learning_curves(run)
    curves, once = "".join(figure.html() for figure in figures), first_losses(run)
    if curves or once:
        parts.append(html.heading(3, "Learning curves"))
        parts.append(f"<p>{text(once)}</p>" if once else f'<div class="figures">{curves}</div>')
    parts.append(validation_sheet(run.picture, album))
    if not run.evaluations:
        parts.append(
            "<p>This run has not been validated yet: <code>bash vail.sh</code> with its folder as <code>--model-path</code> "
            "writes its scores.</p>"
            if run.picture is None
            else ""
        )
    for number, evaluation in enumerate(run.evaluations):
        part, drawn = _evaluation(evaluation, run, f"{run.slug}-{number + 1}-{evaluation.scores[0].dataset}", album)
        parts.append(part)
        figures += drawn
    return _section("".join(parts)), figures


def _model(run: Run) -> str:
    names = (run.settings.get(key) for key in ("blip_model_name", "architecture"))
    models = dict.fromkeys(score.model for evaluation in run.evaluations for score in evaluation.scores if score.model)
    return ", ".join(str(name) for name in names if name) or ", ".join(models)


def _data(run: Run) -> str:
    data = run.facts.get("data")
    trained = [str(data[key]) for key in ("set", "used") if data.get(key)] if isinstance(data, dict) else []
    return ", ".join(trained) or ", ".join(evaluation.title for evaluation in run.evaluations)


def _facts(run: Run) -> str:
    about, settings = run.facts, run.settings
    versions, best, git = about.get("versions"), about.get("best"), str(about.get("git") or "")
    commit = git[:10] + (" with changes" if git.endswith("+changes") else "")
    pairs = [
        ("Model", _model(run)),
        ("Started from", settings.get("init_from")),
        ("Data", _data(run)),
        ("Data fingerprint", _of(about.get("data"), "fingerprint")),
        ("Started", str(about.get("started") or "").replace("T", " ").replace("Z", " UTC")),
        ("Took", _duration(about.get("seconds"))),
        (
            "Length",
            ", ".join(f"{about[key]:,} {key}" for key in ("epochs", "steps") if isinstance(about.get(key), int)),
        ),
        ("Batch", settings.get("batch_size")),
        ("Seed", settings.get("seed")),
        ("Best checkpoint", f"{best['value']:.2f} after epoch {best['epoch']}" if isinstance(best, dict) else ""),
        ("Images left out", about.get("broken_images") or ""),
        ("Machine", about.get("machine")),
        ("Commit", commit),
        ("Versions", ", ".join(f"{name} {number}" for name, number in versions.items()) if versions else ""),
    ]
    again = (
        '<p class="soft">Every setting is in <code>config.yaml</code> of the run folder; <code>--config</code> with that file '
        "repeats the run.</p>"
    )
    return html.facts(pairs) + (again if settings else "")


def _of(mapping: Any, key: str) -> Any:
    return mapping.get(key) if isinstance(mapping, dict) else None


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return ""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _evaluation(evaluation: Evaluation, run: Run, name: str, album: Album) -> tuple[str, list[Figure]]:
    scores = evaluation.scores
    parts: Iterable[str] = [
        html.heading(3, f"Scores on {evaluation.title}"),
        score_table(scores),
        published(scores, 4, run.marks),
    ]
    if is_tryon(scores[0].protocol):
        return "".join(parts) + results_grid(run.folder, scores, album), []
    if not evaluation.answers:
        missing = "The answers to single queries were not kept; a new validation keeps them, and shows them here."
        return "".join(parts) + html.soft(missing), []
    shown, figures = answer_sections(evaluation.answers, name, 4, album)
    return "".join(parts) + shown, figures
