"""The HTML of the page's parts. Everything that is not written in this file is escaped: names, metadata, words, ids.

Pictures of products are addresses of the API, uploads are ``data:`` addresses of re-encoded JPEGs. What can be clicked carries
``data-uf``; page.js turns a click there into an event with the element's data.
"""

import json
from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from unifashion.apps.demo.turns import History, Reference, Turn
from unifashion.apps.demo.uploads import ACCEPT, to_address

TITLES = ("title", "name", "text", "caption", "description")
QUIET = ("split", "image")  # columns that tell a shopper nothing


def title_of(item: Any) -> str:
    """Return what a product is called: its title where it has one, else its id."""
    words = next((str(item.metadata[name]).strip() for name in TITLES if item.metadata.get(name)), "")
    return words or item.id


def facts_of(item: Any) -> list[tuple[str, str]]:
    """Return the other metadata, without empty values."""
    used = next((name for name in TITLES if item.metadata.get(name)), None)
    rows = ((name, _written(value)) for name, value in item.metadata.items() if name != used and name not in QUIET)
    return [(name, value) for name, value in rows if value]


def picture_address(item_id: str, side: int) -> str:
    """Return where a product's picture is."""
    return f"api/items/{quote(item_id, safe='')}/image?side={side}"


def header(about: dict[str, Any]) -> str:
    """Return the top of the page."""
    count = f"{about['items']:,} product photo{'' if about['items'] == 1 else 's'}"
    return (
        f'<header class="uf-header"><a class="uf-mark" href="./">UniFashion</a><p>Search {count} by words, by photo, '
        'or by a photo and what should change.</p><a class="uf-api" href="api/docs">API</a></header>'
    )


def picker(words: str, name: str) -> str:
    """Return a place to choose or drop a picture."""
    return (
        f'<label class="uf-picker" data-uf-drop><input type="file" accept="{ACCEPT}" aria-label="{escape(words)}" '
        f'data-uf-file="{escape(name)}"><svg viewBox="0 0 24 24" aria-hidden="true"><path d="M4 7h3l2-2h6l2 2h3v12H4z"/>'
        f'<circle cx="12" cy="13" r="3.5"/></svg><span>{escape(words)}</span></label>'
    )


def note(kind: str, words: str) -> str:
    """Return a sentence: ``kind`` is "plain" or "failed"."""
    role = "alert" if kind == "failed" else "status"
    return f'<p class="uf-note uf-{kind}" role="{role}">{escape(words)}</p>' if words else ""


def welcome(examples: Sequence[str], items: Sequence[Any]) -> str:
    """Return what stands where hits will be, before anything was asked: examples, and products to start from."""
    buttons = "".join(
        f'<button type="button" data-uf="example" data-words="{escape(words)}">{escape(words)}</button>'
        for words in examples
    )
    return (
        '<div class="uf-empty"><h2>What are you looking for?</h2><p>Describe it, or add a photo. Then click a result and say '
        f'what should change: “longer”, “in blue”, “without the belt”.</p><div class="uf-examples">{buttons}</div></div>'
        f'<h2 class="uf-label">Or start from one of these</h2>{_grid(items)}'
    )


def results(turn: Turn) -> str:
    """Return the hits of a turn as cards, or a sentence where there are none."""
    if not turn.hits:
        advice = "Loosen the filter" if turn.filter else "Try other words"
        return f'<div class="uf-empty"><h2>Nothing found</h2><p>{advice}, or go back to an earlier step.</p></div>'
    return _grid(turn.hits)


def _grid(items: Sequence[Any]) -> str:
    return f'<div class="uf-grid">{"".join(_card(item, place) for place, item in enumerate(items, 1))}</div>'


def _card(item: Any, place: int) -> str:
    title, facts = title_of(item), dict(facts_of(item))
    price = facts.pop("price", "")
    line = " · ".join([value for name, value in facts.items() if name != "id"][:3])
    price = f"<b>{escape(price)}</b>" if price else ""
    score = f'<span class="uf-score" title="similarity">{item.score:.3f}</span>' if hasattr(item, "score") else ""
    return (
        f'<button type="button" class="uf-card" data-uf="refer" data-id="{escape(item.id)}" '
        f'aria-label="{escape(f"{place}. {title}. Refine from here")}"><span class="uf-photo">'
        f'<img src="{escape(picture_address(item.id, 480))}" alt="" loading="lazy" decoding="async"></span>'
        f'<span class="uf-title">{escape(title)}</span><span class="uf-facts">{price}{escape(line)}</span>{score}</button>'
    )


def reference_card(reference: Reference | None, item: Any, captions: bool) -> str:
    """Return the picture that the next search starts from, what is known about it, and what can be done with it."""
    if reference is None:
        return ""
    address = to_address(reference.jpeg) if reference.jpeg else picture_address(reference.item_id or "", 960)
    facts = facts_of(item) if item else []
    table = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    said = f'<p class="uf-said">“{escape(reference.caption)}”</p>' if reference.caption else ""
    describe = captions and reference.caption is None
    buttons = '<button type="button" data-uf="similar">More like this</button>'
    buttons += '<button type="button" data-uf="describe">Describe it</button>' if describe else ""
    buttons += '<button type="button" data-uf="clear">Remove</button>'
    return (
        f'<section class="uf-reference" aria-label="Reference"><img src="{escape(address)}" alt=""><div>'
        f'<p class="uf-label">{"Starting from" if item else "Starting from your photo"}</p><h2>{escape(reference.title)}</h2>'
        f'<dl>{table}</dl>{said}<p class="uf-ask">Say above what should change: “longer”, “in blue”, “without the belt”.</p>'
        f'</div><div class="uf-actions">{buttons}</div></section>'
    )


def trail(history: History) -> str:
    """Return the steps so far; one that is clicked is shown again."""
    if not history.turns:
        return ""
    steps = "".join(_step(turn, number, history.shown) for number, turn in enumerate(history.turns))
    return f'<nav class="uf-trail" aria-label="Your search so far"><ol>{steps}</ol></nav>'


def _step(turn: Turn, number: int, shown: int) -> str:
    picture = ""
    if turn.reference is not None:
        jpeg, item_id = turn.reference.jpeg, turn.reference.item_id
        address = to_address(jpeg) if jpeg else picture_address(item_id or "", 240)
        picture = f'<img src="{escape(address)}" alt="">'
    words = turn.text or "similar to this"
    state = "uf-now" if number == shown else "uf-later" if number > shown else ""
    current = ' aria-current="step"' if number == shown else ""
    label = escape(f"Step {number + 1}: {words}, {len(turn.hits)} results")
    return (
        f'<li><button type="button" class="{state}" data-uf="back" data-number="{number}" aria-label="{label}"{current}>'
        f"{picture}<span>{escape(words)}</span></button></li>"
    )


def _written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}" if value == round(value, 2) else f"{value:g}"
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
