"""Search an index by words, by images, or by images and what should be different about them.

    retriever = Retriever.from_index("runs/index")
    for hit in retriever.search("red floral dress", k=5, filter="price < 50"):
        print(hit.score, hit.id, hit.image, hit.metadata)

Every query becomes one vector, and an item's score is the highest product of that vector with one of the item's Q vectors, as in
training (``models.losses.best_query_scores``). What the vector is depends on the query and on what the model was trained for:

    words             the text's vector. A blip2_cir_rerank (phase 2) was not trained on words alone; the log says so once.
    images and words  phase 2: the composed vector of image and feedback; of several references, the mean of theirs.
                      Phase 1 was not trained on it: the sum of the text's and the images' vector; the log says so once.
    images            the mean of all their vectors.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import logging as transformers_logging

from unifashion.data.feedback import prepare_text
from unifashion.data.images import ImageError, open_image
from unifashion.encoders.protocol import Encoder, Picture
from unifashion.encoders.unifashion import load_encoder
from unifashion.errors import UserError
from unifashion.search.ann import Searcher
from unifashion.search.build import check_model
from unifashion.search.exact import Found, Wanted
from unifashion.search.filters import Mask
from unifashion.search.index import CONFIG, Index, IndexReplaced
from unifashion.search.items import Snapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hit:
    """One answer. ``score`` is that of the vectors, even where the matching head decided the order."""

    id: str
    score: float
    image: Path
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Query:
    """What ``Retriever.search`` is asked."""

    text: str = ""
    images: Sequence[Picture] = ()
    k: int = 10
    filter: str | None = None
    rerank: int = 0


@dataclass(frozen=True)
class _Read:
    """Words and images of a query; ``composed``: the model reads them together."""

    text: str
    images: Sequence[Picture]
    composed: bool


def _images_of(queries: Sequence[_Read]) -> list[Picture]:
    return [image for query in queries for image in query.images]


def _fault(images: Sequence[Picture]) -> ImageError | None:
    """Return what is wrong with the first image that cannot be read."""
    for image in images:
        try:
            open_image(image)
        except ImageError as error:
            return error
    return None


class Retriever:
    """An index and the model that made it."""

    def __init__(self, index: Index, model: Encoder, searcher: Searcher | None = None) -> None:
        """Take an index and the model that made it, which the caller has checked (``check_model``)."""
        self.model = model
        self._opened = index, searcher or Searcher(index)
        self._fingerprint = index.config.fingerprint
        self._warnings: set[str] = set()

    @classmethod
    def from_index(
        cls,
        folder: str | Path,
        device: str | None = None,
        uri: str | None = None,
        model: str | Path | None = None,
        exact: bool = False,
    ) -> "Retriever":
        """Open an index and load its model.

        Args:
            folder: what ``unifashion index`` wrote.
            device: as torch names it; default: the GPU where there is one.
            uri: where Milvus is now, if not where it was when the index was put into it.
            model: where the model is now, if not where it was when the index was made.
            exact: search exactly even if there is an ANN index (search/ann.py).

        Raises:
            UserError: no index there, a model that is gone, or one that did not make this index.
        """
        transformers_logging.set_verbosity_error()
        index = Index.open(folder)
        searcher = Searcher(index, uri, exact)
        name = str(model or index.config.model)
        encoder = load_encoder(name, device)
        check_model(index, encoder, name)
        return cls(index, encoder, searcher)

    @property
    def index(self) -> Index:
        """Return the index, which is another one after a search that found it made again."""
        return self._opened[0]

    def search(
        self,
        text: str | None = None,
        images: Sequence[Picture] = (),
        k: int = 10,
        filter: str | None = None,
        rerank: int = 0,
    ) -> list[Hit]:
        """Return the best ``k`` items, best first; fewer where fewer match the filter.

        >>> [hit.metadata["category"] for hit in retriever.search("a red dress", k=2, filter="category == 'shirt'")]
        ['shirt', 'shirt']
        >>> len(retriever.search("is longer", images=["front.png"], k=5))
        5

        Args:
            text: words; with images: what should be different about them.
            images: references, as files or Pillow images.
            k: how many.
            filter: a condition on their metadata (search/filters.py).
            rerank: re-order this many of the best by score + matching logit of the words with the image.

        Raises:
            UserError: nothing to look for, a filter that cannot be read, ``rerank`` without words.
            ImageError: a reference that cannot be read.
            IndexReplaced: the index was deleted, or made again by another model; ``from_index`` opens the new one.
        """
        (answer,) = self.search_all([Query(text or "", images, k, filter, rerank)])
        if isinstance(answer, UserError):
            raise answer
        return answer

    def search_all(self, queries: Sequence[Query]) -> list[list[Hit] | UserError]:
        """Answer every query as ``search`` does, with one pass of the model for all; the answer to one that fails is its error.

        Scores may differ from those of single queries in the seventh digit: a batch sums in another order.
        """
        searcher = self._refreshed()
        snapshot = searcher.index.snapshot
        answers: dict[int, list[Hit] | UserError] = {}
        asked: dict[int, tuple[_Read, Mask | None]] = {}
        for row, query in enumerate(queries):
            try:
                asked[row] = self._prepare(query, snapshot)
            except UserError as error:
                answers[row] = error
        vectors = self._embed_readable(asked, answers)
        wanted = [
            Wanted(query_D, max(queries[row].k, queries[row].rerank), mask)
            for (row, (_, mask)), query_D in zip(asked.items(), vectors, strict=True)
        ]
        for row, found in zip(asked, searcher.search_all(wanted, snapshot), strict=True):
            answers[row] = self._hits(queries[row], found, snapshot)
        return [answers[row] for row in range(len(queries))]

    def embed_query(self, text: str, images: Sequence[Picture] = ()) -> Tensor:
        """Return the vector (D,) of a query, of unit length, on the CPU; raises as ``search``."""
        return self._embed([self._read(text, images)])[0]

    def _prepare(self, query: Query, snapshot: Snapshot) -> tuple[_Read, Mask | None]:
        """Return what to embed and which rows to search; it needs no model, so that a query with an error costs nothing."""
        k, rerank, words = query.k, query.rerank, query.text.strip()
        if k < 1 or rerank < 0:
            raise UserError(f"k must be at least 1 and rerank at least 0, got {k} and {rerank}")
        if rerank and not words:
            raise UserError("rerank compares words with images: give words too, or leave it out")
        mask = snapshot.select(query.filter)
        return self._read(words, query.images), mask

    def _read(self, text: str, images: Sequence[Picture]) -> _Read:
        if not text and not images:
            raise UserError("nothing to search for: give words, an image, or both")
        for remark in self.remarks(text) if text else ():
            log.warning("%s", remark)
        composes = self.model.composes
        if text and not images and composes:
            self._warn_once(
                f"a {self.model.name} was trained on images with feedback, not on words alone; a blip2_cir_cls was"
            )
        if text and images and not composes:
            self._warn_once(
                f"a {self.model.name} was not trained on images with feedback, so words and image are added up; "
                "a blip2_cir_rerank reads them together"
            )
        return _Read(text, images, composed=bool(images and text and composes))

    def _embed_readable(
        self, asked: dict[int, tuple[_Read, Mask | None]], answers: dict[int, list[Hit] | UserError]
    ) -> list[Tensor]:
        """Return the vectors of queries; those with an image that cannot be read move from ``asked`` to ``answers``.

        The model opens images one at a time, in the size that it needs: a list of large photos would not fit into memory.
        """
        try:
            return self._embed([read for read, _ in asked.values()])
        except ImageError:
            faults = {row: fault for row, (read, _) in asked.items() if (fault := _fault(read.images))}
            if not faults:
                raise
        answers.update(faults)
        for row in faults:
            del asked[row]
        return self._embed_readable(asked, answers)

    def _embed(self, queries: Sequence[_Read]) -> list[Tensor]:
        """Return the vectors (D,) of queries; the model reads all words, all images, and all that it composes, each together."""
        composed = [query for query in queries if query.composed]
        apart = [query for query in queries if not query.composed]
        feedback = [query.text for query in composed for _ in query.images]
        images, texts = _images_of(apart), [query.text for query in apart if query.text]
        fused = iter(self.model.embed_queries(feedback, _images_of(composed)) if feedback else ())
        image = iter(self.model.embed_images(images) if images else ())
        text = iter(self.model.embed_texts(texts) if texts else ())
        vectors = []
        for query in queries:
            own = list(islice(fused if query.composed else image, len(query.images)))
            # All parts have unit length, so that words and images count alike, however many images there are.
            parts = [F.normalize(torch.stack(own).flatten(0, -2).mean(dim=0), dim=0)] if own else []
            parts += [next(text)] if query.text and not query.composed else []
            vectors.append(parts[0] if query.composed else F.normalize(torch.stack(parts).sum(dim=0), dim=0))
        return vectors

    def _hits(self, query: Query, found: Found | UserError, snapshot: Snapshot) -> list[Hit] | UserError:
        if isinstance(found, UserError):
            return found
        items = map(snapshot.item, found[0])
        hits = [Hit(item.id, score, item.image, item.metadata) for item, score in zip(items, found[1], strict=True)]
        try:
            return (self._rerank(query.text.strip(), hits, query.rerank) if query.rerank else hits)[: query.k]
        except UserError as error:  # a photo that cannot be read any more
            return error

    def _refreshed(self) -> Searcher:
        """Return the searcher of the index as it is now: of another ``Index`` if the same model has made it again."""
        index, searcher = self._opened
        try:
            index.refresh()
        except IndexReplaced:
            if not (index.folder / CONFIG).is_file():
                raise
            index = Index.open(index.folder)
            if index.config.fingerprint != self._fingerprint:
                config = index.config
                raise IndexReplaced(
                    f"{index.folder} was made again by another model ({config.model_name} at {config.model}); open it again"
                ) from None
            searcher = Searcher(index, searcher.uri, searcher.exact)
            self._opened = index, searcher
        return searcher

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self._warnings:
            self._warnings.add(sentence)
            log.warning("%s", sentence)

    def remarks(self, text: str) -> list[str]:
        """Return which of a query's words the model cannot read, as sentences.

        Raises:
            UserError: there are no words in the text.
        """
        if not prepare_text(text).split():
            raise UserError(f"there are no words in {text[:40]!r}; describe what you look for")
        return self.model.remarks(text)

    def _rerank(self, words: str, hits: list[Hit], rerank: int) -> list[Hit]:
        best, rest = hits[:rerank], hits[rerank:]
        logits = self.model.match(words, [hit.image for hit in best]).tolist()
        order = sorted(range(len(best)), key=lambda row: -(best[row].score + logits[row]))
        return [best[row] for row in order] + rest
