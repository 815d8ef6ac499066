"""FashionIQ evaluation against the original's way of ranking, and recall on a large gallery within two gigabytes.

    python -m tests.bench.bench_fashioniq                    shirts of FashionIQ: 6,346 gallery images, 2,038 queries
    python -m tests.bench.bench_fashioniq --scored 0         the original's way with all queries: ten minutes a turn on a CPU
    python -m tests.bench.bench_fashioniq --gallery 6000 --queries 6000 --ours-only      peak memory of a large recall

Random unit vectors, 32 of width 256 an image; a query is one vector of its target with noise, so that some are found. Ours:
scores, then the ranks of all three FashionIQ protocols and R@10, R@50 of each. The original's way: queries in batches of four,
the products with every vector of every image, the best of them, an argsort of the whole gallery, and a comparison of all sorted
names with the target's; its one protocol.
Its time is proportional to the number of queries, so it takes the first ``--scored`` ones, and its seconds are scaled up to all.
Both sides take turns; that they agree about those queries is checked. Peak memory is that of one side alone.
"""

import argparse
import logging
import random
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F
from tests.bench.memory import peak_of

from unifashion.evaluation.protocols.fashioniq import CategoryScores, evaluate
from unifashion.evaluation.ranks import score_matrix
from unifashion.training.run_folder import machine

KS = (10, 50)
BATCH = 4  # queries that the original scores at once
# One category has no mean and the report says so; the processes of peak_of import this line too.
logging.getLogger("unifashion").setLevel(logging.ERROR)
Problem = tuple[torch.Tensor, torch.Tensor, list[str], list[str], list[str]]


def make_problem(flags: argparse.Namespace) -> Problem:
    """Return query vectors, gallery vectors, names of the gallery, references and targets."""
    generator = torch.Generator().manual_seed(0)
    image_GVD = F.normalize(torch.randn(flags.gallery, 32, 256, generator=generator), dim=-1)
    names = [f"B{number:09d}" for number in range(flags.gallery)]
    chance = random.Random(0)
    pairs = [chance.sample(names, 2) for _ in range(flags.queries)]
    target_QD = image_GVD[[names.index(target) for _, target in pairs], 0]
    noise_QD = F.normalize(torch.randn(flags.queries, 256, generator=generator), dim=-1)
    fused_QD = F.normalize(target_QD + 4 * noise_QD, dim=-1)
    references, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return fused_QD.to(flags.device), image_GVD.to(flags.device), names, references, targets


def ours(
    fused_QD: torch.Tensor, image_GVD: torch.Tensor, names: list[str], references: list[str], targets: list[str]
) -> list[float]:
    """Return R@10 and R@50 of fashioniq/original; the other protocols are computed too."""
    scores = CategoryScores("shirt", score_matrix(fused_QD, image_GVD), references, targets, names)
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


def evaluate_once(side: int, flags: argparse.Namespace) -> None:
    """Make the problem and evaluate it."""
    SIDES[side](*part(make_problem(flags), queries_of(side, flags)))


def queries_of(side: int, flags: argparse.Namespace) -> int:
    """Return how many queries a side takes."""
    return flags.scored if side == 1 and 0 < flags.scored < flags.queries else flags.queries


def part(problem: Problem, queries: int) -> Problem:
    """Return the problem with its first queries only."""
    fused_QD, image_GVD, names, references, targets = problem
    return fused_QD[:queries], image_GVD, names, references[:queries], targets[:queries]


def seconds_of(side: int, problem: Problem) -> tuple[float, list[float]]:
    """Return the seconds of an evaluation, and its recall."""
    started = time.perf_counter()
    recall = SIDES[side](*problem)  # numbers, so whatever a GPU had to do is done
    return time.perf_counter() - started, recall


def main() -> None:
    """Compare, and print seconds, ratio and memory."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gallery", type=int, default=6346)
    parser.add_argument("--queries", type=int, default=2038)
    parser.add_argument("--scored", type=int, default=40, help="queries that the original's way takes; 0 = all")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ours-only", action="store_true")
    flags = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{flags.queries} queries, gallery {flags.gallery} x 32 x 256, median of {flags.turns} turns")
    sides = (0,) if flags.ours_only else (0, 1)
    problem = make_problem(flags)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(flags.turns):
        for side in sides:
            taken, _recall = seconds_of(side, part(problem, queries_of(side, flags)))
            seconds[side].append(taken * flags.queries / queries_of(side, flags))
    if not flags.ours_only:
        common = part(problem, queries_of(1, flags))
        recalls = [SIDES[side](*common) for side in sides]
        assert np.allclose(*recalls, atol=100.5 / len(common[0])), recalls
        print(f"  R@10, R@50 of {len(common[0])} queries: ours {recalls[0]}, the original's way {recalls[1]}")
    del problem
    for side in sides:
        memory = peak_of(evaluate_once, side, flags, device=flags.device)
        name, scored = ("ours", "the original's way")[side], queries_of(side, flags)
        print(f"  {name}: {statistics.median(seconds[side]):.2f} s, peak {memory:.2f} GiB with {scored} queries")
    if not flags.ours_only:
        print(f"  {statistics.median(seconds[1]) / statistics.median(seconds[0]):.1f} x faster")


if __name__ == "__main__":
    main()
