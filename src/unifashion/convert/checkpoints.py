"""Open a checkpoint of any known kind, and write one for others.

    UniFashion model folder, run folder, hub id      as it is
    original UniFashion, SPRC, LAVIS  .pt / .pth      {"epoch", "<ClassName>": state dict}, {"model": ...} or a bare state dict
    Hugging Face BLIP-2 folder or hub id              Blip2ForImageTextRetrieval, Blip2ForConditionalGeneration

The adapters of the original's big model are kept by ``convert`` (``adapters.py``).
What a checkpoint lacks is taken from elsewhere or filled in, and logged: its image tower (``tower.py``), its tokenizer,
whole parts of the model (``complete.py``). Weights that are stored in half precision come out as float32.
"""

import logging
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from unifashion.convert import huggingface
from unifashion.convert.adapters import adapter_names, copy_heads, read_adapters, write_adapters
from unifashion.convert.complete import complete
from unifashion.convert.files import is_own, read_file
from unifashion.convert.lavis import UNUSED_HEADS, from_lavis, to_lavis
from unifashion.convert.names import summarise
from unifashion.convert.sizes import qformer_sizes, tower_config
from unifashion.convert.tower import find_beside, only_tower, read_tower
from unifashion.errors import UserError
from unifashion.io import replacing
from unifashion.models import kinds, pretrained
from unifashion.models.presets import VARIANTS, UniFashionConfig
from unifashion.models.pretrained import CheckpointSource, Loaded
from unifashion.models.qformer import QFormerConfig
from unifashion.models.tokenizer import DEC, load_tokenizer
from unifashion.models.unifashion import skeleton
from unifashion.models.weight_files import Weights

log = logging.getLogger(__name__)

TOKENIZER = "bert-base-uncased"
OWN_CONFIG = "unifashion_config"
Format = Literal["unifashion", "lavis"]

# What the name of the class that wrote a checkpoint implies. All of them read targets with query_tokens at test time.
CLASSES: dict[str, dict[str, Any]] = {
    "Blip2QformerCirCls": {"model_name": "blip2_cir_cls"},
    "Blip2QformerCirRerank": {"model_name": "blip2_cir_rerank"},
    "Blip2QformerCirFull": {"model_name": "blip2_cir_full"},
    "Blip2QformerCirAlignPrompt": {"model_name": "blip2_cir_rerank", "query_passes": 2, "max_text_tokens": 32},
    "Blip2Qformer": {"model_name": "blip2_cir_cls", "max_text_tokens": 32},
}
# Side branches of the original's big model and of BLIP-2 with a language model.
_BRANCHES = ("llm_model.", "llm_proj.", "proj_layer.", "text_encoder.", "unet.", "vae.", "opt_", "t5_")


@dataclass
class ForeignCheckpoint:
    """The weights of a foreign checkpoint, under our names, and what is known about it besides their shapes."""

    source: str
    weights: Weights
    settings: dict[str, Any] = field(default_factory=dict)
    qformer: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] | None = None
    config: UniFashionConfig | None = None
    tokenizer: str | None = None


def load_any(name: str | Path, tokenizer: str | None = None, vision_tower: str | None = None) -> Loaded:
    """Read a checkpoint.

    Args:
        name: file, folder or hub id.
        tokenizer: folder or hub id of the tokenizer; default: the checkpoint's own, else bert-base-uncased with [DEC]. If
            it comes with the weights of a BERT, text parts that the checkpoint lacks are taken from there.
        vision_tower: for a checkpoint without image tower: ``eva_vit_g.pth``, ``clip_vit_L.pth``, or a checkpoint that has
            it; default: one of these files in the checkpoint's folder.

    Returns:
        config, weights (complete, float32) and tokenizer of the model.

    Raises:
        UserError: nothing there, a damaged or dangerous file, another kind of checkpoint, a part that cannot be found.
    """
    checkpoint = pretrained.resolve(name)
    if is_own(checkpoint):
        config, weights, own_tokenizer = pretrained.read_folder(checkpoint)
        pretrained.check_fit(skeleton(config, str(name)), weights, str(name))
        return config, weights, own_tokenizer if tokenizer is None else _load_tokenizer(tokenizer)
    foreign = _read_lavis(checkpoint.path) if checkpoint.path.is_file() else _read_huggingface(checkpoint, str(name))
    _add_tower(foreign, vision_tower)
    own_tokenizer = _tokenizer(foreign, tokenizer)
    config = foreign.config or _config(foreign, own_tokenizer)
    shapes = {key: tensor.shape for key, tensor in skeleton(config, str(name)).state_dict().items()}
    return config, complete(foreign.weights, shapes, foreign.source, tokenizer or TOKENIZER), own_tokenizer


