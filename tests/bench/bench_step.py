"""Seconds and memory of a training step against the same losses written plainly (``plain.py``).

    python -m tests.bench.bench_step                           image tokens 64 x 256, batch 8
    python -m tests.bench.bench_step --image-tokens 257x1408   those of ViT-g
    python -m tests.bench.bench_step --device cuda --bf16

Full-size Q-Former (12 x 768, 32 queries, vocabulary 30,523), texts of 16 to 30 tokens, image tokens given (the tower is
frozen), forward, backward and AdamW (fused on our side, torch's default on the other). Both sides are shown to compute the same
loss on one batch (dropout off); then they take turns (dropout on), each turn a pass over the same rows in four batches: ours
come out of length buckets (``--length-buckets`` of training), the plain ones are padded to 64 as they come.
The share of the machine's peak is that of our own floating-point operations in the time of our step, over the speed of a large
matrix product measured in the same run. Peak memory is that of a process of its own per side.
"""

import argparse
import dataclasses
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tests.bench.plain import PlainSteps
from torch.utils.flop_counter import FlopCounterMode

from unifashion.config import TrainingSettings
from unifashion.models.presets import UniFashionConfig
from unifashion.models.qformer import QFormerConfig
from unifashion.models.unifashion import UniFashion
from unifashion.training.run_folder import machine
from unifashion.training.tasks import find_task

MODELS = ("blip2_cir_cls", "blip2_cir_rerank")
TINY_TOWER = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}


def make_batches(
    model_name: str, size: int, tokens: tuple[int, int], device: str, buckets: bool, num_batches: int = 4
) -> list[dict[str, torch.Tensor]]:
    """Return batches over the same rows, in the order they came or sorted into length buckets."""
    lengths = torch.randint(16, 31, (num_batches * size,), generator=torch.Generator().manual_seed(0))
    order = lengths.argsort() if buckets else torch.arange(len(lengths))
    return [make_batch(model_name, part, tokens, device) for part in lengths[order].split(size)]


def make_batch(model_name: str, lengths: torch.Tensor, tokens: tuple[int, int], device: str) -> dict[str, torch.Tensor]:
    """Return random image tokens and texts of the given lengths, all rows different products."""
    generator = torch.Generator().manual_seed(0)
    size, longest = len(lengths), int(lengths.max())
    batch = {}
    for name in ("text", "caption"):
        ids = torch.randint(1000, 30000, (size, longest), generator=generator)
        mask = (torch.arange(longest) < lengths[:, None]).long()
        batch[f"{name}_ids"], batch[f"{name}_mask"] = ids * mask, mask
    images = ("image",) if model_name == "blip2_cir_cls" else ("reference", "target")
    batch |= {name: torch.randn(size, *tokens, generator=generator) for name in images}
    batch |= {name: torch.arange(size) for name in ("product", "text")}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def make_sides(model_name: str, width: int, dropout: float, device: str) -> tuple[torch.nn.Module, PlainSteps]:
    """Return our task and the plain steps with the same random weights."""
    torch.manual_seed(0)
    config = UniFashionConfig(
        model_name=model_name,  # type: ignore[arg-type]
        vision=TINY_TOWER,
        qformer=dataclasses.replace(QFormerConfig(vocab_size=30523, image_width=width), dropout=dropout),
        target_queries="prompt_tokens" if model_name == "blip2_cir_rerank" else "query_tokens",
    )
    model = UniFashion(config)
    task = find_task(model_name)(model, TrainingSettings(itm_negatives="unifashion"))
    return task.to(device).train(), PlainSteps(model).to(device).train()


def our_loss(task: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the sum of our losses."""
    return sum(task(dict(batch)).values(), torch.zeros((), device=batch["product"].device))


def plain_loss(plain: PlainSteps, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the sum of the plain ones."""
    feedback = [batch["text_ids"], batch["text_mask"]]
    if "image" in batch:
        return plain.cls(batch["image"], *feedback)
    return plain.rerank(batch["reference"], batch["target"], feedback, [batch["caption_ids"], batch["caption_mask"]])


LOSSES: tuple[Callable[..., torch.Tensor], ...] = (our_loss, plain_loss)


def make_epoch(
    side: int, module: torch.nn.Module, batches: list[dict[str, torch.Tensor]], flags: argparse.Namespace
) -> Callable[[], None]:
    """Return a function that takes one optimiser step on every batch."""
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.05, fused=True if side == 0 else None)

    def epoch() -> None:
        for batch in batches:
            with torch.autocast(flags.device, torch.bfloat16, enabled=flags.bf16):
                loss = LOSSES[side](module, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if flags.device == "cuda":
            torch.cuda.synchronize()

    return epoch


def peak_flops(device: str, bf16: bool) -> float:
    """Return the operations per second of a large matrix product."""
    side, dtype = (8192, torch.bfloat16 if bf16 else torch.float32) if device == "cuda" else (2048, torch.float32)
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def peak_memory(side: int, model_name: str, flags: argparse.Namespace) -> float:
    """Return the GiB at the highest point of one pass over the batches, in a process that runs one side only."""
    tokens = parse_tokens(flags)
    module = make_sides(model_name, tokens[1], 0.1, flags.device)[side]
    make_epoch(side, module, make_batches(model_name, flags.batch_size, tokens, flags.device, side == 0), flags)()
    if flags.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def parse_tokens(flags: argparse.Namespace) -> tuple[int, int]:
    """Return number and width of the image tokens."""
    number, width = flags.image_tokens.split("x")
    return int(number), int(width)


def compare(model_name: str, flags: argparse.Namespace) -> None:
    """Print one block: agreement, seconds, ratio, share of the peak, memory."""
    tokens = parse_tokens(flags)
    batches = [make_batches(model_name, flags.batch_size, tokens, flags.device, side == 0) for side in (0, 1)]
    silent = make_sides(model_name, tokens[1], 0.0, flags.device)
    values = [LOSSES[side](silent[side], batches[1][0]).item() for side in (0, 1)]
    del silent
    sides = make_sides(model_name, tokens[1], 0.1, flags.device)
    epochs = [make_epoch(side, sides[side], batches[side], flags) for side in (0, 1)]
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(flags.turns + 1):
        for side, epoch in enumerate(epochs):
            started = time.perf_counter()
            epoch()
            if turn:
                seconds[side].append((time.perf_counter() - started) / len(batches[side]))
    with FlopCounterMode(display=False) as counter:
        for batch in batches[0]:
            our_loss(sides[0], batch).backward()
    mine, other = map(statistics.median, seconds)
    share = counter.get_total_flops() / len(batches[0]) / mine / peak_flops(flags.device, flags.bf16)
    del sides, epochs
    context = multiprocessing.get_context("spawn")
    memory = []
    for side in (0, 1):
        with context.Pool(1) as pool:
            memory.append(pool.apply(peak_memory, (side, model_name, flags)))
    print(f"{model_name}, image tokens {flags.image_tokens}, batch {flags.batch_size}, {flags.turns} turns of 4 steps")
    print(f"  same loss: ours {values[0]:.6f}, plain {values[1]:.6f}")
    print(f"  seconds a step (median): ours {mine:.3f}, plain {other:.3f}: {other / mine:.2f} x faster")
    print(f"  share of the matrix-product peak: {100 * share:.0f} %")
    print(f"  peak memory: ours {memory[0]:.2f} GiB, plain {memory[1]:.2f} GiB", flush=True)


def main() -> None:
    """Compare both named models."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--image-tokens", default="64x256")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    flags = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for model_name in MODELS:
        compare(model_name, flags)


if __name__ == "__main__":
    main()
