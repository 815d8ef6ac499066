"""Learning curves of a run and recall curves of its answers, as figures."""

from collections.abc import Mapping, Sequence
from functools import cache

from unifashion.apps.report.figures import Curve, Figure, Plot, spans_far
from unifashion.apps.report.load_runs import FAR, Row, Run, headline_metric
from unifashion.evaluation.ranked_lists import RankedList
from unifashion.evaluation.scores import MEAN

NOT_A_LOSS = ("epoch", "step", "learning_rate", "seconds")
NOT_A_SCORE = ("epoch", "step", "pairs")
MAX_POINTS = 5000  # of a curve; of more, every second or third is drawn
KS = tuple(range(1, 101))


# Learning curves ------------------------------------------------------------------------------------------------------


def learning_curves(run: Run) -> list[Figure]:
    """Return losses, validation and learning rate over the run, each where it has at least two points."""
    figures = (_losses(run), _validation(run), _learning_rate(run))
    return [figure for figure in figures if figure is not None]


def first_losses(run: Run) -> str:
    """Return a sentence about the losses of a run with one row of them; empty where there are curves."""
    if len(run.losses) != 1:
        return ""
    row, x_label = run.losses[0], _x_label(run.losses)
    values = ", ".join(f"{loss} {value:.3g}" for loss, value in row.items() if loss not in NOT_A_LOSS)
    return f"One row of losses so far, after {x_label} {row[x_label]:g}: {values}."


def _losses(run: Run) -> Figure | None:
    curves = _columns(run.losses, NOT_A_LOSS)
    if not curves:
        return None
    x_label, first = _x_label(run.losses), next(iter(curves.values()))
    at_end = ", ".join(f"{name} {curve[-1][1]:.3g}" for name, curve in curves.items())
    log_y = spans_far(curves)
    plot = Plot(curves, x_label, "loss, log scale" if log_y else "loss", log_y=log_y)
    alt = f"Mean losses from {x_label} {first[0][0]:g} to {first[-1][0]:g}. At the end: {at_end}."
    return plot.draw(f"{run.slug}-losses", alt, f"Losses. At the end: {at_end}.")


def _learning_rate(run: Run) -> Figure | None:
    curve = _curve(run.losses, "learning_rate")
    if len(curve) < 2:
        return None
    x_label = _x_label(run.losses)
    peak = max(curve, key=lambda point: point[1])
    words = f"Learning rate. Highest at {x_label} {peak[0]:g}: {peak[1]:.3g}; at the end {curve[-1][1]:.3g}."
    return Plot({"learning rate": curve}, x_label, "learning rate").draw(f"{run.slug}-rate", words, words)


def _validation(run: Run) -> Figure | None:
    # Retrieval writes one row per score, try-on one column per score.
    by_row = bool(run.validation) and {"metric", "category", "protocol", "value"} <= run.validation[0].keys()
    curves = _protocols(run.validation) if by_row else _columns(run.validation, NOT_A_SCORE)
    y_label = "score" if not by_row else "score (%)" if any(" " in label for label in curves) else "mean recall (%)"
    curves = {label: curve for label, curve in curves.items() if len(curve) > 1}
    if not curves:
        return None
    x_label, best = _x_label(run.validation), run.metadata.get("best")
    best_x = best.get(x_label) if isinstance(best, dict) else None
    best_x = best_x if isinstance(best_x, int) and abs(best_x) < FAR else None
    at_end = ", ".join(f"{label} {curve[-1][1]:.4g}" for label, curve in curves.items())
    words = f"Validation. At the end: {at_end}."
    words += "" if best_x is None else f" The line marks the best checkpoint, {x_label} {best_x}."
    return Plot(curves, x_label, y_label, mark_x=best_x).draw(f"{run.slug}-validation", words, words)


def _protocols(rows: Sequence[Row]) -> dict[str, Curve]:
    """Return one curve per protocol, of its headline metric."""
    curves: dict[str, Curve] = {}
    whole = [row for row in rows if row["category"] in ("", MEAN)]
    for protocol in dict.fromkeys(row["protocol"] for row in whole):
        own = [row for row in whole if row["protocol"] == protocol]
        metric = headline_metric(row["metric"] for row in own)
        label = protocol if metric == MEAN else f"{protocol} {metric}"
        curves[label] = _curve([row for row in own if row["metric"] == metric], "value")
    return curves


def _columns(rows: Sequence[Mapping[str, str | float]], without: Sequence[str]) -> dict[str, Curve]:
    """Return one curve per column, of those with at least two points."""
    curves = {name: _curve(rows, name) for name in (rows[0] if rows else ()) if name not in without}
    return {name: curve for name, curve in curves.items() if len(curve) > 1}


def _curve(rows: Sequence[Mapping[str, str | float]], name: str) -> Curve:
    """Return the points of a column, without cells that hold no finite number; no points if there is no such column."""
    points = []
    x_label = _x_label(rows)
    for row in rows if rows and {name, x_label} <= rows[0].keys() else ():
        try:
            point = float(row[x_label]), float(row[name])
        except ValueError:
            continue
        if all(abs(value) < FAR for value in point):  # False for NaN, too
            points.append(point)
    return points[:: len(points) // MAX_POINTS + 1]


def _x_label(rows: Sequence[Mapping[str, object]]) -> str:
    return "epoch" if rows and "epoch" in rows[0] else "step"


# Recall curves --------------------------------------------------------------------------------------------------------


def recall_figure(name: str, title: str, lines: Mapping[str, Sequence[Sequence[RankedList]]]) -> Figure:
    """Draw recall at k = 1 to 100 of every line and, dotted, what guessing would reach.

    A line is the mean over its groups of answers, as scores average categories.
    """
    curves = {label: _mean([recall_curve(answers) for answers in groups]) for label, groups in lines.items()}
    chance = {label: _mean([chance_curve(answers) for answers in groups]) for label, groups in lines.items()}
    ends = "; ".join(f"{label} {curve[0][1]:.1f} at 1, {curve[9][1]:.1f} at 10" for label, curve in curves.items())
    guessed = "; ".join(dict.fromkeys(f"{curve[9][1]:.1f}" for curve in chance.values()))
    caption = f"Recall at k in percent, {title}. Dotted: guessing ({guessed} at 10)."
    return Plot(curves, "k", "recall at k (%)", chance, recall=True).draw(name, f"{caption} {ends}.", caption)


def _mean(curves: Sequence[Curve]) -> Curve:
    return [(points[0][0], sum(y for _, y in points) / len(points)) for points in zip(*curves, strict=True)]


def recall_curve(answers: Sequence[RankedList]) -> Curve:
    """Return (k, recall in percent) for k = 1 to 100: the share of queries whose best right answer ranks below k."""
    return [(k, 100 * sum(answer.rank < k for answer in answers) / len(answers)) for k in KS]


def chance_curve(answers: Sequence[RankedList]) -> Curve:
    """Return (k, recall in percent) of guessing: any of a query's right answers among k drawn from its gallery."""
    guesses = [_guessing(answer.gallery, max(len(answer.targets), 1)) for answer in answers]
    return [(k, 100 * sum(guess[k - 1] for guess in guesses) / len(guesses)) for k in KS]


@cache
def _guessing(gallery: int, right: int) -> tuple[float, ...]:
    """Return for k = 1 to 100 the chance that k items drawn without replacement hold one of ``right`` among ``gallery``."""
    all_missed, hit = 1.0, []
    for drawn in range(len(KS)):
        all_missed *= max(gallery - right - drawn, 0) / max(gallery - drawn, 1)
        hit.append(1 - all_missed)
    return tuple(hit)
