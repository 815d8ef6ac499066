"""Add the heads that the training settings ask for to a model: new ones, or those of the checkpoint that it starts from."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from unifashion.config import LanguageModelSettings
from unifashion.errors import UserError
from unifashion.llm.diffusion_head import DiffusionHead, load_diffusion_head
from unifashion.llm.heads import (
    Heads,
    prefix_language_model,
    read_heads,
    rebuild_diffusion_head,
    rebuild_language_model,
)
from unifashion.llm.language_model import PrefixLanguageModel
from unifashion.llm.loading import Kept, add_lora, load_base
from unifashion.llm.model import UniFashionFull
from unifashion.llm.tiny import TINY, tiny_diffusion_head, tiny_llama, train_tokenizer
from unifashion.models.unifashion import UniFashionModel


@dataclass(frozen=True)
class Learned:
    """What heads that are made on the spot learn from: the training texts, and a sample of the photos as they are drawn."""

    texts: Callable[[], Iterable[str]]
    drawings: Callable[[], Tensor]  # (N, 3, S, T) in -1..1


def add_heads(
    base: UniFashionModel,
    settings: LanguageModelSettings,
    instruction: str,
    learned: Learned,
    source: Path | None,
    losses: Sequence[str] = ("itg", "q2i"),
) -> UniFashionFull:
    """Return the model with the heads that the losses need, ready to train.

    Args:
        base: the Q-Former's model.
        settings: heads, and which parts of the model are trained.
        instruction: to the language model, where the settings have none.
        learned: what a tiny head is made from.
        source: the folder with heads that ``base`` came from, or an original's file, if it has any; each is kept unless the
            settings name another.
        losses: what is minimised.

    Raises:
        UserError: a loss has no head, or something that is named cannot be used.
    """
    parts = settings.parts()
    kept_heads = read_heads(source) if source is not None else None
    language, heads = _language(base, settings, instruction, learned, source, kept_heads, "itg" in losses)
    diffusion, heads = _diffusion(base, settings, learned, source, kept_heads, heads, "q2i" in losses)
    model = UniFashionFull(base, heads, language, diffusion)
    if source is not None and kept_heads is not None:
        # A model that is named takes the place of the kept one; adapters whose model was never named belong to it.
        model.load_kept(
            source,
            language=settings.llm is None or kept_heads.llm is None,
            diffusion=settings.diffusion_model is None or kept_heads.diffusion_model is None,
        )
    model.choose_trained(parts, tuple(losses))
    if settings.gradient_checkpointing:
        _checkpoint_activations(model)
    return model


def _language(
    base: UniFashionModel,
    settings: LanguageModelSettings,
    instruction: str,
    learned: Learned,
    source: Path | None,
    kept_heads: Heads | None,
    wanted: bool,
) -> tuple[PrefixLanguageModel | None, Heads]:
    """Return the language model and what ``heads.json`` says about it."""
    parts, none = settings.parts(), Heads(None, "nothing", "full", settings.template, "", settings.max_answer_tokens)
    if not wanted:
        return None, none
    width = base.config.qformer.hidden_size
    if settings.llm is None:
        if kept_heads is None or kept_heads.llm is None or source is None:
            raise UserError("the loss itg needs a language model: name one with --llm (a folder, a hub id, or tiny)")
        _check_kept(kept_heads, parts, str(source))
        heads = replace(none, **{name: getattr(kept_heads, name) for name in LANGUAGE_FIELDS})
        return rebuild_language_model(kept_heads, source, width), heads
    kept: Kept = "whole" if "llm" in parts else "lora" if "llm_lora" in parts else "nothing"
    heads = Heads(
        settings.llm,
        kept,
        settings.load_in,
        settings.template,
        settings.instruction or instruction,
        settings.max_answer_tokens,
    )
    return _new_language_model(width, settings, heads, learned.texts), heads


LANGUAGE_FIELDS = ("llm", "kept", "load_in", "template", "instruction", "max_answer_tokens")
DIFFUSION_FIELDS = ("diffusion_model", "keeps_unet", "drawing_size", "drawing_prompt")


def _new_language_model(
    width: int, settings: LanguageModelSettings, heads: Heads, texts: Callable[[], Iterable[str]]
) -> PrefixLanguageModel:
    if heads.llm == TINY:
        tokenizer: PreTrainedTokenizerBase = train_tokenizer(
            [*texts(), heads.template.replace("{instruction}", heads.instruction)]
        )
        model: nn.Module = tiny_llama(tokenizer)
    else:
        model, tokenizer = load_base(str(heads.llm), heads.load_in, exact=heads.kept == "whole")
    if heads.kept == "lora":
        model = add_lora(model, settings)
    return prefix_language_model(model, tokenizer, width, heads)


def _diffusion(
    base: UniFashionModel,
    settings: LanguageModelSettings,
    learned: Learned,
    source: Path | None,
    kept_heads: Heads | None,
    heads: Heads,
    wanted: bool,
) -> tuple[DiffusionHead | None, Heads]:
    """Return the diffusion head, and ``heads`` with what is known about it."""
    if not wanted:
        return None, heads
    sizes, trains = (base.config.qformer.hidden_size, base.config.num_queries), "diffusion" in settings.parts()
    if settings.diffusion_model is None:
        if kept_heads is None or kept_heads.diffusion_model is None or source is None:
            raise UserError(
                "the loss q2i needs a diffusion model: name one with --diffusion-model (a folder, a hub id, or tiny)"
            )
        kept = replace(kept_heads, keeps_unet=kept_heads.keeps_unet or trains)
        head = rebuild_diffusion_head(kept_heads, source, *sizes)
        assert head is not None, "it has a diffusion model"
        head.trains_unet = trains
        head.unet.requires_grad_(trains)
        return head, replace(heads, **{name: getattr(kept, name) for name in DIFFUSION_FIELDS})
    name, size, prompt = settings.diffusion_model, settings.drawing_size, settings.drawing_prompt
    if name == TINY:
        head = tiny_diffusion_head(learned.texts(), learned.drawings, *sizes, size, prompt)
    else:
        head = load_diffusion_head(name, *sizes, size, prompt, trains)
    return head, replace(heads, diffusion_model=name, keeps_unet=trains, drawing_size=size, drawing_prompt=prompt)


def _checkpoint_activations(model: UniFashionFull) -> None:
    """Recompute the activations of the large models in the backward pass instead of storing them."""
    if model.language is not None:
        model.language.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if model.diffusion is not None:
        model.diffusion.unet.enable_gradient_checkpointing()


def _check_kept(heads: Heads, parts: tuple[str, ...], source: str) -> None:
    for part, kept in (("llm", "whole"), ("llm_lora", "lora")):
        if part in parts and heads.kept != kept:
            raise UserError(
                f"{source} keeps {heads.kept} of its language model, so {part} cannot be trained on; leave it out of "
                "--trainable, or name a language model with --llm to start anew"
            )
