"""How a folder declares that its contents are synthetic: ``manifest.json`` with ``"synthetic": true``."""

from pathlib import Path
from typing import Any

from unifashion.io import read_json

MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the content of ``manifest.json`` in a folder; empty where there is none."""
    manifest = read_json(folder / MANIFEST)
    return manifest if isinstance(manifest, dict) else {}


def is_synthetic(root: Path) -> bool:
    """Return whether the manifest of ``root``, or of one of the two folders above it, says that it is synthetic.

    Above it, because a data root may be the catalogue, a set in it, or a split of that set.
    """
    root = root.resolve()
    return any(read_manifest(folder).get("synthetic") is True for folder in (root, *root.parents[:2]))
