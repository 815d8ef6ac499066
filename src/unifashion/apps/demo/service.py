"""What page and API can ask for: search, items, their pictures, captions, try-on; the limiter guards every use of a model."""

import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image

from unifashion.apps.demo.concurrency import Limiter
from unifashion.apps.demo.errors import NotFound, RequestError, TooLarge
from unifashion.apps.demo.settings import DemoSettings
from unifashion.apps.demo.uploads import decode_base64, shrink, to_jpeg
from unifashion.data.images import ImageError, load_image
from unifashion.errors import UserError
from unifashion.llm.captioner import Captioner
from unifashion.search import Hit, Retriever
from unifashion.search.items import Item

SIDES = (240, 480, 960)  # pixels of the longer side of a picture that is served
LARGEST = SIDES[-1]  # models look at a few hundred pixels
VIEWS = 4  # pictures of one product that a search allows for
NUM_CACHED = 600  # pictures in memory, some 50 kB each

T = TypeVar("T")
Shown = TypeVar("Shown", Item, Hit)


@dataclass(frozen=True)
class SearchQuery:
    """Words, a picture, or a picture and what should change about it."""

    text: str = ""
    image: Image.Image | None = None
    k: int = 12
    filter: str = ""
    rerank: int = 0
    one_per_product: bool = False  # of several pictures of one product only the best
    exclude: str | None = None  # a product that is not an answer; only with ``one_per_product``


