"""Learning curves of a run and recall curves of its answers, as figures."""

import math
from collections.abc import Mapping, Sequence
from functools import cache

from unifashion.apps.report.figures import Curve, Figure, Plot, spans_far
from unifashion.apps.report.load_runs import Row, Run
from unifashion.evaluation.ranked_lists import Answer
from unifashion.evaluation.scores import MEAN

NOT_A_LOSS = ("epoch", "step", "learning_rate", "seconds")
NOT_A_SCORE = ("epoch", "step", "pairs")
KS = tuple(range(1, 101))

Groups = Mapping[str, Sequence[Answer]]


def learning_curves(run: Run) -> list[Figure]:
    """Return losses, learning rate and validation over the run, each where it has at least two points."""
    figures = []
    losses = {name: _curve(run.losses, name) for name in (run.losses or [{}])[0] if name not in NOT_A_LOSS}
    losses = {name: curve for name, curve in losses.items() if len(curve) > 1}
    x_label = _axis(run.losses)
    if losses:
        last = ", ".join(f"{name} {curve[-1][1]:.3g}" for name, curve in losses.items())
        span = f"from {x_label} {losses[next(iter(losses))][0][0]:g} to {losses[next(iter(losses))][-1][0]:g}"
        log_y = spans_far(losses)
        figures.append(
            Plot(losses, x_label, "loss, log scale" if log_y else "loss", log_y=log_y).draw(
                f"{run.slug}-losses", f"Mean losses {span}. At the end: {last}.", f"Losses. At the end: {last}."
            )
        )
    figures += _validation(run)
    rate = _curve(run.losses, "learning_rate") if "learning_rate" in (run.losses or [{}])[0] else []
    if len(rate) > 1:
        peak = max(rate, key=lambda point: point[1])
        words = f"Learning rate. Highest at {x_label} {peak[0]:g}: {peak[1]:.3g}; at the end {rate[-1][1]:.3g}."
        figures.append(Plot({"learning rate": rate}, x_label, "learning rate").draw(f"{run.slug}-rate", words, words))
    return figures


def first_losses(run: Run) -> str:
    """Return in words what a run with one row of losses has to show; empty where curves say it."""
    if len(run.losses) != 1:
        return ""
    row, name = run.losses[0], _axis(run.losses)
    values = ", ".join(f"{loss} {value:.3g}" for loss, value in row.items() if loss not in NOT_A_LOSS)
    return f"One row of losses so far, after {name} {row[name]:g}: {values}."


def _validation(run: Run) -> list[Figure]:
    curves, unit = (_scored if run.validation and "metric" in run.validation[0] else _wide)(run.validation)
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
    if not curves:
        return []
    x_label, best = _axis(run.validation), run.facts.get("best")
    best = best if isinstance(best, dict) and isinstance(best.get(x_label), int) else None
    last = ", ".join(f"{name} {curve[-1][1]:.4g}" for name, curve in curves.items())
    words = f"Validation. At the end: {last}."
    words += f" The line marks the best checkpoint, {x_label} {best[x_label]}." if best else ""
    plot = Plot(curves, x_label, unit, mark_x=best[x_label] if best else None)
    return [plot.draw(f"{run.slug}-validation", words, words)]


def _scored(rows: Sequence[Row]) -> tuple[dict[str, Curve], str]:
    """Return one curve per protocol, of its mean, else its mAP@10, else its first metric."""
    curves: dict[str, Curve] = {}
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        own = [row for row in rows if row["protocol"] == protocol and row["category"] in ("", MEAN)]
        metrics = dict.fromkeys(row["metric"] for row in own)
        metric = next((name for name in (MEAN, "mAP@10") if name in metrics), next(iter(metrics), ""))
        label = protocol if metric == MEAN else f"{protocol} {metric}"
        curves[label] = _curve([row for row in own if row["metric"] == metric], "value")
    return curves, "mean recall (%)" if not any(" " in label for label in curves) else "score (%)"


def _wide(rows: Sequence[Row]) -> tuple[dict[str, Curve], str]:
    """Return one curve per column, as try-on writes them."""
    return {name: _curve(rows, name) for name in (rows or [{}])[0] if name not in NOT_A_SCORE}, "score"


def _axis(rows: Sequence[Mapping[str, object]]) -> str:
    return "epoch" if rows and "epoch" in rows[0] else "step"


def _curve(rows: Sequence[Mapping[str, str | float]], name: str) -> list[tuple[float, float]]:
    """Return the points of a column, without cells that hold no number."""
    points = []
    for row in rows:
        try:
            point = float(row[_axis(rows)]), float(row[name])
        except ValueError:
            continue
        if all(map(math.isfinite, point)):
            points.append(point)
    return points


def recall_figure(name: str, title: str, groups: Groups) -> Figure:
    """Draw recall at k = 1 to 100 of every group of answers and, dotted, what guessing would give it."""
    return _recall_plot(name, title, {label: [answers] for label, answers in groups.items()})


def compared_figure(name: str, title: str, runs: Mapping[str, Sequence[Sequence[Answer]]]) -> Figure:
    """Draw one curve per run: the mean over its groups of answers, as scores average categories."""
    return _recall_plot(name, title, runs)


def _recall_plot(name: str, title: str, lines: Mapping[str, Sequence[Sequence[Answer]]]) -> Figure:
    curves = {label: _mean([recall_curve(answers) for answers in parts]) for label, parts in lines.items()}
    chance = {label: _mean([chance_curve(answers) for answers in parts]) for label, parts in lines.items()}
    ends = "; ".join(f"{label} {curve[0][1]:.1f} at 1, {curve[9][1]:.1f} at 10" for label, curve in curves.items())
    guessed = "; ".join(dict.fromkeys(f"{curve[9][1]:.1f}" for curve in chance.values()))
    caption = f"Recall at k in percent, {title}. Dotted: guessing ({guessed} at 10)."
    return Plot(curves, "k", "recall at k (%)", chance, recall=True).draw(name, f"{caption} {ends}.", caption)


def _mean(curves: Sequence[Curve]) -> list[tuple[float, float]]:
    return [(points[0][0], sum(y for _, y in points) / len(points)) for points in zip(*curves, strict=True)]


def recall_curve(answers: Sequence[Answer]) -> list[tuple[float, float]]:
    """Return (k, recall in percent) for k = 1 to 100: the share of queries whose best right answer ranks below k."""
    return [(k, 100 * sum(answer.rank < k for answer in answers) / len(answers)) for k in KS]


def chance_curve(answers: Sequence[Answer]) -> list[tuple[float, float]]:
    """Return (k, recall in percent) of guessing: any of a query's right answers among k drawn from its gallery."""
    guesses = [_guessing(answer.gallery, max(len(answer.targets), 1)) for answer in answers]
    return [(k, 100 * sum(guess[k - 1] for guess in guesses) / len(guesses)) for k in KS]


@cache
def _guessing(gallery: int, right: int) -> tuple[float, ...]:
    """Return for k = 1 to 100 the chance that k items drawn without replacement hold one of ``right`` among ``gallery``."""
    missed, found = 1.0, []
    for drawn in range(len(KS)):
        missed *= max(gallery - right - drawn, 0) / max(gallery - drawn, 1)
        found.append(1 - missed)
    return tuple(found)
