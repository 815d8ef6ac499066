"""A folder that is drawn once, whole or not at all, by whichever of several processes is the first to finish."""

import glob
import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from unifashion.data.synthetic import MANIFEST, read_manifest
from unifashion.errors import UserError
from unifashion.io import disk_errors, lock, move_folder, write_json, write_jsonl

T = TypeVar("T")
UNFINISHED = ".drawing"


def write_once(root: Path, manifest: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
    """Fill a hidden folder beside ``root``, add the manifest, and replace ``root`` with it; return ``root``.

    Args:
        root: whatever it holds is replaced, unless another process has written the same there in the meantime.
        manifest: name, sizes and seed: folders with equal manifests have equal contents.
        write: fills an empty folder.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    folder = root.resolve()
    with disk_errors(root):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(UNFINISHED, f".{folder.name}-", folder.parent) as scratch,
            disk_errors(root, unfinished=Path(scratch)),
            lock(Path(scratch), f"{root} is being drawn by another process too; run the same command again"),
        ):
            new = Path(scratch) / "new"
            new.mkdir()
            write(new)
            write_json(new / MANIFEST, manifest)
            # Every process of a training run draws what is missing. The slower ones must not replace what others read from.
            try:
                if read_manifest(root) != manifest:
                    move_folder(new, folder)
            except OSError:
                if read_manifest(root) != manifest:
                    raise
    return root


def remove_abandoned(root: Path) -> None:
    """Remove what killed processes left beside ``root``; a folder that is still drawn into is locked."""
    folder = root.resolve()
    if folder.exists():
        shutil.rmtree(folder.with_name(f".{folder.name}.old"), ignore_errors=True)
    for scratch in folder.parent.glob(f".{glob.escape(folder.name)}-*{UNFINISHED}"):
        with suppress(UserError, FileNotFoundError), lock(scratch, "still drawn into") as held:
            if held:
                shutil.rmtree(scratch, ignore_errors=True)


def draw_all(draw: Callable[[T], None], work: Sequence[T], title: str, progress: bool, chunksize: int) -> None:
    """Call ``draw`` for everything in ``work``, in as many processes as there are cores, which end with this one."""
    with (
        tqdm(total=len(work), desc=title, disable=not progress, dynamic_ncols=True) as bar,
        ProcessPoolExecutor(os.cpu_count(), initializer=_end_with_parent) as pool,
    ):
        for _ in pool.map(draw, work, chunksize=chunksize):
            bar.update()


def _end_with_parent() -> None:
    """Without this, the processes of a program that was killed would wait for work for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def put_json(path: Path, content: Any) -> None:
    """Write JSON; makes the file's folder."""
    write_json(path, content)


def put_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line; makes the file's folder."""
    write_jsonl(path, rows)
