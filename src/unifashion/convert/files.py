"""Find the weights in other people's files and folders."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unifashion.errors import UserError
from unifashion.io import read_json
from unifashion.models.pretrained import CheckpointSource, model_type
from unifashion.models.weight_files import Weights, read_safetensors, read_torch

INDEX = ".index.json"
BLIP2 = "blip-2"


def is_own(checkpoint: CheckpointSource) -> bool:
    """Return whether this is a UniFashion folder: every folder that is not a Hugging Face BLIP-2 is taken for one."""
    return checkpoint.path.is_dir() and model_type(checkpoint.path) != BLIP2


def unwrap(content: Any, path: Path) -> tuple[str, Weights, dict[str, Any]]:
    """Find the state dict in what a training script saved.

    Supported are ``{"epoch": ..., "<ClassName>": state_dict}``, ``{"model": state_dict, ...}`` and the bare state dict.

    Returns:
        the state dict's key (empty for a bare one), the state dict, and everything that was saved next to it.

    Raises:
        UserError: there is none.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        return "", _without_ddp_prefix(tensors), {}
    nested = {
        str(key): value
        for key, value in content.items()
        if isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())
    }
    if not nested:
        raise UserError(f"{path} holds no weights (its keys: {', '.join(map(str, list(content)[:5])) or 'none'})")
    key = min(nested, key=lambda name: (not name.startswith("Blip2"), name not in ("model", "state_dict")))
    weights = {str(name): value for name, value in nested[key].items() if isinstance(value, Tensor)}
    return (
        key,
        _without_ddp_prefix(weights),
        {str(name): value for name, value in content.items() if name not in nested},
    )


def _without_ddp_prefix(weights: Weights) -> Weights:
    if all(name.startswith("module.") for name in weights):
        return {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return weights


def read_file(path: Path) -> tuple[str, Weights, dict[str, Any]]:
    """Read a weight file of either kind; returns what ``unwrap`` returns."""
    if path.suffix == ".safetensors":
        return "", read_safetensors(path), {}
    return unwrap(read_torch(path), path)


def read_sharded(checkpoint: CheckpointSource, wanted: Callable[[str], bool]) -> Weights:
    """Read the wanted tensors of a Hugging Face folder: one file or shards, safetensors or ``.bin``.

    Raises:
        UserError: files that are missing or damaged.
    """
    for stem in ("model.safetensors", "pytorch_model.bin"):
        index = checkpoint.path / (stem + INDEX)
        if index.is_file():
            files = _shards(index, wanted)
        else:
            checkpoint.fetch(stem)
            files = [stem] if (checkpoint.path / stem).is_file() else []
        if files:
            break
    else:
        raise UserError(
            f"no weights in {checkpoint.path}: expected model.safetensors or pytorch_model.bin, whole or in shards"
        )
    checkpoint.fetch(*files)
    weights: Weights = {}
    for name in files:
        path = checkpoint.path / name
        if not path.is_file():
            raise UserError(f"{path} is missing, though {index} names it; copy or download it again")
        part = read_safetensors(path, wanted) if path.suffix == ".safetensors" else unwrap(read_torch(path), path)[1]
        weights.update({key: tensor for key, tensor in part.items() if wanted(key)})
    return weights


def _shards(index: Path, wanted: Callable[[str], bool]) -> list[str]:
    try:
        weight_map: dict[str, str] = read_json(index)["weight_map"]
        files = sorted({file for name, file in weight_map.items() if wanted(name)})
        if any(Path(file).name != file for file in files):
            raise ValueError("a shard outside the folder")
        return files
    except (ValueError, KeyError, TypeError, AttributeError):  # TypeError: None, where it cannot be read
        raise UserError(f"{index} is not an index of weight shards; copy or download it again") from None
