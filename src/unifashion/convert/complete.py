"""Fill in what a checkpoint lacks, with a line in the log for each part.

Whole parts may be absent: Hugging Face's BLIP-2 has no language head and no temperature, the Q-Former of a BLIP-2 with a
language model has no text parts and no heads. Text parts come from BERT where one is available, as in BLIP-2 itself; the query
feed-forward starts as a copy of the text feed-forward (LAVIS); prompt tokens start as the query tokens; the rest is random,
but the same every time. A part that is present but incomplete is an error.
"""

import logging
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unifashion.convert.files import NoWeights, read_sharded
from unifashion.convert.lavis import from_lavis
from unifashion.convert.names import summarise
from unifashion.errors import UserError
from unifashion.models import pretrained
from unifashion.models.presets import UniFashionConfig
from unifashion.models.pretrained import CheckpointSource
from unifashion.models.weight_files import Weights, check_finite

log = logging.getLogger(__name__)

_TEXT_PARTS = {
    "word_embeddings.": "word embeddings",
    "position_embeddings.": "position embeddings",
    ".text_ffn.": "text feed-forward",
    "language_head.": "language head",
}
_OTHER_PARTS = {
    ".query_ffn.": "query feed-forward",
    "prompt_tokens": "prompt tokens",
    "temperature": "temperature",
    "vision_proj.": "image projection",
    "text_proj.": "text projection",
    "itm_head.": "matching head",
}
_PARTS = {**_TEXT_PARTS, **_OTHER_PARTS}
Shapes = Mapping[str, torch.Size]


def complete(weights: Weights, shapes: Shapes, source: str, text_model: str) -> Weights:
    """Return the model's full set of float32 weights.

    Args:
        weights: of the checkpoint, under our names.
        shapes: what the model needs.
        source: how messages name the checkpoint.
        text_model: a BERT (folder or hub id) that missing text parts are taken from, if it has weights.

    Raises:
        UserError: a part that is incomplete, or weights of the wrong shape.
    """
    full = {name: tensor for name, tensor in weights.items() if name in shapes}
    extra = [name for name in weights if name not in shapes]
    if extra:
        log.warning("%s: left out, not part of the model: %s", source, summarise(extra))
    absent = _absent_parts(full, shapes, source)
    if any(part in _TEXT_PARTS for part in absent):
        _fill_from_bert(full, shapes, source, text_model, [part for part in absent if part in _TEXT_PARTS])
    for name in [name for name in shapes if name not in full]:
        copied = full.get(name.replace("query_ffn", "text_ffn").replace("prompt_tokens", "query_tokens"))
        full[name] = copied.clone() if copied is not None else new_weight(name, shapes[name])
    for part in absent:
        if part not in _TEXT_PARTS:
            origin = {".query_ffn.": "a copy of the text feed-forward", "prompt_tokens": "a copy of the query tokens"}
            log.warning("%s has no %s: %s", source, _PARTS[part], origin.get(part, "new, train before you rely on it"))
    _check_shapes(full, shapes, source)
    check_finite(full, source)
    return {name: tensor.float() for name, tensor in full.items()}


def new_weight(name: str, shape: torch.Size) -> Tensor:
    """Return an initial value for a parameter: BERT's initialisation, drawn from the parameter's name alone."""
    if name == "temperature":
        return torch.full(shape, UniFashionConfig.temperature)
    if name.endswith("bias"):
        return torch.zeros(shape)
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))) * 0.02


def _absent_parts(weights: Weights, shapes: Shapes, source: str) -> list[str]:
    missing = [name for name in shapes if name not in weights]
    absent = [part for part in _PARTS if not any(part in name for name in weights)]
    lacking = [name for name in missing if not any(part in name for part in absent)]
    if lacking:
        raise UserError(f"{source} is incomplete, it lacks {len(lacking)} parameters: {summarise(lacking)}")
    return [part for part in absent if any(part in name for name in missing)]


def _fill_from_bert(full: Weights, shapes: Shapes, source: str, text_model: str, parts: list[str]) -> None:
    try:
        bert = read_bert(text_model)
    except UserError as error:
        raise UserError(f"{source} has no {_PARTS[parts[0]]}, which would be taken from BERT ({error})") from None
    for part in parts:
        names = [name for name in shapes if part in name]
        taken = {name: _fit_vocabulary(bert[name], name, shapes[name]) for name in names if name in bert}
        if len(taken) == len(names) and all(taken[name].shape == shapes[name] for name in names):
            full.update(taken)
            log.warning("%s has no %s: taken from %s", source, _PARTS[part], text_model)
        else:
            log.warning("%s has no %s: new, train before you rely on it", source, _PARTS[part])


def _fit_vocabulary(tensor: Tensor, name: str, shape: torch.Size) -> Tensor:
    """Append rows for tokens that BERT does not have: [DEC]."""
    if tensor.shape[1:] != shape[1:] or len(tensor) >= shape[0] or "position" in name:
        return tensor
    return torch.cat([tensor, new_weight(name, shape)[len(tensor) :]])


def read_bert(name: str) -> Weights:
    """Return the weights of a BERT (folder or hub id) under our names; empty for a folder that has none.

    Raises:
        UserError: what keeps the hub's away, or weights that are damaged.
    """
    checkpoint = CheckpointSource(Path(name)) if Path(name).exists() else pretrained.resolve(name)
    if pretrained.model_type(checkpoint.path) != "bert":
        return {}
    try:
        bert = read_sharded(checkpoint, lambda key: "pooler" not in key)
    except NoWeights:
        if checkpoint.repo:
            raise
        return {}
    renamed: Weights = {}
    for key, tensor in bert.items():
        key = key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        renamed["Qformer." + (key if key.startswith(("bert.", "cls.")) else f"bert.{key}")] = tensor
    return from_lavis(renamed)[0]


def _check_shapes(weights: Weights, shapes: Shapes, source: str) -> None:
    wrong = [
        f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(shape)}"
        for name, shape in shapes.items()
        if weights[name].shape != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        raise UserError(f"the weights in {source} do not fit one another: {'; '.join(wrong[:2])}{more}")
