"""Where chance in training comes from: each batch, and each chunk of one, starts all generators anew from its own number.

The generators of Python, numpy and torch (CPU and every GPU) thus never carry anything from one step to the next. A run that
was stopped and resumed draws what the run that never stopped draws, whatever happened in between. On a GPU the order of a sum
is chance as well, unless ``only_deterministic`` forbids it.
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
    """Start the generators of Python, numpy and torch, on all devices, from ``key``."""
    seed = seed_for(*key)
    random.seed(seed)
    # numpy's old generator takes 32 bits.
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)


def only_deterministic(wanted: bool) -> None:
    """Use only GPU operations that give the same bits every time, or allow faster ones that do not. A CPU always does."""
    if not torch.cuda.is_available():
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    # Filling fresh memory with nan finds bugs, costs a pass over every new tensor, and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(wanted)
