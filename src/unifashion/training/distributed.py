"""The little that losses need to know about other processes. On one process every function is the identity."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(x_B: Tensor) -> Tensor:
    """Stack the rows of all ranks, in rank order; gradients flow back to the rank that a row came from.

    Every rank must bring the same number of rows (the training sampler drops the incomplete last batch).
    """
    if world_size() == 1:
        return x_B
    return _Gather.apply(x_B)


class _Gather(torch.autograd.Function):
    """All-gather of rows; backward sums what every rank's loss wants of this rank's rows.

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
