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
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import logging as transformers_logging

from unifashion.data.feedback import MAX_WORDS, prepare_text
from unifashion.data.images import open_image
from unifashion.encoders.embedder import Embedder, Picture
from unifashion.encoders.unifashion import UniFashion
from unifashion.errors import UserError
from unifashion.models.presets import VARIANTS
from unifashion.search.build import check_model
from unifashion.search.index import Index
from unifashion.search.nearest import Finder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hit:
    """An item that was found. ``score`` is that of the vectors, also where the matching head gave the order."""

    id: str
    score: float
    image: Path
    metadata: dict[str, Any]


class Retriever:
    """An index and the model that made it."""

    def __init__(self, index: Index, model: UniFashion, finder: Finder | None = None) -> None:
        """Take an index and the model that made it, which the caller has checked (``check_model``)."""
        self.index, self.model = index, model.eval()
        self._finder = finder or Finder(index)
        self._embedder = Embedder(model, batch_size=32, progress=False)
        self._told: set[str] = set()

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
            exact: search exactly also where there is an ANN index (search/nearest.py).

        Raises:
            UserError: no index there, a model that is gone, or one that did not make this index.
        """
        transformers_logging.set_verbosity_error()
        index = Index.open(folder)
        finder = Finder(index, uri, exact)
        name = str(model or index.about.model)
        loaded = UniFashion.from_pretrained(name)
        check_model(index, loaded, name)
        return cls(index, loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), finder)

    def search(
        self,
        text: str | None = None,
        images: Sequence[Picture] = (),
        k: int = 10,
        filter: str | None = None,
        rerank: int = 0,
    ) -> list[Hit]:
        """Return the best ``k`` items, best first; less where less fit the filter.

        >>> [hit.metadata["category"] for hit in retriever.search("a red dress", k=2, filter="category == 'shirt'")]
        ['shirt', 'shirt']
        >>> len(retriever.search("is longer", images=["front.png"], k=5))
        5

        Args:
            text: words; with images: what should be different about them.
            images: references, as files or Pillow images.
            k: how many.
            filter: what their metadata must be (search/filters.py).
            rerank: put this many of the best into the order of score + matching logit of the words with the image.

        Raises:
            UserError: nothing to look for, a filter that cannot be read, ``rerank`` without words.
            ImageError: a reference that cannot be read.
        """
        if k < 1 or rerank < 0:
            raise UserError(f"k must be at least 1 and rerank at least 0, got {k} and {rerank}")
        words = (text or "").strip()
        if rerank and not words:
            raise UserError("rerank compares words with images: give words too, or leave it out")
        snapshot = self.index.refresh()
        _, mask = snapshot.select(filter)
        query_D = self.embed_query(words, images)
        rows, scores = self._finder.find(query_D, max(k, rerank), mask)
        hits = [
            Hit(item.id, score, item.image, item.metadata)
            for item, score in zip(map(snapshot.item, rows), scores, strict=True)
        ]
        return (self._reranked(words, hits, rerank) if rerank else hits)[:k]

    def embed_query(self, text: str, images: Sequence[Picture] = ()) -> Tensor:
        """Return the vector (D,) of a query, of unit length, on the CPU; raises as ``search``."""
        if not text and not images:
            raise UserError("nothing to search for: give words, an image, or both")
        for remark in self.remarks(text) if text else ():
            log.warning("%s", remark)
        opened = [open_image(image) for image in images]
        name = self.model.config.model_name
        composes = VARIANTS[name].has_prompt_tokens
        if text and not opened and composes:
            self._tell_once(f"a {name} was trained on images with feedback, not on words alone; a blip2_cir_cls was")
        if text and opened and not composes:
            self._tell_once(
                f"a {name} was not trained on images with feedback, so words and image are added up; "
                "a blip2_cir_rerank reads them together"
            )
        if opened and text and composes:
            fused_QD = self._embedder.composed(opened, [text] * len(opened))
            return F.normalize(fused_QD.mean(dim=0), dim=0)
        parts = []
        if opened:
            image_GVD = self._embedder.pictures(opened)
            parts.append(F.normalize(image_GVD.flatten(0, 1).mean(dim=0), dim=0))
        if text:
            parts.append(self._embedder.texts([text])[0])
        return F.normalize(torch.stack(parts).sum(dim=0), dim=0)

    def _tell_once(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            log.warning("%s", sentence)

    def remarks(self, text: str) -> list[str]:
        """Return what the model cannot read of a query's words, as sentences.

        Raises:
            UserError: there are no words in the text.
        """
        words = prepare_text(text, max_words=10**9).split()
        if not words:
            raise UserError(f"there are no words in {text[:40]!r}; describe what you look for")
        tokenizer = self.model.tokenizer
        assert tokenizer is not None
        found = []
        if len(words) > MAX_WORDS:
            found.append(f"the text has {len(words)} words; the model reads the first {MAX_WORDS}")
        ids, _ = self.model.tokenize([prepare_text(text)])
        special = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
        if {int(token) for token in ids[0]} - special <= {tokenizer.unk_token_id}:
            found.append(f"the model knows none of the words in {text[:40]!r}: what it finds is arbitrary")
        return found

    def _reranked(self, words: str, hits: list[Hit], rerank: int) -> list[Hit]:
        best, rest = hits[:rerank], hits[rerank:]
        pairs_P2 = torch.tensor([[0, row] for row in range(len(best))]).view(-1, 2)
        logits = self._embedder.match([words], [hit.image for hit in best], pairs_P2).tolist()
        order = sorted(range(len(best)), key=lambda row: -(best[row].score + logits[row]))
        return [best[row] for row in order] + rest
