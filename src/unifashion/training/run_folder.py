"""The folder of one run: its settings, its origin, its metrics, its checkpoints.

config.yaml              the resolved settings; ``--config RUN/config.yaml`` repeats the run
run.json                 versions, git commit, machine, data fingerprint, and how the run ended
train_metrics.csv        one row per epoch (try-on: per --log-steps): mean losses, learning rate, seconds
validation_metrics.csv   one row per validation and score
validation/step-N.png    what a try-on model draws: person, garment, result, truth
checkpoints/             what --resume continues from (checkpoint.py)
best/  last/             model folders
quarantine.csv           images that could not be used, with the reason (only if there were any)
.lock                    held by the process that writes here

While a run is being made, ``run.json`` holds nothing but the state "starting". A process that is killed then leaves a folder that
the same command takes. So does one that is killed while it replaces an old run: that is marked before it is removed.
"""

import csv
import hashlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

import unifashion
from unifashion.config import RunSettings
from unifashion.distributed import is_launched_first
from unifashion.errors import UserError
from unifashion.flags import write_yaml
from unifashion.io import (
    disk_errors,
    file_stamp,
    lock,
    read_json,
    remove_leftovers_below,
    replacing,
    restore_folder,
    to_disk,
    write_json,
)

CONFIG, DESCRIPTION, LOCK = "config.yaml", "run.json", ".lock"
TRAIN_METRICS, VALIDATION_METRICS = "train_metrics.csv", "validation_metrics.csv"
BEST, LAST = MODELS = ("best", "last")
STARTING = "starting"


class RunFolder:
    """Creates the folder and writes into it; only the main process holds one."""

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        """Make an empty run folder.

        Raises:
            UserError: the folder cannot be written, or holds something else, or a run that may not be replaced.
        """
        check_free(path, overwrite)
        self.path = path
        self._description: dict[str, Any] = {"state": STARTING}
        self._started = time.monotonic()
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            self._write()
            for old in path.iterdir():
                if old.name not in (DESCRIPTION, LOCK):
                    _remove(old)

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """Reopen a run that was stopped.

        Raises:
            UserError: no run there.
        """
        run = cls.__new__(cls)
        run.path, run._description = path, read_description(path)
        run._started = time.monotonic() - run._description.get("seconds", 0)
        with run.writing(DESCRIPTION):
            for name in MODELS:
                restore_folder(path / name)
            remove_leftovers_below(path)
        run.update(state="running")
        return run

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """In the block, a file or folder of the run is written.

        Raises:
            UserError: it cannot be, such as on a full disk; says how the run is continued.
        """
        again = f"continue with --resume {self.path}"
        with disk_errors(self.path / name, f"make it writable and {again}", again=again):
            yield

    def cut(self, name: str, num_bytes: int) -> None:
        """Shorten a CSV of this run to its size at a checkpoint.

        Raises:
            UserError: it is already shorter, so rows are lost.
        """
        path = self.path / name
        size = path.stat().st_size if path.exists() else 0
        if size < num_bytes and path.exists():
            raise UserError(
                f"{path} has {size} bytes, but had {num_bytes} when the checkpoint was written: rows are lost; "
                "restore the file, or remove it to continue without its earlier rows"
            )
        with self.writing(name):
            if num_bytes == 0:
                path.unlink(missing_ok=True)
            elif size > num_bytes:
                os.truncate(path, num_bytes)

    def describe(self, groups: Sequence[Any], **more: Any) -> None:
        """Write ``config.yaml`` and ``run.json``."""
        with disk_errors(self.path):
            write_yaml(self.path / CONFIG, groups)
            to_disk(self.path / CONFIG)
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
            CONFIG: file_stamp(self.path / CONFIG),
            **more,
        }
        with disk_errors(self.path):
            self._write()

    def update(self, **more: Any) -> None:
        """Change or add entries of ``run.json``."""
        self._description.update(more, seconds=round(time.monotonic() - self._started, 1))
        with self.writing(DESCRIPTION):
            self._write()

    def _write(self) -> None:
        write_json(self.path / DESCRIPTION, self._description, durable=True)

    def lengths(self) -> dict[str, int]:
        """Return the sizes of the metrics files, in bytes: a checkpoint keeps them, for ``cut``."""
        paths = (self.path / name for name in (TRAIN_METRICS, VALIDATION_METRICS))
        return {path.name: path.stat().st_size for path in paths if path.exists()}

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to a CSV of this run; the first row of a new file decides the columns.

        Raises:
            UserError: the disk is full; the next checkpoint does not count rows that were written in part.
        """
        rows = list(rows)
        if not rows:
            return
        path = self.path / name
        is_new = not path.exists()
        with self.writing(name), path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            if is_new:
                writer.writeheader()
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())  # a checkpoint that survives a power cut counts on these rows

    def draw(self, name: str, picture: Image.Image) -> None:
        """Write a picture.

        Raises:
            UserError: the disk is full.
        """
        path = self.path / name
        with self.writing(name):
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as unfinished:
                picture.save(unfinished, format="png")


def check_free(path: Path, overwrite: bool) -> None:
    """Check that a new run may be made in a folder.

    Raises:
        UserError: it holds something else, or a run that may not be replaced.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"--output-dir {path} is a file; name a folder")
    unfinished = f".{DESCRIPTION}."
    if not path.exists() or all(old.name == LOCK or old.name.startswith(unfinished) for old in path.iterdir()):
        return
    if not (path / DESCRIPTION).is_file():
        raise UserError(f"--output-dir {path} holds files that are not a run; name another folder")
    description = read_json(path / DESCRIPTION)
    is_started = not isinstance(description, dict) or description.get("state") != STARTING
    if is_started and not overwrite:
        raise UserError(
            f"--output-dir {path} already holds a run; continue it with --resume {path}, name another folder "
            "or add --overwrite"
        )


