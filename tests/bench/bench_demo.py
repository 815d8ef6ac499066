"""The demo's JSON API under a load on loopback: seconds of an answer, errors, memory of the server.

    python -m tests.bench.bench_demo runs/quickstart/index
    python -m tests.bench.bench_demo runs/quickstart/index --clients 1 4 16 --requests 200

Starts ``unifashion demo INDEX`` as users do and sends searches by words, by a photo, and by both, in turns; each client sends its
next one as soon as it was answered, so clients x 1 requests are under way at any time. Clients run on the same machine.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tests.apps.demo.demo_load import ask_all, mixed_searches

from unifashion.training.run_folder import machine


def resident(process: subprocess.Popen[str]) -> float:
    """Return the MiB that a process holds."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 2**10


def main() -> None:
    """Start the demo, load it, and print a line per number of clients."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--side", type=int, default=1000, help="pixels of an uploaded photo")
    flags = parser.parse_args()
    print(machine())
    command = [sys.executable, "-m", "unifashion.cli", "demo", str(flags.index), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            address = next(found[0] for line in process.stdout or () if (found := re.findall(r"http://\S+?:\d+", line)))
            searches = mixed_searches(flags.requests, flags.side)
            ask_all(address, searches[:9], 1)
            print(
                f"{flags.requests} searches by words, photo of {flags.side} pixels, or both; {resident(process):.0f} MiB"
            )
            for clients in flags.clients:
                started = time.perf_counter()
                answers = ask_all(address, searches, clients)
                seconds = time.perf_counter() - started
                p50, p95 = np.percentile([1000 * answer.seconds for answer in answers], (50, 95))
                errors = sum(answer.status != 200 for answer in answers)
                print(
                    f"  {clients} clients: p50 {p50:.0f} ms, p95 {p95:.0f} ms, {len(answers) / seconds:.1f} a second, "
                    f"{errors} errors; {resident(process):.0f} MiB",
                    flush=True,
                )
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
