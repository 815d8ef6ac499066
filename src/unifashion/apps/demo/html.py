"""The HTML of the page's parts: ``render("trail", ...)`` fills in templates/trail.html.

Everything that a template is given is escaped: names, metadata, queries, ids. Product pictures are addresses of the API,
uploads are ``data:`` addresses of re-encoded JPEGs, which no route serves. What can be clicked carries ``data-uf``; page.js turns
a click there into an event with the element's data.
"""

import json
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unifashion.apps.demo.uploads import ACCEPT, to_address
from unifashion.search import Hit
from unifashion.search.items import Item

SCRIPT, STYLE = (files("unifashion.apps.demo").joinpath(name).read_text("utf-8") for name in ("page.js", "style.css"))
TITLES = ("title", "name", "text", "caption", "description")
HIDDEN = ("split", "image")  # columns of no interest to a shopper
NUM_SUMMARY = 3  # values below a product's title, besides the price


def render(template: str, **values: Any) -> str:
    """Return the HTML of a part of the page."""
    return TEMPLATES.get_template(f"{template}.html").render(values)


def title_of(item: Item | Hit) -> str:
    """Return a product's name: its title if it has one, else its id."""
    words = next((str(item.metadata[name]).strip() for name in TITLES if item.metadata.get(name)), "")
    return words or item.id


def metadata_of(item: Item | Hit) -> dict[str, str]:
    """Return the metadata that the title does not show, as text, without empty values."""
    title = next((name for name in TITLES if item.metadata.get(name)), None)
    texts = {name: _text(value) for name, value in item.metadata.items() if name != title and name not in HIDDEN}
    return {name: text for name, text in texts.items() if text}


def summary_of(item: Item | Hit) -> tuple[str, str]:
    """Return a product's price, or an empty string, and the first other values in one line."""
    values = metadata_of(item)
    price = values.pop("price", "")
    return price, " · ".join([text for name, text in values.items() if name != "id"][:NUM_SUMMARY])


def product_address(item_id: str, side: int) -> str:
    """Return where the page finds a product's picture of ``side`` pixels."""
    return f"api/items/{quote(item_id, safe='')}/image?side={side}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}" if value == round(value, 2) else f"{value:g}"
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# autoescape for every template, whatever its name: catalogues and queries are other people's text. A misspelt variable raises.
TEMPLATES = Environment(
    loader=PackageLoader("unifashion.apps.demo"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals |= {
    "accept": ACCEPT,
    "metadata_of": metadata_of,
    "product_address": product_address,
    "style": Markup(STYLE),
    "summary_of": summary_of,
    "title_of": title_of,
}
TEMPLATES.filters |= {"json": json.dumps, "to_address": to_address}
