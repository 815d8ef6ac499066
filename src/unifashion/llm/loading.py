"""From a name to a causal language model: plain, a LLaVA's, in 8 or 4 bits, with LoRA; and which weights a checkpoint keeps.

What a checkpoint keeps depends on what was trained (``Kept``):
    nothing   the language model is frozen: its name is enough
    lora      a PEFT adapter, which any program that knows PEFT can load onto the same base
    whole     config, weights and tokenizer: a transformers model folder
"""

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerBase,
)

from unifashion.config import LanguageModelSettings
from unifashion.errors import UserError, one_line, require
from unifashion.models.kinds import check_folder
from unifashion.models.weight_files import check_finite, load_foreign, read_safetensors

log = logging.getLogger(__name__)

Kept = Literal["nothing", "lora", "whole"]
LoadIn = Literal["full", "8bit", "4bit"]
ADAPTER, ADAPTER_CONFIG, WEIGHTS = "adapter_model.safetensors", "adapter_config.json", "model.safetensors"


def load_base(name: str, load_in: LoadIn = "full", exact: bool = False) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer; for a LLaVA, its language model.

    Args:
        name: folder or hub id.
        load_in: 8bit and 4bit quantise the linear layers as they are loaded (bitsandbytes).
        exact: float32 whatever the device, for training all weights; otherwise bfloat16 on GPUs that have it.

    Raises:
        UserError: nothing there, or another kind of model; no bitsandbytes.
    """
    options: dict[str, Any] = {"dtype": torch.float32 if exact or not _has_bf16() else torch.bfloat16}
    if load_in != "full":
        options["quantization_config"] = _quantisation(load_in)
    try:
        check_folder(name, "language", "config.json")
        config = load_foreign(AutoConfig, name)
        if type(config) in AutoModelForCausalLM._model_mapping:
            model: nn.Module = load_foreign(AutoModelForCausalLM, name, **options)
        else:
            model = _language_part(load_foreign(AutoModelForImageTextToText, name, **options))
        tokenizer = load_foreign(AutoTokenizer, name)
    except UserError as error:
        raise UserError(f"language model {name!r} could not be loaded (--llm): {error}") from None
    except Exception as error:  # for a wrong or broken folder, transformers raises all kinds of errors
        raise UserError(
            f"language model {name!r} could not be loaded ({one_line(error)}); give a folder or hub id of a causal language "
            "model (--llm)"
        ) from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"language model {name!r}: its tokenizer has no end-of-text token; choose another --llm")
    return model, tokenizer


def _has_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _quantisation(load_in: LoadIn) -> BitsAndBytesConfig:
    require("bitsandbytes", f"--load-in {load_in}")
    if load_in == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if _has_bf16() else torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def _language_part(model: Any) -> nn.Module:
    """Return the causal language model inside a vision-language model such as LLaVA, without the rest."""
    # Only the skeleton is built: its weights are those of the vision-language model, not a second copy.
    with torch.device("meta"):
        causal: Any = AutoModelForCausalLM.from_config(model.config.get_text_config(), trust_remote_code=False)
    setattr(causal, causal.base_model_prefix, model.get_decoder())
    causal.set_output_embeddings(model.get_output_embeddings())
    # What transformers looks at to know that weights are quantised; only a quantised model has these attributes.
    for name in ("quantization_method", "is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit", "hf_quantizer"):
        if hasattr(model, name):
            setattr(causal, name, getattr(model, name))
    causal.generation_config = model.generation_config
    return causal


def add_lora(model: Any, settings: LanguageModelSettings) -> nn.Module:
    """Freeze the language model and add LoRA to its linear layers.

    Raises:
        UserError: ``lora_targets`` names layers that it does not have; no peft.
    """
    require("peft", "LoRA")
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    targets = settings.lora_targets
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets if targets == "all-linear" else [name.strip() for name in targets.split("+")],
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"lora_targets {targets!r}: {one_line(error)}") from None


def read_lora_config(folder: Path) -> Any:
    """Return the ``LoraConfig`` that ``save_language_model`` wrote.

    Raises:
        ValueError: it sets what ``add_lora`` does not: PEFT would compute other numbers, or import what a setting names.
    """
    from peft import LoraConfig

    config = LoraConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise ValueError(f"a {type(config).__name__}, expected LoRA")
    default = LoraConfig()
    ours = (
        "base_model_name_or_path",
        "inference_mode",
        "task_type",
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "peft_version",
    )
    for field in fields(config):
        if field.name not in ours and getattr(config, field.name) != getattr(default, field.name):
            raise ValueError(f"{ADAPTER_CONFIG} sets {field.name}, which UniFashion's adapters do not")
    return config


def is_kept(name: str, kept: Kept) -> bool:
    """Return whether a checkpoint keeps the language model's weight of this name."""
    return kept == "whole" or (kept == "lora" and "lora_" in name)


def save_language_model(
    folder: Path, model: Any, weights: dict[str, Tensor], kept: Kept, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write what a checkpoint keeps of the language model into a new ``folder``.

    Args:
        folder: does not exist yet.
        model: the language model; ``weights`` are its own, gathered.
        weights: by the names of its state dict.
        kept: see the top of this file.
        tokenizer: written beside whole weights.
    """
    if kept == "nothing":
        return
    folder.mkdir()
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    if kept == "lora":
        from peft import get_peft_model_state_dict

        adapter = get_peft_model_state_dict(model, tensors, save_embedding_layers=False)
        save_file(adapter, folder / ADAPTER, metadata={"format": "pt"})
        model.peft_config["default"].save_pretrained(str(folder))
        return
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))


def read_language_model(folder: Path, kept: Kept) -> dict[str, Tensor]:
    """Return what ``save_language_model`` wrote, by the names of the model's state dict.

    Raises:
        UserError: the file is missing or damaged.
    """
    if kept == "nothing":
        return {}
    path = folder / (ADAPTER if kept == "lora" else WEIGHTS)
    weights = read_safetensors(path)
    check_finite(weights, path)
    return {_with_adapter_name(name): tensor for name, tensor in weights.items()} if kept == "lora" else weights


def _with_adapter_name(name: str) -> str:
    """Insert the adapter's name, which PEFT's files omit: "...q_proj.lora_A.weight" -> "...lora_A.default.weight"."""
    stem, dot, rest = name.rpartition(".lora_")
    letter, _, tail = rest.partition(".")
    return f"{stem}{dot}{letter}.default.{tail}" if tail else f"{stem}{dot}{letter}.default"
