"""Milliseconds of a search and its memory: exact, approximate, and numpy that multiplies every vector.

    python -m tests.bench.bench_search                        100,000 items x 32 vectors x 256 numbers: 1.6 GB in half precision
    python -m tests.bench.bench_search --items 5000           a minute
    python -m tests.bench.bench_search --uri milvus.db        Milvus instead of FAISS

Items are random points near a surface of few dimensions, in clusters, as embeddings of photos are; queries lie near items. The
three searches take turns, query by query, in one process with warm files (the first five queries are not counted). Numpy holds
everything in single precision; ours maps the index's file. Recall is that of ``unifashion index --check``: how many of the exact
best 10 the approximate search finds; how many answers of numpy and of the exact search differ is printed too.
Memory is measured in a process of its own per search, after opening the index: what the process holds itself (anonymous), and
with the pages of mapped files (resident), which the system takes back when it needs them.
"""

import argparse
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unifashion.search.ann import Searcher, catch_up, requested_record
from unifashion.search.index import Index, IndexConfig
from unifashion.search.items import Entry
from unifashion.search.writer import writing
from unifashion.training.run_folder import machine

K, WARM_UP, BLOCK = 10, 5, 2000
SIDES = ("numpy", "exact", "approximate")
DIMENSIONS, CLUSTERS = 24, 300


def make_vectors(flags: argparse.Namespace) -> Iterator[Tensor]:
    """Return unit vectors (n, Q, D), block by block."""
    generator = torch.Generator().manual_seed(0)
    surface = torch.randn(DIMENSIONS, flags.width, generator=generator)
    centres, tokens = (torch.randn(n, 1, DIMENSIONS, generator=generator) for n in (CLUSTERS, flags.vectors))
    for start in range(0, flags.items, BLOCK):
        size = min(BLOCK, flags.items - start)
        kind = torch.randint(CLUSTERS, (size,), generator=generator)
        own = torch.randn(size, 1, DIMENSIONS, generator=generator)
        each = torch.randn(size, flags.vectors, DIMENSIONS, generator=generator)
        inner_BQD = (centres[kind] + 0.7 * own + 0.5 * tokens[:, 0] + 0.4 * each) @ surface
        yield F.normalize(inner_BQD + torch.randn(inner_BQD.shape, generator=generator), dim=-1)


def make_index(folder: Path, flags: argparse.Namespace) -> Index:
    """Write an index with a price for each item, and print how long it took."""
    index = Index.create(folder, IndexConfig("none", "blip2_cir_cls", "none", flags.vectors, flags.width, "fp16"))
    started = time.perf_counter()
    with writing(index) as writer:
        first = 0
        for block_BQD in make_vectors(flags):
            numbers = range(first, first + len(block_BQD))
            writer.put([Entry(str(n), Path("none"), str(n), {"price": str(n % 100)}) for n in numbers], block_BQD)
            first += len(block_BQD)
        seconds = [time.perf_counter() - started]
        index.refresh()
        started = time.perf_counter()
        catch_up(index, requested_record(index, flags.ann, flags.uri) or _unreachable())
        seconds.append(time.perf_counter() - started)
    gib = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**30
    print(
        f"  made in {seconds[0]:.0f} s and {seconds[1]:.0f} s for the approximate search; {gib:.2f} GiB on disk",
        flush=True,
    )
    return index


def _unreachable() -> Any:
    raise AssertionError("an ANN index was asked for")


def make_queries(index: Index, num: int) -> list[Tensor]:
    """Return unit vectors near vectors of the index."""
    generator = np.random.default_rng(1)
    slots, tokens = generator.integers(len(index), size=num), generator.integers(index.config.num_vectors, size=num)
    noise = torch.from_numpy(generator.normal(size=(num, index.config.width)).astype(np.float32))
    near = torch.stack([index.vectors(np.array([s]))[0, t].float() for s, t in zip(slots, tokens, strict=True)])
    return list(F.normalize(near + 0.3 * F.normalize(noise, dim=-1), dim=-1))


