"""A folder that is drawn once, whole or not at all, by whichever of several processes is the first to finish."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from unifashion.data.synthetic import MANIFEST, read_manifest
from unifashion.io import move_folder, write_json, write_jsonl


def write_once(root: Path, manifest: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
    """Fill a hidden folder beside ``root``, add the manifest, and replace ``root`` with it; return ``root``.

    Args:
        root: whatever it holds is replaced, unless another process has written the same there in the meantime.
        manifest: name, sizes and seed: folders with equal manifests have equal contents.
        write: fills an empty folder.
    """
    folder = root.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        write(new)
        write_json(new / MANIFEST, manifest)
        # Every process of a training run draws what is missing. The slower ones must not replace a folder that others read from.
        try:
            if read_manifest(root) != manifest:
                move_folder(new, folder)
        except OSError:
            if read_manifest(root) != manifest:
                raise
    return root


def put_json(path: Path, content: Any) -> None:
    """Write JSON; makes the file's folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def put_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line; makes the file's folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, rows)
