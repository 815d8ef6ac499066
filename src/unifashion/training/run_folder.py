"""The folder of one run: its settings, its origin, its metrics, its checkpoints.

config.yaml              the resolved settings; ``--config RUN/config.yaml`` repeats the run
run.json                 versions, git commit, machine, data fingerprint, and how the run ended
train_metrics.csv        one row per epoch (try-on: per --log-steps): mean losses, learning rate, seconds
validation_metrics.csv   one row per validation and score
validation/step-N.png    what a try-on model draws: person, garment, result, truth
checkpoints/             what --resume continues from (checkpoint.py)
best/  last/             model folders
quarantine.csv           images that could not be used, with the reason (only if there were any)
"""

import csv
import hashlib
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
from unifashion.config import RunSettings
from unifashion.errors import UserError
from unifashion.flags import write_yaml
from unifashion.io import read_json, write_json

TRAIN_METRICS, VALIDATION_METRICS = "train_metrics.csv", "validation_metrics.csv"


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
        self._description: dict[str, Any] = {}
        self._started = time.monotonic()

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """Reopen a run that was stopped.

        Raises:
            UserError: no run there.
        """
        run = cls.__new__(cls)
        run.path, run._description = path, read_description(path)
        run._started = time.monotonic() - run._description.get("seconds", 0)
        run.update(state="running")
        return run

    def cut(self, name: str, num_bytes: int) -> None:
        """Shorten a CSV of this run to its size at a checkpoint."""
        path = self.path / name
        if num_bytes == 0:
            path.unlink(missing_ok=True)
        elif path.exists():
            os.truncate(path, num_bytes)

    def describe(self, groups: Sequence[Any], **more: Any) -> None:
        """Write ``config.yaml`` and ``run.json``."""
        write_yaml(self.path / "config.yaml", groups)
        self._description = {
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
            **more,
        }
        self._write()

    def update(self, **more: Any) -> None:
        """Change or add entries of ``run.json``."""
        self._description.update(more, seconds=round(time.monotonic() - self._started, 1))
        self._write()

    def _write(self) -> None:
        write_json(self.path / "run.json", self._description)

    def lengths(self) -> dict[str, int]:
        """Return the sizes of the metrics files, in bytes: a checkpoint keeps them, for ``cut``."""
        paths = (self.path / name for name in (TRAIN_METRICS, VALIDATION_METRICS))
        return {path.name: path.stat().st_size for path in paths if path.exists()}

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


def open_run(settings: RunSettings) -> RunFolder:
    """Make the run folder that the settings name, or reopen the one that they resume."""
    if settings.resume:
        return RunFolder.reopen(Path(settings.resume))
    return RunFolder(Path(settings.output_dir), settings.overwrite)


def read_description(run: Path) -> dict[str, Any]:
    """Return the content of ``run.json``.

    Raises:
        UserError: no run there.
    """
    description = read_json(run / "run.json")
    if not isinstance(description, dict):
        raise UserError(f"--resume {run}: not a run folder: it has no readable run.json")
    return description


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def git_commit() -> str:
    """Return the commit of the source tree, with ``+changes`` when the tree differs from it; 'unknown' outside git."""
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
    """Return processor count, memory and accelerators as a text."""
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
