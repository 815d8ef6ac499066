"""Unpack zip and tar archives of unknown origin: nothing outside the folder, no links, no decompression bombs.

An archive is refused if it is damaged, leads out of its folder, or would become implausibly large. Members that cannot be used
(links, a second file of one name, names that no file can have) fail like any other file, and are named.
"""

import bz2
import gzip
import io
import lzma
import stat
import struct
import sys
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from unifashion.apps.prepare.job_runner import Job, JobError
from unifashion.errors import UserError
from unifashion.io import open_file

MAX_BYTES = 2 * 2**30  # of one file, by the size that its header states: both libraries read no more than that
MAX_MEMBERS = 1_000_000
MAX_RATIO = 200  # of the files to the archive; lists of numbers pack about 20 : 1, photos hardly at all
MAX_HEADER = 2**20  # bytes; tarfile reads long names and comments whole
CHUNK = 2**16
DAMAGED = (
    *(EOFError, OSError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(ValueError, RuntimeError, OverflowError, MemoryError),
)
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
DECODERS: dict[bytes, Callable[[BinaryIO], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


@dataclass(frozen=True)
class Size:
    """How many files an archive holds, and their bytes by its headers."""

    members: int
    num_bytes: int


@dataclass(frozen=True)
class _Member:
    """One file of an archive; ``fault``: why it cannot be unpacked."""

    name: str
    num_bytes: int
    open: Callable[[], Any]
    fault: str = ""


def is_archive(path: Path) -> bool:
    """Return whether a file is named like an archive."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def measure(path: Path) -> Size:
    """Return what an archive holds, by its headers.

    Raises:
        UserError: truncated, or not an archive; more than ``MAX_MEMBERS`` files, or ``MAX_RATIO`` times the size of the archive.
    """
    limit = MAX_RATIO * max(path.stat().st_size, 2**20)
    count = num_bytes = 0
    for member in _members(path):
        count, num_bytes = count + 1, num_bytes + member.num_bytes
        if num_bytes > limit or count > MAX_MEMBERS:
            raise UserError(
                f"{path} would become {count:,} files of {num_bytes / 2**30:.1f} GiB and more, which is rejected as a "
                "decompression bomb; unpack it yourself if you trust it, and name the folder"
            )
    return Size(count, num_bytes)


def unpack_jobs(path: Path) -> Iterator[Job]:
    """Yield a job for every file of an archive. Each must be done before the next is requested."""
    changed = path.stat().st_mtime
    first: dict[str, str] = {}
    for member in _members(path):
        name = _inside(member.name, path)
        key = unicodedata.normalize("NFC", name).casefold()  # some file systems take such names for one
        fault = member.fault or ("its name cannot be used" if "\\" in name else "")
        if key in first:
            fault = fault or f"the archive also holds {first[key]}"
        first.setdefault(key, name)
        # A faulty one is never up to date: the file that is there is another one.
        yield Job(name, partial(_copy, member, fault), float("inf") if fault else changed)


def _inside(name: str, archive: Path) -> str:
    """Return a member's path, made of plain names alone; bytes that are not UTF-8, and NUL, become escapes.

    Raises:
        UserError: it leads out of the folder.
    """
    parts = _parts(name)
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
        raise UserError(f"{archive} holds {name!r}, which leads out of its folder: do not unpack it")
    return "/".join(parts).replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _parts(name: str) -> list[str]:
    """Return the folders and the file of a name; absolute ones begin with a slash."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return [part if part.strip("/") else "/" for part in parts if part != "."]


def _copy(member: _Member, fault: str, path: Path) -> None:
    if fault or member.num_bytes > MAX_BYTES:
        raise JobError(fault or f"larger than {MAX_BYTES >> 30} GiB")
    with path.open("wb") as target:
        for chunk in _content(member):
            target.write(chunk)


def _content(member: _Member) -> Iterator[bytes]:
    try:
        with member.open() as source:
            while chunk := source.read(CHUNK):
                yield chunk
    except DAMAGED as error:
        raise JobError(f"damaged in the archive ({error})") from None


def _members(path: Path) -> Iterator[_Member]:
    """Yield the files of an archive, without hidden ones such as macOS adds.

    Raises:
        UserError: unreadable, truncated, or not an archive.
    """
    try:
        file = open_file(path, sys.maxsize)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    try:
        with file:
            for member in _zip_members(file) if path.suffix.lower() == ".zip" else _tar_members(file):
                if not any(part.startswith((".", "__MACOSX")) for part in _parts(member.name) if part != ".."):
                    yield member
    except DAMAGED as error:
        raise UserError(f"{path} is not an archive, or is cut short ({error}); download it again") from None


def _zip_members(file: BinaryIO) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if not entry.is_dir():
                fault = "a link, not a file" if stat.S_ISLNK(entry.external_attr >> 16) else ""
                yield _Member(entry.filename, entry.file_size, partial(archive.open, entry), fault)


def _tar_members(file: BinaryIO) -> Iterator[_Member]:
    head = file.peek(8) if isinstance(file, io.BufferedReader) else b""
    decode = next((decode for magic, decode in DECODERS.items() if head.startswith(magic)), None)
    source = _Careful(decode(file) if decode else file)
    with tarfile.TarFile(fileobj=cast(Any, source)) as archive:
        while (entry := archive.next()) is not None:
            cast(Any, archive).members.clear()  # it would keep all, and a hostile archive may have millions
            if not entry.isdir():
                fault = "" if entry.isfile() else "a link or a device, not a file"
                yield _Member(entry.name, entry.size, partial(archive.extractfile, entry), fault)


class _Careful:
    """A file that refuses to be read in large pieces: a header of a tar archive may claim any size."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """Read at most ``MAX_HEADER`` bytes."""
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        content: bytes = self._file.read(size)
        return content