def check_run(settings: RunSettings) -> None:
    """Check, before the data is read, that the run folder of these settings can be made or reopened.

    Raises:
        UserError: it cannot; or another process is writing into it.
    """
    path = Path(settings.resume or settings.output_dir)
    if not settings.resume:
        check_free(path, settings.overwrite)
    # The others would find the first one's lock, which it holds here for a moment, and take it for another training.
    if is_launched_first() and path.is_dir() and any(path.iterdir()):
        with _lock(path, settings):
            pass


@contextmanager
def open_run(settings: RunSettings) -> Iterator[RunFolder]:
    """Make the run folder that the settings name, or reopen the one that they resume; nobody else can until the block ends.

    Raises:
        UserError: as ``RunFolder``; or another process is writing into it.
    """
    path = Path(settings.resume or settings.output_dir)
    if not settings.resume:
        check_free(path, settings.overwrite)
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
    with _lock(path, settings):
        yield RunFolder.reopen(path) if settings.resume else RunFolder(path, settings.overwrite)


def _lock(path: Path, settings: RunSettings) -> AbstractContextManager[bool]:
    flag = "--resume" if settings.resume else "--output-dir"
    return lock(
        path / LOCK, f"{flag} {path}: another process is training there; wait until it ends, or name another folder"
    )


def read_description(run: Path) -> dict[str, Any]:
    """Return the content of ``run.json``.

    Raises:
        UserError: no run there, one that was not begun, or a damaged file.
    """
    path = run / DESCRIPTION
    description = read_json(path)
    if not path.is_file():
        raise UserError(f"--resume {run}: not a run folder: it has no readable {DESCRIPTION}")
    if isinstance(description, dict) and description.get("state") == STARTING:
        raise UserError(f"--resume {run}: it ended before it had begun; start it again with the command that made it")
    if not isinstance(description, dict) or not isinstance(description.get("seconds", 0), int | float):
        raise damaged(run)
    return description


def damaged(run: Path) -> UserError:
    """Return the error for a ``run.json`` that a run cannot be continued with."""
    return UserError(
        f"--resume {run}: its {DESCRIPTION} is damaged; restore it, or start a new run with --init-from {run}/last"
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
