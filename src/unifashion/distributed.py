"""Exchange between processes, for training and for evaluation. With one process, nothing is exchanged.

Training: ``gather`` stacks the rows of all ranks and lets gradients flow back. Evaluation: every process embeds its share of the
batches (``shard_batches``) and all of them get all rows (``gather_rows``). The batches are those of a single process, and each
row is computed by exactly one, so the result is the same bit for bit. All processes must make the same calls in the same order.
"""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor, nn

from unifashion.errors import UserError

Key = TypeVar("Key")
Value = TypeVar("Value")


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main_process() -> bool:
    """Return whether this process is the one that prints and writes."""
    return rank() == 0


def is_launched_first() -> bool:
    """Return whether a launcher started this process as the first one, which is known before the processes join."""
    return os.environ.get("RANK", "0") == "0"


# Starting -------------------------------------------------------------------------------------------------------------


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """Return the device that ``--device`` names; default: the GPU where there is one.

    Raises:
        UserError: there is no such device here.
    """
    has_gpu = torch.cuda.is_available()
    if not name:
        return torch.device("cuda" if has_gpu else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        device = torch.device("meta")  # torch's name for a device without memory
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {name}: give cpu, cuda, or cuda:N for one of several GPUs")
    there = {"cpu": 1, "cuda": torch.cuda.device_count() * has_gpu, "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there[device.type]:
        raise UserError(f"--device {name}: there is no such device here (torch finds {there['cuda']} GPUs); give cpu")
    return device


def join_processes() -> None:
    """Join the processes that a launcher has started beside this one; without LOCAL_RANK there are no others.

    On GPUs accelerate does it by itself. On CPUs it leaves each process alone, and all would take themselves for the first one.

    Raises:
        UserError: they do not fit one another, as when some are left over from another program.
    """
    if os.environ.get("LOCAL_RANK", "-1") == "-1":
        return
    names = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT")
    local, own, size, port = (int(text) if text.isdecimal() else -1 for text in (os.environ.get(n, "") for n in names))
    if not (0 <= local <= own < size and 0 < port < 2**16 and os.environ.get("MASTER_ADDR")):
        found = ", ".join(f"{name}={os.environ.get(name, '')!r}" for name in (*names, "MASTER_ADDR"))
        raise UserError(
            f"the environment describes no group of processes ({found}); unset LOCAL_RANK, or start with accelerate launch"
        )
    if size > 1 and not torch.cuda.is_available():
        PartialState(cpu=True)


# Training -------------------------------------------------------------------------------------------------------------


def gather(x_B: Tensor) -> Tensor:
    """Stack the rows of all ranks, in rank order; gradients flow back to the rank that a row came from.

    Every rank must have the same number of rows (the training sampler drops the incomplete last batch).
    """
    if world_size() == 1:
        return x_B
    return _Gather.apply(x_B)


class _Gather(torch.autograd.Function):
    """All-gather of rows; backward sums the gradients of all ranks' losses for this rank's rows.

    torch's own differentiable all_gather misreads gradients that are not contiguous under gloo.
    """

    @staticmethod
    def forward(ctx: Any, x_B: Tensor) -> Tensor:
        ctx.num_rows = len(x_B)
        x_B = x_B.contiguous()
        parts = [torch.empty_like(x_B) for _ in range(world_size())]
        dist.all_gather(parts, x_B)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad_M: Tensor) -> Tensor:
        grad_M = grad_M.contiguous()
        # Every rank's loss uses the rows of all ranks, so this rank's rows collect gradients from all of them.
        dist.all_reduce(grad_M)
        return grad_M[rank() * ctx.num_rows : (rank() + 1) * ctx.num_rows]


def gather_padded(ids_BL: Tensor) -> Tensor:
    """``gather`` for token ids or masks whose length differs between ranks; shorter ones are padded with 0."""
    if world_size() == 1:
        return ids_BL
    longest = torch.tensor(ids_BL.shape[1], device=ids_BL.device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    return gather(F.pad(ids_BL, (0, int(longest) - ids_BL.shape[1])))


def mean_over_ranks(x: Tensor) -> Tensor:
    """Return the mean of a tensor over the ranks, without gradient."""
    if world_size() == 1:
        return x.detach()
    x = x.detach().clone().float()
    dist.all_reduce(x)
    return x / world_size()


def stack_padded(parts: list[Tensor]) -> Tensor:
    """Stack (rows, L) token ids or masks of different lengths; shorter ones are padded with 0."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, longest - part.shape[1])) for part in parts])


def mean_gradients(parameters: list[Tensor]) -> None:
    """Replace the gradients of parameters by their mean over the ranks; a missing one counts as zero.

    One that is missing on all ranks stays missing.
    """
    with torch.no_grad():
        for parameter in parameters:
            # All ranks must enter the same collectives in the same order, so they first agree which parameters have a gradient.
            present = mean_over_ranks(torch.tensor(float(parameter.grad is not None), device=parameter.device))
            if present == 0:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size()


def share_buffers(module: nn.Module) -> None:
    """Give every rank the buffers of rank 0, such as batch-norm statistics, which each rank has collected for itself."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


# Evaluation -----------------------------------------------------------------------------------------------------------


def shard_batches(num_rows: int, batch_size: int) -> list[list[int]]:
    """Return the row indices of this process's batches."""
    starts = range(0, num_rows, batch_size)[rank() :: world_size()]
    return [list(range(start, min(start + batch_size, num_rows))) for start in starts]


def gather_rows(parts: Sequence[tuple[Sequence[int], Tensor]], shape: Sequence[int], device: torch.device) -> Tensor:
    """Return a tensor of ``shape``, on the CPU, from the (row indices, rows) that the processes have computed.

    ``device`` is one that the processes can exchange tensors on.
    """
    whole = torch.zeros(*shape)
    for indices, rows in parts:
        whole[list(indices)] = rows
    if world_size() == 1:
        return whole
    whole = whole.to(device)
    dist.all_reduce(whole)
    return whole.cpu()


def merge_dicts(own: dict[Key, Value]) -> dict[Key, Value]:
    """Return the entries of all processes."""
    if world_size() == 1:
        return own
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, own)
    return {key: value for part in parts for key, value in part.items()}
