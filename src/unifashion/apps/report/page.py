"""The page: from run folders to one HTML file that needs no other, and its figures as PNG beside it.

Python prepares the data, ``templates/`` has the words: report.html is the page, the other templates are its parts.
"""

from collections.abc import Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import unifashion
from unifashion.apps.report.answer_sections import AT, SEED, answer_sections
from unifashion.apps.report.comparison import compare
from unifashion.apps.report.curves import first_losses, learning_curves
from unifashion.apps.report.figures import Figure
from unifashion.apps.report.glossary import MARKS, STATES, UNKNOWN_MARK, is_tryon, protocol_words
from unifashion.apps.report.load_runs import FAR, Evaluation, Run, headline_metric, over_all_categories, read_runs, slug
from unifashion.apps.report.pictures import SHEET_SIDE, Photos
from unifashion.apps.report.published import published_tables, why_no_table
from unifashion.apps.report.score_tables import fixed, score_table
from unifashion.evaluation.scores import Score
from unifashion.io import atomic_write
from unifashion.tryon.results import EXAMPLES


def write_report(
    runs: Sequence[Path], out: Path, figures: Path | None = None, data_roots: Sequence[Path] = ()
) -> tuple[Path, list[Path]]:
    """Write the report of some runs.

    Args:
        runs: run folders, or folders with a ``scores.json``.
        out: HTML file; replaced whole or not at all.
        figures: folder for the PNGs; default: beside the page, named after it.
        data_roots: folders whose pictures may be shown, besides those of the runs themselves.

    Returns:
        the page, and the PNG files.

    Raises:
        UserError: a folder that is not a run, or a path that cannot be written.
    """
    loaded = read_runs(runs)
    comparison, sections = compare(loaded), [_run_section(run, data_roots) for run in loaded]
    page = _render(loaded, comparison, sections)
    folder = figures or out.with_name(f"{out.stem}_figures")
    drawn = _figures(comparison, sections)
    pngs = {folder / f"{figure.name}.png": figure.png for figure in drawn}
    for path, content in (
        pngs | {out: page.encode("utf-8", "replace")}
    ).items():  # a run's files may hold half a character
        atomic_write(path, content)
    return out, list(pngs)


def _figures(comparison: dict[str, Any], sections: Sequence[dict[str, Any]]) -> list[Figure]:
    """Return all figures, in the order of the page."""
    figures = [curves["figure"] for table in comparison["tables"] for curves in table["curves"]]
    for section in sections:
        answers = (answers for evaluation in section["evaluations"] for answers in evaluation["answers"])
        figures += [*section["curves"], *(answer["figure"] for answer in answers)]
    return figures


def _render(runs: Sequence[Run], comparison: dict[str, Any], sections: Sequence[dict[str, Any]]) -> str:
    # Captions, names, paths and marks are untrusted. All of them are escaped, and no template says ``safe``: trusted are only
    # Markup objects made in Python, our own style sheet, which escaping would damage ("td > span"), and the drawings of
    # figures.py. Photos come as base64, which cannot hold markup.
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name is an error, not a gap in the page
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(states=STATES, recall_at=AT, seed=SEED, sheet_side=SHEET_SIDE)
    environment.filters["file_name"] = lambda path: Path(path).name
    environment.filters.update(fixed=fixed, protocol_words=protocol_words)
    environment.filters["thousands"] = "{:,}".format
    day = date.today()
    return environment.get_template("report.html").render(
        style=Markup(files(__package__).joinpath("style.css").read_text(encoding="utf-8")),
        day=f"{day.day} {day:%B %Y}",
        version=unifashion.__version__,
        runs=runs,
        caveats=_caveats(runs),
        headlines=[(run, *_headline(run)) for run in runs],
        comparison=comparison,
        sections=sections,
    )


def _caveats(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return every mark with its meaning and, unless all runs have it, the names of those that do."""
    names: dict[str, list[str]] = {}
    for run in runs:
        for mark in run.marks:
            names.setdefault(mark, []).append(run.name)
    return [
        (mark, MARKS.get(mark, UNKNOWN_MARK) + (f" ({', '.join(own)})" if len(own) < len(runs) else ""))
        for mark, own in names.items()
    ]


def _headline(run: Run) -> tuple[str, Score | str]:
    """Return the number that represents a run, and its name: a score on the data it was trained on, else on other data.

    A try-on run without scores has the SSIM of its last validation.
    """
    trained_on = str(run.settings.get("dataset", "")).split("+")
    own = [one for one in run.evaluations if one.scores[0].dataset in trained_on] or run.evaluations
    if own:
        whole = over_all_categories(own[0].scores)
        metric = headline_metric(score.metric for score in whole)
        score = next(score for score in whole if score.metric == metric)
        return f"{score.protocol} {score.metric}", score
    last = run.metadata.get("validation")
    if isinstance(last, dict) and _is_number(last.get("ssim")):
        return f"SSIM of {last.get('pairs', '?')} pairs in training", f"{last['ssim']:.3f}"
    return "not validated", ""


def _run_section(run: Run, data_roots: Sequence[Path]) -> dict[str, Any]:
    return {
        "run": run,
        "photos": Photos(run.folder, data_roots),
        "details": _details(run),
        "first_losses": first_losses(run),
        "curves": learning_curves(run),
        "evaluations": [
            _evaluation_section(evaluation, run, f"{run.slug}-{index}-{slug(evaluation.scores[0].dataset)}")
            for index, evaluation in enumerate(run.evaluations, 1)
        ],
    }


def _evaluation_section(evaluation: Evaluation, run: Run, name: str) -> dict[str, Any]:
    scores = evaluation.scores
    return {
        "title": evaluation.title,
        "table": score_table(scores),
        "published": published_tables(scores, run.marks),
        "why_no_published": why_no_table(scores, run.marks),
        "answers": answer_sections(evaluation.answers, name),
        "is_tryon": is_tryon(scores[0].protocol),
        "is_paired": all("/paired" in score.protocol for score in scores),
        "grid": run.folder / EXAMPLES,
    }


def _details(run: Run) -> dict[str, Any]:
    """Return what is known about a run, under the names that the page prints."""
    metadata, settings = run.metadata, run.settings
    data, versions, best = (_part(metadata, name) for name in ("data", "versions", "best"))
    commit = str(metadata.get("git") or "")
    details = {
        "Model": run.model,
        "Started from": settings.get("init_from"),
        "Data": run.data,
        "Data fingerprint": data.get("fingerprint"),
        "Started": str(metadata.get("started") or "").replace("T", " ").replace("Z", " UTC"),
        "Duration": _duration(metadata.get("seconds")),
        "Length": ", ".join(
            f"{metadata[name]:,} {name}" for name in ("epochs", "steps") if _is_number(metadata.get(name))
        ),
        "Batch": settings.get("batch_size"),
        "Seed": settings.get("seed"),
        "Best checkpoint": f"{best['value']:.2f} after epoch {best.get('epoch')}"
        if _is_number(best.get("value"))
        else "",
        "Images skipped": metadata.get("broken_images") or "",
        "Machine": metadata.get("machine"),
        "Commit": commit[:10] + (" with changes" if commit.endswith("+changes") else ""),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return {name: value for name, value in details.items() if value not in (None, "")}


def _part(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    value = metadata.get(name)
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < FAR


def _duration(seconds: Any) -> str:
    if not _is_number(seconds):
        return ""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
