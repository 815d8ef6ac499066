"""FSDP: weights spread over the processes, whole only where a pass needs them. On other set-ups nothing here is used.

The blocks of the image tower (and of a language model) are spread one by one; the Q-Former, whose parts the passes call by
themselves, stays whole during a step. Validation runs on a plain copy of the model, filled with the gathered weights.
"""

import copy
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from unifashion.errors import UserError
from unifashion.models.unifashion import UniFashionModel
from unifashion.training.tasks import Task

SCALAR = "temperature"  # the one weight without a dimension, which FSDP cannot split


class Sharding:
    """Makes a task ready for FSDP, and gives its model back whole."""

    def __init__(self, task: Task) -> None:
        """Keep a plain copy, and change ``task`` so that FSDP takes it; call before the optimiser is made."""
        self.plain: UniFashionModel = copy.deepcopy(task.model)
        task.model.temperature = nn.Parameter(task.model.temperature.detach().reshape(1))
        present = {type(module).__name__ for module in task.modules()}
        blocks = {name for module in task.modules() for name in getattr(module, "_no_split_modules", None) or ()}
        task._no_split_modules = sorted(blocks & present)  # type: ignore[assignment]

    def whole_model(self, task: nn.Module, device: torch.device) -> UniFashionModel:
        """Return the model with the weights of this moment, on every process, which all must call this."""
        weights: dict[str, Any] = get_model_state_dict(task, options=StateDictOptions(full_state_dict=True))
        own = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
        self.plain.load_state_dict(as_saved(own), strict=False)
        return self.plain.to(device)


def as_saved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with the shapes that a model folder has."""
    return {name: tensor.reshape(()) if name == SCALAR else tensor for name, tensor in weights.items()}


def as_trained(weights: dict[str, Tensor], model: UniFashionModel) -> dict[str, Tensor]:
    """Return weights of a model folder with the shapes that ``model`` has while it is trained."""
    shape = model.temperature.shape
    return {name: tensor.reshape(shape) if name == SCALAR else tensor for name, tensor in weights.items()}


def check_sharding(accelerator: Accelerator) -> Accelerator:
    """Return the accelerator with FSDP, if it has it, set to keep weights in float32: autocast alone lowers precision.

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
