"""A disk of a few megabytes, to see what a full one does. Mounting it takes root, as within ``unshare --map-root-user --mount``.

def test_something(small_disk):
    disk = small_disk(8)                 a folder on an empty disk of 8 MB
    with filled(disk, leave=20):         only 20 KB of it are free
        ...                              ends in one sentence
    ...                                  goes on: there is room again
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = os.sysconf("SC_PAGE_SIZE")  # what a file takes is a multiple of it


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[float], Path]]:
    """Make a disk of so many megabytes; the test is skipped where none may be mounted."""
    disks: list[Path] = []

    def make(megabytes: float) -> Path:
        disk = tmp_path / f"disk-{len(disks)}"
        disk.mkdir()
        size = f"size={int(megabytes * 2**20)}"
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no disk may be mounted here (it takes root)")
        disks.append(disk)
        return disk

    yield make
    for disk in disks:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextmanager
def filled(disk: Path, leave: float) -> Iterator[None]:
    """Inside the block, only ``leave`` KB (rounded to pages) of a disk are free."""
    filler = disk / ".filler"
    size = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - int(leave * 1024) // PAGE * PAGE
    try:
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        yield
    finally:
        filler.unlink()