def convert(
    name: str | Path,
    out: str | Path,
    to: Format = "unifashion",
    tokenizer: str | None = None,
    vision_tower: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Read any checkpoint and write it as a UniFashion folder, or as a file for LAVIS, SPRC and the original code.

    Raises:
        UserError: what ``load_any`` raises, ``out`` exists, or the model does not fit LAVIS.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists; give another name, or --overwrite to replace it")
    if to == "lavis" and out.suffix not in (".pt", ".pth"):
        raise UserError(f"{out}: a LAVIS checkpoint is one file, name it with .pt or .pth")
    config, weights, own_tokenizer = load_any(name, tokenizer, vision_tower)
    if to == "lavis":
        save_lavis(out, config, weights)
    else:
        source = pretrained.resolve(name).path
        adapters = read_adapters(source) if source.is_file() else {}
        more = partial(write_adapters, adapters=adapters) if adapters else partial(copy_heads, source)
        pretrained.save(out, config, weights, own_tokenizer, more)
    return out


def save_lavis(path: Path, config: UniFashionConfig, weights: Weights) -> None:
    """Write ``{"epoch": 0, "<ClassName>": state dict}``, the form that the original code loads with ``strict=False``.

    Our config is stored in it under a key of its own, so that ``load_any`` restores the same model.

    Raises:
        UserError: a model or a tower that LAVIS does not have.
    """
    settings = {"model_name": config.model_name, "query_passes": config.query_passes}
    fitting = [name for name, values in CLASSES.items() if {"query_passes": 1, **values}.items() >= settings.items()]
    if not fitting:
        raise UserError(f"LAVIS has no model like this one ({config.model_name}, {config.query_passes} query passes)")
    content = {"epoch": 0, fitting[0]: to_lavis(weights, config.vision["model_type"]), OWN_CONFIG: asdict(config)}
    with replacing(path) as unfinished:
        torch.save(content, unfinished)


def _read_lavis(path: Path) -> ForeignCheckpoint:
    key, state, beside = read_file(path)
    if any(name.startswith("Fformer.") for name in state):
        raise UserError(
            f"{path} is SPRC's second-stage re-ranker, which this project does not have; "
            "give the first-stage checkpoint (Blip2QformerCirAlignPrompt)"
        )
    weights, unknown = from_lavis(state)
    _require_qformer(weights, str(path), list(state))
    kept = adapter_names(state)
    _report_left_out(str(path), [name for name in unknown if name not in kept])
    settings = CLASSES.get(key)
    if settings is None:
        settings = {"model_name": "blip2_cir_rerank" if "prompt_tokens" in weights else "blip2_cir_cls"}
        if key not in ("", "model", "state_dict"):
            log.warning("%s was written by the unknown class %s; read as %s", path, key, settings["model_name"])
    return ForeignCheckpoint(str(path), weights, settings, config=_own_config(beside.get(OWN_CONFIG)))


def _read_huggingface(checkpoint: CheckpointSource, source: str) -> ForeignCheckpoint:
    vision, qformer = huggingface.read_sizes(checkpoint)
    weights, unknown = huggingface.read_weights(checkpoint)
    _require_qformer(weights, source, unknown)
    _report_left_out(source, unknown)
    has_tokenizer = any((checkpoint.path / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    settings = {"model_name": "blip2_cir_cls", "max_text_tokens": 32}
    return ForeignCheckpoint(
        source, weights, settings, qformer, vision, tokenizer=str(checkpoint.path) if has_tokenizer else None
    )


def _require_qformer(weights: Weights, source: str, names: list[str]) -> None:
    needed = ("query_tokens", "qformer.layers.0.cross_attention.key.weight")
    if not all(name in weights and weights[name].ndim > 1 for name in needed):
        kinds.refuse(kinds.of_names(names), source, "retrieval")
        raise UserError(
            f"{source} is not a BLIP-2 style checkpoint: it has no Q-Former with query tokens, but {summarise(names, 3)}; "
            "expected a file of UniFashion, SPRC or LAVIS, or a Hugging Face BLIP-2"
        )


def _report_left_out(source: str, unknown: list[str]) -> None:
    known = [name for name in unknown if name.startswith((*UNUSED_HEADS, *_BRANCHES))]
    strange = [name for name in unknown if name not in known]
    if known:
        log.info("%s: left out, not part of the retrieval model: %s", source, summarise(known))
    if strange:
        log.warning("%s: left out, unknown names: %s", source, summarise(strange))


def _own_config(values: Any) -> UniFashionConfig | None:
    try:
        config = UniFashionConfig(**{**values, "qformer": QFormerConfig(**values["qformer"])})
        return config if config.model_name in VARIANTS and "model_type" in config.vision else None
    except (TypeError, KeyError):
        return None


def _add_tower(foreign: ForeignCheckpoint, vision_tower: str | None) -> None:
    """Make sure that ``foreign`` has an image tower and its sizes."""
    if only_tower(foreign.weights):
        if foreign.vision is None:
            foreign.vision = foreign.config.vision if foreign.config else tower_config(foreign.weights, foreign.source)
        return
    width = foreign.weights["qformer.layers.0.cross_attention.key.weight"].shape[-1]
    source = vision_tower or find_beside(Path(foreign.source), width)
    tower, foreign.vision = read_tower(source)
    if foreign.vision.get("hidden_size") != width:
        raise UserError(f"the image tower in {source} does not fit: {foreign.source} reads images of width {width}")
    foreign.weights = {**foreign.weights, **tower}
    log.info("%s: image tower taken from %s", foreign.source, source)


def _tokenizer(foreign: ForeignCheckpoint, name: str | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer that the user names, else the checkpoint's own if it is the Q-Former's, else BERT's."""
    if name is None and foreign.tokenizer:
        try:
            return _check_tokenizer(_load_tokenizer(foreign.tokenizer), foreign.tokenizer, foreign)
        except UserError:
            log.info("%s: its tokenizer is not that of the Q-Former; %s is used", foreign.source, TOKENIZER)
    name = name or TOKENIZER
    try:
        tokenizer = _load_tokenizer(name)
    except UserError as error:
        raise UserError(
            f"{foreign.source} needs the tokenizer {name!r} ({error}); convert with --tokenizer FOLDER"
        ) from None
    return _check_tokenizer(tokenizer, name, foreign)


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer with one request to the hub; transformers by itself would retry for a minute."""
    return load_tokenizer(name if Path(name).is_dir() else str(pretrained.resolve(name).path))


def _check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, name: str, foreign: ForeignCheckpoint
) -> PreTrainedTokenizerBase:
    rows = foreign.weights.get("qformer.word_embeddings.weight")
    dec = int(tokenizer.convert_tokens_to_ids(DEC))  # type: ignore[arg-type]
    fits = rows is None or max(dec + 1, tokenizer.vocab_size) <= len(rows) <= len(tokenizer)
    if not fits or (foreign.config and foreign.config.dec_token_id != dec):
        raise UserError(
            f"tokenizer {name!r} ({len(tokenizer)} words) is not that of {foreign.source} ({0 if rows is None else len(rows)}); "
            "give the tokenizer that it was trained with (--tokenizer)"
        )
    tokenizer.truncation_side = "right"
    return tokenizer


def _config(foreign: ForeignCheckpoint, tokenizer: PreTrainedTokenizerBase) -> UniFashionConfig:
    assert foreign.vision is not None
    weights = foreign.weights
    return UniFashionConfig(
        vision=foreign.vision,
        qformer=qformer_sizes(weights, len(tokenizer), foreign.source, **foreign.qformer),
        num_queries=weights["query_tokens"].shape[1],
        embed_dim=len(weights["vision_proj.weight"]) if "vision_proj.weight" in weights else UniFashionConfig.embed_dim,
        dec_token_id=int(tokenizer.convert_tokens_to_ids(DEC)),  # type: ignore[arg-type]
        image_size=int(foreign.vision["image_size"]),
        **foreign.settings,
    )
