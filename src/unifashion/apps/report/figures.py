"""The report's figures: drawn with matplotlib, as SVG in the page's colours and as PNG, with its legend, for slides.

Colours are chosen so that colour-blind readers can distinguish them; dashes distinguish curves without colour.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

INK, GRID, AXIS = "#1c1c1f", "#e4e4e7", "#8f8f97"
COLOURS = ("#0b6e4f", "#c2571a", "#2f6db5", "#9a4d8f", "#8a6d00", "#3f8f9c", "#63636b")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2))
CHANCE_DASHES = (1, 2.5)
TO_PAGE = {INK: "currentColor", GRID: "var(--grid)", AXIS: "var(--axis)"} | {
    colour: f"var(--series-{index})" for index, colour in enumerate(COLOURS, 1)
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
    "text.parse_math": False,  # a name with dollar signs is a name, not a formula
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "unifashion",  # the same drawing has the same ids each time
    "legend.frameon": False,
}
LOG_FROM = 20.0  # losses that span more than this factor are drawn on a log axis

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Figure:
    """One figure, as SVG for the page and as PNG called ``name``.

    ``alt`` is what a screen reader reads out; ``legend`` holds label, colour (CSS) and dashes (SVG) of each line.
    """

    name: str
    alt: str
    caption: str
    svg: Markup
    png: bytes
    legend: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Plot:
    """What is drawn: curves of (x, y) under their labels, for each one, dotted, what chance would give, and the axes.

    ``recall`` means k on a log axis, 1 to 100, against percent. ``mark_x`` gets a vertical line, such as the best epoch.
    """

    curves: Mapping[str, Curve]
    x_label: str
    y_label: str
    chance: Mapping[str, Curve] | None = None
    recall: bool = False
    log_y: bool = False
    mark_x: float | None = None

    def draw(self, name: str, alt: str, caption: str) -> Figure:
        """Draw it as SVG for a narrow column, its legend left to the page, and larger as PNG with its legend."""
        with matplotlib.rc_context(STYLE):
            canvas = Canvas(figsize=(4.5, 2.7), layout="constrained")
            FigureCanvasAgg(canvas)
            legend = self._draw(canvas.add_subplot())
            svg = _svg(canvas, name, alt)
            if len(legend) > 1:
                canvas.legend(loc="outside right upper", fontsize=8)
            canvas.set_size_inches(6.6, 3.6)
            png = io.BytesIO()
            canvas.savefig(png, format="png", dpi=200)
        return Figure(name, alt, caption, svg, png.getvalue(), legend if len(legend) > 1 else [])

    def _draw(self, axes: Axes) -> list[tuple[str, str, str]]:
        legend = []
        for index, (label, curve) in enumerate(self.curves.items()):
            # 7 colours and 4 dashes have no common divisor: 28 curves all look different.
            colour, dashes = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
            if self.chance:
                axes.plot(*zip(*self.chance[label], strict=True), color=colour, dashes=CHANCE_DASHES, linewidth=1)
            marker = "o" if len(curve) < 15 and not self.recall else ""
            x, y = zip(*curve, strict=True)
            axes.plot(x, y, color=colour, dashes=dashes, marker=marker, markersize=3, linewidth=1.7, label=label)
            legend.append((label, TO_PAGE[colour], " ".join(f"{dash:g}" for dash in dashes)))
        if self.mark_x is not None:
            axes.axvline(self.mark_x, color=AXIS, linewidth=0.9, dashes=(2, 2))
        axes.set(xlabel=self.x_label, ylabel=self.y_label)
        if self.recall:
            axes.set(xscale="log", xlim=(1, 100), ylim=(0, 101))
            axes.xaxis.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50, 100]))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if self.log_y:
            # Powers of ten alone would label losses that fall from 8 to 0.3 once, or never.
            low, high = _lowest_and_highest(self.curves)
            axes.set(yscale="log", ylim=(low / 1.25, high * 1.25))
            ticks = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]
            ticks = [y for y in ticks if low / 2 <= y <= high * 2][:: 2 if high / low > 500 else 1]
            axes.yaxis.set_major_locator(FixedLocator(ticks))
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_locator(NullLocator())
        return legend


def spans_far(curves: Mapping[str, Curve]) -> bool:
    """Return whether the curves need a log axis: all above zero, and more than ``LOG_FROM`` between them."""
    low, high = _lowest_and_highest(curves)
    return low > 0 and high / low > LOG_FROM


def _lowest_and_highest(curves: Mapping[str, Curve]) -> tuple[float, float]:
    heights = [y for curve in curves.values() for _, y in curve]
    return min(heights), max(heights)


def _svg(canvas: Canvas, name: str, alt: str) -> Markup:
    """Return a drawing that scales with the page, uses its font and colours, and whose ids begin with ``name``."""
    file = io.StringIO()
    canvas.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[^"]*"', "", svg, count=2)  # those of <svg> itself, the first two
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for colour, variable in TO_PAGE.items():
        svg = svg.replace(colour, variable)
    # Every drawing calls its parts "patch_1", "line2d_1" ...: on one page their clip paths would collide.
    svg = re.sub(r'(\bid="|url\(#|href="#)', lambda start: f"{start[0]}{name}-", svg)
    # Trusted as it is: matplotlib escapes the words it draws, and ``name`` is a slug. ``alt`` may hold anything and is escaped.
    return Markup('<svg role="img" aria-label="{}"').format(alt) + Markup(svg.removeprefix("<svg"))
