"""Training rows and batches: records become uint8 images, prepared texts, and ids that show what belongs together.

A batch is a dict of tensors:
    phase 1   image (B, 3, S, S) uint8, text_ids, text_mask (B, L)
    phase 2   reference, target (B, 3, S, S) uint8, text_ids, text_mask, and caption_ids, caption_mask where captions exist
    itg       answer_ids, answer_mask (B, L): the image's (in phase 2 the target's) text, in tokens of the language model
    q2i       drawing (B, 3, H, W) uint8: the image (in phase 2 the target) as it is drawn; prompt_ids (B, L): the row's words
    all       product (B,), text (B,): equal ids mean one product, one text (never negatives of one another);
              set (B,): which data set of a mixture a row comes from
and ``rows``, the indices of the requested rows, and ``broken``, a list of (path, reason): images that could not be
decoded. A row with a broken image is replaced by the next one, so that every process keeps its batch size; the trainer reports
what was replaced.

All randomness of a row comes from (seed, epoch, index): the number and order of workers and processes change nothing.
"""

import bisect
import hashlib
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from unifashion.data.datasets import spec_of
from unifashion.data.feedback import prepare_text
from unifashion.data.images import DrawingTransform, ImageTransform, load_image
from unifashion.data.records import ComposedQuery, ComposedSplit, ImageText
from unifashion.data.skipped import first_readable

Batch = dict[str, Any]
Row = dict[str, Any]
Tokenize = Callable[[list[str]], tuple[Tensor, Tensor]]
Load = Callable[[Path], Tensor]  # pixels (3, S, S) uint8, or tokens (N, W) of a feature cache


class Photos:
    """Loads images through one transform and, on request, keeps the pixels in memory."""

    def __init__(self, transform: ImageTransform | DrawingTransform, keep: bool = False) -> None:
        self.transform = transform
        self._kept: dict[Path, Tensor] | None = {} if keep else None

    def __call__(self, path: Path) -> Tensor:
        """Return (3, H, W) uint8.

        Raises:
            ImageError: the file is missing or broken.
        """
        if self._kept is not None and path in self._kept:
            return self._kept[path]
        pixels = self.transform(load_image(path))
        if self._kept is not None:
            self._kept[path] = pixels
        return pixels


