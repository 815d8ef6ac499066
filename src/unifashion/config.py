"""The settings of retrieval and captions: the keys of the YAML files in ``configs/``, and the flags (see ``flags.py``)."""

import typing
from dataclasses import dataclass
from typing import Literal

from unifashion.data.settings import DataSettings
from unifashion.errors import UserError, nearest
from unifashion.flags import SEEDS, UNLIMITED, setting

__all__ = [
    "LANGUAGE_PARTS",
    "MODEL_NAMES",
    "PAPER_PARTS",
    "DataSettings",
    "EvaluationSettings",
    "LanguageModelSettings",
    "ModelName",
    "ModelSettings",
    "RunSettings",
    "TrainingSettings",
]

ModelName = Literal["blip2_cir_cls", "blip2_cir_rerank", "blip2_cir_full"]
MODEL_NAMES: tuple[str, ...] = typing.get_args(ModelName)
MAX_WEIGHT = 1000  # of a loss
LOSSES = {  # in the order in which they are printed
    "itc": "image-text contrast",
    "ttc": "a composed query's rows against the target's caption",
    "itm": "image-text matching",
    "lm": "captions by the Q-Former's own head",
    "itg": "captions by a language model, from the query rows",
    "q2i": "drawing by a diffusion model, from the query rows",
}


@dataclass(frozen=True)
class ModelSettings:
    """Model: which of the named models, at which size, from which weights."""

    blip_model_name: ModelName = setting("blip2_cir_cls", "model preset: its inputs and its losses")
    architecture: Literal["tiny", "vitl", "vitg"] = setting("vitg", "sizes of tower and Q-Former (models/presets.py)")
    init_from: str | None = setting(
        None,
        "checkpoint to start from: a run, a model folder, a .pt of LAVIS or UniFashion, a BLIP-2, a hub id; default: random",
    )
    tokenizer: str = setting(
        "bert-base-uncased", "Hugging Face tokenizer (path or hub id); 'train' builds a WordPiece on the training texts"
    )
    freeze_vision: bool = setting(True, "keep the image tower's weights fixed")


