"""Add the heads that the training settings ask for to a model: new ones, or those of the checkpoint that it starts from."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from torch import nn
from transformers import PreTrainedTokenizerBase

from unifashion.config import LanguageModelSettings
from unifashion.errors import UserError
from unifashion.llm.diffusion_head import load_diffusion_head
from unifashion.llm.heads import Heads, find_heads, prefix_language_model
from unifashion.llm.language_model import PrefixLanguageModel
from unifashion.llm.loading import Kept, add_lora, load_base
from unifashion.llm.model import UniFashionFull
from unifashion.llm.tiny import TINY, tiny_llama, train_tokenizer
from unifashion.models.unifashion import UniFashionModel


def add_heads(
    base: UniFashionModel,
    settings: LanguageModelSettings,
    instruction: str,
    texts: Callable[[], Iterable[str]],
    source: str | None,
) -> UniFashionFull:
    """Return the model with its heads, ready to train.

    Args:
        base: the Q-Former's model.
        settings: heads, and which parts of the model are trained.
        instruction: to the language model, where the settings have none.
        texts: called for the training texts when a tiny language model is made.
        source: the checkpoint that ``base`` came from; its heads (and prompt) are kept unless a language model is named.

    Raises:
        UserError: no language model is named, or something that is named cannot be used.
    """
    parts = settings.parts()
    folder = find_heads(source) if source and settings.llm is None else None
    if folder is not None:
        model = UniFashionFull.with_heads_of(base, folder)
        _check_kept(model.heads, parts, str(source))
    elif settings.llm is None:
        raise UserError("blip2_cir_full needs a language model: name one with --llm (a folder, a hub id, or tiny)")
    else:
        kept: Kept = "whole" if "llm" in parts else "lora" if "llm_lora" in parts else "nothing"
        instruction = settings.instruction or instruction
        heads = Heads(settings.llm, kept, settings.load_in, settings.template, instruction, settings.max_answer_tokens)
        model = UniFashionFull(base, heads, _new_language_model(base, settings, heads, texts), None)
    if settings.diffusion_model is not None and model.diffusion is None:
        _add_diffusion_head(model, settings)
    model.choose_trained(parts)
    if settings.gradient_checkpointing:
        model.language.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _new_language_model(
    base: UniFashionModel, settings: LanguageModelSettings, heads: Heads, texts: Callable[[], Iterable[str]]
) -> PrefixLanguageModel:
    if heads.llm == TINY:
        tokenizer: PreTrainedTokenizerBase = train_tokenizer(
            [*texts(), heads.template.replace("{instruction}", heads.instruction)]
        )
        model: nn.Module = tiny_llama(tokenizer)
    else:
        model, tokenizer = load_base(heads.llm, heads.load_in, exact=heads.kept == "whole")
    if heads.kept == "lora":
        model = add_lora(model, settings)
    return prefix_language_model(model, tokenizer, base.config.qformer.hidden_size, heads)


def _add_diffusion_head(model: UniFashionFull, settings: LanguageModelSettings) -> None:
    name, trains, width = (
        str(settings.diffusion_model),
        "diffusion" in settings.parts(),
        model.config.qformer.hidden_size,
    )
    model.diffusion = load_diffusion_head(name, width, settings.drawing_size, settings.drawing_prompt, trains)
    model.heads = replace(
        model.heads,
        diffusion_model=name,
        keeps_unet=trains,
        drawing_size=settings.drawing_size,
        drawing_prompt=settings.drawing_prompt,
    )


def _check_kept(heads: Heads, parts: tuple[str, ...], source: str) -> None:
    for part, kept in (("llm", "whole"), ("llm_lora", "lora")):
        if part in parts and heads.kept != kept:
            raise UserError(
                f"{source} keeps {heads.kept} of its language model, so {part} cannot be trained on; leave it out of "
                "--trainable, or name a language model with --llm to start anew"
            )
