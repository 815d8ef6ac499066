"""Names and sizes of BLIP-2 in transformers: ``Blip2ForImageTextRetrieval`` and ``Blip2ForConditionalGeneration``.

    vision_model.post_layernorm.weight                         ln_vision.weight
    qformer.encoder.layer.0.crossattention.attention.key       qformer.layers.0.cross_attention.key
    embeddings.word_embeddings.weight                          qformer.word_embeddings.weight

Neither carries a language head or a temperature; the second kind also lacks all text parts of the Q-Former, and the heads.
"""

from typing import Any

from transformers import Blip2QFormerConfig, Blip2VisionConfig

from unifashion.convert.files import read_sharded
from unifashion.convert.names import NameTable
from unifashion.errors import UserError, one_line
from unifashion.io import read_json
from unifashion.models.pretrained import CONFIG, CheckpointSource
from unifashion.models.weight_files import Weights

LANGUAGE_MODEL = ("language_model.", "language_projection.")

_BLOCK, _OUR_BLOCK = "vision_model.encoder.layers.{n}.", "vision.encoder.encoder.layers.{n}."
_LAYER, _OUR_LAYER = "qformer.encoder.layer.{n}.", "qformer.layers.{n}."
_TABLE = NameTable(
    [
        ("vision_model.embeddings.class_embedding", "vision.encoder.embeddings.class_embedding"),
        ("vision_model.embeddings.position_embedding", "vision.encoder.embeddings.position_embedding"),
        ("vision_model.embeddings.patch_embedding.{p}", "vision.encoder.embeddings.patch_embedding.{p}"),
        (_BLOCK + "layer_norm{k}.{p}", _OUR_BLOCK + "layer_norm{k}.{p}"),
        (_BLOCK + "self_attn.qkv.{p}", _OUR_BLOCK + "self_attn.qkv.{p}"),
        (_BLOCK + "self_attn.projection.{p}", _OUR_BLOCK + "self_attn.projection.{p}"),
        (_BLOCK + "mlp.fc{k}.{p}", _OUR_BLOCK + "mlp.fc{k}.{p}"),
        ("vision_model.post_layernorm.{p}", "ln_vision.{p}"),
        ("query_tokens", "query_tokens"),
        ("embeddings.{emb}_embeddings.weight", "qformer.{emb}_embeddings.weight"),
        ("qformer.layernorm.{p}", "qformer.norm.{p}"),
        (_LAYER + "attention.attention.{qkv}.{p}", _OUR_LAYER + "attention.{qkv}.{p}"),
        (_LAYER + "attention.output.dense.{p}", _OUR_LAYER + "attention.dense.{p}"),
        (_LAYER + "attention.output.LayerNorm.{p}", _OUR_LAYER + "attention.norm.{p}"),
        (_LAYER + "crossattention.attention.{qkv}.{p}", _OUR_LAYER + "cross_attention.{qkv}.{p}"),
        (_LAYER + "crossattention.output.dense.{p}", _OUR_LAYER + "cross_attention.dense.{p}"),
        (_LAYER + "crossattention.output.LayerNorm.{p}", _OUR_LAYER + "cross_attention.norm.{p}"),
        (_LAYER + "intermediate.dense.{p}", _OUR_LAYER + "text_ffn.expand.{p}"),
        (_LAYER + "output.dense.{p}", _OUR_LAYER + "text_ffn.contract.{p}"),
        (_LAYER + "output.LayerNorm.{p}", _OUR_LAYER + "text_ffn.norm.{p}"),
        (_LAYER + "intermediate_query.dense.{p}", _OUR_LAYER + "query_ffn.expand.{p}"),
        (_LAYER + "output_query.dense.{p}", _OUR_LAYER + "query_ffn.contract.{p}"),
        (_LAYER + "output_query.LayerNorm.{p}", _OUR_LAYER + "query_ffn.norm.{p}"),
        ("vision_projection.{p}", "vision_proj.{p}"),
        ("text_projection.{p}", "text_proj.{p}"),
        ("itm_head.{p}", "itm_head.{p}"),
    ]
)
_TOWER_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "image_size",
    "patch_size",
)
_POSITION_IDS = ("embeddings.position_ids",)


def read_weights(checkpoint: CheckpointSource, tower_only: bool = False) -> tuple[Weights, list[str]]:
    """Return the weights of a BLIP-2 folder under our names, and their names that have no counterpart.

    The language model is not even read.
    """

    def wanted(name: str) -> bool:
        return name.startswith("vision_model.") if tower_only else not name.startswith(LANGUAGE_MODEL)

    ours: Weights = {}
    unknown: list[str] = []
    for name, tensor in read_sharded(checkpoint, wanted).items():
        renamed = _TABLE.ours(name)
        if renamed is not None:
            ours[renamed] = tensor
        elif name not in _POSITION_IDS:
            unknown.append(name)
    return ours, unknown


def read_sizes(checkpoint: CheckpointSource) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what shapes do not reveal: the tower's config for our model, and the Q-Former settings of ``QFormerConfig``.

    Raises:
        UserError: a config that is not BLIP-2's.
    """
    path = checkpoint.path / CONFIG
    try:
        values = read_json(path)
        vision = Blip2VisionConfig(**(values.get("vision_config") or {}))
        qformer = Blip2QFormerConfig(**(values.get("qformer_config") or {}))
        tower = {name: int(getattr(vision, name)) for name in _TOWER_SIZES}
    except Exception as error:  # transformers checks its configs in its own ways
        raise UserError(f"{path} is not the config of a BLIP-2 model ({one_line(error)})") from None
    if qformer.hidden_act != "gelu":
        raise UserError(f"{path}: a Q-Former with {qformer.hidden_act} is not one of BLIP-2 (gelu)")
    tower |= {name: getattr(vision, name) for name in ("model_type", "layer_norm_eps", "hidden_act", "qkv_bias")}
    return tower, {
        "num_heads": qformer.num_attention_heads,
        "dropout": qformer.hidden_dropout_prob,
        "layer_norm_eps": qformer.layer_norm_eps,
    }
