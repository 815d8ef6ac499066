"""The demo under many visitors on loopback: share of refused searches, seconds of an answer, throughput, growth of memory.

    python -m tests.bench.bench_demo runs/quickstart/index
    python -m tests.bench.bench_demo runs/quickstart/index --against ../before/src --clients 1 50 --seconds 20

Starts ``unifashion demo INDEX`` as users do. Visitors are threads of this process: each searches by words, by a photo, by a
product and words, and by a photo and words, in turns, and after each search fetches three of the pictures found; it sends its
next request as soon as it was answered, and after "busy" waits as long as it was asked to. With ``--against`` the demo of
another source tree is measured in turn with this one, and the last column is this tree's throughput as a multiple of the other's.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tests.apps.demo.demo_load import Visits, ask, searches_of, visit

from unifashion.training.run_folder import machine

HERE = Path(__file__).parents[2] / "src"


def resident(process: subprocess.Popen[str]) -> float:
    """Return the MiB that a process holds."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 2**10


@contextlib.contextmanager
def demo(index: Path, source: Path, side: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the demo of a source tree; give its address when it has answered every kind of search."""
    command = [sys.executable, "-m", "unifashion.cli", "demo", str(index), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(source.resolve())}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            address = next(found[0] for line in process.stdout or () if (found := re.findall(r"http://\S+?:\d+", line)))
            for query in searches_of(0, side):
                assert ask(address, query).status == 200
            yield address, process
        finally:
            process.terminate()


def measure(index: Path, source: Path, clients: int, seconds: float, side: int) -> float:
    """Measure one demo under one number of clients, print a line, and return how many searches it answered a second."""
    with demo(index, source, side) as (address, process):
        visit(address, clients, min(seconds, 5.0), side)  # caches and allocators fill up first
        before = resident(process)
        visits = visit(address, clients, seconds, side)
        return show(visits, f"{source.parent.name}, {clients} clients", resident(process) - before)


def show(visits: Visits, title: str, grown: float) -> float:
    """Print what the visitors saw."""
    answered = [answer.seconds for answer in visits.searches if answer.status == 200]
    refused = sum(answer.status in (429, 503) for answer in visits.searches)
    wrong = sum(answer.status not in (200, 429, 503) for answer in (*visits.searches, *visits.pictures))
    p50, p95 = np.percentile(answered, (50, 95))
    picture = np.percentile([answer.seconds for answer in visits.pictures], 95) if visits.pictures else 0.0
    rate = len(answered) / visits.seconds
    sys.stdout.write(
        f"  {title}: {100 * refused / len(visits.searches):.1f} % of {len(visits.searches)} searches refused, p50 {p50:.2f} s, "
        f"p95 {p95:.2f} s, {rate:.1f} a second; {len(visits.pictures)} pictures, p95 {picture:.2f} s; "
        f"{wrong} errors; memory {grown:+.0f} MiB\n"
    )
    sys.stdout.flush()
    return rate


def main() -> None:
    """Start the demo, load it, and print a line per number of clients."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--clients", nargs="+", type=int, default=[50])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--side", type=int, default=1000, help="pixels of an uploaded photo")
    parser.add_argument("--against", type=Path, help="src folder of another working tree")
    flags = parser.parse_args()
    print(machine())
    for clients in flags.clients:
        other = measure(flags.index, flags.against, clients, flags.seconds, flags.side) if flags.against else None
        rate = measure(flags.index, HERE, clients, flags.seconds, flags.side)
        if other:
            print(f"  throughput {rate / other:.2f} x")


if __name__ == "__main__":
    main()
