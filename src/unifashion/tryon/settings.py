"""Settings of try-on: what ``train.sh`` and ``inference.sh`` take as YAML keys and flags (see ``unifashion.flags``)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unifashion.config import MAX_WEIGHT, RunSettings
from unifashion.data.datasets import names, tryon_sets
from unifashion.data.settings import default_root
from unifashion.errors import UserError
from unifashion.flags import SEEDS, UNLIMITED, setting

Control = Literal["garment", "garment-sketch", "sketch"]  # each is the name of a map, see maps.py
ControlRead = Literal["as-trained", "garment", "garment-sketch", "sketch"]
Adapter = Literal["linear", "clip"]
Trainable = Literal["paper", "all", "paper+qformer", "all+qformer"]
Start = Literal["noise", "agnostic", "ground-truth"]
SchedulerName = Literal["default", "pndm", "ddim", "ddpm", "euler", "dpm++", "unipc"]

SET_DOC = (
    "vitonhd = VITON-HD, dresscode = DressCode, as distributed; catalogue = the embedded, synthetic set in VITON-HD's layout, "
    "drawn when it is missing"
)
ROOT_DOC = (
    "folder that holds vitonhd/ or dresscode/, or that folder itself; default: $UNIFASHION_DATA, else dataset/ "
    "(for --dataset catalogue: dataset/catalogue)"
)

CONTROL_READ_DOC = (
    "what the garment encoder of a .ckpt reads, which the file does not record: garment (StableVITON, and the default), "
    "garment-sketch (UNIStableVITON), sketch (trained on MGD's sketches of the worn garment)"
)


@dataclass(frozen=True)
class TryOnDataSettings:
    """Data: where the pairs are, which maps are read, and at which size."""

    dataset: str = setting("vitonhd", SET_DOC, choices=names(tryon_sets()))
    data_root: str | None = setting(None, ROOT_DOC)
    height: int = setting(512, "height of the pictures, pixels", least=8, most=4096)
    width: int = setting(384, "width of the pictures, pixels", least=8, most=4096)
    control: Control = setting(
        "garment",
        "what the garment encoder reads: garment = its photo (StableVITON), garment-sketch = a sketch of it (UniFashion), "
        "sketch = a sketch of the garment as the person wears it (MGD)",
    )
    num_workers: int = setting(0, "processes that load images, per training process", most=256)
    max_missing: float = setting(1.0, "highest share of pairs that may lack a file, percent", most=100)


def data_root(dataset: str, named: str | None) -> Path:
    """Return the data root that the flag, the environment or the default names."""
    if named is not None:
        return Path(named)
    return default_root() / "catalogue" if dataset == "catalogue" else default_root()


@dataclass(frozen=True)
class TryOnModelSettings:
    """Model: its size and the weights it starts from."""

    architecture: Literal["sd1", "tiny"] = setting("sd1", "Stable Diffusion 1.x, or a toy that needs no download")
    init_from: str | None = setting(
        None,
        "weights to start from: a try-on run or pipeline folder, a StableVITON .ckpt, or Stable Diffusion 1.x / inpainting / "
        "Paint-by-Example in diffusers form (folder or hub id)",
    )
    base: str | None = setting(
        None, "Stable Diffusion 1.x in diffusers form, for what --init-from lacks: text encoder, tokenizer, VAE"
    )
    retriever: str | None = setting(
        None,
        "a UniFashion retrieval model, whose Q-Former rows join the text as context (the paper's adapter); default: none",
    )
    adapter: Adapter = setting(
        "linear",
        "how those rows join the text: linear = mapped and put after its states; clip = by the diffusion head's adapter, among "
        "the word embeddings of the frozen text encoder (the paper)",
    )
    adapter_from: str | None = setting(
        None, "a model trained with a diffusion head (run, folder or hub id), whose adapter --adapter clip starts from"
    )
    trainable: Trainable = setting(
        "paper",
        "what trains: garment encoder, warp blocks, adapter and the unconditional vector (paper), or also the U-Net (all); "
        "+qformer: also the Q-Former of --retriever, whose weights are then kept with the try-on model",
    )

    def __post_init__(self) -> None:
        if self.adapter == "clip" and self.retriever is None:
            raise UserError(
                "--adapter clip reads rows of a retrieval model: name one with --retriever, or leave --adapter out"
            )
        if self.trains_qformer and self.retriever is None:
            raise UserError(
                f"--trainable {self.trainable} trains the Q-Former of a retrieval model: name one with --retriever"
            )
        if self.adapter_from is not None and self.adapter != "clip":
            raise UserError("--adapter-from is what --adapter clip starts from: add --adapter clip, or leave it out")

    @property
    def trains_qformer(self) -> bool:
        """Return whether the Q-Former trains with the denoiser."""
        return self.trainable.endswith("+qformer")


@dataclass(frozen=True)
class TryOnTrainingSettings(RunSettings):
    """Training: optimiser, losses, augmentation, and what is kept."""

    output_dir: str = setting("runs/tryon", "run folder; must be new unless --overwrite")
    max_steps: int = setting(360_000, "optimiser steps", least=1, most=UNLIMITED)
    batch_size: int = setting(32, "rows per process and step", least=1, most=2**20)
    learning_rate: float = setting(1e-4, "AdamW learning rate, constant after the warm-up", above=0, most=10)
    betas: tuple[float, float] = setting((0.9, 0.999), "AdamW momenta", below=1)
    adam_epsilon: float = setting(1e-8, "AdamW epsilon", above=0, most=1)
    weight_decay: float = setting(0.01, "AdamW decay", most=10)
    ema_decay: float = setting(
        0.9999,
        "decay of the moving average of the weights that validation and the kept model use; 0 = none",
        below=1,
    )
    deterministic: bool = setting(False, "on a GPU use only operations that give the same bits every time")
    seed: int = setting(0, "one seed for weights, order, augmentation and noise", below=SEEDS)
    save_steps: int = setting(
        5000,
        "a checkpoint to resume from after every n-th step, and at the end; 0 = at the end only",
        most=UNLIMITED,
    )
    warmup_steps: int = setting(0, "steps over which the learning rate rises to its full value", most=UNLIMITED)
    decay_steps: int = setting(
        0, "last steps, over which the learning rate falls to zero along a cosine; 0 = never", most=UNLIMITED
    )
    unconditional_drop: float = setting(
        0.2, "share of rows whose context becomes the learned unconditional vector", most=1
    )
    atv_weight: float = setting(
        0.0, "weight of the attention total variation loss; the paper's second stage: 0.001", most=MAX_WEIGHT
    )
    flip: bool = setting(True, "mirror half of the items")
    colour: bool = setting(True, "shift hue, saturation, brightness and contrast of half of the items")
    move: bool = setting(False, "shift and scale half of the items, person and garment separately")
    cache_latents: bool = setting(
        False,
        "encode all pictures and captions once and keep them in memory (with their mirror images); needs --no-colour, no --move",
    )
    gradient_checkpointing: bool = setting(False, "compute activations again in the backward pass: less memory, slower")
    log_steps: int = setting(50, "a row of train_metrics.csv after every n-th step", least=1, most=UNLIMITED)
    validate_steps: int = setting(
        5000, "validation pictures after every n-th step, and at the end; 0 = at the end only", most=UNLIMITED
    )
    num_validation_images: int = setting(
        8, "the first N pairs of the test split are drawn each time", least=1, most=10**4
    )
    validation_inference_steps: int = setting(50, "sampler steps of the validation pictures", least=1, most=1000)

    def __post_init__(self) -> None:
        if self.cache_latents and (self.colour or self.move):
            raise UserError(
                "cache_latents keeps one encoding of each picture: add --no-colour --no-move, or --no-cache-latents"
            )


# What may change when a run is resumed, because no step depends on it (besides training.resume.FREE).
FREE_ON_RESUME = (
    "log_steps",
    "validate_steps",
    "num_validation_images",
    "validation_inference_steps",
    "gradient_checkpointing",
)


@dataclass(frozen=True)
class TryOnInferenceSettings:
    """Inference: which pairs, which model, how it samples, where the pictures go."""

    dataset: str = setting("vitonhd", SET_DOC, choices=names(tryon_sets()))
    data_root: str | None = setting(None, ROOT_DOC)
    model_path: str = setting(
        "runs/tryon", "a try-on run or pipeline folder, or a StableVITON .ckpt (then with --base)"
    )
    base: str | None = setting(None, "Stable Diffusion 1.x in diffusers form, for the text encoder of a .ckpt")
    control: ControlRead = setting("as-trained", CONTROL_READ_DOC)
    retriever: str | None = setting(None, "the retrieval model that the denoiser was trained with, if it was")
    split: Literal["train", "test"] = setting("test", "split of the data set")
    pairs: str = setting("paired", "paired, unpaired, or a file with a line 'PERSON.jpg GARMENT.jpg' per result")
    output_dir: str = setting(
        "runs/tryon/inference", "folder of the results; existing ones are kept and not drawn again"
    )
    overwrite: bool = setting(False, "draw the results in output_dir again")
    height: int = setting(0, "height of the results, pixels; 0 = as in training", most=4096)
    width: int = setting(0, "width of the results, pixels; 0 = as in training", most=4096)
    batch_size: int = setting(8, "pairs at once", least=1, most=4096)
    limit: int = setting(0, "draw only the first N pairs; 0 = all", most=UNLIMITED)
    scheduler: SchedulerName = setting(
        "default", "sampler; default = the one in the model's folder (PNDM without Runge-Kutta steps)"
    )
    num_inference_steps: int = setting(50, "steps of the sampler", least=1, most=1000)
    guidance_scale: float = setting(1.0, "1 = no unconditional pass", most=100)
    repaint: bool = setting(False, "put back the person's pixels where the mask says keep; marks every score")
    start: Start = setting(
        "noise",
        "what sampling starts from; ground-truth is what the original code does: it leaks the answer in paired tests "
        "and marks every score",
    )
    seed: int = setting(0, "the seed of each result is made of this and the pair's name", below=SEEDS)
    precision: Literal["auto", "fp32", "bf16"] = setting("auto", "auto = bf16 where the GPU has it, else fp32")
    max_missing: float = setting(1.0, "highest share of pairs that may lack a file, percent", most=100)
