"""Make many files, one after the other or several at a time, so that nothing is left half done and nothing is done twice.

A file appears when it is complete, and one that exists and is not older than its source is not made again. So a call
that was stopped continues where it stopped, and a changed source is noticed.
``manifest.json`` is written last: it lists every file with size and hash, and how many failed.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

import unifashion
from unifashion.data.image_files import is_there
from unifashion.io import (
    DiskError,
    file_stamp,
    lock_folder,
    read_json,
    remove_leftovers_below,
    replacing,
    write_csv,
    write_json,
)

MANIFEST = "manifest.json"
FAILURES = "failed.csv"
Source = list[str | int]  # path, bytes (of a folder: files), time of the last change in ns
UNUSABLE: dict[int | None, str] = {  # faults of a file's name, not of the disk
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), "a file has the name of a folder"),
    errno.ENAMETOOLONG: "its name is too long",
}
AHEAD = 4  # jobs per thread that are queued; a million photos must not all be


class JobError(Exception):
    """One file could not be made: the reason, in a few words. The others continue."""


@dataclass(frozen=True)
class Job:
    """One file of a data set.

    name: its path below the set's folder.
    make: writes it to the path it is given, whose name does not say the format; raises ``JobError``.
    changed: when its source was last changed, seconds since the epoch; 0 = not known.
    """

    name: str
    make: Callable[[Path], None]
    changed: float = 0.0


@dataclass(frozen=True)
class Done:
    """How the jobs ended: files made, files that already existed, and (name, reason) of those that failed."""

    made: int
    kept: int
    failed: tuple[tuple[str, str], ...]


@contextmanager
def preparing(folder: Path) -> Iterator[None]:
    """Keep other calls from a set's folder, and remove what killed ones have left half written there.

    Raises:
        UserError: another call is at work in the folder, or it cannot be written.
    """
    with lock_folder(folder, f"{folder} is being prepared by another call; wait until it ends"):
        remove_leftovers_below(folder)
        yield


def run_jobs(
    folder: Path, jobs: Iterable[Job], total: int, title: str, num_threads: int, progress: bool = True
) -> Done:
    """Do all jobs whose file does not exist yet.

    Args:
        folder: the set's folder.
        jobs: may be lazy; they are taken in order.
        total: how many there are, for the progress bar.
        title: of the bar.
        num_threads: jobs at a time; 1 if each needs the one before it.
        progress: show the bar.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    made, kept, failed = 0, 0, []
    with tqdm(total=total, desc=title, disable=not progress, dynamic_ncols=True) as bar:
        for job, reason in _results(folder, jobs, num_threads):
            made, kept = made + (reason is None), kept + (reason == "")
            if reason:
                failed.append((job.name, reason))
            bar.update()
    return Done(made, kept, tuple(failed))


def _results(folder: Path, jobs: Iterable[Job], num_threads: int) -> Iterator[tuple[Job, str | None]]:
    """Yield every job with None (made), "" (already existed) or the reason why it failed."""
    jobs = iter(jobs)
    if num_threads == 1:
        for job in jobs:
            yield job, _do(folder, job)
        return
    with ThreadPoolExecutor(num_threads) as pool:
        running: dict[Future[str | None], Job] = {}
        try:
            while True:
                free = num_threads * AHEAD - len(running)
                running |= {pool.submit(_do, folder, job): job for job in islice(jobs, free)}
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _do(folder: Path, job: Job) -> str | None:
    path = folder / job.name
    try:
        if path.is_file() and path.stat().st_mtime >= job.changed:
            return ""
        with replacing(path, one_of_many=True) as unfinished:
            job.make(unfinished)
    except JobError as error:
        return str(error)
    except (DiskError, OSError) as error:
        number = error.number if isinstance(error, DiskError) else error.errno
        if number not in UNUSABLE:
            raise
        return UNUSABLE[number]
    return None


def changed_at(path: Path) -> float:
    """Return when a file was last changed, seconds since the epoch; 0 where it is gone, which its job will find out."""
    return path.stat().st_mtime if is_there(path) else 0.0


def describe_source(path: Path) -> Source:
    """Return path, size and time of a source, by which the manifest recognises an unchanged source."""
    if path.is_dir():
        times = [file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()]
        return [path.as_posix(), len(times), max(times, default=0)]
    return [path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns]


def write_manifest(
    folder: Path,
    name: str,
    sources: Sequence[Source],
    settings: dict[str, Any],
    done: Done,
    files: Sequence[str] | None = None,
    manifest: str = MANIFEST,
) -> Path:
    """Write the manifest and, where something failed, ``failed.csv``; returns the manifest.

    Args:
        folder: the set's folder.
        name: of the set.
        sources: what it was made from.
        settings: that they were made with.
        done: how the jobs ended.
        files: what is listed, names below the folder; None = everything in it.
        manifest: name of the manifest.
    """
    failures = folder / FAILURES
    if done.failed:
        write_csv(failures, ("file", "reason"), ({"file": file, "reason": reason} for file, reason in done.failed))
    else:
        failures.unlink(missing_ok=True)
    listed = _files(folder) if files is None else [folder / file for file in sorted(files)]
    content = {
        "set": name,
        "made_by": f"unifashion {unifashion.__version__}",
        "sources": sources,
        "settings": settings,
        "failed": len(done.failed),
        "files": {path.relative_to(folder).as_posix(): file_stamp(path) for path in listed},
    }
    write_json(folder / manifest, content, durable=True)
    return folder / manifest


def read_manifest(folder: Path, manifest: str = MANIFEST) -> dict[str, Any] | None:
    """Return the manifest of a folder that ``prepare`` finished, else None."""
    content = read_json(folder / manifest)
    keys = {"set", "sources", "settings", "failed"}
    is_ours = isinstance(content, dict) and keys <= content.keys() and isinstance(content.get("files"), dict)
    return content if is_ours else None


def faults(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return how the files differ from the manifest: one sentence per file."""
    sentences = []
    for name, stamp in manifest["files"].items():
        try:
            if file_stamp(folder / name) != stamp:
                sentences.append(f"{name} was changed")
        except (OSError, ValueError):  # a damaged manifest may hold names that no file can have
            sentences.append(f"{name} is missing")
    return sentences


def _files(folder: Path) -> list[Path]:
    ours = {MANIFEST, FAILURES}
    paths = (Path(home) / name for home, _, names in os.walk(folder) for name in names)
    return sorted(path for path in paths if path.name not in ours and not path.name.startswith("."))
