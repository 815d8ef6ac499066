"""What page and API can ask for: search, items, their pictures, captions, try-on; every use of a model goes through the gate."""

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from unifashion.data.images import ImageError, load_image
from unifashion.errors import UserError
from unifashion.serving.demo.gate import Gate
from unifashion.serving.demo.refusals import NotThere, Refusal, TooLarge
from unifashion.serving.demo.settings import DemoSettings
from unifashion.serving.demo.uploads import to_jpeg

SIDES = (240, 480, 960)  # pixels of the longer side of a picture that is served
NUM_CACHED = 600  # pictures in memory, some 50 kB each

Progress = Callable[[int, int], None]


class Dresser(Protocol):
    """Draws a person in a garment; see try_on.py."""

    def dress(
        self, person: Image.Image, garment: Image.Image, words: str, maps: Mapping[str, Image.Image], progress: Progress
    ) -> Image.Image:
        """Return the person in the garment; ``progress(step, steps)`` is called on the way."""


@dataclass(frozen=True)
class Query:
    """What is looked for: words, a picture, or a picture and what should change about it."""

    text: str = ""
    image: Image.Image | None = None
    k: int = 12
    filter: str = ""
    rerank: int = 0


class Service:
    """One index and the models beside it, shared by everybody who has the page open."""

    def __init__(
        self,
        retriever: Any,
        settings: DemoSettings | None = None,
        captioner: Any = None,
        dresser: Dresser | None = None,
    ) -> None:
        self.settings = settings or DemoSettings()
        self._retriever, self._captioner, self._dresser = retriever, captioner, dresser
        self._gate = Gate(self.settings.at_once, self.settings.waiting, self.settings.patience)
        self._decoding = threading.Semaphore(4)  # pictures in memory at full size
        self._thumbnail = functools.lru_cache(NUM_CACHED)(self._draw_thumbnail)

    def about(self) -> dict[str, Any]:
        """Return what is served: counts, fields, and which abilities there are."""
        return {
            "items": len(self._retriever.index),
            "model": self._retriever.model.config.model_name,
            "fields": dict(self._retriever.index.fields),
            "captions": self._captioner is not None,
            "tryon": self._dresser is not None,
        }

    def search(self, query: Query) -> list[Any]:
        """Return the best hits, best first.

        Raises:
            Refusal: nothing to look for, or more than is allowed.
            UserError: a filter that cannot be read.
        """
        limits, text = self.settings, query.text.strip()
        if not text and query.image is None:
            raise Refusal("Nothing to search for: write some words, or give a picture.")
        if len(text) > limits.max_text:
            raise TooLarge(f"The text has {len(text)} characters; {limits.max_text} is the limit.")
        if not 1 <= query.k <= limits.max_results:
            raise Refusal(f"k = {query.k}: give a number from 1 to {limits.max_results}.")
        if not 0 <= query.rerank <= 10 * limits.max_results:
            raise Refusal(f"rerank = {query.rerank}: give a number from 0 (off) to {10 * limits.max_results}.")
        images = [] if query.image is None else [query.image]
        with self._gate.enter():
            return self._retriever.search(
                text=text or None, images=images, k=query.k, filter=query.filter.strip() or None, rerank=query.rerank
            )

    def item(self, item_id: str) -> Any:
        """Return one product.

        Raises:
            NotThere: no product has this id.
        """
        try:
            found: Any = self._retriever.index.get(item_id)
        except (UserError, KeyError):
            found = None
        if found is None:
            raise NotThere(f"No product has the id {item_id[:100]!r}.")
        return found

    def photo(self, item_id: str) -> Image.Image:
        """Return a product's picture at full size; raises ``NotThere`` also where the file is gone or damaged."""
        item = self.item(item_id)
        try:
            with self._decoding:
                return load_image(item.image)
        except ImageError as error:
            raise NotThere(f"The picture of {item_id!r} cannot be shown: {error.reason}.") from None

    def thumbnail(self, item_id: str, side: int = SIDES[1]) -> bytes:
        """Return a product's picture as JPEG, made anew from its pixels; raises as ``photo``."""
        if side not in SIDES:
            raise Refusal(f"side = {side}: pictures come with {', '.join(map(str, SIDES))} pixels.")
        path = self.item(item_id).image
        changed = path.stat().st_mtime_ns if path.is_file() else 0
        return self._thumbnail(item_id, side, changed)

    def _draw_thumbnail(self, item_id: str, side: int, changed: int) -> bytes:
        return to_jpeg(self.photo(item_id), side)

    def caption(self, item_id: str) -> str:
        """Return what a captioning model says about a product."""
        if self._captioner is None:
            raise NotThere("No captioning model is loaded; start the demo with --caption-model.")
        photo = self.photo(item_id)
        with self._gate.enter():
            return self._captioner.caption([photo])[0].strip()

    def try_on(
        self, person: Image.Image, item_id: str, maps: Mapping[str, Image.Image], progress: Progress
    ) -> Image.Image:
        """Return the person in the garment of a product; ``progress(step, steps)`` is called on the way."""
        if self._dresser is None:
            raise NotThere("No try-on model is loaded; start the demo with --tryon-model.")
        garment, words = self.photo(item_id), str(self.item(item_id).metadata.get("text", ""))
        with self._gate.enter():
            return self._dresser.dress(person, garment, words, maps, progress)
