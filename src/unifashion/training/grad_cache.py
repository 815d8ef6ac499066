"""Gradient caching: the step of a batch that is far too large for memory, with the gradients of the whole batch.

Contrastive losses compare every row with every other, but only through one short vector per row. So a step has four stages
(Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021):

    1. encode all rows, chunk by chunk, without gradients: their vectors
    2. compare the vectors: their losses, the gradient of every vector, and the hard negatives
    3. encode the chunks again, with gradients, and send the vectors' gradients through them (with the losses of single rows)
    4. pass over the pairs of the matching loss, chunk by chunk

The generators are reseeded for each chunk, so that stages 1 and 3 apply the same dropout masks. What a frozen tower computes
is computed once. Losses and gradients equal those of one pass to rounding, on any number of processes.
"""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unifashion.data.batches import Batch
from unifashion.distributed import gather, mean_gradients, world_size
from unifashion.errors import UserError
from unifashion.models.losses import matching_loss
from unifashion.seeding import seed_everything
from unifashion.training.tasks.contrastive import ContrastiveTask, ItmPairs
from unifashion.training.tasks.task import Losses, Position, Task

IMAGES = ("image", "reference", "target")


class GradCache:
    """Computes losses and gradients of one batch in chunks of ``chunk`` rows."""

    def __init__(self, task: Task, chunk: int, accelerator: Accelerator, is_sharded: bool) -> None:
        """Take the task itself, not wrapped by accelerate.

        Args:
            task: model and losses.
            chunk: rows in memory at once.
            accelerator: owns the precision and the accumulation of batches.
            is_sharded: whether the weights are spread over processes (FSDP).

        Raises:
            UserError: a task, a tower or a distribution that cannot be chunked.
        """
        if not isinstance(task, ContrastiveTask):
            raise UserError(f"--grad-cache-chunk has no effect on a {type(task).__name__}; leave it out")
        if is_sharded:
            raise UserError("--grad-cache-chunk and FSDP cannot be combined; use configs/accelerate/ddp.yaml")
        tower = task.network.vision
        if not tower.frozen and any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in tower.modules()):
            raise UserError(
                "--grad-cache-chunk: the image tower normalises over the batch, which chunks change; "
                "add --freeze-vision or leave it out"
            )
        self.task, self.chunk, self.accelerator = task, chunk, accelerator

    def backward(self, batch: Batch, position: Position) -> Losses:
        """Return the losses; their weighted gradients, of this process only, are added to the parameters'."""
        batch = self._with_tokens(batch)
        chunks = torch.arange(len(batch["product"]), device=batch["product"].device).split(self.chunk)
        vectors = self._encode(batch, chunks, position)
        seed_everything(*position)
        losses, pairs = self.task.contrastive_losses(vectors, batch) if vectors else ({}, None)
        if losses:
            self._share(losses).backward()
        for index, rows in enumerate(chunks):
            seed_everything(*position, index)
            part = _rows(batch, rows)
            with self.accelerator.autocast():
                features = self.task.encode(part)
                row_losses = self.task.row_losses(features, part)
            # The gradient of this sum is the chain rule: the loss' gradient of every vector, propagated through the pass that
            # computed it.
            parts = [(features.vectors[name] * _grad(vector)[rows]).sum() for name, vector in vectors.items()]
            total = self._share(row_losses)
            (torch.stack(parts).sum() + total if parts else total).backward()
            _accumulate(losses, row_losses)
        if pairs is not None:
            self._itm(batch, pairs, position, losses)
        return losses

    def share_gradients(self) -> None:
        """Average the gradients over all processes; called once per step, just before the optimiser."""
        if world_size() > 1:
            mean_gradients([p for p in self.task.parameters() if p.requires_grad])

    @torch.no_grad()
    def _with_tokens(self, batch: Batch) -> Batch:
        """Replace pixels by the tokens of a frozen tower."""
        tower = self.task.network.vision
        if not tower.frozen:
            return batch
        tokens = {}
        for name in IMAGES:
            if name in batch and batch[name].ndim == 4:
                with self.accelerator.autocast():
                    tokens[name] = torch.cat([tower(part) for part in batch[name].split(self.chunk)])
        return {**batch, **tokens}

    def _encode(self, batch: Batch, chunks: tuple[Tensor, ...], position: Position) -> dict[str, Tensor]:
        """Return the vectors of all rows, as leaf tensors that collect gradients."""
        parts: dict[str, list[Tensor]] = {}
        for index, rows in enumerate(chunks):
            seed_everything(*position, index)
            with torch.no_grad(), self.accelerator.autocast():
                features = self.task.encode(_rows(batch, rows))
            for name, vector in features.vectors.items():
                parts.setdefault(name, []).append(vector.float())
        return {name: torch.cat(vectors).requires_grad_() for name, vectors in parts.items()}

    def _itm(self, batch: Batch, pairs: ItmPairs, position: Position, losses: Losses) -> None:
        model = self.task.network
        images = gather(batch[self.task.matched_image])
        num_rows = len(batch["product"])
        first = self.accelerator.process_index * num_rows
        own_B = torch.arange(first, first + num_rows, device=images.device)
        image_R, label_R = torch.cat([own_B, pairs.wrong_image_I, own_B[pairs.text_row_T]]), pairs.labels()
        for index, part in enumerate(torch.arange(len(label_R), device=images.device).split(self.chunk)):
            seed_everything(*position, -1 - index)
            with self.accelerator.autocast():
                # A chunk of pairs shows the same image several times; it is read once.
                unique_images, row_of_pair = image_R[part].unique(return_inverse=True)
                memory = model.read_images(images[unique_images]).rows(row_of_pair)
                logits_R2 = model.match_logits(memory, pairs.ids_RL[part], pairs.mask_RL[part])
            itm = {"itm": matching_loss(logits_R2.float(), label_R[part], pairs.num_pairs)}
            self._share(itm).backward()
            _accumulate(losses, itm)

    def _share(self, losses: Losses) -> Tensor:
        """Return the weighted sum, as a share of the step that several batches may make up."""
        zero = torch.zeros((), device=self.task.network.temperature.device)
        total = sum((self.task.weights[name] * value.float() for name, value in losses.items()), zero)
        return total / self.accelerator.gradient_accumulation_steps


def _rows(batch: Batch, rows: Tensor) -> Batch:
    return {name: value[rows] if value.ndim else value for name, value in batch.items()}


def _grad(vector: Tensor) -> Tensor:
    return torch.zeros_like(vector) if vector.grad is None else vector.grad


def _accumulate(losses: Losses, more: Losses) -> None:
    for name, value in more.items():
        losses[name] = losses[name] + value.detach() if name in losses else value.detach()
