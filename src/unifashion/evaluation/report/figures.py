"""The report's figures: drawn once with matplotlib, as SVG for the page and as PNG for slides.

Colours are those of a palette that colour-blind readers can tell apart (Okabe and Ito); lines also differ by their dashes.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from unifashion.evaluation.answers import Answer

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
DASHES = ("-", "--", "-.", ":")
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.edgecolor": "#888888",
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "unifashion",
    "font.family": "sans-serif",
    "legend.frameon": False,
}
RECALL_KS = tuple(range(1, 101))


@dataclass(frozen=True)
class Figure:
    """One figure: its name (also of the PNG), what it says to those who do not see it, SVG and PNG."""

    name: str
    alt: str
    svg: str
    png: bytes


Curve = Sequence[tuple[float, float]]


def line_figure(
    name: str,
    alt: str,
    curves: Mapping[str, Curve],
    x_label: str,
    y_label: str,
    log_x: bool = False,
    chance: Curve = (),
    markers: bool = False,
) -> Figure:
    """Draw curves of (x, y); ``chance`` is a grey line under them."""
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(6.4, 3.4), layout="constrained")
        axes = canvas.add_subplot()
        if chance:
            axes.plot(*zip(*chance, strict=True), color="#aaaaaa", linewidth=1.2, label="chance")
        for number, (label, curve) in enumerate(curves.items()):
            axes.plot(
                *zip(*curve, strict=True),
                color=COLOURS[number % len(COLOURS)],
                linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
                marker="o" if markers else None,
                markersize=3.5,
                linewidth=1.8,
                label=label,
            )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if log_x:
            axes.set_xscale("log")
            axes.set_xticks([1, 2, 5, 10, 20, 50, 100])
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_ylim(0, 100)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(curves) + bool(chance) > 1:
            canvas.legend(loc="outside right upper", fontsize=8.5)
        return _render(name, alt, canvas)


def recall_figure(name: str, title: str, groups: Mapping[str, Sequence[Answer]]) -> Figure:
    """Draw recall at k = 1 to 100 of every group of answers, and what guessing would reach in the smallest gallery."""
    curves = {label: recall_curve(answers) for label, answers in groups.items()}
    smallest = min(answer.gallery for answers in groups.values() for answer in answers)
    chance = [(k, min(100.0 * k / smallest, 100.0)) for k in RECALL_KS]
    ends = "; ".join(f"{label}: {curve[0][1]:.1f} % at 1, {curve[9][1]:.1f} % at 10" for label, curve in curves.items())
    alt = f"Recall at k, {title}. {ends}. Chance at 10: {chance[9][1]:.1f} %."
    return line_figure(name, alt, curves, "k", "recall at k (%)", log_x=True, chance=chance)


def recall_curve(answers: Sequence[Answer]) -> list[tuple[float, float]]:
    """Return (k, recall in percent) for k = 1 to 100."""
    return [(k, 100 * sum(answer.rank < k for answer in answers) / len(answers)) for k in RECALL_KS]


def _render(name: str, alt: str, canvas: Canvas) -> Figure:
    svg, png = io.StringIO(), io.BytesIO()
    canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    canvas.savefig(png, format="png", dpi=200)
    text = svg.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # The figure scales with the page: only the view box keeps its size.
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    return Figure(name, alt, _own_ids(text, name), png.getvalue())


def _own_ids(svg: str, name: str) -> str:
    """Prefix every id, as several figures share one page."""
    ids = set(re.findall(r'\bid="([^"]+)"', svg))
    for old in ids:
        svg = re.sub(rf'(id="|#){re.escape(old)}(?=["\)])', rf"\g<1>{name}-{old}", svg)
    return svg
