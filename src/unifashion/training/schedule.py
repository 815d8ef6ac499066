"""How the learning rate moves, once per optimiser step.

one-cycle   OneCycleLR: from a hundredth of the peak up for ``warmup_epochs``, then down to almost nothing, both along a cosine.
            It also cycles AdamW's first momentum between 0.95 and 0.85, so ``betas[0]`` only matters before the first step.
cosine      from nothing straight up for ``warmup_epochs``, then along half a cosine down to 0; ``betas`` stay as they are.
"""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from transformers import get_cosine_schedule_with_warmup

from unifashion.config import TrainingSettings


def make_schedule(optimizer: Optimizer, settings: TrainingSettings, total_steps: int) -> LRScheduler:
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
