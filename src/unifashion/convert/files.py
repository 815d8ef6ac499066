"""Find the weights in other people's files and folders."""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unifashion.errors import UserError
from unifashion.io import read_json
from unifashion.models.pretrained import CheckpointSource, model_type
from unifashion.models.weight_files import VARIANTS, Weights, read_safetensors, read_torch
from unifashion.models.wrappers import plain_name, plain_weights

log = logging.getLogger(__name__)

BLIP2 = "blip-2"
_AVERAGE = re.compile(r"(^|[^a-z])(ema|shadow|averag\w*)([^a-z]|$)", re.IGNORECASE)


class NoWeights(UserError):
    """A folder or repository has no file of weights."""


def is_own(checkpoint: CheckpointSource) -> bool:
    """Return whether this is a UniFashion folder: every folder that is not a Hugging Face BLIP-2 is taken for one."""
    return not checkpoint.path.is_file() and model_type(checkpoint.path) != BLIP2


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
    tensors = _tensors(content)
    if tensors:
        return "", plain_weights(tensors, path), {}
    nested = {str(key): tensors for key, value in content.items() if (tensors := _tensors(value))}
    if not nested:
        raise UserError(f"{path} holds no weights (its keys: {', '.join(map(str, list(content)[:5])) or 'none'})")
    key = min(
        nested,
        key=lambda name: (
            not name.startswith("Blip2"),
            name not in ("model", "state_dict"),
            bool(_AVERAGE.search(name)),
        ),
    )
    _tell_averages(content, nested, key, path)
    beside = {str(name): value for name, value in content.items() if name not in nested}
    return key, plain_weights(nested[key], path), beside


def _tensors(value: Any) -> Weights:
    if not isinstance(value, Mapping):
        return {}
    return {str(name): item for name, item in value.items() if isinstance(item, Tensor)}


def _tell_averages(content: Mapping[Any, Any], nested: Mapping[str, Weights], taken: str, path: Path) -> None:
    """Say which of several sets of weights is used: trainers keep averages (EMA) beside the raw ones."""
    callbacks = content.get("callbacks")  # Lightning's
    states = (
        [state for state in callbacks.values() if isinstance(state, Mapping)] if isinstance(callbacks, Mapping) else []
    )
    sets = {**nested, **{str(key): _tensors(value) for state in states for key, value in state.items()}}
    names = set(map(plain_name, nested[taken]))
    others = [key for key, tensors in sets.items() if key != taken and not names.isdisjoint(map(plain_name, tensors))]
    if others:
        log.warning(
            "%s holds several sets of weights: %r is taken, not %s; save another alone, with torch.save, to use it",
            path,
            taken,
            ", ".join(map(repr, others)),
        )
    elif _AVERAGE.search(taken):
        log.warning("%s holds averaged weights (%r) and no raw ones: they are taken", path, taken)


def read_file(path: Path) -> tuple[str, Weights, dict[str, Any]]:
    """Read a weight file of either kind; returns what ``unwrap`` returns."""
    if path.suffix == ".safetensors":
        return "", plain_weights(read_safetensors(path), path), {}
    return unwrap(read_torch(path), path)


def read_sharded(checkpoint: CheckpointSource, wanted: Callable[[str], bool]) -> Weights:
    """Read the wanted tensors of a Hugging Face folder: one file or shards, safetensors or ``.bin``, full or half precision.

    Args:
        checkpoint: the folder.
        wanted: of a parameter's own name, without wrappers.

    Raises:
        NoWeights: there is no file of weights.
        UserError: files that are missing or damaged.
    """

    def is_wanted(stored: str) -> bool:
        return wanted(plain_name(stored))

    files = _weight_files(checkpoint, is_wanted)
    checkpoint.fetch(*files)
    weights: Weights = {}
    for name in files:
        path = checkpoint.path / name
        if not path.is_file():
            raise UserError(f"{path} is missing, though its folder's *.index.json names it; copy or download it again")
        if path.suffix == ".safetensors":
            weights.update(read_safetensors(path, is_wanted))
        else:
            weights.update(unwrap(read_torch(path), path)[1])
    return {name: tensor for name, tensor in plain_weights(weights, checkpoint.path).items() if wanted(name)}


def _weight_files(checkpoint: CheckpointSource, wanted: Callable[[str], bool]) -> list[str]:
    """Return the names of the files that hold the weights; of several precisions the full one."""
    for variant in ("", *(f".{name}" for name in VARIANTS)):
        for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
            name, index = f"{stem}{variant}{suffix}", checkpoint.path / f"{stem}{suffix}.index{variant}.json"
            if not index.is_file():
                checkpoint.fetch(name)
            files = _shards(index, wanted) if index.is_file() else [name] * (checkpoint.path / name).is_file()
            if files:
                if variant:
                    log.warning("%s has weights of the variant %s only: they are taken", checkpoint.path, variant[1:])
                return files
    raise NoWeights(
        f"no weights in {checkpoint.name}: expected model.safetensors or pytorch_model.bin, whole or in shards"
    )


def _shards(index: Path, wanted: Callable[[str], bool]) -> list[str]:
    try:
        weight_map: dict[str, str] = read_json(index)["weight_map"]
        files = sorted({file for name, file in weight_map.items() if wanted(name)})
        if any(Path(file).name != file for file in files):
            raise ValueError("a shard outside the folder")
        return files
    except (ValueError, KeyError, TypeError, AttributeError):  # TypeError: None, where it cannot be read
        raise UserError(f"{index} is not an index of weight shards; copy or download it again") from None
