"""``heads.json``: which language model and which diffusion model belong to a checkpoint, and how to build them again."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from unifashion.config import LanguageModelSettings, drawing_shape
from unifashion.convert.adapters import HEAD_WEIGHTS, HEADS, UNNAMED, read_adapters
from unifashion.errors import UserError, one_line, require
from unifashion.io import read_json
from unifashion.llm.diffusion_head import DiffusionHead, load_diffusion_head
from unifashion.llm.language_model import PrefixLanguageModel
from unifashion.llm.loading import Kept, LoadIn, load_base, read_lora_config
from unifashion.llm.prompts import QUERIES, instruction_for
from unifashion.llm.tiny import TINY
from unifashion.models import pretrained
from unifashion.models.weight_files import load_foreign

LLM_FOLDER, UNET_FOLDER = "llm", "unet"
DIFFUSION_FOLDER = "diffusion"  # what a diffusion model that was made on the spot keeps beside its U-Net


@dataclass(frozen=True)
class Heads:
    """Where the parts come from, the language model's prompt, and which weights of both models a checkpoint keeps.

    Without a language model (``llm`` None) the fields of its prompt mean nothing, unless its projection waits for one
    (convert/adapters.py).
    """

    llm: str | None
    kept: Kept
    load_in: LoadIn
    template: str
    instruction: str
    max_answer_tokens: int
    diffusion_model: str | None = None
    keeps_unet: bool = False
    drawing_size: int | str = 256  # "512x384" = height x width
    drawing_prompt: str = ""


def find_heads(name: str | Path) -> Path | None:
    """Return the folder with the heads of a run, a saved folder or a hub id; None where the model has none.

    An original's file with adapters is returned itself: the functions here and in llm/model.py read it like a folder.
    """
    checkpoint = pretrained.resolve(name)
    if checkpoint.path.is_file():
        return checkpoint.path if read_adapters(checkpoint.path) else None
    checkpoint.fetch(HEADS, HEAD_WEIGHTS, f"{LLM_FOLDER}/*", f"{UNET_FOLDER}/*", f"{DIFFUSION_FOLDER}/*")
    return checkpoint.path if (checkpoint.path / HEADS).is_file() else None


def read_heads(folder: Path) -> Heads:
    """Read ``heads.json``.

    Raises:
        UserError: it is not what a blip2_cir_full writes.
    """
    values = UNNAMED if folder.is_file() else read_json(folder / HEADS)
    if values == UNNAMED:
        prompt = LanguageModelSettings.template, instruction_for("fashiongen"), LanguageModelSettings.max_answer_tokens
        return Heads(None, "nothing", "full", *prompt)
    try:
        heads = Heads(**values)
        if wrong := [f.name for f in fields(Heads) if not _fits(f.type, getattr(heads, f.name))]:
            raise TypeError(wrong[0])
        if heads.template.replace("{instruction}", heads.instruction).count(QUERIES) != 1:
            raise ValueError("template")
        drawing_shape(heads.drawing_size)
        return heads
    except (ValueError, TypeError, UserError):  # None, where it cannot be read, is no mapping
        raise UserError(f"{folder / HEADS} is not what a blip2_cir_full writes; train again or copy it again") from None


def _fits(kind: Any, value: object) -> bool:
    return value in get_args(kind) if get_origin(kind) is Literal else isinstance(value, kind)


def rebuild_language_model(heads: Heads, folder: Path, width: int) -> PrefixLanguageModel | None:
    """Build the language model of a checkpoint, if it has one, for rows of ``width``; weights that it keeps are loaded later.

    Raises:
        UserError: the base cannot be found, or files in ``folder`` are missing or damaged.
    """
    if heads.llm is None:
        return None
    source = folder / LLM_FOLDER
    if heads.kept == "lora":
        require("peft", f"the LoRA adapter in {source}")
    if heads.kept != "whole":
        model, tokenizer = load_base(heads.llm, heads.load_in)
    try:
        if heads.kept == "whole":
            model = AutoModelForCausalLM.from_config(load_foreign(AutoConfig, source), trust_remote_code=False)
            tokenizer = load_foreign(AutoTokenizer, source)
            if tokenizer.eos_token_id is None:
                raise ValueError("the tokenizer has no end-of-text token")
        elif heads.kept == "lora":
            from peft import get_peft_model

            model = get_peft_model(model, read_lora_config(source))
    except Exception as error:  # transformers and peft raise all kinds of errors
        raise UserError(
            f"the language model in {source} cannot be read ({one_line(error)}); train again or copy it again"
        ) from None
    return prefix_language_model(model, tokenizer, width, heads)


def prefix_language_model(model: Any, tokenizer: Any, width: int, heads: Heads) -> PrefixLanguageModel:
    """Put the projection before a language model, with the prompt it is trained with."""
    return PrefixLanguageModel(
        model, tokenizer, width, heads.template, heads.instruction, heads.kept, heads.max_answer_tokens
    )


def rebuild_diffusion_head(heads: Heads, folder: Path, width: int, num_rows: int) -> DiffusionHead | None:
    """Build the diffusion head of a checkpoint, if it has one; raises as ``load_diffusion_head``."""
    if heads.diffusion_model is None:
        return None
    unet = str(folder / UNET_FOLDER) if heads.keeps_unet else None
    name = str(folder / DIFFUSION_FOLDER) if heads.diffusion_model == TINY else heads.diffusion_model
    return load_diffusion_head(name, width, num_rows, heads.drawing_size, heads.drawing_prompt, heads.keeps_unet, unet)
