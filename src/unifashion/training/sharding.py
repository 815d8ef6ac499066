"""FSDP: weights spread over the processes, whole only where a pass needs them. Not used otherwise.

The blocks of an image tower, a language model or a U-Net are sharded one by one; the Q-Former, whose parts the passes call
directly, stays whole during a step. Validation runs on a plain copy of the task, filled with the gathered weights.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from unifashion.errors import UserError
from unifashion.training.tasks.task import Task


class Sharding:
    """Prepares a task for FSDP, and returns it whole."""

    def __init__(self, task: Task) -> None:
        """Keep a plain copy, and change ``task`` so that FSDP accepts it; call before the optimiser is made."""
        self.plain = copy.deepcopy(task)
        # FSDP splits a tensor along its first dimension, which a scalar (the temperature) does not have.
        self.scalars = [name for name, parameter in task.named_parameters() if parameter.ndim == 0]
        for name in self.scalars:
            owner, _, leaf = name.rpartition(".")
            scalar = task.get_parameter(name)
            one = nn.Parameter(scalar.detach().reshape(1), requires_grad=scalar.requires_grad)
            task.get_submodule(owner).register_parameter(leaf, one)
        present = {type(module).__name__ for module in task.modules()}
        task._no_split_modules = sorted(_blocks(task) & present)  # type: ignore[assignment]

    def whole_task(self, wrapped: nn.Module, device: torch.device) -> Task:
        """Return the task with the current weights, on every process; all processes must call this."""
        weights: dict[str, Any] = get_model_state_dict(wrapped, options=StateDictOptions(full_state_dict=True))
        # strict=False: what a checkpoint does not keep (a frozen language model) is in the copy already.
        self.plain.load_state_dict(self.as_saved(weights), strict=False)
        return self.plain.to(device)

    def as_saved(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return weights with the shapes that a model folder has."""
        return {name: tensor.reshape(()) if name in self.scalars else tensor for name, tensor in weights.items()}

    def as_trained(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of a model folder with the shapes that they have while they are trained."""
        return {name: tensor.reshape(1) if name in self.scalars else tensor for name, tensor in weights.items()}


def _blocks(module: nn.Module) -> set[str]:
    """Return the classes of the blocks that are sharded one by one, as the outermost networks name them.

    A network that names its blocks knows how it calls them: what a network inside it says (that a U-Net's up blocks are called
    whole) need not be true there. FSDP gathers a block's weights in its own call alone.
    """
    own: Sequence[str] = getattr(module, "_no_split_modules", None) or ()
    return set(own) or {name for child in module.children() for name in _blocks(child)}


def check_sharding(accelerator: Accelerator) -> Accelerator:
    """Return the accelerator with FSDP, if it has it, set to keep weights in float32: only autocast lowers precision.

    Raises:
        UserError: FSDP of the first version, whose weights cannot be gathered one by one.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        if not accelerator.is_fsdp2:
            raise UserError(
                "this is FSDP 1; set fsdp_version: 2 in the accelerate config, as in configs/accelerate/fsdp.yaml"
            )
        accelerator.state.fsdp_plugin.mixed_precision_policy = None
    return accelerator