def plain_search(whole_NQD: NDArray[np.float32], query: NDArray[np.float32]) -> list[int]:
    """Return the best rows by multiplying everything, as one writes it in numpy."""
    return np.argsort(-(whole_NQD @ query).max(axis=1))[:K].tolist()


def make_side(side: str, index: Index) -> Callable[[Tensor], list[int]]:
    """Return a function from a query to the best rows."""
    if side == "numpy":
        whole_NQD = np.empty((len(index), index.config.num_vectors, index.config.width), dtype=np.float32)
        for start in range(0, len(index), BLOCK):
            part = np.arange(start, min(len(index), start + BLOCK))
            whole_NQD[part] = index.vectors(part).float().numpy()
        return lambda query_D: plain_search(whole_NQD, query_D.numpy())
    searcher = Searcher(index, exact=side == "exact")
    return lambda query_D: searcher.search(query_D, K)[0]


def memory(side: str, folder: Path, threads: int) -> tuple[float, float]:
    """Return GiB held by the process itself and GiB with mapped pages, beyond what its imports took."""
    torch.set_num_threads(threads)
    before = _held()
    index = Index.open(folder)
    search = make_side(side, index)
    for query_D in make_queries(index, 10):
        search(query_D)
    return tuple(after - start for after, start in zip(_held(), before, strict=True))  # type: ignore[return-value]


def _held() -> tuple[float, float]:
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return int(status["RssAnon"].split()[0]) / 2**20, int(status["VmRSS"].split()[0]) / 2**20


def compare(folder: Path, flags: argparse.Namespace) -> None:
    """Print one block."""
    print(
        f"{flags.items:,} items x {flags.vectors} vectors x {flags.width}, {flags.ann}, best {K}, {flags.queries} queries"
    )
    index = make_index(folder, flags)
    searches = [make_side(side, index) for side in SIDES]
    cheap = index.snapshot.select("price < 50")
    searcher, exact = Searcher(index), Searcher(index, exact=True)
    milliseconds: dict[str, list[float]] = {side: [] for side in (*SIDES, "approximate, filter")}
    shares, filtered, differing = [], [], 0
    for number, query_D in enumerate(make_queries(index, flags.queries + WARM_UP)):
        found = []
        for side, search in zip(SIDES, searches, strict=True):
            started = time.perf_counter()
            found.append(search(query_D))
            milliseconds[side].append(1000 * (time.perf_counter() - started))
        started = time.perf_counter()
        some = searcher.search(query_D, K, cheap)[0]
        milliseconds["approximate, filter"].append(1000 * (time.perf_counter() - started))
        differing += found[0] != found[1]
        shares.append(len(set(found[2]) & set(found[1])) / K)
        if number < 20:
            filtered.append(len(set(some) & set(exact.search(query_D, K, cheap)[0])) / K)
    base = np.array(milliseconds["numpy"][WARM_UP:])
    for side, values in milliseconds.items():
        times = np.array(values[WARM_UP:])
        p50, p95 = np.percentile(times, (50, 95))
        print(f"  {side:20} p50 {p50:8.1f} ms  p95 {p95:8.1f} ms  numpy takes {np.median(base / times):6.2f} x as long")
    print(f"  exact and numpy differ in {differing} of {len(shares)} answers")
    print(
        f"  recall@{K} of the approximate search {100 * np.mean(shares):.1f} %, with a filter {100 * np.mean(filtered):.1f} %"
    )
    del searches
    context = multiprocessing.get_context("spawn")
    for side in SIDES:
        with context.Pool(1) as pool:
            own, resident = pool.apply(memory, (side, folder, flags.threads))
        print(f"  {side:20} holds {own:.2f} GiB itself, {resident:.2f} GiB with the pages of mapped files", flush=True)


def main() -> None:
    """Parse and compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--vectors", type=int, default=32)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--ann", choices=("ivf", "hnsw", "flat"), default="ivf")
    parser.add_argument("--uri")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the index is made [a temporary folder]")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    print(f"{machine()}, torch {torch.__version__}, numpy {np.__version__}, {flags.threads} threads")
    home = Path(mkdtemp(dir=flags.folder))
    try:
        compare(home / "index", flags)
    finally:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
