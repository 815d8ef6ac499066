"""Making many files, one after the other or several at a time, so that nothing is half done and nothing is done twice.

A file is written under a hidden name and renamed when it is complete; a file that is there, and not older than what it is made
from, is not made again. So a run that was stopped goes on where it stood, and a source that changed is noticed.
``manifest.json`` is written last: it lists every file with size and hash, and how many failed.
"""

import csv
import fcntl
import hashlib
import json
import logging
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
from unifashion.errors import UserError

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FAILURES = "failed.csv"
Source = list[str | int]  # path, bytes (of a folder: files), time of the last change in ns
AHEAD = 4  # jobs per thread that wait for their turn


class JobError(Exception):
    """One file could not be made: the reason, in a few words. The others go on."""


@dataclass(frozen=True)
class Job:
    """One file of a data set.

    name: its path below the set's folder.
    make: writes it to the path it is given; raises ``JobError``.
    changed: when its source was last changed, seconds since the epoch; 0 = not known.
    """

    name: str
    make: Callable[[Path], None]
    changed: float = 0.0


@dataclass(frozen=True)
class Done:
    """What came of all jobs."""

    made: int
    kept: int
    failed: tuple[tuple[str, str], ...]  # (name, reason)


def run_jobs(
    folder: Path, jobs: Iterable[Job], total: int, title: str, num_threads: int, progress: bool = True
) -> Done:
    """Do all jobs whose file is not there.

    Args:
        folder: the set's folder.
        jobs: may be made lazily; they are taken in order.
        total: how many there are, for the progress bar.
        title: of the bar.
        num_threads: jobs at a time; 1 where each needs the one before it.
        progress: show the bar.

    Raises:
        UserError: the disk is full or cannot be written, or another call is at work in the folder.
    """
    made, kept, failed = 0, 0, []
    with _alone(folder), tqdm(total=total, desc=title, disable=not progress, dynamic_ncols=True) as bar:
        try:
            for job, reason in _results(folder, jobs, num_threads):
                made, kept = made + (reason is None), kept + (reason == "")
                if reason:
                    failed.append((job.name, reason))
                bar.update()
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written ({error.strerror}); make room and run the same command again"
            ) from None
    return Done(made, kept, tuple(failed))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other calls out of a folder; the end of the process, by whatever, lets them in again."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"{folder} is being prepared by another call; wait for its end") from None
    except OSError:
        log.debug("%s is on a disk without locks", folder)
    try:
        yield
    finally:
        os.close(handle)


def _results(folder: Path, jobs: Iterable[Job], num_threads: int) -> Iterator[tuple[Job, str | None]]:
    """Yield every job with None (made), "" (was there) or the reason why it failed."""
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
    place = folder / job.name
    if place.is_file() and place.stat().st_mtime >= job.changed:
        return ""
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.with_name(f".{place.name}.part")
    try:
        job.make(unfinished)
        unfinished.replace(place)
    except JobError as error:
        return str(error)
    finally:
        unfinished.unlink(missing_ok=True)
    return None


def describe_source(path: Path) -> Source:
    """Return what tells whether a source is still the same, as it is kept in the manifest."""
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
        settings: by which they were made.
        done: what came of the jobs.
        files: what is listed, names below the folder; None = all that lies in it.
        manifest: name of the manifest.
    """
    failures = folder / FAILURES
    if done.failed:
        with failures.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("file", "reason"), *done.failed])
    else:
        failures.unlink(missing_ok=True)
    listed = _files(folder) if files is None else [folder / file for file in sorted(files)]
    content = {
        "set": name,
        "made_by": f"unifashion {unifashion.__version__}",
        "sources": sources,
        "settings": settings,
        "failed": len(done.failed),
        "files": {path.relative_to(folder).as_posix(): _stamp(path) for path in listed},
    }
    unfinished = folder / f".{manifest}"
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(folder / manifest)
    return folder / manifest


def read_manifest(folder: Path, manifest: str = MANIFEST) -> dict[str, Any] | None:
    """Return the manifest of a folder that ``prepare`` finished, else None."""
    try:
        content = json.loads((folder / manifest).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "files" in content and "set" in content else None


def faults(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return what is no longer as the manifest says: one sentence a file."""
    found = []
    for name, stamp in manifest["files"].items():
        try:
            if _stamp(folder / name) != stamp:
                found.append(f"{name} was changed")
        except OSError:
            found.append(f"{name} is not there")
    return found


def _files(folder: Path) -> list[Path]:
    ours = {MANIFEST, FAILURES}
    found = (Path(home) / name for home, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if path.name not in ours and not path.name.startswith("."))


def _stamp(path: Path) -> list[int | str]:
    with path.open("rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return [path.stat().st_size, digest.hexdigest()]