@dataclass(frozen=True)
class PairRows:
    """Phase-1 rows: one photo and its product's text; with ``drawings`` also the photo as it is drawn."""

    pairs: Sequence[ImageText]
    photos: Load
    sizes: tuple[int, ...] = ()  # of the data sets that the pairs come from, one after the other; () = one set
    weights: tuple[float, ...] = ()  # how often an epoch passes over each of them
    drawings: Load | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def mixture(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return sizes and weights of the data sets in these rows."""
        return (self.sizes, self.weights) if self.sizes else ((len(self),), (1.0,))

    def images(self) -> list[Path]:
        """Return every image that the rows show."""
        return [pair.image for pair in self.pairs]

    def text_length(self, index: int) -> int:
        """Return the length of a row's text, in characters."""
        return len(self.pairs[index].text)

    def answer(self, index: int) -> str:
        """Return the caption that a language model learns from a row."""
        return self.pairs[index].text

    def row(self, index: int, _: random.Random) -> Row:
        """Return one row."""
        pair = self.pairs[index]
        words = prepare_text(pair.text)
        return {
            "image": self.photos(pair.image),
            "words": words,
            "answer": pair.text,
            "prompt": pair.text,
            "product": stable_id(pair.product),
            "text": stable_id(words),
            "set": bisect.bisect_right(list(itertools.accumulate(self.sizes)), index) if self.sizes else 0,
            **({"drawing": self.drawings(pair.image)} if self.drawings else {}),
        }


@dataclass(frozen=True)
class ComposedRows:
    """Phase-2 rows: reference, feedback, target and, where all have one, the target's caption; as drawn with ``drawings``."""

    splits: Sequence[ComposedSplit]
    photos: Load
    drawings: Load | None = None
    _rows: list[tuple[ComposedSplit, ComposedQuery, str]] = field(init=False, repr=False)
    _captioned: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = [(s, query, query.target) for s in self.splits for query in s.answerable() if query.target is not None]
        object.__setattr__(self, "_rows", rows)
        object.__setattr__(self, "_captioned", bool(rows) and all(target in s.captions for s, _, target in rows))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def captioned(self) -> bool:
        """Return whether every target has a caption."""
        return self._captioned

    def mixture(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return sizes and weights of the data sets in these rows: one set, once per epoch."""
        return (len(self),), (1.0,)

    def images(self) -> list[Path]:
        """Return every image that the rows show."""
        return [split.images[name] for split, query, target in self._rows for name in (query.reference, target)]

    def text_length(self, index: int) -> int:
        """Return the length of a row's feedback, in characters."""
        return sum(map(len, self._rows[index][1].feedback))

    def answer(self, index: int) -> str:
        """Return the caption of the target that a language model learns from a row, if there is one."""
        split, _, target = self._rows[index]
        return split.captions[target] if self._captioned else ""

    def row(self, index: int, rng: random.Random) -> Row:
        """Return one row; ``rng`` decides which feedback sentences are used, and in which order."""
        split, query, target = self._rows[index]
        words = prepare_text(spec_of(split.dataset).training_text(query.feedback, rng))
        row: Row = {
            "reference": self.photos(split.images[query.reference]),
            "target": self.photos(split.images[target]),
            "words": words,
            "prompt": words,
            "product": stable_id(target),
            "set": 0,
        }
        if self.drawings:
            row["drawing"] = self.drawings(split.images[target])
        if self._captioned:
            row["answer"] = split.captions[target]
            row["caption"] = prepare_text(row["answer"])
        return {**row, "text": stable_id(row.get("caption", words))}


class TrainingSet(Dataset[Row]):
    """Rows by (epoch, index), with broken images replaced by the next good row."""

    def __init__(self, rows: PairRows | ComposedRows, seed: int) -> None:
        self.rows = rows
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> Row:  # type: ignore[override]
        epoch, index = key

        def read(chosen: int) -> Row:
            return self.rows.row(chosen, random.Random(f"{self.seed}/{epoch}/{index}"))

        _, row, broken = first_readable(index, len(self.rows), read)
        return {**row, "broken": broken, "index": index}


def stable_id(name: str) -> int:
    """Return a 63-bit id for a name, the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def collate(
    rows: list[Row],
    tokenize: Tokenize,
    tokenize_answers: Tokenize | None = None,
    tokenize_prompts: Callable[[list[str]], Tensor] | None = None,
) -> Batch:
    """Stack rows into the batch described at the top of this module; texts are padded to the longest of the batch.

    Args:
        rows: of the data set.
        tokenize: the Q-Former's.
        tokenize_answers: that of a language model, for tasks with one.
        tokenize_prompts: that of a diffusion model, likewise.
    """
    images = [name for name in ("image", "reference", "target", "drawing") if name in rows[0]]
    batch: Batch = {name: torch.stack([row[name] for row in rows]) for name in images}
    batch["text_ids"], batch["text_mask"] = tokenize([row["words"] for row in rows])
    if "caption" in rows[0]:
        batch["caption_ids"], batch["caption_mask"] = tokenize([row["caption"] for row in rows])
    if tokenize_answers is not None and "answer" in rows[0]:
        batch["answer_ids"], batch["answer_mask"] = tokenize_answers([row["answer"] for row in rows])
    if tokenize_prompts is not None:
        batch["prompt_ids"] = tokenize_prompts([row["prompt"] for row in rows])
    for name in ("product", "text", "set"):
        batch[name] = torch.tensor([row[name] for row in rows])
    batch["broken"] = [entry for row in rows for entry in row["broken"]]
    batch["rows"] = [row["index"] for row in rows]
    return batch
