"""Build the model that a run trains: new from a preset, or from the weights of an earlier checkpoint."""

import dataclasses
import logging
from collections.abc import Callable, Iterable
from typing import Literal

import torch

from unifashion.config import DataSettings, ModelSettings
from unifashion.convert import load_any
from unifashion.data.mixture import TRAINED_ON_VAL
from unifashion.data.splits import is_composed
from unifashion.errors import UserError
from unifashion.models import pretrained
from unifashion.models.presets import VARIANTS, UniFashionConfig, build_config
from unifashion.models.tokenizer import DEC, load_tokenizer, train_wordpiece
from unifashion.models.unifashion import UniFashionModel

log = logging.getLogger(__name__)


def build_model(
    settings: ModelSettings, data: DataSettings, corpus: Callable[[], Iterable[str]], seed: int = 0
) -> UniFashionModel:
    """Return a model ready to train.

    Args:
        settings: preset, sizes, start weights, tokenizer.
        data: image and text settings; they are stored in the model, so that validation feeds it the same way.
        corpus: called for the training texts when the tokenizer is to be trained.
        seed: seed of the random weights.

    Raises:
        UserError: a start checkpoint or tokenizer that cannot be used, or image settings that differ from the checkpoint's.
    """
    torch.manual_seed(seed)
    if settings.init_from:
        model = _from_checkpoint(settings, data)
    elif settings.freeze_vision:
        raise UserError(
            "a new image tower would stay random because freeze_vision is on; "
            "start from trained weights (--init-from) or train the tower too (--no-freeze-vision)"
        )
    else:
        tokenizer = train_wordpiece(corpus()) if settings.tokenizer == "train" else load_tokenizer(settings.tokenizer)
        config = build_config(
            settings.blip_model_name,
            settings.architecture,
            len(tokenizer),
            int(tokenizer.convert_tokens_to_ids(DEC)),  # type: ignore[arg-type]
            data,
        )
        config = dataclasses.replace(config, target_queries=_target_queries(settings.blip_model_name, data))
        _check_patches(config)
        _check_positions(config)
        model = UniFashionModel(config, tokenizer)
    if data.include_val and TRAINED_ON_VAL not in model.config.marks:
        model.config = dataclasses.replace(model.config, marks=(*model.config.marks, TRAINED_ON_VAL))
    if settings.freeze_vision:
        model.vision.freeze()
    return model


def _target_queries(name: str, data: DataSettings) -> Literal["query_tokens", "prompt_tokens"]:
    """Return the queries that read target and gallery images: those of their own that only composed queries train."""
    variant = VARIANTS[name]
    is_phase_2 = variant.kinds == ("composed",) or is_composed(data.dataset)
    return "prompt_tokens" if variant.has_prompt_tokens and is_phase_2 else "query_tokens"


def _check_patches(config: UniFashionConfig) -> None:
    patch, size = config.vision.get("patch_size") or 1, config.image_size
    if size % patch:
        raise UserError(
            f"image_size {size}: the tower reads patches of {patch} pixels; give a multiple, such as {-(-size // patch) * patch}"
        )


def _check_positions(config: UniFashionConfig) -> None:
    most = config.qformer.max_positions
    if config.max_text_tokens > most:
        raise UserError(f"max_text_tokens {config.max_text_tokens}: the Q-Former reads at most {most}; give fewer")


def _from_checkpoint(settings: ModelSettings, data: DataSettings) -> UniFashionModel:
    """Load tower, Q-Former and heads of a checkpoint into the named preset; new prompt tokens start as its queries."""
    source = str(settings.init_from)
    config, weights, tokenizer = load_any(source)
    for name in ("image_size", "pad", "pad_ratio"):
        if getattr(config, name) != getattr(data, name):
            raise UserError(
                f"{source} was trained with {name} {getattr(config, name)}, but this run has {getattr(data, name)}; "
                f"set --{name.replace('_', '-')} {getattr(config, name)}"
            )
    has_prompt_tokens = VARIANTS[settings.blip_model_name].has_prompt_tokens
    if config.model_name == "blip2_cir_full" and config.target_queries == "query_tokens":
        weights.pop("prompt_tokens", None)  # phase 1 has not trained them
    config = dataclasses.replace(
        config,
        model_name=settings.blip_model_name,
        target_queries=_target_queries(settings.blip_model_name, data),
        max_text_tokens=data.max_text_tokens,
    )
    _check_positions(config)
    if has_prompt_tokens:
        weights.setdefault("prompt_tokens", weights["query_tokens"].clone())
    else:
        weights.pop("prompt_tokens", None)
    model = UniFashionModel(config, tokenizer)
    pretrained.load_weights(model, weights, source)
    log.info("weights loaded from %s", source)
    return model
