"""Seconds and memory of a try-on step against a plain ControlNet + U-Net of diffusers of the same size.

    python -m tests.bench.bench_tryon                                    a fifth of Stable Diffusion's width, 256 x 192, CPU
    python -m tests.bench.bench_tryon --width 320 --height 512 --width-pixels 384 --device cuda --bf16   full size

Both sides have the same U-Net of 13 input channels, frozen, with the same weights, and train what steers it: ours the garment
encoder and the warp blocks, the plain side a ControlNet that reads the garment's photo. Fresh, neither changes what the U-Net
says, so both compute the same loss, which is shown. Then they take turns: a training step (forward, backward, AdamW) and the
forward pass of a sampling step. Seconds are those of the clock on a GPU, and those of the processor on a CPU, which others may
be using. What ours does beyond the plain side is the warp blocks, self- and cross-attention at nine places of the decoder; their
share of the weights is printed. Peak memory is that of training one side alone (on a CPU: of a process of its own).
bench_tryon_whole.py runs training and drawing with all that belongs to them.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from tests.bench.memory import peak_of
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unifashion.training.run_folder import machine
from unifashion.tryon.denoiser import INPUT_CHANNELS, LATENT_CHANNELS, TryOnDenoiser

CONTEXT = 77, 768
LATENT_SCALE = 8  # pixels
Inputs = dict[str, Tensor]


class Ours(nn.Module):
    """The denoiser of this project in the paper's setting."""

    def __init__(self, denoiser: TryOnDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        denoiser.freeze("paper")

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the predicted noise."""
        return self.denoiser(inputs["x13"], inputs["t"], inputs["context"], inputs["hint"]).noise


class Plain(nn.Module):
    """diffusers' U-Net, frozen, and a ControlNet, as its training example runs them."""

    def __init__(self, denoiser: TryOnDenoiser) -> None:
        super().__init__()
        self.unet = denoiser.unet.requires_grad_(False)
        self.control = ControlNetModel.from_unet(self.unet)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the predicted noise."""
        x13, t, context = inputs["x13"], inputs["t"], inputs["context"]
        down, middle = self.control(x13, t, context, inputs["photo"], return_dict=False)
        return self.unet(
            x13, t, context, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample


SIDES: tuple[Callable[[TryOnDenoiser], nn.Module], ...] = (Ours, Plain)


def make_side(side: int, flags: argparse.Namespace) -> nn.Module:
    """Return one side; the same seed gives both the same U-Net."""
    torch.manual_seed(0)
    width = flags.width
    with torch.device(flags.device):
        denoiser = TryOnDenoiser((width, 2 * width, 4 * width, 4 * width), cross_attention_dim=CONTEXT[1])
        return SIDES[side](denoiser).train()


def make_inputs(flags: argparse.Namespace) -> Inputs:
    """Return one batch of random inputs."""
    generator = torch.Generator().manual_seed(1)
    size = flags.height // LATENT_SCALE, flags.width_pixels // LATENT_SCALE
    shapes = {
        "x13": (INPUT_CHANNELS, *size),
        "noise": (LATENT_CHANNELS, *size),
        "hint": (LATENT_CHANNELS, *size),
        "photo": (3, flags.height, flags.width_pixels),
        "context": CONTEXT,
    }
    batch = {name: torch.randn(flags.batch_size, *shape, generator=generator) for name, shape in shapes.items()}
    batch["t"] = torch.randint(1000, (flags.batch_size,), generator=generator)
    return {name: tensor.to(flags.device) for name, tensor in batch.items()}


def make_steps(module: nn.Module, inputs: Inputs, flags: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Return the two kinds of step; training returns its loss."""
    optimizer = torch.optim.AdamW([parameter for parameter in module.parameters() if parameter.requires_grad], lr=1e-6)

    def training() -> float:
        with torch.autocast(flags.device, torch.bfloat16, enabled=flags.bf16):
            loss = F.mse_loss(module(inputs).float(), inputs["noise"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    @torch.no_grad()
    def sampling() -> float:
        with torch.autocast(flags.device, torch.bfloat16, enabled=flags.bf16):
            return module(inputs).float().mean().item()

    return {"training": training, "sampling": sampling}


def count_operations(step: Callable[[], float]) -> float:
    """Return the billions of floating-point operations of a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9


def two_steps(side: int, flags: argparse.Namespace) -> None:
    """Make one side and train it for two steps."""
    training = make_steps(make_side(side, flags), make_inputs(flags), flags)["training"]
    training()
    training()


def compare(flags: argparse.Namespace) -> None:
    """Print agreement, sizes, seconds, ratios and memory."""
    inputs = make_inputs(flags)
    modules = [make_side(side, flags) for side in range(2)]
    steps = [make_steps(module, inputs, flags) for module in modules]
    losses = [side["training"]() for side in steps]
    clock = time.perf_counter if flags.device == "cuda" else time.process_time
    seconds = {kind: ([], []) for kind in steps[0]}
    for _ in range(flags.turns):
        for kind, times in seconds.items():
            for side in range(2):
                started = clock()
                steps[side][kind]()
                times[side].append(clock() - started)
    work = [count_operations(side["training"]) for side in steps]
    trained = [sum(p.numel() for p in module.parameters() if p.requires_grad) / 1e6 for module in modules]
    warp = sum(p.numel() for p in modules[0].denoiser.warp_blocks.parameters()) / 1e6
    del steps, modules
    memory = [peak_of(two_steps, side, flags, device=flags.device) for side in range(2)]
    print(
        f"width {flags.width}, {flags.height} x {flags.width_pixels} pixels, batch {flags.batch_size}, {flags.turns} turns"
    )
    print(f"  first loss: ours {losses[0]:.6f}, plain {losses[1]:.6f}")
    print(f"  weights that train: ours {trained[0]:.1f} M, of them warp blocks {warp:.1f} M; plain {trained[1]:.1f} M")
    for kind, times in seconds.items():
        mine, other = map(statistics.median, times)
        print(
            f"  {kind}, seconds a step (median): ours {mine:.3f}, plain {other:.3f}: {mine / other:.2f} x the plain time"
        )
    uncounted = "" if flags.device == "cuda" else " (attention on a CPU is not counted)"
    print(
        f"  operations of a training step: ours {work[0]:.1f} G, plain {work[1]:.1f} G: {work[0] / work[1]:.2f} x{uncounted}"
    )
    print(f"  peak memory of training: ours {memory[0]:.2f} GiB, plain {memory[1]:.2f} GiB", flush=True)


def main() -> None:
    """Compare at one size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=64, help="channels of the first level; 320 = Stable Diffusion")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width-pixels", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    print(f"{machine()}, torch {torch.__version__}, {flags.threads} threads")
    compare(flags)


if __name__ == "__main__":
    main()
