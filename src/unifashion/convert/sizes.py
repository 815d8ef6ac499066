"""Infer the sizes of a model from the shapes of its weights.

The number of heads leaves no trace in a shape and follows the family: heads are 64 wide in BERT and CLIP, 88 in EVA-ViT-g.
Dropout leaves none either: it is BERT's 0.1.
"""

import re
from typing import Any

from unifashion.errors import UserError
from unifashion.models.presets import CLIP_VIT_L, EVA_VIT_G
from unifashion.models.qformer import QFormerConfig
from unifashion.models.weight_files import Weights

_TEXT_ROWS = "qformer.word_embeddings.weight"
_POSITIONS = "qformer.position_embeddings.weight"
_CROSS = re.compile(r"qformer\.layers\.(\d+)\.cross_attention\.key\.weight")
_LAYER = re.compile(r"qformer\.layers\.(\d+)\.attention\.key\.weight")
_BLOCK = re.compile(r"vision\.encoder\.encoder\.layers\.(\d+)\.layer_norm1\.weight")
_EMBEDDINGS = "vision.encoder.embeddings."
_EXPAND = ("query_ffn.expand.weight", "text_ffn.expand.weight")


def qformer_sizes(weights: Weights, vocab_size: int, source: str, **known: Any) -> QFormerConfig:
    """Return the Q-Former's sizes.

    Args:
        weights: under our names.
        vocab_size: words of the tokenizer, for weights without word embeddings.
        source: how messages name the checkpoint.
        known: settings that the checkpoint's own config gives.

    Raises:
        UserError: the width is not a whole number of heads.
    """
    hidden = weights["query_tokens"].shape[-1]
    layers, cross = _indices(_LAYER, weights), _indices(_CROSS, weights)
    expand = next((tensor for name, tensor in weights.items() if name.endswith(_EXPAND)), None)
    sizes: dict[str, Any] = {
        "vocab_size": len(weights[_TEXT_ROWS]) if _TEXT_ROWS in weights else vocab_size,
        "hidden_size": hidden,
        "num_layers": len(layers),
        "num_heads": known["num_heads"] if "num_heads" in known else _num_heads(hidden, 64, source),
        "intermediate_size": len(expand) if expand is not None else 4 * hidden,
        "cross_attention_freq": cross[1] - cross[0] if len(cross) > 1 else max(len(layers), 1),
        "image_width": weights["qformer.layers.0.cross_attention.key.weight"].shape[-1],
        "max_positions": len(weights[_POSITIONS]) if _POSITIONS in weights else QFormerConfig.max_positions,
    }
    config = QFormerConfig(**{**sizes, **known})
    if config.hidden_size % config.num_heads:
        raise UserError(f"{source}: a width of {hidden} cannot be split into {config.num_heads} attention heads")
    return config


def tower_config(weights: Weights, source: str) -> dict[str, Any]:
    """Return the config of the EVA-ViT or CLIP ViT whose weights these are.

    Raises:
        UserError: another kind of tower, or a width that is not a whole number of heads.
    """
    is_clip = _EMBEDDINGS + "position_embedding.weight" in weights
    try:
        patches = weights[_EMBEDDINGS + "patch_embedding.weight"]
        positions = weights[_EMBEDDINGS + ("position_embedding.weight" if is_clip else "position_embedding")]
        expand = weights["vision.encoder.encoder.layers.0.mlp.fc1.weight"]
    except KeyError as error:
        raise UserError(f"the image tower in {source} is neither EVA-ViT nor CLIP ViT: it lacks {error}") from None
    width, patch_size = len(patches), patches.shape[-1]
    return {
        **(CLIP_VIT_L if is_clip else EVA_VIT_G),
        "hidden_size": width,
        "num_hidden_layers": len(_indices(_BLOCK, weights)),
        "num_attention_heads": _num_heads(width, 64 if is_clip else 88, source),
        "intermediate_size": len(expand),
        "patch_size": patch_size,
        "image_size": round((positions.shape[-2] - 1) ** 0.5) * patch_size,
    }


def _indices(pattern: re.Pattern[str], weights: Weights) -> list[int]:
    return sorted(int(match[1]) for match in map(pattern.fullmatch, weights) if match)


def _num_heads(width: int, head: int, source: str) -> int:
    if width % head:
        raise UserError(
            f"{source}: a width of {width} is not a whole number of {head}-wide attention heads, as BLIP-2 has"
        )
    return width // head
