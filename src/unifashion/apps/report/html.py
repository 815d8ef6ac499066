"""Pieces of HTML from plain values. Every text from outside goes through ``text``: a caption cannot become markup."""

from collections.abc import Iterable, Sequence
from html import escape

text = escape
Rows = Iterable[Sequence[str]]


def heading(level: int, words: str, anchor: str = "") -> str:
    """Return a heading; ``words`` are plain text."""
    place = f' id="{text(anchor)}"' if anchor else ""
    return f"<h{level}{place}>{text(words)}</h{level}>"


def soft(words: str) -> str:
    """Return a remark as a paragraph; ``words`` are plain text, nothing gives nothing."""
    return f'<p class="soft">{text(words)}</p>' if words else ""


def note(words: str, head: str = "") -> str:
    """Return what must not be overlooked; ``head`` and ``words`` are plain text."""
    return f'<p class="note">{f"<strong>{text(head)}</strong> " if head else ""}{text(words)}</p>'


def table(header: Sequence[str], groups: Iterable[tuple[str, Rows]], caption: str, hide_caption: bool = False) -> str:
    """Return a table in a box that scrolls by itself where it is too wide.

    Args:
        header: column titles, plain text.
        groups: per group of rows its title (HTML, or empty for none) and its rows. Cells are HTML; the first names its row, and
            a row whose first cell is a ``<strong>`` is emphasised as a whole.
        caption: what the table shows, plain text.
        hide_caption: whether it is there for those alone who do not see the table.
    """
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in header)
    bodies = []
    for title, rows in groups:
        first = f'<tr><th class="group" scope="rowgroup" colspan="{len(header)}">{title}</th></tr>' if title else ""
        bodies.append(f"<tbody>{first}{''.join(map(_row, rows))}</tbody>")
    kind = ' class="hidden"' if hide_caption else ""
    return (
        f'<div class="box" role="group" aria-label="{text(caption)}" tabindex="0"><table><caption{kind}>{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead>{''.join(bodies)}</table></div>"
    )


def _row(cells: Sequence[str]) -> str:
    first, *rest = cells
    kind = ' class="strong"' if first.startswith("<strong>") else ""
    return f'<tr{kind}><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Return names and values; empty values are left out."""
    lines = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(str(value))}</dd></div>"
        for name, value in pairs
        if value not in (None, "")
    )
    return f'<dl class="facts">{lines}</dl>' if lines else ""


def marks(names: Iterable[str]) -> str:
    """Return marks as small labels."""
    return " ".join(f'<span class="tag">{text(name)}</span>' for name in dict.fromkeys(names))


def bar(value: float, low: float | None = None, high: float | None = None) -> str:
    """Return a bar of ``value`` percent with its interval as a line; decoration, as the numbers stand beside it."""
    whisker = "" if low is None or high is None else f'<b style="left:{low:.1f}%;width:{high - low:.1f}%"></b>'
    return f'<span class="bar" aria-hidden="true"><i style="width:{value:.1f}%"></i>{whisker}</span>'
