"""What the trainer requires of a task, and the base of every task: a network and its named losses.

The trainer owns epochs, accumulation, distribution, schedule, logging, checkpoints and resume. A task owns which passes run and
which losses come out:

    rows of the data set -> collate -> batch -> (device) -> prepare -> encode -> losses_of -> {"itc": ..., "itm": ...}

``encode`` holds the passes whose result for a row depends on that row alone; ``losses_of`` may compare rows. The gradient cache
splits a task at this seam.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unifashion.data.augment import augment
from unifashion.data.batches import Batch
from unifashion.data.images import normalise
from unifashion.seeding import seed_for

Losses = dict[str, Tensor]


class Position(NamedTuple):
    """Where a batch is in a run. All randomness in a batch is seeded from it, so that a resumed run draws the same."""

    seed: int
    epoch: int
    batch: int
    rank: int


class Task(nn.Module):
    """A network with its losses.

    Attributes:
        losses: names of the losses, in the order in which they are printed; some may be absent from a batch.
        model: the network that is trained; its weights are named ``model.*`` in the task's ``state_dict``.
        weights: weight of each loss in the sum; 1 without a setting.
    """

    losses: tuple[str, ...]

    def __init__(self, model: nn.Module, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.model = model
        self.weights = {name: float(weights.get(name, 1.0)) for name in self.losses}

    @property
    def uses_all_parameters(self) -> bool:
        """Return whether every trained parameter takes part in every step (if not, DDP must look for the idle ones)."""
        return True

    def collate(self, rows: list[Any]) -> Batch:
        """Stack rows of the data set into a batch; runs in the loader's processes."""
        raise NotImplementedError

    def prepare(self, batch: Batch, position: Position) -> Batch:
        """Return the batch, which is on the device already, as ``encode`` takes it; without gradients."""
        raise NotImplementedError

    def encode(self, batch: Batch) -> Any:
        """Run the passes over single rows."""
        raise NotImplementedError

    def losses_of(self, features: Any, batch: Batch) -> Losses:
        """Return the losses of what ``encode`` returned."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Losses:
        """Return the losses of a batch; accelerate wraps this call."""
        return self.losses_of(self.encode(batch), batch)

    def total(self, losses: Losses) -> Tensor:
        """Return the weighted sum of losses, in float32."""
        return torch.stack([self.weights[name] * value.float() for name, value in losses.items()]).sum()

    def write(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write the model into a folder that ``from_pretrained`` reads; ``weights`` as in the task's ``state_dict``."""
        raise NotImplementedError

    def read_weights(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights that ``write`` put into a folder, named as in the task's ``state_dict``."""
        raise NotImplementedError


@torch.no_grad()
def prepare_images(batch: Batch, position: Position, augment_images: bool) -> Batch:
    """Augment and normalise the photos of a batch, on the device; what comes from a feature cache stays as it is."""
    generator = torch.Generator().manual_seed(seed_for("augment", *position))
    for name in ("image", "reference", "target"):
        if name in batch and batch[name].dtype == torch.uint8:
            batch[name] = normalise(augment(batch[name], generator) if augment_images else batch[name])
    return batch
