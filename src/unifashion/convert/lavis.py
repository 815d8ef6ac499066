"""Parameter names of LAVIS (BLIP-2, SPRC, the original UniFashion) and ours, both ways.

    visual_encoder.blocks.0.attn.qkv.weight                 vision.encoder.encoder.layers.0.self_attn.qkv.weight
    Qformer.bert.encoder.layer.0.crossattention.self.key    qformer.layers.0.cross_attention.key
    Qformer.cls.predictions.transform.dense                 language_head.dense
    temp                                                    temperature

The two differ in more than names at one place: LAVIS keeps the biases of q and v and has none for k, transformers keeps one
vector for all three. Going back, a k bias that is not zero cannot be written and is an error.
"""

import re

import torch
from torch import Tensor

_BLOCK = r"visual_encoder\.blocks\.(\d+)\."
_LAYER = r"Qformer\.bert\.encoder\.layer\.(\d+)\."
_OUR_BLOCK = r"vision.encoder.encoder.layers.\1."
_OUR_LAYER = r"qformer.layers.\1."

# Pattern in LAVIS' name, replacement in ours. The first pattern that matches the whole name wins.
_RULES: list[tuple[str, str]] = [
    (r"visual_encoder\.cls_token", "vision.encoder.embeddings.class_embedding"),
    (r"visual_encoder\.pos_embed", "vision.encoder.embeddings.position_embedding"),
    (r"visual_encoder\.patch_embed\.proj\.(weight|bias)", r"vision.encoder.embeddings.patch_embedding.\1"),
    (_BLOCK + r"norm([12])\.(weight|bias)", _OUR_BLOCK + r"layer_norm\2.\3"),
    (_BLOCK + r"attn\.qkv\.weight", _OUR_BLOCK + "self_attn.qkv.weight"),
    (_BLOCK + r"attn\.proj\.(weight|bias)", _OUR_BLOCK + r"self_attn.projection.\2"),
    (_BLOCK + r"mlp\.(fc[12])\.(weight|bias)", _OUR_BLOCK + r"mlp.\2.\3"),
    (r"Qformer\.bert\.embeddings\.LayerNorm\.(weight|bias)", r"qformer.norm.\1"),
    (r"Qformer\.bert\.embeddings\.(word|position)_embeddings\.weight", r"qformer.\1_embeddings.weight"),
    (_LAYER + r"attention\.self\.(query|key|value)\.(weight|bias)", _OUR_LAYER + r"attention.\2.\3"),
    (_LAYER + r"attention\.output\.dense\.(weight|bias)", _OUR_LAYER + r"attention.dense.\2"),
    (_LAYER + r"attention\.output\.LayerNorm\.(weight|bias)", _OUR_LAYER + r"attention.norm.\2"),
    (_LAYER + r"crossattention\.self\.(query|key|value)\.(weight|bias)", _OUR_LAYER + r"cross_attention.\2.\3"),
    (_LAYER + r"crossattention\.output\.dense\.(weight|bias)", _OUR_LAYER + r"cross_attention.dense.\2"),
    (_LAYER + r"crossattention\.output\.LayerNorm\.(weight|bias)", _OUR_LAYER + r"cross_attention.norm.\2"),
    (_LAYER + r"intermediate\.dense\.(weight|bias)", _OUR_LAYER + r"text_ffn.expand.\2"),
    (_LAYER + r"output\.dense\.(weight|bias)", _OUR_LAYER + r"text_ffn.contract.\2"),
    (_LAYER + r"output\.LayerNorm\.(weight|bias)", _OUR_LAYER + r"text_ffn.norm.\2"),
    (_LAYER + r"intermediate_query\.dense\.(weight|bias)", _OUR_LAYER + r"query_ffn.expand.\2"),
    (_LAYER + r"output_query\.dense\.(weight|bias)", _OUR_LAYER + r"query_ffn.contract.\2"),
    (_LAYER + r"output_query\.LayerNorm\.(weight|bias)", _OUR_LAYER + r"query_ffn.norm.\2"),
    (r"Qformer\.cls\.predictions\.bias", "language_head.bias"),
    (r"Qformer\.cls\.predictions\.transform\.dense\.(weight|bias)", r"language_head.dense.\1"),
    (r"Qformer\.cls\.predictions\.transform\.LayerNorm\.(weight|bias)", r"language_head.norm.\1"),
    (r"(query_tokens|prompt_tokens)", r"\1"),
    (r"(ln_vision|vision_proj|text_proj|itm_head)\.(weight|bias)", r"\1.\2"),
    (r"temp", "temperature"),
]
# Second names of tied tensors, and a buffer that numbers positions: nothing to carry over.
_DERIVED = re.compile(r"Qformer\.cls\.predictions\.decoder\.(weight|bias)|Qformer\.bert\.embeddings\.position_ids")
_QV_BIAS = re.compile(_BLOCK + r"attn\.([qv])_bias")


def our_name(name: str) -> str | None:
    """Return our name of a LAVIS parameter, or None for one that has no place of its own in our model."""
    for pattern, replacement in _RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


def from_lavis(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the parameters of a LAVIS-style state dict.

    Returns:
        our state dict, and the LAVIS names that found no place in it (unused heads, other branches).
    """
    ours: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in weights.items():
        bias = _QV_BIAS.fullmatch(name)
        if bias:
            if bias[2] == "q":
                parts = [tensor, torch.zeros_like(tensor), weights[name.replace("q_bias", "v_bias")]]
                ours[f"vision.encoder.encoder.layers.{bias[1]}.self_attn.qkv.bias"] = torch.cat(parts)
        elif not _DERIVED.fullmatch(name):
            renamed = our_name(name)
            if renamed is None:
                unknown.append(name)
            else:
                ours[renamed] = tensor
    return ours, unknown
