"""Gradient caching: the step of a batch that is far too large for memory, with the gradients of the whole batch.

Contrastive losses compare every row with every other, but only through one short vector a row. So a step takes four turns
(Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021):

    1. read all rows, chunk by chunk, without gradients: their vectors
    2. compare the vectors: losses, the gradient of every vector, and the hard negatives
    3. read the chunks again, with gradients, and send the vectors' gradients through them (with the captioning loss)
    4. pass over the pairs of the matching loss, chunk by chunk

Chance in a chunk starts from the chunk's own number, so turns 1 and 3 drop out the same. What a frozen tower says is computed
once. Losses and gradients equal those of one pass to rounding, on any number of processes.
"""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unifashion.data.batches import Batch
from unifashion.distributed import gather, mean_gradients, world_size
from unifashion.errors import UserError
from unifashion.models.losses import matching_loss
from unifashion.seeding import seed_everything
from unifashion.training.tasks import ContrastiveTask, Losses, Pairs, Task

IMAGES = ("image", "reference", "target")


class GradCache:
    """Computes losses and gradients of one batch in chunks of ``chunk`` rows."""

    def __init__(
        self, task: Task, chunk: int, accelerator: Accelerator, weight: Callable[[str], float], is_sharded: bool
    ) -> None:
        """Take the task as it is, not as accelerate wraps it.

        Args:
            task: model and losses.
            chunk: rows in memory at once.
            accelerator: owns the precision and the accumulation of batches.
            weight: of a named loss.
            is_sharded: whether the weights are spread over processes (FSDP).

        Raises:
            UserError: a task, a tower or a distribution that cannot be taken apart.
        """
        if not isinstance(task, ContrastiveTask):
            raise UserError(f"--grad-cache-chunk does nothing for {task.model.config.model_name}; leave it away")
        if is_sharded:
            raise UserError("--grad-cache-chunk and FSDP exclude each other; use configs/accelerate/ddp.yaml")
        tower = task.model.vision
        if not tower.frozen and any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in tower.modules()):
            raise UserError(
                "--grad-cache-chunk: the image tower normalises over the batch, which chunks change; "
                "add --freeze-vision or leave it away"
            )
        self.task, self.chunk, self.accelerator, self.weight = task, chunk, accelerator, weight

    def backward(self, batch: Batch, key: tuple[int, ...]) -> Losses:
        """Return the losses; their weighted gradients are added to the parameters, those of this process alone.

        ``key`` is what chance in this batch depends on.
        """
        batch = self._with_tokens(batch)
        num_targets = self.task.count_targets(batch)
        chunks = torch.arange(len(batch["product"]), device=batch["product"].device).split(self.chunk)
        vectors = self._read(batch, chunks, num_targets, key)
        seed_everything(*key)
        losses, pairs = self.task.compare(vectors, batch)
        self._add_up(losses).backward()
        for number, rows in enumerate(chunks):
            seed_everything(*key, number)
            with self.accelerator.autocast():
                reading = self.task.read(_rows(batch, rows), num_targets)
            parts = [(reading.features[name] * _grad(vector)[rows]).sum() for name, vector in vectors.items()]
            (torch.stack(parts).sum() + self._add_up(reading.losses)).backward()
            _accumulate(losses, reading.losses)
        self._match(batch, pairs, key, losses)
        return losses

    def share_gradients(self) -> None:
        """Let every process have the mean of all processes' gradients; called once a step, before it."""
        if world_size() > 1:
            mean_gradients([p for p in self.task.parameters() if p.requires_grad])

    @torch.no_grad()
    def _with_tokens(self, batch: Batch) -> Batch:
        """Replace pixels by what a frozen tower says about them."""
        tower = self.task.model.vision
        if not tower.frozen:
            return batch
        tokens = {}
        for name in IMAGES:
            if name in batch and batch[name].ndim == 4:
                with self.accelerator.autocast():
                    tokens[name] = torch.cat([tower(part) for part in batch[name].split(self.chunk)])
        return {**batch, **tokens}

    def _read(
        self, batch: Batch, chunks: tuple[Tensor, ...], num_targets: Tensor | None, key: tuple[int, ...]
    ) -> dict[str, Tensor]:
        """Return the vectors of all rows, as leaves that gradients arrive at."""
        parts: dict[str, list[Tensor]] = {}
        for number, rows in enumerate(chunks):
            seed_everything(*key, number)
            with torch.no_grad(), self.accelerator.autocast():
                reading = self.task.read(_rows(batch, rows), num_targets)
            for name, vector in reading.features.items():
                parts.setdefault(name, []).append(vector.float())
        return {name: torch.cat(vectors).requires_grad_() for name, vectors in parts.items()}

    def _match(self, batch: Batch, pairs: Pairs, key: tuple[int, ...], losses: Losses) -> None:
        model = self.task.model
        images = gather(batch[self.task.matched_image])
        num_rows = len(batch["product"])
        first = self.accelerator.process_index * num_rows
        own_B = torch.arange(first, first + num_rows, device=images.device)
        image_R, label_R = torch.cat([own_B, pairs.wrong_image_I, own_B[pairs.text_row_T]]), pairs.labels()
        for number, part in enumerate(torch.arange(len(label_R), device=images.device).split(self.chunk)):
            seed_everything(*key, -1 - number)
            with self.accelerator.autocast():
                different, place = image_R[part].unique(return_inverse=True)
                memory = model.read_images(images[different]).rows(place)
                logits_R2 = model.match_logits(memory, pairs.ids_RL[part], pairs.mask_RL[part])
            itm = {"itm": matching_loss(logits_R2.float(), label_R[part], pairs.num_pairs)}
            self._add_up(itm).backward()
            _accumulate(losses, itm)

    def _add_up(self, losses: Losses) -> Tensor:
        """Return the weighted sum, as a share of the step that several batches may make up."""
        total = sum((self.weight(name) * value.float() for name, value in losses.items()), self._zero())
        return total / self.accelerator.gradient_accumulation_steps

    def _zero(self) -> Tensor:
        return torch.zeros((), device=self.task.model.temperature.device)


def _rows(batch: Batch, rows: Tensor) -> Batch:
    return {name: value[rows] for name, value in batch.items() if isinstance(value, Tensor)}


def _grad(vector: Tensor) -> Tensor:
    return torch.zeros_like(vector) if vector.grad is None else vector.grad


def _accumulate(losses: Losses, more: Losses) -> None:
    for name, value in more.items():
        losses[name] = losses[name] + value.detach() if name in losses else value.detach()
