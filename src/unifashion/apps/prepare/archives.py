"""Unpack zip and tar archives of unknown origin: nothing outside the folder, no links, no decompression bombs."""

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from unifashion.apps.prepare.job_runner import Job, JobError
from unifashion.errors import UserError

MAX_BYTES = 2 * 2**30  # of one file, by the size that its header states: both libraries read no more than that
DAMAGED = (EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def is_archive(path: Path) -> bool:
    """Return whether a file is named like an archive."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def count_members(path: Path) -> int:
    """Return how many files an archive holds.

    Raises:
        UserError: truncated, or not an archive.
    """
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                return sum(not member.is_dir() for member in archive.infolist())
        with tarfile.open(path) as archive:
            return sum(member.isfile() for member in archive)
    except (OSError, *DAMAGED) as error:
        raise UserError(f"{path} is not an archive, or is cut short ({error}); download it again") from None


def unpack_jobs(path: Path) -> Iterator[Job]:
    """Yield a job for every file of an archive. Each must be done before the next is requested."""
    changed = path.stat().st_mtime
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    yield Job(_inside(member.filename, path), partial(_copy_zip, archive, member), changed)
        return
    with tarfile.open(path) as tar:
        for entry in tar:
            if entry.isfile():
                yield Job(_inside(entry.name, path), partial(_copy_tar, tar, entry), changed)


def _inside(name: str, archive: Path) -> str:
    """Return a member's path, made of plain names alone.

    Raises:
        UserError: it leads out of the folder.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    parts = [part for part in path.parts if part != "."]
    if path.is_absolute() or ".." in parts or not parts or ":" in parts[0]:
        raise UserError(f"{archive} holds {name!r}, which leads out of its folder: do not unpack it")
    return "/".join(parts)


def _copy_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    if member.file_size > MAX_BYTES:
        raise JobError(f"larger than {MAX_BYTES >> 30} GiB")
    try:
        with archive.open(member) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except (*DAMAGED, NotImplementedError, RuntimeError) as error:
        raise JobError(f"damaged in the archive ({error})") from None


def _copy_tar(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.size > MAX_BYTES:
        raise JobError(f"larger than {MAX_BYTES >> 30} GiB")
    try:
        source = archive.extractfile(member)
        assert source is not None, "only files are asked for"
        with source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except DAMAGED as error:
        raise JobError(f"damaged in the archive ({error})") from None
