"""The folder of one run: its settings, its origin, its metrics, its checkpoints.

config.yaml              the resolved settings; ``--config RUN/config.yaml`` repeats the run
run.json                 versions, git commit, machine, data fingerprint, and how the run ended
train_metrics.csv        one row per epoch: mean losses, learning rate, seconds
validation_metrics.csv   one row per epoch and score
best/  last/             model folders
quarantine.csv           images that could not be used, with the reason (only if there were any)
"""

import csv
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import transformers

import unifashion
from unifashion.errors import UserError
from unifashion.flags import write_yaml


class RunFolder:
    """Creates the folder and writes into it; only the main process holds one."""

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        """Make an empty run folder.

        Raises:
            UserError: the folder holds something else, or a run that may not be replaced.
        """
        self.path = path
        if path.is_file():
            raise UserError(f"--output-dir {path} is a file; name a folder")
        if path.exists() and any(path.iterdir()):
            if not (path / "run.json").is_file():
                raise UserError(f"--output-dir {path} holds files that are not a run; name another folder")
            if not overwrite:
                raise UserError(f"--output-dir {path} already holds a run; name another folder or add --overwrite")
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        self._facts: dict[str, Any] = {}
        self._started = time.monotonic()

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """Take up a run that was stopped.

        Raises:
            UserError: no run there.
        """
        run = cls.__new__(cls)
        run.path, run._facts = path, read_facts(path)
        run._started = time.monotonic() - run._facts.get("seconds", 0)
        run.update(state="running")
        return run

    def cut(self, name: str, num_bytes: int) -> None:
        """Shorten a CSV of this run to what a checkpoint knew of it."""
        path = self.path / name
        if num_bytes == 0:
            path.unlink(missing_ok=True)
        elif path.exists():
            os.truncate(path, num_bytes)

    def describe(self, groups: Sequence[Any], **facts: Any) -> None:
        """Write ``config.yaml`` and ``run.json``."""
        write_yaml(self.path / "config.yaml", groups)
        self._facts = {
            "state": "running",
            "started": now(),
            "git": git_commit(),
            "versions": {
                "unifashion": unifashion.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "python": platform.python_version(),
            },
            "machine": machine(),
            **facts,
        }
        self._write_facts()

    def update(self, **facts: Any) -> None:
        """Change or add facts in ``run.json``."""
        self._facts.update(facts, seconds=round(time.monotonic() - self._started, 1))
        self._write_facts()

    def _write_facts(self) -> None:
        fresh = self.path / ".run.json"
        fresh.write_text(json.dumps(self._facts, indent=2) + "\n")
        fresh.replace(self.path / "run.json")

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to a CSV of this run; the first row of a new file decides the columns."""
        rows = list(rows)
        if not rows:
            return
        path = self.path / name
        is_new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            if is_new:
                writer.writeheader()
            writer.writerows(rows)


def read_facts(path: Path) -> dict[str, Any]:
    """Return what ``run.json`` says.

    Raises:
        UserError: no run there.
    """
    try:
        facts: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"--resume {path}: not a run folder, no readable run.json is in it") from None
    return facts


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def git_commit() -> str:
    """Return the commit of the source tree, with ``+changes`` when it differs from it; 'unknown' outside git."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        changes = subprocess.run(
            ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def machine() -> str:
    """Return processor count, memory and accelerators in words."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    words = f"{os.cpu_count()} CPU cores, {pages / 2**30:.0f} GiB"
    if torch.cuda.is_available():
        words += f", {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return words


def fingerprint(rows: Iterable[tuple[Path, str]]) -> str:
    """Return a short hash of (image, text) rows: file names, file sizes and texts."""
    digest = hashlib.blake2b(digest_size=8)
    for path, text in rows:
        size = path.stat().st_size if path.exists() else -1
        digest.update(f"{path.name}\0{size}\0{text}\n".encode())
    return digest.hexdigest()
