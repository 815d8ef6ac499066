"""Seconds and memory of a training step against the same losses written plainly (``plain.py``).

    python -m tests.bench.bench_step                           image tokens 64 x 256, batch 8
    python -m tests.bench.bench_step --image-tokens 257x1408   those of ViT-g
    python -m tests.bench.bench_step --device cuda --precision bf16 --compile --image-tokens 64x256 257x1408 --batch-size 8 128

Full-size Q-Former (12 x 768, 32 queries, vocabulary 30,523), texts of 16 to 30 tokens, image tokens given (the tower is
frozen), forward, backward and AdamW (fused on our side, torch's default on the other). Both sides are shown to compute the same
loss on one batch (dropout off); then they take turns (dropout on), each turn a pass over the same rows in four batches: ours
come out of length buckets (``--length-buckets`` of training), the plain ones are padded to 64 as they come.
On a GPU ours also runs with ``--deterministic`` operations, as training does unless told otherwise, and with ``--compile``
compiled. The share of the machine's peak is that of our own floating-point operations in the time of our step, over the speed
of a large matrix product measured in the same run. Peak memory is that of one side alone, on a CPU in a process of its own.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from tests.bench.memory import peak_of
from tests.bench.plain import PlainSteps
from torch.utils.flop_counter import FlopCounterMode

from unifashion.config import TrainingSettings
from unifashion.models.presets import UniFashionConfig
from unifashion.models.qformer import QFormerConfig
from unifashion.models.unifashion import UniFashionModel
from unifashion.seeding import only_deterministic
from unifashion.training.compilation import compile_blocks
from unifashion.training.run_folder import machine
from unifashion.training.tasks import RETRIEVAL_TASKS
from unifashion.training.tasks.task import Position, Task

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


def make_sides(
    model_name: str, width: int, dropout: float, flags: argparse.Namespace
) -> tuple[torch.nn.Module, PlainSteps]:
    """Return our task and the plain steps with the same random weights."""
    torch.manual_seed(0)
    config = UniFashionConfig(
        model_name=model_name,  # type: ignore[arg-type]
        vision=TINY_TOWER,
        qformer=QFormerConfig(vocab_size=30523, image_width=width, dropout=dropout, num_layers=flags.layers),
        target_queries="prompt_tokens" if model_name == "blip2_cir_rerank" else "query_tokens",
    )
    model = UniFashionModel(config)
    task = RETRIEVAL_TASKS[model_name](model, TrainingSettings(itm_negatives="unifashion"))
    return task.to(flags.device).train(), PlainSteps(model).to(flags.device).train()


def our_loss(task: Task, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the sum of our losses."""
    return task.total(task(task.prepare(dict(batch), Position(0, 0, 0, 0))))