class Service:
    """One index and the models beside it, shared by all visitors."""

    def __init__(
        self,
        retriever: Retriever,
        settings: DemoSettings | None = None,
        captioner: Captioner | None = None,
        tryon: Any = None,  # a TryOn; its import takes seconds, and few demos have one
    ) -> None:
        self.settings = settings or DemoSettings()
        self._retriever, self._captioner, self._tryon = retriever, captioner, tryon
        # One limiter for all models, as they share a device: two requests at once are hardly faster than one after the other, and
        # take twice the memory.
        self._limiter = Limiter(self.settings.at_once, self.settings.waiting, self.settings.patience)
        # At full size a picture of 50 megapixels takes 150 MB, and a page asks for a dozen thumbnails at a time.
        self._decoding = threading.Semaphore(2)
        self._thumbnail = functools.lru_cache(NUM_CACHED)(self._draw_thumbnail)

    def about(self) -> dict[str, Any]:
        """Return what is served: counts, fields, and which models are loaded."""
        return {
            "items": len(self._retriever.index),
            "model": self._retriever.model.name,
            "fields": dict(self._retriever.index.fields),
            "captions": self._captioner is not None,
            "tryon": self._tryon is not None,
        }

    def search(self, query: SearchQuery) -> list[Hit]:
        """Return the best hits, best first.

        Raises:
            RequestError: nothing to look for, or more than is allowed.
            UserError: a filter that cannot be read.
        """
        limits, text = self.settings, query.text.strip()
        if not text and query.image is None:
            raise RequestError("Nothing to search for: write some words, or give a picture.")
        if len(text) > limits.max_text:
            raise TooLarge(f"The text has {len(text)} characters; {limits.max_text} is the limit.")
        if not 1 <= query.k <= limits.max_results:
            raise RequestError(f"k = {query.k}: give a number from 1 to {limits.max_results}.")
        if not 0 <= query.rerank <= 10 * limits.max_results:
            raise RequestError(f"rerank = {query.rerank}: give a number from 0 (off) to {10 * limits.max_results}.")
        images = [] if query.image is None else [query.image]
        k = VIEWS * (query.k + 1) if query.one_per_product else query.k
        with self._limiter.slot():
            # A search first reloads the index where ``unifashion index`` has written to it, so that new products need no restart.
            # ``item`` and ``about`` do not reload: they see the catalogue of the latest search.
            hits = self._retriever.search(
                text=text or None, images=images, k=k, filter=query.filter.strip() or None, rerank=query.rerank
            )
        return (_one_per_product(hits, query.exclude) if query.one_per_product else hits)[: query.k]

    def remarks(self, text: str) -> list[str]:
        """Return which of a query's words the model cannot read, as sentences."""
        return self._retriever.remarks(text) if text.strip() else []

    def some_items(self, count: int) -> list[Item]:
        """Return products from all over the catalogue, the same ones every time."""
        index = self._retriever.index
        items = [index.get(item_id) for item_id in _spread(index.snapshot.ids, VIEWS * count)]
        return _spread(_one_per_product(items), count)

    def item(self, item_id: str) -> Item:
        """Return one product.

        Raises:
            NotFound: no product has this id.
        """
        try:
            return self._retriever.index.get(item_id)
        except UserError:
            raise NotFound(f"No product has the id {item_id[:100]!r}.") from None

    def photo(self, item_id: str) -> Image.Image:
        """Return a product's picture, its longer side ``LARGEST`` at most; ``NotFound`` also if the file is missing."""
        item = self.item(item_id)
        try:
            with self._decoding:
                return shrink(load_image(item.image), LARGEST)
        except ImageError as error:
            raise NotFound(f"The picture of {item_id!r} cannot be shown: {error.reason}.") from None

    def upload(self, text: str) -> Image.Image:
        """Return the picture of a base64 text or ``data:`` address, its longer side ``LARGEST`` at most.

        Raises:
            RequestError: see ``decode_base64``.
        """
        with self._decoding:
            return shrink(decode_base64(text, self.settings), LARGEST)

    def thumbnail(self, item_id: str, side: int = SIDES[1]) -> bytes:
        """Return a product's picture as JPEG, re-encoded from its pixels; raises as ``photo``."""
        if side not in SIDES:  # any side at all would let one visitor fill the cache with a single product
            raise RequestError(f"side = {side}: pictures come with {', '.join(map(str, SIDES))} pixels.")
        path = self.item(item_id).image
        changed = (
            path.stat().st_mtime_ns if path.is_file() else 0
        )  # part of the cache's key: a new photo is shown at once
        return self._thumbnail(item_id, side, changed)

    def _draw_thumbnail(self, item_id: str, side: int, changed: int) -> bytes:
        return to_jpeg(self.photo(item_id), side)

    def caption(self, picture: Image.Image) -> str:
        """Return what a captioning model says about a picture."""
        if self._captioner is None:
            raise NotFound("No captioning model is loaded; start the demo with --caption-model.")
        with self._limiter.slot():
            return self._captioner.caption([picture])[0].strip()

    def try_on(
        self,
        photo: Image.Image,
        item_id: str,
        maps: Mapping[str, Image.Image],
        on_step: Callable[[int, int], None],
    ) -> Image.Image:
        """Return the person of a photo in a product; ``on_step(step, num_steps)`` reports progress.

        Raises:
            RequestError: no model for it, no such product, or a map whose shape differs from the photo's.
        """
        if self._tryon is None:
            raise NotFound("No try-on model is loaded; start the demo with --tryon-model.")
        from unifashion.apps.demo.tryon_person import make_person  # diffusers takes seconds to import

        garment, text = self.photo(item_id), str(self.item(item_id).metadata.get("text", ""))
        person = make_person(photo, maps, self._tryon.pipe.denoiser.config.image_size)
        with self._limiter.slot():
            drawn: Image.Image = self._tryon(person, garment, text, on_step=on_step)
        return drawn


def product_of(item: Item | Hit) -> str:
    """Return which product an item shows: several pictures may show one."""
    return str(item.metadata.get("id") or item.id)


def _one_per_product(items: Iterable[Shown], exclude: str | None = None) -> list[Shown]:
    best: dict[str, Shown] = {}
    for item in items:
        best.setdefault(product_of(item), item)
    return [item for product, item in best.items() if product != exclude]


def _spread(rows: Sequence[T], count: int) -> list[T]:
    """Return ``count`` rows at equal distances, or all where there are fewer."""
    count = min(count, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]
