"""Training rows of try-on: the order of the items, their pixels, and latents that are computed once.

The order is a function of the seed and of the index of a row since the start of training: row ``p`` is item ``p mod N`` of the
permutation of its epoch, augmented by draws of its own. A run that was stopped and resumed thus sees the same rows. An item with
a damaged file is replaced by the next one, and the trainer reports it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from unifashion.data.images import ImageError
from unifashion.data.skipped import first_readable
from unifashion.data.tryon import TryOnItem
from unifashion.seeding import seed_for
from unifashion.tryon import encode
from unifashion.tryon.maps import Maps, augment_maps, load_maps, to_share, to_unit
from unifashion.tryon.pipeline import TryOnPipeline
from unifashion.tryon.qformer_context import QFormerContext
from unifashion.tryon.settings import Control, TryOnTrainingSettings

IMAGES = ("image", "agnostic", "densepose", "control")
Batch = dict[str, Any]


def map_names(control: Control, warped_mask: bool = False) -> tuple[str, ...]:
    """Return the maps that training needs."""
    return ("image", "agnostic", "densepose", "keep", control, *(("warped_mask",) if warped_mask else ()))


def needed_files(names: Sequence[str]) -> tuple[str, ...]:
    """Return the files that these maps are made from, under the names of ``read_vitonhd``."""
    return tuple("agnostic_mask" if name == "keep" else name for name in names)


class TryOnRows(Dataset[Batch]):
    """Row ``p`` of training: maps (uint8), text, the item's index, and (path, reason) of files that could not be used."""

    def __init__(
        self, items: Sequence[TryOnItem], names: Sequence[str], size: tuple[int, int], settings: TryOnTrainingSettings
    ) -> None:
        self.items, self.names, self.size, self.settings = items, names, size, settings
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def item_index(self, row: int) -> int:
        """Return the index of the item that row ``p`` of training shows."""
        epoch, position = divmod(row, len(self.items))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_for(self.settings.seed, "order", epoch))
            self._epoch, self._order = epoch, torch.randperm(len(self.items), generator=generator)
        return int(self._order[position])

    def __getitem__(self, row: int) -> Batch:
        index, maps, broken = self.readable(self.item_index(row))
        chosen = self.settings
        generator = torch.Generator().manual_seed(seed_for(chosen.seed, "augment", row))
        maps = augment_maps(maps, generator, chosen.flip, chosen.colour, chosen.move)
        return {"maps": maps, "text": self.items[index].text, "index": index, "broken": broken}

    def readable(self, index: int) -> tuple[int, Maps, list[tuple[Path, str]]]:
        """Return the maps of an item, or of the next one that can be read; see ``first_readable``."""
        return first_readable(index, len(self.items), self.load)

    def load(self, index: int) -> Maps:
        """Return the maps of an item, not augmented.

        Raises:
            ImageError: a file that cannot be used.
        """
        return load_maps(self.items[index], self.names, *self.size)


def collate(rows: list[Batch]) -> Batch:
    """Stack rows."""
    names = rows[0]["maps"]
    maps = {name: torch.stack([row["maps"][name] for row in rows]) for name in names}
    return {"maps": maps, "text": [row["text"] for row in rows], **_shown(rows)}


def _shown(rows: list[Batch]) -> Batch:
    """Return the items of a batch, and the files that could not be used."""
    return {"rows": [row["index"] for row in rows], "broken": [entry for row in rows for entry in row["broken"]]}


class RowSampler(Sampler[list[int]]):
    """The batches of one process; batch ``k`` of all processes together is one contiguous range of rows.

    A training counted in steps is one long epoch, whose order ``TryOnRows`` knows; see ``training.trainer.BatchSampler``.
    """

    def __init__(self, batch_size: int, steps: int, accumulation_steps: int = 1, rank: int = 0, world: int = 1) -> None:
        self.batch_size, self.rank, self.world = batch_size, rank, world
        self.steps_per_epoch, self.batches_per_epoch = steps, steps * accumulation_steps
        self.epoch, self.start = 0, 0

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.start, self.batches_per_epoch):
            first = (batch * self.world + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))

    def __len__(self) -> int:
        return self.batches_per_epoch


@torch.no_grad()
def encode_batch(
    pipe: TryOnPipeline, batch: Batch, device: torch.device, context: QFormerContext | None = None
) -> Batch:
    """Return the inputs of the loss: posteriors of the images, masks, words and Q-Former rows, on the device."""
    maps = {name: pixels.to(device, non_blocking=True) for name, pixels in batch["maps"].items()}
    names = [*IMAGES[:-1], pipe.denoiser.config.control]
    encoded: Batch = {
        name: encode.posterior(pipe.vae, to_unit(maps[source])) for name, source in zip(IMAGES, names, strict=True)
    }
    encoded |= {name: to_share(maps[name]) for name in ("keep", "warped_mask") if name in maps}
    if context is not None:
        shown = batch["maps"][names[-1]], batch["text"]
        if context.trains:
            encoded["query_inputs"] = context.inputs(*shown)
        else:
            encoded["query_rows"] = context(*shown)
    encoded["text"] = pipe.words(batch["text"], context.num_rows if context is not None else 0).to(device)
    return encoded


class LatentCache(Dataset[Batch]):
    """The rows of ``TryOnRows`` without ``colour`` and ``move``, already encoded: every item and its mirror image, once."""

    def __init__(
        self,
        rows: TryOnRows,
        pipe: TryOnPipeline,
        device: torch.device,
        context: QFormerContext | None = None,
        progress: bool = True,
    ) -> None:
        self.rows = rows
        self.flips = 2 if rows.settings.flip else 1
        self._parts: list[list[Batch] | tuple[Path, str]] = []
        for index in tqdm(range(len(rows.items)), desc="encoding", disable=not progress, dynamic_ncols=True):
            try:
                maps, text = rows.load(index), rows.items[index].text
            except ImageError as error:
                self._parts.append((error.path, error.reason))
                continue
            parts: list[Batch] = []
            for flip in range(self.flips):
                shown = {name: pixels.flip(-1) if flip else pixels for name, pixels in maps.items()}
                batch = {"maps": {name: pixels[None] for name, pixels in shown.items()}, "text": [text]}
                parts.append(
                    {name: value[0].cpu() for name, value in encode_batch(pipe, batch, device, context).items()}
                )
            self._parts.append(parts)

    def __getitem__(self, row: int) -> Batch:
        index, parts, broken = first_readable(self.rows.item_index(row), len(self._parts), self._load)
        generator = torch.Generator().manual_seed(seed_for(self.rows.settings.seed, "augment", row))
        flip = self.flips == 2 and float(torch.rand(1, generator=generator)) < 0.5
        return {**parts[flip], "index": index, "broken": broken}

    def _load(self, index: int) -> list[Batch]:
        parts = self._parts[index]
        if isinstance(parts, tuple):
            raise ImageError(*parts)
        return parts


def collate_encoded(rows: list[Batch]) -> Batch:
    """Stack rows of a ``LatentCache``."""
    names = [name for name, value in rows[0].items() if isinstance(value, Tensor)]
    return {**{name: torch.stack([row[name] for row in rows]) for name in names}, **_shown(rows)}
