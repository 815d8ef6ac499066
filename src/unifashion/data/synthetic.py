"""How a folder says that its contents were drawn by a program: ``manifest.json`` with ``"synthetic": true``."""

import json
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what ``manifest.json`` in a folder says; empty where there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def is_synthetic(root: Path) -> bool:
    """Return whether ``root``, or one of the two folders above it, says that it is synthetic."""
    root = root.resolve()
    return any(read_manifest(folder).get("synthetic") is True for folder in (root, *root.parents[:2]))
