"""Markup in the texts of products: shops export HTML, and neither a model nor a reader wants to see ``<br>`` and ``&amp;``.

Only what HTML itself defines is removed, so that "waist < 30 cm", "R&D" and "size <M>" stay as they are. A text without markup is
returned unchanged, to the byte.
"""

import html
import re

_INLINE = (
    "a abbr b bdi bdo big cite code del em font i ins kbd label mark q s small span strike strong sub sup tt u wbr"
)
_BLOCK = (
    "address article aside blockquote body br button center caption col colgroup dd details div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 head header hr html iframe img input li link main meta nav object ol option p picture pre "
    "section select source summary svg table tbody td template textarea tfoot th thead tr ul video"
)
_ATTRIBUTES = r"(?:\s+[\w:-]+\s*=[^<>]*)?\s*/?"
_HIDDEN = re.compile(r"<!--.*?-->|<(script|style|title)\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE.replace(' ', '|')}){_ATTRIBUTES}>", re.IGNORECASE)
_BLOCK_TAG = re.compile(rf"</?(?:{_BLOCK.replace(' ', '|')}){_ATTRIBUTES}>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z][A-Za-z\d]{1,31});")
MAX_ESCAPED = 3  # times that a text may have been escaped on its way: "&amp;lt;br&amp;gt;"


def without_markup(text: str) -> str:
    """Return a text without tags, comments, scripts and entities; where a tag parts words, one space does."""
    plain = text
    for _ in range(MAX_ESCAPED):
        cleaned = _once(plain)
        if cleaned == plain:
            break
        plain = cleaned
    return text if plain == text else " ".join(plain.split())


def _once(text: str) -> str:
    if "<" in text:
        text = _BLOCK_TAG.sub(" ", _INLINE_TAG.sub("", _HIDDEN.sub(" ", text)))
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text) if "&" in text else text
