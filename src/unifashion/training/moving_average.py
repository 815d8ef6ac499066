"""An exponential moving average of the trained weights: what validation, inference and the kept model of a run use.

In step n the decay is min(decay, n / (9 + n)): it rises, so that the average soon forgets the weights it started from.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """The average of a list of parameters. Sharded parameters (FSDP) are averaged shard by shard.

    Attributes:
        num_steps: how many times ``step`` was called.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay, self.num_steps = list(parameters), decay, 0
        self.averages: list[Tensor] = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Update the average with the current parameters; called after every optimiser step."""
        self.num_steps += 1
        decay = min(self.decay, self.num_steps / (9 + self.num_steps)) if self.num_steps > 1 else 0.0
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            average.sub_((1 - decay) * (average - parameter))

    @torch.no_grad()
    def restart(self, num_steps: int) -> None:
        """Set the average to the current parameters, as of ``num_steps`` steps: those of a checkpoint's model."""
        self.num_steps = num_steps
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            average.copy_(parameter)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the parameters hold their average."""
        trained = [parameter.detach().clone() for parameter in self.parameters]
        self._set(self.averages)
        try:
            yield
        finally:
            self._set(trained)

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
