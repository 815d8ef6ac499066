"""FashionIQ evaluation against the original's way of ranking, and recall on a large gallery within two gigabytes.

    python -m tests.bench.bench_fashioniq                    shirts of FashionIQ: 6,346 gallery images, 2,038 queries
    python -m tests.bench.bench_fashioniq --gallery 6000 --queries 6000 --ours-only      peak memory of a large recall

Random unit vectors, 32 of width 256 an image, one of width 256 a query. Ours: scores, then the ranks of all three FashionIQ
protocols and R@10, R@50 of each. The original's way: queries in batches of four, the products with every vector of every image,
the best of them, an argsort of the whole gallery, and a comparison of all sorted names with the target's; its one protocol.
Both sides rank in turns; that they agree is checked. Peak memory is that of a process that runs one side only.
"""

import argparse
import multiprocessing
import random
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from unifashion.evaluation.protocols.fashioniq import CategoryScores, evaluate
from unifashion.evaluation.ranks import best_query_scores
from unifashion.training.run_folder import machine

KS = (10, 50)
BATCH = 4  # queries that the original scores at once


def make_problem(flags: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor, list[str], list[str], list[str]]:
    """Return query vectors, gallery vectors, names of the gallery, references and targets."""
    generator = torch.Generator().manual_seed(0)
    fused_QD = F.normalize(torch.randn(flags.queries, 256, generator=generator), dim=-1).to(flags.device)
    image_GVD = F.normalize(torch.randn(flags.gallery, 32, 256, generator=generator), dim=-1).to(flags.device)
    names = [f"B{number:09d}" for number in range(flags.gallery)]
    chance = random.Random(0)
    pairs = [chance.sample(names, 2) for _ in range(flags.queries)]
    return fused_QD, image_GVD, names, [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def ours(
    fused_QD: torch.Tensor, image_GVD: torch.Tensor, names: list[str], references: list[str], targets: list[str]
) -> list[float]:
    """Return R@10 and R@50 of fashioniq/original; the other protocols are computed too."""
    scores = CategoryScores("shirt", best_query_scores(fused_QD, image_GVD), references, targets, names)
    found = {(m.protocol, m.name): m.value for m in evaluate([scores], KS)}
    return [found["fashioniq/original", f"R@{k}"] for k in KS]


def originals(
    fused_QD: torch.Tensor, image_GVD: torch.Tensor, names: list[str], references: list[str], targets: list[str]
) -> list[float]:
    """Return the same two numbers, computed as the original does."""
    image_1GDV = image_GVD.permute(0, 2, 1)[None]
    distances = []
    for query_BD in fused_QD.split(BATCH):
        products = torch.matmul(query_BD[:, None, None, :], image_1GDV)[:, :, 0]
        distances.append(1 - products.max(-1).values)
    order = torch.argsort(torch.vstack(distances), dim=-1)
    sorted_names = np.array(names)[order.cpu()]
    labels = torch.tensor(sorted_names == np.repeat(np.array(targets), len(names)).reshape(len(targets), -1))
    return [labels[:, :k].sum().item() / len(labels) * 100 for k in KS]


SIDES = (ours, originals)


def peak_memory(side: int, flags: argparse.Namespace) -> float:
    """Return the GiB at the highest point of one evaluation, in a process that runs one side only; on a GPU, the GPU's."""
    SIDES[side](*make_problem(flags))
    if flags.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def main() -> None:
    """Compare, and print seconds, ratio and memory."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gallery", type=int, default=6346)
    parser.add_argument("--queries", type=int, default=2038)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ours-only", action="store_true")
    flags = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    sides = (0,) if flags.ours_only else (0, 1)
    problem = make_problem(flags)
    seconds: tuple[list[float], list[float]] = ([], [])
    recalls: list[list[float]] = [[], []]
    for _ in range(flags.turns):
        for side in sides:
            started = time.perf_counter()
            recalls[side] = SIDES[side](*problem)
            seconds[side].append(time.perf_counter() - started)
    del problem
    context = multiprocessing.get_context("spawn")
    print(f"{flags.queries} queries, gallery {flags.gallery} x 32 x 256, median of {flags.turns} turns")
    for side in sides:
        with context.Pool(1) as pool:
            memory = pool.apply(peak_memory, (side, flags))
        name = ("ours", "the original's way")[side]
        print(f"  {name}: {statistics.median(seconds[side]):.2f} s, peak {memory:.2f} GiB, R@10, R@50 {recalls[side]}")
    if not flags.ours_only:
        assert np.allclose(recalls[0], recalls[1], atol=100.5 / flags.queries), recalls
        print(f"  {statistics.median(seconds[1]) / statistics.median(seconds[0]):.1f} x faster")


if __name__ == "__main__":
    main()
