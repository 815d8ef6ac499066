"""The learning rate, which changes with every optimiser step.

one-cycle   OneCycleLR: from a hundredth of the peak up for ``warmup_epochs``, then down to almost nothing, both along a cosine.
            It also cycles AdamW's first momentum between 0.95 and 0.85, so ``betas[0]`` only matters before the first step.
cosine      from 0 linearly up for ``warmup_epochs``, then along half a cosine down to 0; ``betas`` stay as they are.
plateau     linearly up for ``warmup_steps``, constant, and for the last ``decay_steps`` down to 0 along a cosine (try-on).
"""

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from transformers import get_cosine_schedule_with_warmup

from unifashion.config import TrainingSettings


def make_schedule(optimizer: Optimizer, total_steps: int, settings: TrainingSettings) -> LRScheduler:
    """Return the schedule that ``settings`` name, over ``total_steps`` optimiser steps."""
    total_steps = max(total_steps, 2)
    rising = min(settings.warmup_epochs / max(settings.num_epochs, 1), 0.9)
    if settings.schedule == "cosine":
        return get_cosine_schedule_with_warmup(optimizer, round(rising * total_steps), total_steps)
    if abs(rising * total_steps - 1) < 1e-3:  # OneCycleLR divides by the length of a rise that ends where it starts
        rising = 1.001 / total_steps
    return OneCycleLR(
        optimizer, max_lr=settings.learning_rate, total_steps=total_steps, pct_start=rising, div_factor=100.0
    )


def make_plateau(optimizer: Optimizer, total_steps: int, warmup_steps: int, decay_steps: int) -> LRScheduler:
    """Return the schedule ``plateau``."""
    return LambdaLR(optimizer, partial(plateau, total=total_steps, rise=warmup_steps, fall=decay_steps))


def plateau(step: int, total: int, rise: int, fall: int) -> float:
    """Return the learning rate of a step as a share of its full value."""
    share = min((step + 1) / rise, 1.0) if rise else 1.0
    if fall and step > total - fall:
        share *= 0.5 * (1 + math.cos(math.pi * (step - (total - fall)) / fall))
    return share
