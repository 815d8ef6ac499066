"""Embedding on several processes: every process embeds its share of the batches, and all of them get all the rows.

The batches are those of one process, and a row is computed by exactly one process, so the result is the same bit for bit. On
one process nothing happens. Every process must make the same calls in the same order.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Key = TypeVar("Key")
Value = TypeVar("Value")


def num_processes() -> int:
    """Return the number of processes that evaluate together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """Return whether this process is the one that prints and writes."""
    return num_processes() == 1 or dist.get_rank() == 0


def own_batches(num_rows: int, batch_size: int) -> list[list[int]]:
    """Return the row numbers of this process's batches."""
    first = dist.get_rank() if num_processes() > 1 else 0
    starts = range(0, num_rows, batch_size)[first :: num_processes()]
    return [list(range(start, min(start + batch_size, num_rows))) for start in starts]


def put_together(rows: Tensor, device: torch.device) -> Tensor:
    """Fill the rows that are zero here with those of the process that computed them; through ``device``, back on the CPU."""
    if num_processes() == 1:
        return rows
    rows = rows.to(device)
    dist.all_reduce(rows)
    return rows.cpu()


def merge(own: dict[Key, Value]) -> dict[Key, Value]:
    """Return the entries of all processes."""
    if num_processes() == 1:
        return own
    parts: list[Any] = [None] * num_processes()
    dist.all_gather_object(parts, own)
    return {key: value for part in parts for key, value in part.items()}


def in_rows(parts: Sequence[tuple[Sequence[int], Tensor]], shape: Sequence[int]) -> Tensor:
    """Lay out (row numbers, rows) in a tensor of ``shape`` that is zero elsewhere."""
    whole = torch.zeros(*shape)
    for numbers, rows in parts:
        whole[list(numbers)] = rows
    return whole
