"""UNIStableVITON: put a garment (photo or sketch, and words) on a person. Losses noise and, in the second stage, atv.

The frozen parts (VAE, text encoder, the retrieval model's Q-Former) run in ``prepare``; what is wrapped by accelerate and trained
is the denoiser alone. All randomness of a row depends on the seed, the optimiser step and the row's position in the batch of all
processes: two processes take the steps of one with twice the rows. The dropout of a clip adapter is the exception.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unifashion.data.batches import Batch
from unifashion.models.weight_files import load_foreign, read_safetensors
from unifashion.seeding import seed_for
from unifashion.training.tasks.task import Losses, Position, Task
from unifashion.tryon.dataset import collate, collate_encoded, encode_batch
from unifashion.tryon.denoiser import Denoised, TryOnDenoiser
from unifashion.tryon.losses import attention_loss, denoise, draw, noise_loss, noise_schedule
from unifashion.tryon.pipeline import TryOnPipeline
from unifashion.tryon.qformer_context import QFORMER, QFormerContext
from unifashion.tryon.settings import TryOnTrainingSettings

MODEL, RETRIEVER = "model.", "retriever."


class TryOnTask(Task):
    """The denoiser of a pipeline with its losses."""

    losses = ("noise", "atv")
    model: TryOnDenoiser

    def __init__(
        self, pipe: TryOnPipeline, settings: TryOnTrainingSettings, context: QFormerContext | None, encoded: bool
    ) -> None:
        """Take a pipeline whose denoiser is already frozen where it must not train.

        Args:
            pipe: on the device.
            settings: batch size, weights of the losses.
            context: gives the rows of the Q-Former; not needed for encoded rows.
            encoded: whether the rows are latents already (``dataset.LatentCache``).
        """
        super().__init__(pipe.denoiser, {"noise": 1.0, "atv": settings.atv_weight})
        self.pipe, self.settings, self.context, self.encoded = pipe, settings, context, encoded
        self.schedule = noise_schedule(pipe.scheduler)
        self.retriever = context.model if context is not None and context.trains else None

    @property
    def uses_all_parameters(self) -> bool:
        """Not where the Q-Former trains: what the query rows do not depend on, such as its text's last layer, is idle."""
        return self.retriever is None

    def train(self, mode: bool = True) -> "TryOnTask":
        """Follow the mode; the retrieval model stays in evaluation mode, also where its Q-Former trains."""
        super().train(mode)
        if self.retriever is not None:
            self.retriever.eval()
        return self

    def collate(self, rows: list[Any]) -> Batch:
        """See ``tryon.dataset``."""
        return collate_encoded(rows) if self.encoded else collate(rows)

    def prepare(self, batch: Batch, position: Position) -> Batch:
        """Return latents, masks and text states, and everything that is drawn at random for them."""
        if not self.encoded:
            batch = encode_batch(self.pipe, batch, self.pipe.device, self.context)
        generators = self._generators(position, len(batch["image"]))
        batch["drawn"] = draw(batch, self.pipe.vae, self.settings.unconditional_drop, generators)
        return batch

    def _generators(self, position: Position, count: int) -> list[torch.Generator]:
        step, part = divmod(position.batch, self.settings.accumulation_steps)
        first = position.rank * self.settings.batch_size
        seeds = (seed_for(position.seed, "step", step, part, first + row) for row in range(count))
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def encode(self, batch: Batch) -> Denoised:
        """Predict the noise; where the Q-Former trains, after its pass over the garment and its words."""
        if self.context is not None and "query_inputs" in batch:
            batch = {**batch, "query_rows": self.context.rows(*batch["query_inputs"])}
        return denoise(self.model, self.schedule, batch, self.weights["atv"] > 0, self.pipe.text_encoder)

    def losses_of(self, features: Denoised, batch: Batch) -> Losses:
        """Return ``noise`` and, with a weight for it, ``atv`` (before the weight)."""
        losses = {"noise": noise_loss(features, self.schedule, batch["drawn"])}
        if self.weights["atv"] > 0:
            losses["atv"] = attention_loss(features, batch["warped_mask"])
        return losses

    def write(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write the pipeline with these weights of the denoiser and, if it trains, the Q-Former."""
        denoiser = {name.removeprefix(MODEL): tensor for name, tensor in weights.items() if name.startswith(MODEL)}
        learning = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        qformer = {name.removeprefix(RETRIEVER): weights[name] for name in learning if name.startswith(RETRIEVER)}
        self.pipe.save_with(folder, denoiser, qformer)

    def read_weights(self, folder: Path) -> dict[str, Tensor]:
        """Read the denoiser of a pipeline folder, and the retrieval model if it trains: what did not is as it was loaded."""
        denoiser = load_foreign(TryOnDenoiser, folder, subfolder="denoiser").state_dict()
        weights = {f"{MODEL}{name}": tensor for name, tensor in denoiser.items()}
        if self.retriever is not None:
            retriever = {**self.retriever.state_dict(), **read_safetensors(folder / QFORMER)}
            weights |= {f"{RETRIEVER}{name}": tensor for name, tensor in retriever.items()}
        return weights