@dataclass(frozen=True)
class RunSettings:
    """Training: settings that every kind of training has."""

    output_dir: str = setting("runs/train", "run folder; must be new unless --overwrite")
    overwrite: bool = setting(False, "replace the run in output_dir")
    resume: str | None = setting(
        None, "run folder to continue from its last checkpoint, exactly; settings come from its config.yaml"
    )
    save_steps: int = setting(
        0, "also write a checkpoint after every n-th optimiser step; 0 = after each epoch only", most=UNLIMITED
    )
    keep_last: int = setting(
        2, "newest checkpoints to keep for --resume; best and last are always kept", most=UNLIMITED
    )
    max_steps: int = setting(0, "stop after this many optimiser steps; 0 = after num_epochs", most=UNLIMITED)
    batch_size: int = setting(128, "rows per process and step", least=1, most=2**20)
    accumulation_steps: int = setting(1, "batches whose gradients are added up before a step", least=1, most=2**20)
    learning_rate: float = setting(2e-4, "peak of the schedule", above=0, most=10)
    betas: tuple[float, float] = setting((0.9, 0.98), "AdamW momenta", below=1)
    adam_epsilon: float = setting(1e-7, "AdamW epsilon", above=0, most=1)
    weight_decay: float = setting(0.05, "AdamW decay, on every parameter as in the paper", most=10)
    max_grad_norm: float = setting(0.0, "gradients are clipped to this norm; 0 = never", most=UNLIMITED)
    ema_decay: float = setting(
        0.0, "decay of the moving average of the weights that validation and the kept model use; 0 = none", below=1
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = setting(
        "auto", "auto = bf16 where the GPU has it, else fp32; tf32 = fp32 with fast matrix products on a GPU"
    )
    deterministic: bool = setting(
        True, "on a GPU use only operations that give the same bits every time, as an exact --resume needs"
    )
    seed: int = setting(0, "one seed for weights, order, augmentation and sampled negatives", below=SEEDS)
    tracker: Literal["none", "tensorboard", "wandb"] = setting("none", "also log to this tracker, through accelerate")


@dataclass(frozen=True)
class TrainingSettings(RunSettings):
    """Training: optimiser, schedule, losses, and what is kept."""

    num_epochs: int = setting(2, "passes over the training set", least=1, most=10**6)
    grad_cache_chunk: int = setting(
        0,
        "rows in memory at once: gradients of the whole batch, computed chunk by chunk (slower, far larger batches); 0 = off",
        most=2**20,
    )
    length_buckets: int = setting(
        0,
        "fill this many batches at a time from rows sorted by text length (less padding, negatives of similar length); 0 = off",
        most=UNLIMITED,
    )
    schedule: Literal["one-cycle", "cosine"] = setting(
        "one-cycle",
        "learning-rate schedule (training/schedule.py); the paper trains retrieval with one-cycle, captions with cosine",
    )
    warmup_epochs: float = setting(1.5, "warm-up of the learning rate, epochs", most=10**6)
    compile: bool = setting(
        False, "compile the blocks of tower and Q-Former (torch.compile); the first step takes about a minute"
    )
    losses: str | None = setting(
        None,
        "what is minimised, joined by +: "
        + ", ".join(f"{name} ({meaning})" for name, meaning in LOSSES.items())
        + "; default: those of the named model that the data feeds (models/presets.py)",
    )
    itc_weight: float = setting(1.0, "weight of itc", most=MAX_WEIGHT)
    itm_weight: float = setting(1.0, "weight of itm", most=MAX_WEIGHT)
    ttc_weight: float = setting(1.0, "weight of ttc", most=MAX_WEIGHT)
    lm_weight: float = setting(1.0, "weight of lm", most=MAX_WEIGHT)
    itg_weight: float = setting(1.0, "weight of itg", most=MAX_WEIGHT)
    q2i_weight: float = setting(1.0, "weight of q2i", most=MAX_WEIGHT)
    composed_objective: Literal["released", "paper"] = setting(
        "released",
        "ttc and itm of composed queries: as the released code (ttc compares the query rows with the target's caption, itm reads "
        "that caption), or as eq. 10 of the paper is printed (ttc compares the fused text vector, itm reads the feedback)",
    )
    itm_negatives: Literal["multinomial", "unifashion"] = setting(
        "multinomial", "hard negatives: drawn as in BLIP-2, or chosen as the original UniFashion code does"
    )
    eval_every: int = setting(1, "validate after every n-th epoch, and after the last; 0 = never", most=UNLIMITED)

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of every loss by its name."""
        return {name: getattr(self, f"{name}_weight") for name in LOSSES}

    def named_losses(self) -> tuple[str, ...] | None:
        """Return what ``losses`` names, in the order of ``LOSSES``; None = the named model's own.

        Raises:
            UserError: an unknown loss (names the nearest known one), or one that is named twice.
        """
        if self.losses is None:
            return None
        named = [name.strip() for name in self.losses.split("+")]
        for name in named:
            if name not in LOSSES:
                raise UserError(f"losses: {name!r} is not one of {', '.join(LOSSES)}{nearest(name, tuple(LOSSES))}")
            if named.count(name) > 1:
                raise UserError(f"losses: {name} is named twice; name it once")
        return tuple(name for name in LOSSES if name in named)


@dataclass(frozen=True)
class EvaluationSettings:
    """Evaluation: protocols and their sizes."""

    eval_batch_size: int = setting(128, "images or texts per forward pass", least=1, most=2**20)
    num_draws: int = setting(5, "independent draws of fashiongen/sub100", least=1, most=1000)
    num_queries: int = setting(1000, "queries per draw of fashiongen/sub100", least=1, most=UNLIMITED)
    num_negatives: int = setting(100, "negatives per query of fashiongen/sub100", least=1, most=10_000)
    eval_seed: int = setting(0, "seed of the draws", below=SEEDS)
    rerank: int = setting(0, "re-rank this many of the best with the matching head; 0 = off", most=UNLIMITED)
    rerank_by: Literal["target", "two-image"] = setting(
        "target",
        "what re-ranking of composed queries reads beside the feedback: the target image alone, or reference and target "
        "as one image (the original's inference_rerank)",
    )
    num_drawings: int = setting(100, "garments of each set that --dataset all draws", least=2, most=UNLIMITED)
    drawing_guidance: float = setting(
        5.0, "how strongly image and words steer these drawings; 1 = not more than in training", most=100
    )
    drawing_steps: int = setting(20, "steps of each of these drawings", least=1, most=1000)

    def __post_init__(self) -> None:
        if self.rerank_by != "target" and not self.rerank:
            raise UserError(
                f"rerank_by: {self.rerank_by} re-ranks nothing without --rerank; say how many, such as --rerank 50"
            )

    @property
    def rerank_suffix(self) -> str:
        """Return what re-ranking adds to the name of a composed protocol, such as +itm50 or +itm2img50."""
        kind = "itm" if self.rerank_by == "target" else "itm2img"
        return f"+{kind}{self.rerank}" if self.rerank else ""


LANGUAGE_PARTS = ("qformer", "adapters", "llm_lora", "llm", "diffusion")
# What is trained when, according to the paper. Its sections disagree on what learns beside the Q-Former, and on whether the
# diffusion model does.
PAPER_PARTS = {
    "paper-s1": ("qformer",),  # the Q-Former alone, through frozen models
    "paper-s3": ("qformer", "adapters", "diffusion"),  # all together, the language model frozen
    "paper-frozen": ("qformer", "adapters"),  # all together, both models frozen
    "paper-after": ("adapters", "llm_lora"),  # after the Q-Former, which stays as phase 1 left it
    "all": ("qformer", "adapters", "llm_lora", "diffusion"),
}


@dataclass(frozen=True)
class LanguageModelSettings:
    """Language model: the heads of itg (captions) and q2i (drawing), and what learns with them."""

    llm: str | None = setting(
        None,
        "causal language model that writes captions: a folder or hub id (for a LLaVA, its language model); "
        "'tiny' makes a small LLaMA from scratch, with a vocabulary of the training texts; default: that of --init-from",
    )
    load_in: Literal["full", "8bit", "4bit"] = setting(
        "full", "precision of a frozen language model; 8bit and 4bit need a GPU"
    )
    trainable: str = setting(
        "all",
        f"what is trained, joined by +: {', '.join(LANGUAGE_PARTS)}; or "
        + ", ".join(f"{name} (= {'+'.join(parts)})" for name, parts in PAPER_PARTS.items()),
    )
    lora_r: int = setting(128, "rank of the LoRA matrices", least=1, most=2**16)
    lora_alpha: int = setting(
        256, "scale of LoRA: its output is multiplied by lora_alpha / lora_r", least=1, most=2**20
    )
    lora_dropout: float = setting(0.05, "dropout on the input of LoRA", below=1)
    lora_targets: str = setting("all-linear", "layers with LoRA: all-linear (all but lm_head), or names joined by +")
    template: str = setting(
        "USER: <Img><queries></Img> {instruction} Assistant:",
        "prompt; <queries> stands for the image, {instruction} for --instruction; the caption follows",
    )
    instruction: str | None = setting(None, "instruction to the language model; default: the paper's for the data set")
    max_answer_tokens: int = setting(
        128, "captions are cut to this many tokens of the language model", least=1, most=2**16
    )
    gradient_checkpointing: bool = setting(
        False, "recompute the language model's activations in the backward pass instead of storing them"
    )
    diffusion_model: str | None = setting(
        None,
        "Stable Diffusion 1.x in diffusers form (folder or hub id) that learns to draw from the queries; 'tiny' makes a small "
        "one from scratch; default: that of --init-from",
    )
    drawing_size: str = setting(
        "256", "side of the square that is drawn, or HEIGHTxWIDTH such as 512x384, pixels; multiples of 8 (tiny: of 3)"
    )
    drawing_prompt: str = setting(
        "", "words that the drawn image is also conditioned on; default: each row's own text", empty=True
    )

    def __post_init__(self) -> None:
        parts = self.parts()
        if {"llm", "llm_lora"} <= set(parts):
            raise UserError(
                "trainable: llm trains all weights of the language model, llm_lora only a few added ones; choose one"
            )
        if "llm" in parts and self.load_in != "full":
            raise UserError(f"trainable: a language model in {self.load_in} cannot be trained whole; use llm_lora")
        if self.llm == "tiny" and "llm" not in parts:
            raise UserError(
                "llm: tiny starts from random weights, so it must be trained; add --trainable qformer+adapters+llm"
            )
        if self.diffusion_model == "tiny" and "diffusion" not in parts:
            raise UserError(
                "diffusion_model: tiny starts from random weights, so it must be trained; add diffusion to --trainable"
            )
        drawing_shape(self.drawing_size)
        if self.template.count("<queries>") != 1:
            raise UserError(f"template: it must hold <queries> exactly once, got {self.template!r}")

    def parts(self) -> tuple[str, ...]:
        """Return what is trained, as names of ``LANGUAGE_PARTS``.

        Raises:
            UserError: an unknown part (names the nearest known one).
        """
        if self.trainable in PAPER_PARTS:
            return PAPER_PARTS[self.trainable]
        parts = tuple(part.strip() for part in self.trainable.split("+"))
        for part in parts:
            if part not in LANGUAGE_PARTS:
                known = (*LANGUAGE_PARTS, *PAPER_PARTS)
                raise UserError(f"trainable: {part!r} is not one of {', '.join(known)}{nearest(part, known)}")
        return parts


def drawing_shape(size: str | int) -> tuple[int, int]:
    """Return height and width of what is drawn, pixels, from "256" or "512x384".

    Raises:
        UserError: neither form, or a side outside 8 to 2048.
    """
    sides = str(size).lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and 8 <= int(side) <= 2048 for side in sides):
        raise UserError(f"drawing_size {size!r}: give one side, or HEIGHTxWIDTH such as 512x384, each from 8 to 2048")
    return int(sides[0]), int(sides[-1])
