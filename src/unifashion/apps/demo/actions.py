"""The actions of the page: from a history and what a visitor did to the next history and a message.

Nothing here depends on Gradio; page.py wires the functions to buttons. What the visitor can fix comes back as a message, and the
history stays as it was; anything else is a bug, which goes to the log, and the page says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from unifashion.apps.demo.errors import RequestError, explain
from unifashion.apps.demo.history import History, Reference, Step
from unifashion.apps.demo.html import title_of
from unifashion.apps.demo.service import SearchQuery, Service, product_of
from unifashion.apps.demo.uploads import to_jpeg
from unifashion.data.images import load_image
from unifashion.errors import UserError
from unifashion.search.items import Item

KEPT_SIDE, KEPT_QUALITY = (
    640,
    92,
)  # of uploads in a history: models look at a few hundred pixels, and memory keeps them for hours
RERANK = 50


@dataclass(frozen=True)
class Result:
    """The history after an action, and what the page says about it; ``failed`` colours the message."""

    history: History
    message: str = ""
    failed: bool = False


def attempt(history: History, action: Callable[[], Result]) -> Result:
    """Run an action; if it fails, leave everything as it was and say why."""
    try:
        return action()
    except Exception as error:
        return Result(history, explain(error, "an action of the page")[1], failed=True)


def search(service: Service, history: History, text: str, k: int, condition: str, rerank: bool) -> Result:
    """Search by the words, the reference, or both, and add a step."""
    reference = history.reference
    text = " ".join(text.split())
    picture = None if reference is None else _picture(service, reference)
    query = SearchQuery(text, picture, k, condition, RERANK if rerank else 0, one_per_product=True)
    if (
        reference is not None and reference.item_id is not None
    ):  # the product that a search starts from is not an answer to it
        query = replace(query, exclude=product_of(service.item(reference.item_id)))
    step = Step(text, reference, tuple(service.search(query)), condition)
    return Result(history.add(step, service.settings.max_steps), " ".join(service.remarks(text)))


def refer(service: Service, history: History, item_id: Any) -> Result:
    """Make a product the reference."""
    item = service.item(_checked(item_id))
    return Result(history.refer(Reference(title_of(item), item_id=item.id)))


def upload(service: Service, history: History, picture: Any) -> Result:
    """Make an uploaded picture the reference."""
    return Result(history.refer(Reference("Your photo", jpeg=read_upload(service, picture, KEPT_SIDE, KEPT_QUALITY))))


def read_upload(service: Service, picture: Any, side: int, quality: int) -> bytes:
    """Return an uploaded picture as JPEG: re-encoded, so that nothing but its pixels is kept."""
    return to_jpeg(service.upload(_checked(picture)), side, quality)


def back(history: History, index: Any) -> Result:
    """Show an earlier step."""
    return Result(history.back(int(index)) if str(index).isdecimal() else history)


def describe(service: Service, history: History) -> Result:
    """Add the captioning model's words to the reference."""
    if history.reference is None:
        raise RequestError("Click a product first.")
    caption = service.caption(_picture(service, history.reference)) or "(the model returned no caption)"
    return Result(history.refer(replace(history.reference, caption=caption)))


def product_in_index(service: Service, reference: Reference | None) -> Item | None:
    """Return the product that a reference is; None for an upload, and for one that has left the index since it was clicked."""
    if reference is None or reference.item_id is None:
        return None
    try:
        return service.item(reference.item_id)
    except UserError:
        return None


def _picture(service: Service, reference: Reference) -> Image.Image:
    return load_image(reference.jpeg) if reference.jpeg else service.photo(reference.item_id or "")


def _checked(value: Any) -> str:
    """Return what the page sent, if it is text: a request written by hand may hold anything."""
    if not isinstance(value, str):
        raise RequestError("The page sent something that is not text; reload it.")
    return value
