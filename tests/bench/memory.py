"""Peak memory of one piece of work: the whole process where it runs on a CPU, the device's tensors where it runs on a GPU."""

import gc
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def peak_of(work: Callable[..., Any], *arguments: Any, device: str = "cpu") -> float:
    """Return the GiB at the highest point of ``work(*arguments)``.

    On a CPU it runs in a new process that does nothing else, so ``work`` and its arguments have to be picklable, and its
    imports count; with as many threads as this one.
    """
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        work(*arguments)
        return torch.cuda.max_memory_allocated() / 2**30
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_alone, (torch.get_num_threads(), work, arguments))


def highest_of_process() -> float:
    """Return the GiB at the highest point of this process so far."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def _alone(threads: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    torch.set_num_threads(threads)
    work(*arguments)
    return highest_of_process()
