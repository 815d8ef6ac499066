"""Randomness in training: every batch, and every chunk of one, reseeds all generators with a seed of its own.

So the generators of Python, numpy and torch (CPU and every GPU) carry no state from one step to the next: a run that was stopped
and resumed draws the same numbers as one that never stopped. On a GPU the order of summation is random as well, unless
``only_deterministic`` forbids it.
"""

import hashlib
import os
import random

import numpy as np
import torch


def seed_for(*key: int | str) -> int:
    """Return a 63-bit seed that depends on all parts of ``key``, the same on every machine and in every process."""
    name = "/".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1


def seed_everything(*key: int | str) -> None:
    """Seed the generators of Python, numpy and torch, on all devices, with ``key``."""
    seed = seed_for(*key)
    random.seed(seed)
    # numpy's old generator takes 32 bits.
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)


def only_deterministic(wanted: bool) -> None:
    """Use only GPU operations that give the same bits every time, or allow faster ones that do not. CPU operations always do."""
    if not torch.cuda.is_available():
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS requires it
    # Filling fresh memory with nan finds bugs, costs a pass over every new tensor, and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(wanted)
