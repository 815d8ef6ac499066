"""What page and API can ask for: search, items, their pictures, captions, try-on; one thread uses the models.

The index may be made again by another model while the demo runs. ``Loaded`` is an index with its model: every search uses one of
them from its first step to its last, so that a query's vector meets only vectors of its own model. A search that finds another
index than the one that was opened opens it again with its model, and says so where that fails.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from unifashion.apps.demo.concurrency import ModelThread
from unifashion.apps.demo.errors import Busy, NotFound, RequestError, TooLarge
from unifashion.apps.demo.settings import DemoSettings
from unifashion.apps.demo.uploads import Uploads, decode_base64, shrink, to_jpeg
from unifashion.data.images import ImageError, load_image, load_stored
from unifashion.errors import UserError, sentence
from unifashion.llm.captioner import Captioner
from unifashion.search import Hit, Retriever
from unifashion.search.index import IndexReplaced
from unifashion.search.items import Item
from unifashion.search.retriever import Query

log = logging.getLogger(__name__)
SIDES = (240, 480, 960)  # pixels of the longer side of a picture that is served
LARGEST = SIDES[-1]  # models look at a few hundred pixels
VIEWS = 4  # pictures of one product that a search allows for
NUM_CACHED = 600  # pictures in memory, some 50 kB each
REOPEN_EVERY = 10.0  # seconds between two attempts to open an index that has taken another's place

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


@dataclass(frozen=True)
class Loaded:
    """An index with the model that made it, and what describes pictures."""

    retriever: Retriever
    captioner: Captioner | None = None


class Service:
    """One index and the models beside it, shared by all visitors."""

    def __init__(
        self,
        loaded: Loaded,
        settings: DemoSettings | None = None,
        tryon: Any = None,  # a TryOn; its import takes seconds, and few demos have one
        reopen: Callable[[], Loaded] | None = None,
    ) -> None:
        """Take what is served; ``reopen`` opens it again after another index has taken the place of the one that was opened."""
        self.settings = settings or DemoSettings()
        self.uploads = Uploads(self.settings.max_kept_bytes)
        self._loaded, self._tryon, self._reopen = loaded, tryon, reopen
        self._next_attempt = 0.0  # to open the index again
        self._models = ModelThread(self._search_all, self.settings.waiting, self.settings.patience)
        # At full size a picture of 50 megapixels takes 150 MB, and a page asks for a dozen thumbnails at a time.
        self._decoding = threading.Semaphore(2)
        self._thumbnail = functools.lru_cache(NUM_CACHED)(self._draw_thumbnail)
        self._small_upload = functools.lru_cache(NUM_CACHED)(self._draw_upload)

    def about(self) -> dict[str, Any]:
        """Return what is served: counts, fields, and which models are loaded."""
        retriever = self._loaded.retriever
        return {
            "items": len(retriever.index),
            "model": retriever.model.name,
            "fields": dict(retriever.index.fields),
            "captions": self._loaded.captioner is not None,
            "tryon": self._tryon is not None,
        }

    def search(self, query: SearchQuery) -> list[Hit]:
        """Return the best hits, best first.

        Raises:
            RequestError: nothing to look for, or more than is allowed.
            UserError: a filter that cannot be read.
        """
        limits, text = self.settings, readable(query.text, "text").strip()
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
        condition = readable(query.filter, "filter").strip() or None
        hits = self._models.ask(Query(text, images, k, condition, query.rerank))
        return (_one_per_product(hits, query.exclude) if query.one_per_product else hits)[: query.k]

    def _search_all(self, queries: Sequence[Query]) -> Sequence[list[Hit] | Exception]:
        """Answer several queries; called on the thread of the models alone.

        A search reads again what ``unifashion index`` has written, so that new products need no restart. ``item`` and ``about``
        see the catalogue of the latest search.
        """
        for _ in range(3):
            retriever = self._loaded.retriever
            try:
                answers = retriever.search_all(queries)
            except IndexReplaced:
                self._open_again()
                continue
            with suppress(IndexReplaced):
                retriever.index.refresh()  # nothing that was read came from another index in its place
                return answers
        raise Busy("The catalogue is being indexed right now; try again in a minute.")

    def _open_again(self) -> None:
        """Open the index that has taken the place of the one that was opened, and load its model."""
        if self._reopen is None:
            raise Busy("The catalogue was indexed again; the demo must be restarted.")
        if time.monotonic() >= self._next_attempt:
            try:
                self._loaded = self._reopen()
                self._thumbnail.cache_clear()
                log.warning("the index was made again, and is loaded with its model")
                return
            except UserError as error:
                log.error("the index was made again and cannot be loaded: %s", sentence(error))
            self._next_attempt = time.monotonic() + REOPEN_EVERY
        raise Busy(
            "The catalogue was indexed again and cannot be loaded yet; try again in a minute, or see the server's log."
        )

    def remarks(self, text: str) -> list[str]:
        """Return which of a query's words the model cannot read, as sentences."""
        return self._loaded.retriever.remarks(text) if text.strip() else []

    def some_items(self, count: int) -> list[Item]:
        """Return products from all over the catalogue, the same ones every time."""
        index = self._loaded.retriever.index
        items = [index.get(item_id) for item_id in _spread(index.snapshot.ids, VIEWS * count)]
        return _spread(_one_per_product(items), count)

    def item(self, item_id: str) -> Item:
        """Return one product.

        Raises:
            NotFound: no product has this id.
        """
        readable(item_id, "id")
        try:
            return self._loaded.retriever.index.get(item_id)
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

    def upload_map(self, name: str, text: str) -> Image.Image:
        """Return the RGB picture of an uploaded map, "keep" or "densepose", in whatever form it comes; sides as ``upload``.

        Raises:
            RequestError: see ``decode_base64``.
            ImageError: it is no such map.
        """
        from unifashion.tryon.maps import open_map

        with self._decoding:
            return shrink(open_map(decode_base64(text, self.settings, load_stored), name).convert("RGB"), LARGEST)

    def thumbnail(self, item_id: str, side: int = SIDES[1]) -> bytes:
        """Return a product's picture as JPEG, re-encoded from its pixels; raises as ``photo``."""
        if side not in SIDES:  # any side at all would let one visitor fill the cache with a single product
            raise RequestError(f"side = {side}: pictures come with {', '.join(map(str, SIDES))} pixels.")
        path = self.item(item_id).image
        changed = path.stat().st_mtime_ns if path.is_file() else 0  # in the cache's key: a new photo is shown at once
        return self._thumbnail(item_id, side, path, changed)

    def _draw_thumbnail(self, item_id: str, side: int, path: Path, changed: int) -> bytes:
        return to_jpeg(self.photo(item_id), side)

    def upload_jpeg(self, name: str, side: int) -> bytes:
        """Return a kept upload as JPEG, no side above ``side`` pixels; raises as ``Uploads.get``."""
        jpeg = self.uploads.get(name)
        return jpeg if side >= LARGEST else self._small_upload(name, side)

    def _draw_upload(self, name: str, side: int) -> bytes:
        return to_jpeg(load_image(self.uploads.get(name)), side)

    def caption(self, picture: Image.Image) -> str:
        """Return what a captioning model says about a picture."""
        captioner = self._loaded.captioner
        if captioner is None:
            raise NotFound("No captioning model is loaded; start the demo with --caption-model.")
        return self._models.run(lambda: captioner.caption([picture])[0].strip())

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
        person = make_person(photo, maps)
        drawn: Image.Image = self._models.run(lambda: self._tryon(person, garment, text, on_step=on_step))
        return drawn


def readable(text: str, name: str) -> str:
    """Return a text from outside, or say what is wrong with it.

    Raises:
        RequestError: half of a surrogate pair, which no encoding can hold, or NUL, which ends a text in other programs.
    """
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise RequestError(f"The {name} holds characters that are not text; leave them out.")
    return text


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
