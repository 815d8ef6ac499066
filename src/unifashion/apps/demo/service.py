"""What page and API can ask for: search, items, their pictures, captions, try-on; every use of a model goes through the gate."""

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from unifashion.apps.demo.concurrency import Gate
from unifashion.apps.demo.errors import NotThere, Refusal, TooLarge
from unifashion.apps.demo.settings import DemoSettings
from unifashion.apps.demo.uploads import decode_base64, shrink, to_jpeg
from unifashion.data.images import ImageError, load_image
from unifashion.errors import UserError

SIDES = (240, 480, 960)  # pixels of the longer side of a picture that is served
LARGEST = SIDES[-1]  # models look at a few hundred pixels
VIEWS = 4  # pictures of one product that a search reckons with
NUM_CACHED = 600  # pictures in memory, some 50 kB each

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Query:
    """What is looked for: words, a picture, or a picture and what should change about it."""

    text: str = ""
    image: Image.Image | None = None
    k: int = 12
    filter: str = ""
    rerank: int = 0
    each_once: bool = False  # of several pictures of one product only the best
    without: str | None = None  # a product that is not an answer


class Service:
    """One index and the models beside it, shared by everybody who has the page open."""

    def __init__(
        self,
        retriever: Any,
        settings: DemoSettings | None = None,
        captioner: Any = None,
        tryon: Any = None,
    ) -> None:
        self.settings = settings or DemoSettings()
        self._retriever, self._captioner, self._tryon = retriever, captioner, tryon
        self._gate = Gate(self.settings.at_once, self.settings.waiting, self.settings.patience)
        self._decoding = threading.Semaphore(2)  # pictures in memory at full size
        self._thumbnail = functools.lru_cache(NUM_CACHED)(self._draw_thumbnail)

    def about(self) -> dict[str, Any]:
        """Return what is served: counts, fields, and which abilities there are."""
        return {
            "items": len(self._retriever.index),
            "model": self._retriever.model.config.model_name,
            "fields": dict(self._retriever.index.fields),
            "captions": self._captioner is not None,
            "tryon": self._tryon is not None,
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
        asked = VIEWS * (query.k + 1) if query.each_once else query.k
        with self._gate.enter():
            hits = self._retriever.search(
                text=text or None, images=images, k=asked, filter=query.filter.strip() or None, rerank=query.rerank
            )
        return (_each_once(hits, query.without) if query.each_once else hits)[: query.k]

    def remarks(self, text: str) -> list[str]:
        """Return what the model cannot read of a query's words, as sentences."""
        found: list[str] = self._retriever.remarks(text) if text.strip() else []
        return found

    def some_items(self, count: int) -> list[Any]:
        """Return products from all over the catalogue, the same ones every time."""
        index = self._retriever.index
        tried = [index.get(item_id) for item_id in _spread(index.snapshot.ids, VIEWS * count)]
        return _spread(_each_once(tried, None), count)

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
        """Return a product's picture, its longer side ``LARGEST`` at most; ``NotThere`` also where the file is gone."""
        item = self.item(item_id)
        try:
            with self._decoding:
                return shrink(load_image(item.image), LARGEST)
        except ImageError as error:
            raise NotThere(f"The picture of {item_id!r} cannot be shown: {error.reason}.") from None

    def upload(self, text: str) -> Image.Image:
        """Return the picture of a base64 text or ``data:`` address, its longer side ``LARGEST`` at most.

        Raises:
            Refusal: see ``decode_base64``.
        """
        with self._decoding:
            return shrink(decode_base64(text, self.settings), LARGEST)

    def thumbnail(self, item_id: str, side: int = SIDES[1]) -> bytes:
        """Return a product's picture as JPEG, made anew from its pixels; raises as ``photo``."""
        if side not in SIDES:
            raise Refusal(f"side = {side}: pictures come with {', '.join(map(str, SIDES))} pixels.")
        path = self.item(item_id).image
        changed = path.stat().st_mtime_ns if path.is_file() else 0
        return self._thumbnail(item_id, side, changed)

    def _draw_thumbnail(self, item_id: str, side: int, changed: int) -> bytes:
        return to_jpeg(self.photo(item_id), side)

    def caption(self, picture: Image.Image) -> str:
        """Return what a captioning model says about a picture."""
        if self._captioner is None:
            raise NotThere("No captioning model is loaded; start the demo with --caption-model.")
        with self._gate.enter():
            words: str = self._captioner.caption([picture])[0].strip()
        return words

    def try_on(
        self, photo: Image.Image, item_id: str, maps: Mapping[str, Image.Image], progress: Progress
    ) -> Image.Image:
        """Return the person of a photo in a product; ``progress(step, steps)`` is called on the way.

        Raises:
            Refusal: no model for it, no such product, or a map of another shape than the photo.
        """
        if self._tryon is None:
            raise NotThere("No try-on model is loaded; start the demo with --tryon-model.")
        from unifashion.apps.demo.persons import person_of  # diffusers takes seconds to import

        garment, words = self.photo(item_id), str(self.item(item_id).metadata.get("text", ""))
        person = person_of(photo, maps, self._tryon.pipe.denoiser.config.image_size)
        with self._gate.enter():
            drawn: Image.Image = self._tryon(person, garment, words, on_step=progress)
        return drawn


def product_of(item: Any) -> str:
    """Return which product an item shows: several pictures may show one."""
    return str(item.metadata.get("id") or item.id)


def _each_once(items: Sequence[Any], without: str | None) -> list[Any]:
    best: dict[str, Any] = {}
    for item in items:
        best.setdefault(product_of(item), item)
    return [item for product, item in best.items() if product != without]


def _spread(rows: Sequence[Any], count: int) -> list[Any]:
    count = min(count, len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]
