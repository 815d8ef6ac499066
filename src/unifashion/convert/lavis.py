"""Parameter names of LAVIS (BLIP-2, SPRC, the original UniFashion) and ours, both ways.

    visual_encoder.blocks.0.attn.qkv.weight                 vision.encoder.encoder.layers.0.self_attn.qkv.weight
    Qformer.bert.encoder.layer.0.crossattention.self.key    qformer.layers.0.cross_attention.key
    Qformer.cls.predictions.transform.dense                 language_head.dense
    temp                                                    temperature

LAVIS has two image towers, EVA-ViT-g (``blocks``) and OpenAI's CLIP ViT-L (``transformer.resblocks``). Each differs from
transformers' module in one thing besides names:

* EVA keeps the biases of q and v and has none for k, transformers keeps one vector for all three. In the other direction,
  a k bias that is not zero cannot be written and is an error.
* CLIP keeps one matrix for q, k and v, transformers keeps three.
"""

import re

import torch
from torch import Tensor

from unifashion.convert.names import NameTable
from unifashion.errors import UserError

Weights = dict[str, Tensor]

_LAYER, _OUR_LAYER = "Qformer.bert.encoder.layer.{n}.", "qformer.layers.{n}."
_QFORMER = NameTable(
    [
        ("Qformer.bert.embeddings.LayerNorm.{p}", "qformer.norm.{p}"),
        ("Qformer.bert.embeddings.{emb}_embeddings.weight", "qformer.{emb}_embeddings.weight"),
        (_LAYER + "attention.self.{qkv}.{p}", _OUR_LAYER + "attention.{qkv}.{p}"),
        (_LAYER + "attention.output.dense.{p}", _OUR_LAYER + "attention.dense.{p}"),
        (_LAYER + "attention.output.LayerNorm.{p}", _OUR_LAYER + "attention.norm.{p}"),
        (_LAYER + "crossattention.self.{qkv}.{p}", _OUR_LAYER + "cross_attention.{qkv}.{p}"),
        (_LAYER + "crossattention.output.dense.{p}", _OUR_LAYER + "cross_attention.dense.{p}"),
        (_LAYER + "crossattention.output.LayerNorm.{p}", _OUR_LAYER + "cross_attention.norm.{p}"),
        (_LAYER + "intermediate.dense.{p}", _OUR_LAYER + "text_ffn.expand.{p}"),
        (_LAYER + "output.dense.{p}", _OUR_LAYER + "text_ffn.contract.{p}"),
        (_LAYER + "output.LayerNorm.{p}", _OUR_LAYER + "text_ffn.norm.{p}"),
        (_LAYER + "intermediate_query.dense.{p}", _OUR_LAYER + "query_ffn.expand.{p}"),
        (_LAYER + "output_query.dense.{p}", _OUR_LAYER + "query_ffn.contract.{p}"),
        (_LAYER + "output_query.LayerNorm.{p}", _OUR_LAYER + "query_ffn.norm.{p}"),
        ("Qformer.cls.predictions.bias", "language_head.bias"),
        ("Qformer.cls.predictions.transform.dense.{p}", "language_head.dense.{p}"),
        ("Qformer.cls.predictions.transform.LayerNorm.{p}", "language_head.norm.{p}"),
        ("query_tokens", "query_tokens"),
        ("prompt_tokens", "prompt_tokens"),
        ("ln_vision.{p}", "ln_vision.{p}"),
        ("vision_proj.{p}", "vision_proj.{p}"),
        ("text_proj.{p}", "text_proj.{p}"),
        ("itm_head.{p}", "itm_head.{p}"),
        ("temp", "temperature"),
    ]
)

TOWER = "visual_encoder."
_EVA, _OUR_EVA = TOWER + "blocks.{n}.", "vision.encoder.encoder.layers.{n}."
_CLIP, _OUR_CLIP = TOWER + "transformer.resblocks.{n}.", "vision.encoder.encoder.layers.{n}."
_OUR_EMBEDDINGS = "vision.encoder.embeddings."
TOWERS = {
    "blip_2_vision_model": NameTable(
        [
            (TOWER + "cls_token", _OUR_EMBEDDINGS + "class_embedding"),
            (TOWER + "pos_embed", _OUR_EMBEDDINGS + "position_embedding"),
            (TOWER + "patch_embed.proj.{p}", _OUR_EMBEDDINGS + "patch_embedding.{p}"),
            (_EVA + "norm{k}.{p}", _OUR_EVA + "layer_norm{k}.{p}"),
            (_EVA + "attn.qkv.weight", _OUR_EVA + "self_attn.qkv.weight"),
            (_EVA + "attn.proj.{p}", _OUR_EVA + "self_attn.projection.{p}"),
            (_EVA + "mlp.fc{k}.{p}", _OUR_EVA + "mlp.fc{k}.{p}"),
        ]
    ),
    "clip_vision_model": NameTable(
        [
            (TOWER + "class_embedding", _OUR_EMBEDDINGS + "class_embedding"),
            (TOWER + "positional_embedding", _OUR_EMBEDDINGS + "position_embedding.weight"),
            (TOWER + "conv1.weight", _OUR_EMBEDDINGS + "patch_embedding.weight"),
            (TOWER + "ln_pre.{p}", "vision.encoder.pre_layrnorm.{p}"),
            (_CLIP + "ln_{k}.{p}", _OUR_CLIP + "layer_norm{k}.{p}"),
            (_CLIP + "attn.out_proj.{p}", _OUR_CLIP + "self_attn.out_proj.{p}"),
            (_CLIP + "mlp.c_fc.{p}", _OUR_CLIP + "mlp.fc1.{p}"),
            (_CLIP + "mlp.c_proj.{p}", _OUR_CLIP + "mlp.fc2.{p}"),
        ]
    ),
}
TABLES = (_QFORMER, *TOWERS.values())

