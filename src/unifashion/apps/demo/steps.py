"""What happens when somebody does something on the page: from a history and an action to the next history and a sentence.

No function here knows Gradio; page.py wires them to buttons. What can be mended comes back as a sentence, and the history stays
as it was; anything else is a bug: the log has it, the page says so.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from PIL import Image

from unifashion.apps.demo import html as cards
from unifashion.apps.demo.errors import Refusal, explain
from unifashion.apps.demo.service import Query, Service, product_of
from unifashion.apps.demo.turns import History, Reference, Turn
from unifashion.apps.demo.uploads import to_jpeg
from unifashion.data.images import load_image
from unifashion.errors import UserError

T = TypeVar("T")
log = logging.getLogger(__name__)
KEPT_SIDE, KEPT_QUALITY = 640, 92  # of uploads, in a history; models look at a few hundred pixels
RERANK = 50
BROKEN = "Something went wrong on the server; its log says what."


@dataclass(frozen=True)
class Result:
    """The history after a step, and what is said about it; ``failed`` says how."""

    history: History
    words: str = ""
    failed: bool = False


def guarded(work: Callable[[], T]) -> tuple[T | None, str]:
    """Return what ``work`` returns and no words; or nothing, and in words why not."""
    try:
        return work(), ""
    except UserError as error:
        return None, explain(error)[1]
    except Exception:
        log.exception("a step of the page failed")
        return None, BROKEN


def attempt(history: History, step: Callable[[], Result]) -> Result:
    """Do a step; if it fails, leave everything as it was and say why."""
    done, words = guarded(step)
    return done if done is not None else Result(history, words, failed=True)


def search(service: Service, history: History, text: str, k: int, condition: str, rerank: bool) -> Result:
    """Search by the words, the reference, or both, and add a turn."""
    reference = history.reference
    text = " ".join(text.split())
    query = Query(text, _picture(service, reference), k, condition, RERANK if rerank else 0, each_once=True)
    if reference is not None and reference.item_id is not None:  # what the search starts from is no answer to it
        query = replace(query, without=product_of(service.item(reference.item_id)))
    hits = service.search(query)
    turn = Turn(text, reference, tuple(hits), condition)
    return Result(history.add(turn, service.settings.max_turns), " ".join(service.remarks(text)))


def refer(service: Service, history: History, item_id: Any) -> Result:
    """Make a product the reference."""
    item = service.item(_words(item_id))
    return Result(history.refer(Reference(cards.title_of(item), item_id=item.id)))


def upload(service: Service, history: History, picture: Any) -> Result:
    """Make a picture that somebody sent the reference."""
    jpeg = to_jpeg(service.upload(_words(picture)), KEPT_SIDE, KEPT_QUALITY)
    return Result(history.refer(Reference("Your photo", jpeg=jpeg)))


def back(history: History, number: Any) -> Result:
    """Show an earlier turn."""
    return Result(history.back(int(number)) if str(number).isdecimal() else history)


def describe(service: Service, history: History) -> Result:
    """Put the captioning model's words beside the reference."""
    reference, picture = history.reference, _picture(service, history.reference)
    if reference is None or picture is None:
        raise Refusal("Click a product first.")
    caption = service.caption(picture) or "(the model has no words for it)"
    return Result(history.refer(replace(reference, caption=caption)))


def known(service: Service, reference: Reference | None) -> Any:
    """Return the product that a reference is, as long as it is in the index."""
    if reference is None or reference.item_id is None:
        return None
    try:
        return service.item(reference.item_id)
    except UserError:
        return None


def _picture(service: Service, reference: Reference | None) -> Image.Image | None:
    if reference is None:
        return None
    return load_image(reference.jpeg) if reference.jpeg else service.photo(reference.item_id or "")


def _words(value: Any) -> str:
    if not isinstance(value, str):
        raise Refusal("The page sent something that is not text; load it again.")
    return value
