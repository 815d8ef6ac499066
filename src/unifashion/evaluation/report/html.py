"""Pieces of HTML from plain values. Every text from outside goes through ``text``: a caption cannot become markup."""

from collections.abc import Iterable, Sequence
from html import escape

text = escape


def table(header: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], caption: str) -> str:
    """Return a table in a box that scrolls by itself.

    Args:
        header: column titles, plain text.
        rows: class of the row and its cells; the first cell is its title. Cells are HTML.
        caption: what the table shows, for those who do not see it.
    """
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in header)
    body = "".join(
        f'<tr class="{kind}"><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for kind, (first, *rest) in rows
    )
    return (
        f'<div class="box" tabindex="0"><table aria-label="{text(caption)}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Return names and values; empty values are left out."""
    lines = "".join(
        f"<dt>{text(name)}</dt><dd>{text(str(value))}</dd>" for name, value in pairs if value not in (None, "")
    )
    return f"<dl>{lines}</dl>" if lines else ""


def figure(svg: str, alt: str, caption: str) -> str:
    """Return a figure whose drawing has a name."""
    drawing = svg.replace("<svg", f'<svg role="img" aria-label="{text(alt)}"', 1)
    return f"<figure>{drawing}<figcaption>{text(caption)}</figcaption></figure>"
