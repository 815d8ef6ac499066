"""Presets: what each named model consists of, and the sizes it comes in."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from unifashion.config import DataSettings, ModelName
from unifashion.data.datasets import Kind
from unifashion.models.qformer import QFormerConfig

LARGEST, MOST_LAYERS = 2**20, 1000  # what a config may say without a look at its weights


@dataclass(frozen=True)
class Variant:
    """What sets one named model apart: its queries, the kinds of data that it is for, and what it learns by default."""

    has_prompt_tokens: bool  # queries of their own for target and gallery images
    kinds: tuple[Kind, ...]
    losses: tuple[str, ...]  # those of them that the data feeds; --losses names others


VARIANTS: dict[str, Variant] = {
    # phase 1: cross-modal retrieval, captions by the Q-Former
    "blip2_cir_cls": Variant(False, ("image-text",), ("itc", "itm", "lm")),
    # phase 2: composed retrieval
    "blip2_cir_rerank": Variant(True, ("composed",), ("itc", "ttc", "itm")),
    # both, with a language model that writes captions and a diffusion model that draws (llm/)
    "blip2_cir_full": Variant(True, ("image-text", "composed"), ("itg", "q2i")),
}


@dataclass(frozen=True)
class UniFashionConfig:
    """Everything needed to build the model and to prepare its input; stored as ``config.json`` beside the weights.

    ``vision`` is a transformers image-model config as a dict. ``target_queries`` names the queries that read target and
    gallery images: a checkpoint of the original ``blip2_cir_rerank`` has ``query_tokens`` (convert/QUIRKS.md).
    ``marks`` are words that every score of this checkpoint must carry, such as "trained-on-val".
    ``query_passes`` is how often a composed query is read: once, or, in checkpoints of SPRC, once more without the image.
    """

    model_name: ModelName
    vision: dict[str, Any]
    qformer: QFormerConfig
    num_queries: int = 32
    embed_dim: int = 256
    temperature: float = 0.07
    dec_token_id: int = 30522
    target_queries: Literal["query_tokens", "prompt_tokens"] = "query_tokens"
    query_passes: Literal[1, 2] = 1
    image_size: int = 224
    pad: Literal["target", "square", "none"] = "target"
    pad_ratio: float = 1.25
    max_text_tokens: int = 64
    marks: tuple[str, ...] = ()


def wrong_settings(config: UniFashionConfig) -> str:
    """Return what is wrong with a config that was read from a file: a type, a size out of all proportion; "" for a good one."""
    if not isinstance(config.vision, dict) or not isinstance(config.vision.get("model_type"), str):
        return "vision is not the config of an image tower"
    wrong = _wrong_values(asdict(config), UniFashionConfig) or _wrong_values(asdict(config.qformer), QFormerConfig)
    sizes = config.qformer
    if not wrong and sizes.hidden_size % sizes.num_heads:
        return f"a width of {sizes.hidden_size} cannot be split into {sizes.num_heads} attention heads"
    return wrong


def _wrong_values(values: dict[str, Any], kind: type) -> str:
    for name, hint in get_type_hints(kind).items():
        value, options = values[name], get_args(hint)
        if hint is int and not (type(value) is int and 0 < value <= LARGEST):
            return f"{name} is {value!r}, not a number from 1 to {LARGEST}"
        if hint is float and not (type(value) in (int, float) and 0 <= value <= LARGEST):
            return f"{name} is {value!r}, not a number from 0 to {LARGEST}"
        if get_origin(hint) is Literal and value not in options:
            return f"{name} is {value!r}, not one of {options}"
    return _wrong_sizes(values)


def _wrong_sizes(values: dict[str, Any]) -> str:
    """Look at every number of a model's config, ours or of transformers: layers are many at 100, widths at 10,000."""
    for name, value in values.items():
        most = MOST_LAYERS if "layers" in name or "depths" in name else LARGEST
        numbers = value if isinstance(value, list | tuple) else [value]
        if len(numbers) > MOST_LAYERS or not all(0 <= n <= most for n in numbers if isinstance(n, int | float)):
            return f"{name} is {str(value)[:60]}"
        wrong = _wrong_sizes(value) if isinstance(value, dict) else ""
        if wrong:
            return wrong
    return ""


@dataclass(frozen=True)
class Architecture:
    """Sizes of one model: an image tower and a Q-Former that fits it."""

    vision: dict[str, Any]
    qformer: dict[str, Any]
    num_queries: int = 32
    embed_dim: int = 256


# The image towers of BLIP-2, each without its last blocks: EVA-CLIP's ViT-g has 40 blocks, OpenAI's CLIP ViT-L/14 has 24.
EVA_VIT_G: dict[str, Any] = {
    "model_type": "blip_2_vision_model",
    "hidden_size": 1408,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "intermediate_size": 6144,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "qkv_bias": True,
}
CLIP_VIT_L: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "num_hidden_layers": 21,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "patch_size": 14,
    "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
}

ARCHITECTURES: dict[str, Architecture] = {
    "tiny": Architecture(
        vision={
            "model_type": "resnet",
            "embedding_size": 64,
            "hidden_sizes": [64, 128, 256],
            "depths": [1, 1, 1],
            "layer_type": "basic",
        },
        qformer={
            "hidden_size": 128,
            "num_layers": 2,
            "num_heads": 4,
            "intermediate_size": 256,
            "cross_attention_freq": 1,
            "image_width": 256,
            "max_positions": 64,
            "dropout": 0.0,
            "initial_std": 0.09,
        },
        num_queries=8,
        embed_dim=128,
    ),
    "vitl": Architecture(vision=CLIP_VIT_L, qformer={"image_width": 1024}),
    "vitg": Architecture(vision=EVA_VIT_G, qformer={"image_width": 1408}),
}


def build_config(
    model_name: ModelName, architecture: str, vocab_size: int, dec_token_id: int, data: DataSettings
) -> UniFashionConfig:
    """Return the config of a new model of the named sizes for the given tokenizer and image settings."""
    sizes = ARCHITECTURES[architecture]
    vision = dict(sizes.vision)
    if vision["model_type"] in ("blip_2_vision_model", "clip_vision_model"):
        vision["image_size"] = data.image_size
    return UniFashionConfig(
        model_name=model_name,
        vision=vision,
        qformer=QFormerConfig(vocab_size=vocab_size, **sizes.qformer),
        num_queries=sizes.num_queries,
        embed_dim=sizes.embed_dim,
        dec_token_id=dec_token_id,
        target_queries="prompt_tokens" if VARIANTS[model_name].has_prompt_tokens else "query_tokens",
        image_size=data.image_size,
        pad=data.pad,
        pad_ratio=data.pad_ratio,
        max_text_tokens=data.max_text_tokens,
    )
