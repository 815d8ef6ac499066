"""What a run minimises: the losses that are named, or those of the named model that its data feeds; and which settings they use.

    itc  itm      images with texts, composed queries
    lm            images with texts
    ttc           composed queries whose targets all have captions
    itg           texts of images, or captions of targets; a language model
    q2i           any; a diffusion model

A loss that the data cannot feed, a loss without its head, and a setting that no loss reads are errors, before anything is loaded.
"""

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

from unifashion.config import PAPER_PARTS, LanguageModelSettings, ModelSettings, TrainingSettings
from unifashion.data.batches import ComposedRows, PairRows
from unifashion.errors import UserError
from unifashion.models.presets import VARIANTS

log = logging.getLogger(__name__)

HEADS = {
    "itg": ("llm", "--llm", "a language model"),
    "q2i": ("diffusion_model", "--diffusion-model", "a diffusion model"),
}
LORA_ONLY = ("lora_r", "lora_alpha", "lora_dropout", "lora_targets")
LLM_ONLY = (
    *LORA_ONLY,
    "load_in",
    "template",
    "instruction",
    "max_answer_tokens",
)  # of a new head; a kept one has its own
DRAWING_ONLY = ("drawing_size", "drawing_prompt")


def wanted_losses(model: ModelSettings, training: TrainingSettings) -> tuple[str, ...]:
    """Return the losses that are named, or those of the named model, whatever the data feeds."""
    return training.named_losses() or VARIANTS[model.blip_model_name].losses


def choose_losses(
    model: ModelSettings,
    training: TrainingSettings,
    language: LanguageModelSettings,
    rows: PairRows | ComposedRows,
    kept: Path | None,
) -> tuple[str, ...]:
    """Return the losses of a run, in the order in which they are printed.

    Args:
        model: the named model.
        training: losses that are named, and the weights.
        language: heads.
        rows: of the training set.
        kept: the folder with the heads of the checkpoint that the run starts from, if it has any.

    Raises:
        UserError: a loss that the data cannot feed or that has no head, and a setting that none of the losses reads.
    """
    named = training.named_losses()
    lacking = {name: _lacks(name, rows) for name in wanted_losses(model, training)}
    if named is None:
        _check_captions(lacking, language, kept)
        chosen = tuple(name for name, lack in lacking.items() if not lack and _has_head(name, language, kept))
    else:
        for name, lack in lacking.items():
            if lack:
                raise UserError(f"losses: {name} {lack}; leave it out, or choose other data")
            if not _has_head(name, language, kept):
                _, flag, what = HEADS[name]
                raise UserError(f"losses: {name} needs {what}; name one with {flag}")
        chosen = named
    if kept is not None:
        _say_left_out(chosen, language, kept)
    if not training.resume:  # a run that goes on has passed, and one of an earlier version has that version's defaults
        check_effects(model, training, language, chosen, kept)
    return chosen


def _say_left_out(losses: tuple[str, ...], language: LanguageModelSettings, kept: Path) -> None:
    """Log which heads of the start checkpoint will not be in the new one: no loss would keep them fitting its query rows."""
    for loss, (_, _, what) in HEADS.items():
        if loss not in losses and _has_head(loss, language, kept):
            log.warning("%s: it has %s, which this run leaves out, as %s is not among the losses", kept, what, loss)


def _lacks(loss: str, rows: PairRows | ComposedRows) -> str:
    """Return what a loss needs that the rows do not have; "" = nothing."""
    composed = isinstance(rows, ComposedRows)
    if loss == "lm" and composed:
        return "reads images with their own texts, and these are composed queries"
    if loss == "ttc" and not composed:
        return "compares composed queries with captions, and these are images with texts"
    if loss == "ttc" and not rows.captioned:  # type: ignore[union-attr]
        return "needs a caption for every target image, and some have none"
    if loss == "itg" and not any(rows.answer(index).strip() for index in range(len(rows))):
        return "needs captions to learn from, and there are none"
    return ""


def _has_head(loss: str, language: LanguageModelSettings, kept: Path | None) -> bool:
    """Return whether a loss has its head, or needs none."""
    if loss not in HEADS:
        return True
    name = HEADS[loss][0]
    if getattr(language, name) is not None:
        return True
    if kept is None:
        return False
    from unifashion.llm.heads import read_heads  # with it come transformers and peft, which retrieval does not need

    return getattr(read_heads(kept), name) is not None


def _check_captions(lacking: dict[str, str], language: LanguageModelSettings, kept: Path | None) -> None:
    """Check a blip2_cir_full without named losses: it writes captions, draws, or both."""
    if "itg" not in lacking:
        return
    draws = _has_head("q2i", language, kept)
    if lacking["itg"] and not draws:
        raise UserError(f"the loss itg {lacking['itg']}; choose other data, or draw with --diffusion-model")
    if not lacking["itg"] and not draws and not _has_head("itg", language, kept):
        raise UserError("blip2_cir_full needs a language model: name one with --llm (a folder, a hub id, or tiny)")


def check_effects(
    model: ModelSettings,
    training: TrainingSettings,
    language: LanguageModelSettings,
    losses: tuple[str, ...],
    kept: Path | None,
) -> None:
    """Check that every setting that differs from its default changes something.

    Raises:
        UserError: one does not.
    """
    for loss in training.loss_weights():
        if loss not in losses:
            _refuse(training, (f"{loss}_weight",), f"{loss} is not among the losses ({'+'.join(losses)})")
    if "itm" not in losses:
        _refuse(training, ("itm_negatives",), "itm is not among the losses")
    if model.blip_model_name == "blip2_cir_cls" or not {"ttc", "itm"} & set(losses):
        _refuse(training, ("composed_objective",), "no composed query is compared with a caption or matched")
    _check_heads(language, losses, kept)
    if not {"itg", "q2i"} & set(losses):
        _refuse(
            language, ("trainable", "gradient_checkpointing"), "there is neither a language model nor a diffusion model"
        )


def _check_heads(language: LanguageModelSettings, losses: tuple[str, ...], kept: Path | None) -> None:
    if "itg" not in losses:
        _refuse(language, ("llm", *LLM_ONLY), "itg is not among the losses")
    elif language.llm is None and kept is not None:
        _refuse(language, LLM_ONLY, f"the language model of {kept} keeps its own")
    elif "llm_lora" not in language.parts():
        _refuse(language, LORA_ONLY, "llm_lora is not trained")
    if "q2i" not in losses:
        _refuse(language, ("diffusion_model", *DRAWING_ONLY), "q2i is not among the losses")
    elif language.diffusion_model is None and kept is not None:
        _refuse(language, DRAWING_ONLY, f"the diffusion model of {kept} keeps its own")
    parts = language.parts() if language.trainable not in PAPER_PARTS else ()
    for part, loss in (("llm", "itg"), ("llm_lora", "itg"), ("diffusion", "q2i")):
        if part in parts and loss not in losses:
            raise UserError(f"trainable: {part} has no effect, as {loss} is not among the losses; leave it out")


def _refuse(group: Any, names: tuple[str, ...], why: str) -> None:
    for field in fields(group):
        if field.name in names and getattr(group, field.name) != field.default:
            raise UserError(f"--{field.name.replace('_', '-')} has no effect: {why}; leave it out")