# Second names of tied tensors, and a buffer that numbers positions: nothing to carry over.
_DERIVED = re.compile(r"Qformer\.cls\.predictions\.decoder\.(weight|bias)|Qformer\.bert\.embeddings\.position_ids")
_QV_BIAS = re.compile(re.escape(TOWER) + r"blocks\.(\d+)\.attn\.([qv])_bias")
_IN_PROJ = re.compile(re.escape(TOWER) + r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_OUR_QKV_BIAS = re.compile(r"vision\.encoder\.encoder\.layers\.(\d+)\.self_attn\.qkv\.bias")
_OUR_IN_PROJ = re.compile(r"vision\.encoder\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)")

# Parts of the original classes that its mathematics never uses; they are left out without a warning.
UNUSED_HEADS = ("query_proj", "caption_proj", "llm_query_tokens")


def our_name(name: str) -> str | None:
    """Return our name of a LAVIS parameter, or None for one that our model does not have."""
    return next((ours for ours in (table.ours(name) for table in TABLES) if ours), None)


def from_lavis(weights: Weights) -> tuple[Weights, list[str]]:
    """Rename the parameters of a LAVIS-style state dict.

    Returns:
        our state dict, and the LAVIS names that are not part of it (unused heads, other branches).
    """
    ours: Weights = {}
    unknown: list[str] = []
    for name, tensor in weights.items():
        bias, in_proj = _QV_BIAS.fullmatch(name), _IN_PROJ.fullmatch(name)
        if bias:
            q, v = (weights.get(f"{TOWER}blocks.{bias[1]}.attn.{side}_bias") for side in "qv")
            if q is not None and v is not None:
                layer = f"vision.encoder.encoder.layers.{bias[1]}"
                ours[f"{layer}.self_attn.qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
        elif in_proj:
            for side, part in zip("qkv", tensor.chunk(3), strict=True):
                ours[f"vision.encoder.encoder.layers.{in_proj[1]}.self_attn.{side}_proj.{in_proj[2]}"] = part
        elif not _DERIVED.fullmatch(name):
            renamed = our_name(name)
            if renamed is None:
                unknown.append(name)
            else:
                ours[renamed] = tensor
    return ours, unknown


def to_lavis(weights: Weights, tower: str) -> Weights:
    """Rename the parameters of our model to LAVIS' names, the second names of its tied tensors included.

    Args:
        weights: our state dict.
        tower: ``model_type`` of the image tower.

    Raises:
        UserError: a tower that LAVIS does not have, or a k bias, which its tower does not have.
    """
    if tower not in TOWERS:
        raise UserError(f"LAVIS has no image tower of type {tower!r}; only vitg and vitl models can be written")
    theirs: Weights = {}
    for name, tensor in weights.items():
        bias, in_proj = _OUR_QKV_BIAS.fullmatch(name), _OUR_IN_PROJ.fullmatch(name)
        if bias:
            q, k, v = tensor.chunk(3)
            if not k.is_meta and k.count_nonzero():
                raise UserError(
                    f"{name} has a k part that is not zero (the image tower was trained), and LAVIS' tower has no k bias; "
                    "train with --freeze-vision to write LAVIS files"
                )
            theirs[f"{TOWER}blocks.{bias[1]}.attn.q_bias"] = q.clone()
            theirs[f"{TOWER}blocks.{bias[1]}.attn.v_bias"] = v.clone()
        elif in_proj:
            if in_proj[2] == "q":
                parts = [weights[name.replace(".q_proj.", f".{side}_proj.")] for side in "qkv"]
                theirs[f"{TOWER}transformer.resblocks.{in_proj[1]}.attn.in_proj_{in_proj[3]}"] = torch.cat(parts)
        else:
            renamed = _QFORMER.theirs(name) or TOWERS[tower].theirs(name)
            assert renamed is not None, f"{name} is missing from the name tables"
            theirs[renamed] = tensor
    theirs["Qformer.cls.predictions.decoder.weight"] = theirs["Qformer.bert.embeddings.word_embeddings.weight"]
    theirs["Qformer.cls.predictions.decoder.bias"] = theirs["Qformer.cls.predictions.bias"]
    num_positions = len(theirs["Qformer.bert.embeddings.position_embeddings.weight"])
    theirs["Qformer.bert.embeddings.position_ids"] = torch.arange(num_positions)[None]
    return theirs
