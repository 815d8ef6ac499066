"""The report's figures: drawn with matplotlib, as SVG that takes the page's colours and as PNG, with its legend, for slides.

Series are told apart by colours that colour-blind readers can tell apart, and by their dashes.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator, ScalarFormatter

from unifashion.apps.report.html import text

INK, GRID, AXIS = "#1c1c1f", "#e4e4e7", "#8f8f97"
COLOURS = ("#0b6e4f", "#c2571a", "#2f6db5", "#9a4d8f", "#8a6d00", "#3f8f9c", "#63636b")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2))
DASH_WORDS = ("", "5 2", "1.5 1.5", "7 2 1.5 2")
CHANCE_DASHES = (1, 2.5)
TO_PAGE = {INK: "currentColor", GRID: "var(--grid)", AXIS: "var(--axis)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(COLOURS, 1)
}
STYLE: Any = {
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": AXIS,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": AXIS,
    "ytick.color": AXIS,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "unifashion",
    "legend.frameon": False,
}
LOG_FROM = 20.0  # losses that span more than this factor are drawn on a log axis

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Figure:
    """One figure: its name (also of the PNG), what it says to those who do not see it, its words, and the drawing."""

    name: str
    alt: str
    caption: str
    svg: str
    png: bytes
    legend: tuple[str, ...] = ()

    def html(self) -> str:
        """Return drawing, legend and caption."""
        drawing = self.svg.replace("<svg", f'<svg role="img" aria-label="{text(self.alt)}"', 1)
        keys = "".join(f"<li>{_key(number)}{text(label)}</li>" for number, label in enumerate(self.legend))
        legend = f'<ul class="legend">{keys}</ul>' if keys else ""
        return f"<figure>{drawing}{legend}<figcaption>{text(self.caption)}</figcaption></figure>"


@dataclass(frozen=True)
class Plot:
    """What is drawn: curves of (x, y) under their labels, below each one, dotted, what chance would give, and the axes.

    ``recall`` stands for k on a log axis, 1 to 100, against percent.
    """

    curves: Mapping[str, Curve]
    x_label: str
    y_label: str
    chance: Mapping[str, Curve] | None = None
    recall: bool = False
    log_y: bool = False
    mark_x: float | None = None  # a place to point at, such as the best epoch

    def draw(self, name: str, alt: str, caption: str) -> Figure:
        """Draw it as SVG for a narrow column, its legend left to the page, and as PNG with its legend."""
        with matplotlib.rc_context(STYLE):
            svg = _svg(self._canvas((4.5, 2.7)), name)
            png = io.BytesIO()
            canvas = self._canvas((6.6, 3.6))
            if len(self.curves) > 1:
                canvas.legend(loc="outside right upper", fontsize=8)
            canvas.savefig(png, format="png", dpi=200)
        return Figure(name, alt, caption, svg, png.getvalue(), tuple(self.curves) if len(self.curves) > 1 else ())

    def _canvas(self, size: tuple[float, float]) -> Canvas:
        canvas = Canvas(figsize=size, layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.add_subplot()
        for number, (label, curve) in enumerate(self.curves.items()):
            colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
            if self.chance:
                axes.plot(*zip(*self.chance[label], strict=True), color=colour, dashes=CHANCE_DASHES, linewidth=1)
            marker = "o" if len(curve) < 15 and not self.recall else ""
            x, y = zip(*curve, strict=True)
            axes.plot(x, y, color=colour, dashes=dashes, marker=marker, markersize=3, linewidth=1.7, label=label)
        if self.mark_x is not None:
            axes.axvline(self.mark_x, color=AXIS, linewidth=0.9, dashes=(2, 2))
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        self._scale(axes)
        return canvas

    def _scale(self, axes: Axes) -> None:
        if self.recall:
            axes.set_xscale("log")
            axes.set_xlim(1, 100)
            axes.set_ylim(0, 101)
            axes.xaxis.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50, 100]))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
            return
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if self.log_y:
            low, high = min(y for y in _heights(self.curves)), max(y for y in _heights(self.curves))
            steps = [place * 10.0**power for power in range(-6, 7) for place in (1, 2, 5)]
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(
                FixedLocator([y for y in steps if low / 2 <= y <= high * 2][:: 1 + (high / low > 500)])
            )
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_ylim(low / 1.25, high * 1.25)


def spans_far(curves: Mapping[str, Curve]) -> bool:
    """Return whether the curves need a log axis: all above zero, and more than ``LOG_FROM`` between them."""
    heights = _heights(curves)
    return bool(heights) and min(heights) > 0 and max(heights) / min(heights) > LOG_FROM


def _heights(curves: Mapping[str, Curve]) -> list[float]:
    return [y for _, y in chain(*curves.values()) if y == y]


def _key(number: int) -> str:
    """Return a short piece of the line that a label in the legend stands for."""
    return (
        '<svg class="key" viewBox="0 0 22 8" aria-hidden="true"><line x1="1" x2="21" y1="4" y2="4" '
        f'style="stroke:var(--series-{number % len(COLOURS) + 1})" stroke-width="2.4" '
        f'stroke-dasharray="{DASH_WORDS[number % len(DASHES)]}"/></svg>'
    )


def _svg(canvas: Canvas, name: str) -> str:
    """Return a drawing that scales with the page, speaks its font, takes its colours, and has ids of its own."""
    file = io.StringIO()
    canvas.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for colour, variable in TO_PAGE.items():
        svg = svg.replace(colour, variable)
    for old in set(re.findall(r'\bid="([^"]+)"', svg)):
        svg = re.sub(rf'(id="|#){re.escape(old)}(?=["\)])', rf"\g<1>{name}-{old}", svg)
    return svg
