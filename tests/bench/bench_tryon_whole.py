"""Try-on as users run it, at real size, with random weights: training steps, then pictures.

    python -m tests.bench.bench_tryon_whole                                      a fifth of Stable Diffusion's width, CPU
    python -m tests.bench.bench_tryon_whole --width 320 --height 512 --steps 20 --inference-steps 50 --batches 1 4   one GPU

A pipeline of Stable Diffusion 1.x's sizes (U-Net, VAE, CLIP ViT-L/14's text encoder) is drawn at random and saved. Then ``train``
starts from it, on embedded pictures enlarged to the height asked for, with everything a training step has (loading, VAE, text,
loss, AdamW, moving average), in bf16 where the GPU has it, and keeps its run. At last the run is opened as ``TryOn`` opens it,
and draws. Printed: seconds a step after the first ones, seconds a picture, and the highest memory of each.
bench_tryon.py compares a step with diffusers' ControlNet.
"""

import argparse
import csv
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from tests.bench.memory import highest_of_process
from transformers import CLIPTextConfig, CLIPTextModel

from unifashion.apps.toy_catalogue.tryon import TryOnSizes, write_tryon
from unifashion.models.tokenizer import train_wordpiece
from unifashion.training.run_folder import machine
from unifashion.training.train_tryon import train
from unifashion.tryon.api import TryOn
from unifashion.tryon.denoiser import TryOnDenoiser
from unifashion.tryon.loading import quiet_libraries, save_pipeline
from unifashion.tryon.pipeline import TryOnPipeline, default_scheduler
from unifashion.tryon.settings import TryOnDataSettings, TryOnModelSettings, TryOnTrainingSettings

FULL_WIDTH = 320  # channels of the first level in Stable Diffusion
WARM_UP = 3  # steps that are not counted
WORDS = "red striped shirt, long-sleeved red shirt, hip-length shirt with a v-neck"


@dataclass(frozen=True)
class Size:
    """Channels of the U-Net's first level, and the pixels of a picture."""

    width: int
    height: int

    @property
    def pixels(self) -> tuple[int, int]:
        """Return height and width of a picture."""
        return self.height, self.height * 3 // 4


def random_pipeline(size: Size) -> TryOnPipeline:
    """Build Stable Diffusion's classes and ours with random weights; VAE and text encoder shrink with the U-Net."""
    share = size.width / FULL_WIDTH
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=max(round(12 * share), 1),
        num_attention_heads=12,
        max_position_embeddings=77,
    )
    first = max(round(128 * share) // 32, 1) * 32
    vae = AutoencoderKL(
        block_out_channels=(first, 2 * first, 4 * first, 4 * first),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.18215,
    )
    widths = (size.width, 2 * size.width, 4 * size.width, 4 * size.width)
    return TryOnPipeline(
        vae.eval(),
        CLIPTextModel(text).eval(),
        train_wordpiece([WORDS]),
        TryOnDenoiser(widths, image_size=size.pixels),
        default_scheduler(),
    )


def memory() -> str:
    """Return the GiB at the highest point since the last call; of the whole process where there is no GPU."""
    if torch.cuda.is_available():
        found = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return f"{found:.1f} GiB"
    return f"{highest_of_process():.1f} GiB (process so far)"


def training(folder: Path, size: Size, batch_size: int, steps: int, checkpointing: bool) -> Path:
    """Train for some steps, print their seconds, return the run."""
    height, width = size.pixels
    data = TryOnDataSettings(data_root=str(folder), height=height, width=width)
    settings = TryOnTrainingSettings(
        output_dir=str(folder / f"run-{batch_size}"),
        max_steps=steps,
        batch_size=batch_size,
        gradient_checkpointing=checkpointing,
        log_steps=1,
        save_steps=0,
        validate_steps=0,
        num_validation_images=1,
        validation_inference_steps=2,
    )
    began = time.perf_counter()
    run = train(data, TryOnModelSettings(init_from=str(folder / "start")), settings)
    assert run is not None
    with (run / "train_metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seconds = [float(row["seconds"]) for row in rows[WARM_UP:]]
    print(
        f"training, batch {batch_size}: {statistics.median(seconds):.3f} s a step (median of {len(seconds)}), "
        f"loss {float(rows[0]['loss']):.4f} -> {float(rows[-1]['loss']):.4f}, {memory()}; "
        f"with opening and keeping the model {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return run


def drawing(tryon: TryOn, batch_size: int, steps: int, guidance_scale: float) -> None:
    """Draw once to warm up and once for the clock."""
    height, width = tryon.pipe.denoiser.config.image_size
    grey = [Image.new("RGB", (width, height), "grey")] * batch_size
    white = [Image.new("RGB", (width, height), "white")] * batch_size

    def draw(num_steps: int) -> None:
        tryon.pipe(grey, grey, white, grey, prompt=WORDS, num_inference_steps=num_steps, guidance_scale=guidance_scale)

    draw(2)
    began = time.perf_counter()
    draw(steps)
    seconds = time.perf_counter() - began
    print(
        f"drawing, batch {batch_size}, {steps} steps, guidance {guidance_scale:g}: {seconds:.2f} s, "
        f"{seconds / batch_size:.2f} s a picture, {memory()}",
        flush=True,
    )


def main() -> None:
    """Train and draw at one size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=64, help="channels of the first level; 320 = Stable Diffusion")
    parser.add_argument("--height", type=int, default=128, help="pixels; the width is three quarters of it")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2], help="batch sizes")
    parser.add_argument("--steps", type=int, default=6, help="training steps per batch size")
    parser.add_argument("--inference-steps", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    quiet_libraries()
    size = Size(flags.width, flags.height)
    print(f"{machine()}, torch {torch.__version__}, {flags.threads} threads; {size}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tryon(folder / "vitonhd", TryOnSizes(train=24, test=4), progress=False)
        torch.manual_seed(0)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            pipe = random_pipeline(size)
        sizes = {part: sum(p.numel() for p in getattr(pipe, part).parameters()) for part in ("denoiser", "vae")}
        print(", ".join(f"{part} {number / 1e6:.0f} M weights" for part, number in sizes.items()), flush=True)
        save_pipeline(pipe, folder / "start")
        del pipe
        memory()
        for batch_size in flags.batches:
            run = training(folder, size, batch_size, flags.steps, flags.checkpointing)
        tryon = TryOn.from_pretrained(run)
        for batch_size in flags.batches:
            drawing(tryon, batch_size, flags.inference_steps, 1.0)
        drawing(tryon, 1, flags.inference_steps, 5.0)
        if torch.cuda.is_available():
            tryon.pipe.to("cpu")
            tryon.pipe.enable_model_cpu_offload()
            tryon.pipe.vae.enable_tiling()
            memory()
            print("with the parts on the CPU while they are not needed, and the VAE in tiles:")
            drawing(tryon, 1, flags.inference_steps, 5.0)


if __name__ == "__main__":
    main()
