"""The actions of the page: from a history and what a visitor did to the next history and a message.

Nothing here depends on Gradio; page.py wires the functions to buttons. What the visitor can fix comes back as a message, and the
history stays as it was; anything else is a bug, which goes to the log, and the page says so.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from unifashion.apps.demo.errors import NotFound, RequestError, explain
from unifashion.apps.demo.history import Found, History, Reference, Step
from unifashion.apps.demo.html import product_address, title_of
from unifashion.apps.demo.service import SearchQuery, Service, product_of, readable
from unifashion.apps.demo.uploads import to_address, to_jpeg
from unifashion.data.images import load_image
from unifashion.errors import UserError
from unifashion.search import Hit
from unifashion.search.items import Item

KEPT_SIDE, KEPT_QUALITY = 640, 92  # of uploads in a history: models look at a few hundred pixels
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


def search(service: Service, history: History, text: Any, k: Any, condition: Any, rerank: Any) -> Result:
    """Search by the words, the reference, or both, and add a step."""
    reference = history.reference
    text, condition = " ".join(_checked(text).split()), _checked(condition)
    if not isinstance(k, int | float) or not 1 <= k <= service.settings.max_results:
        raise RequestError("The page sent something that is not a number of results; reload it.")
    picture = None if reference is None else _picture(service, reference)
    query = SearchQuery(text, picture, int(k), condition, RERANK if rerank else 0, one_per_product=True)
    if (
        reference is not None and reference.item_id is not None
    ):  # the product that a search starts from is not an answer to it
        query = replace(query, exclude=product_of(service.item(reference.item_id)))
    hits = tuple(Found(hit.id, hit.score) for hit in service.search(query))
    step = Step(text, reference, hits, condition)
    return Result(history.add(step, service.settings.max_steps), " ".join(service.remarks(text)))


def refer(service: Service, history: History, item_id: Any) -> Result:
    """Make a product the reference."""
    item = service.item(_checked(item_id))
    return Result(history.refer(Reference(title_of(item), item_id=item.id)))


def upload(service: Service, history: History, picture: Any) -> Result:
    """Make an uploaded picture the reference."""
    return Result(history.refer(Reference("Your photo", upload=keep_upload(service, picture, KEPT_SIDE, KEPT_QUALITY))))


def keep_upload(service: Service, picture: Any, side: int, quality: int, map_name: str | None = None) -> str:
    """Keep an uploaded picture as JPEG and return its id: re-encoded, so that nothing but its pixels is kept.

    ``map_name``: of a map of a person, see ``Service.upload_map``.
    """
    text = _checked(picture)
    image = service.upload(text) if map_name is None else service.upload_map(map_name, text)
    return service.uploads.keep(to_jpeg(image, side, quality))


def back(history: History, index: Any) -> Result:
    """Show an earlier step."""
    is_index = isinstance(index, str) and index.isdecimal() and len(index) < 5
    return Result(history.back(int(index)) if is_index else history)


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


def hits_of(service: Service, step: Step) -> list[Hit]:
    """Return the hits of a step with what the index says about them now, without those that have left it."""
    hits = []
    for found in step.hits:
        with suppress(UserError):
            item = service.item(found.id)
            hits.append(Hit(item.id, found.score, item.image, item.metadata))
    return hits


def address_of(service: Service, reference: Reference, side: int) -> str:
    """Return where the page finds a reference: at the API, or in the address itself for an upload; empty if it was dropped."""
    if reference.upload is None:
        return product_address(reference.item_id or "", side)
    try:
        return to_address(service.upload_jpeg(reference.upload, side))
    except NotFound:
        return ""


def _picture(service: Service, reference: Reference) -> Image.Image:
    return (
        load_image(service.uploads.get(reference.upload))
        if reference.upload
        else service.photo(reference.item_id or "")
    )


def _checked(value: Any) -> str:
    """Return what the page sent, if it is text: a request written by hand may hold anything."""
    if not isinstance(value, str):
        raise RequestError("The page sent something that is not text; reload it.")
    return readable(value, "text")