def plain_loss(plain: PlainSteps, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the sum of the plain ones."""
    feedback = [batch["text_ids"], batch["text_mask"]]
    if "image" in batch:
        return plain.cls(batch["image"], *feedback)
    return plain.rerank(batch["reference"], batch["target"], feedback, [batch["caption_ids"], batch["caption_mask"]])


LOSSES: tuple[Callable[..., torch.Tensor], ...] = (our_loss, plain_loss)


def synchronise(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def make_epoch(
    side: int, module: torch.nn.Module, batches: list[dict[str, torch.Tensor]], flags: argparse.Namespace
) -> Callable[[], None]:
    """Return a function that takes one optimiser step on every batch."""
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.05, fused=True if side == 0 else None)

    def epoch() -> None:
        for batch in batches:
            with torch.autocast(flags.device, torch.bfloat16, enabled=flags.precision == "bf16"):
                loss = LOSSES[side](module, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        synchronise(flags.device)

    return epoch


def peak_flops(flags: argparse.Namespace) -> float:
    """Return the operations per second of a large matrix product."""
    side = 8192 if flags.device == "cuda" else 2048
    dtype = torch.bfloat16 if flags.precision == "bf16" else torch.float32
    a, b = torch.randn(2, side, side, device=flags.device, dtype=dtype)
    best = float("inf")
    for _ in range(12):
        synchronise(flags.device)
        started = time.perf_counter()
        a @ b
        synchronise(flags.device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def one_epoch(side: int, model_name: str, case: tuple[str, int], flags: argparse.Namespace) -> None:
    """Make one side and take it over the batches once."""
    tokens = parse_tokens(case[0])
    module = make_sides(model_name, tokens[1], 0.1, flags)[side]
    make_epoch(side, module, make_batches(model_name, case[1], tokens, flags.device, side == 0), flags)()


def parse_tokens(words: str) -> tuple[int, int]:
    """Return number and width of the image tokens."""
    number, width = words.split("x")
    return int(number), int(width)


def count_operations(task: Task, batches: list[dict[str, torch.Tensor]]) -> float:
    """Return the floating-point operations of our step."""
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            our_loss(task, batch).backward()
    task.zero_grad()
    return counter.get_total_flops() / len(batches)


def take_turns(epochs: list[Callable[[], None]], turns: int, num_batches: int) -> list[float]:
    """Return each epoch's median seconds a step; the first turn is not counted."""
    seconds: list[list[float]] = [[] for _ in epochs]
    for turn in range(turns + 1):
        for times, epoch in zip(seconds, epochs, strict=True):
            started = time.perf_counter()
            epoch()
            if turn:
                times.append((time.perf_counter() - started) / num_batches)
    return [statistics.median(times) for times in seconds]


def compare(model_name: str, case: tuple[str, int], flags: argparse.Namespace) -> None:
    """Print one block: agreement, seconds, ratio, share of the peak, memory."""
    tokens = parse_tokens(case[0])
    memory = [peak_of(one_epoch, side, model_name, case, flags, device=flags.device) for side in (0, 1)]
    batches = [make_batches(model_name, case[1], tokens, flags.device, side == 0) for side in (0, 1)]
    silent = make_sides(model_name, tokens[1], 0.0, flags)
    values = [LOSSES[side](silent[side], batches[1][0]).item() for side in (0, 1)]
    del silent
    sides = make_sides(model_name, tokens[1], 0.1, flags)
    operations, peak = count_operations(sides[0], batches[0]), peak_flops(flags)
    print(f"{model_name}, image tokens {case[0]}, batch {case[1]}, {flags.precision}, {flags.turns} turns of 4 steps")
    print(f"  same loss in fp32: ours {values[0]:.6f}, plain {values[1]:.6f}")
    print(f"  peak memory: ours {memory[0]:.2f} GiB, plain {memory[1]:.2f} GiB, {memory[1] / memory[0]:.2f} x")
    epochs = [make_epoch(side, sides[side], batches[side], flags) for side in (0, 1)]
    ways = ["ours"]
    if flags.device == "cuda":
        ways.append("ours, deterministic")
    if flags.compile:
        ways.append("ours, compiled")
    for way in ways:
        if way == "ours, compiled":
            started = time.perf_counter()
            compile_blocks(sides[0].model)
            epochs[0]()
            print(f"  compiling: {time.perf_counter() - started:.0f} s")
        only_deterministic(way == "ours, deterministic")
        mine, other = take_turns(epochs, flags.turns, len(batches[0]))
        only_deterministic(False)
        share = f"{100 * operations / mine / peak:.0f} % of the matrix-product peak ({peak / 1e12:.3g} TFLOP/s)"
        print(
            f"  {way}: {1000 * mine:.1f} ms a step, plain {1000 * other:.1f} ms, {other / mine:.2f} x; {share}",
            flush=True,
        )


def main() -> None:
    """Compare the named models at each size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--image-tokens", nargs="+", default=["64x256"])
    parser.add_argument("--batch-size", nargs="+", type=int, default=[8])
    parser.add_argument("--layers", type=int, default=12, help="of the Q-Former")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true", help="also ours with compiled blocks")
    flags = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for case in itertools.product(flags.image_tokens, flags.batch_size):
        for model_name in flags.models:
            compare(model_name, case, flags)


if __name__ == "__main__":
    main()
