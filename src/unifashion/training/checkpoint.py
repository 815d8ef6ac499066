"""Checkpoints that a run can be continued from: written whole or not at all, checked before they are believed.

    checkpoints/step_00000120/
      model/          the model as ``from_pretrained`` reads it
      state.pt        optimiser, schedule and progress (read with ``weights_only=True``)
      manifest.json   {"files": {name: [size, hash]}}: written last; a folder that does not fit it is broken

A checkpoint is written into a hidden folder beside its place, brought to the disk, and renamed. ``best`` and ``last`` are hard
links to the files of a checkpoint's model, so they cost no space.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from unifashion.errors import UserError

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
State = dict[str, Any]


def write_checkpoint(run: Path, step: int, save_model: Callable[[Path], None], state: State, keep_last: int) -> Path:
    """Write the checkpoint of one step and remove all but the ``keep_last`` newest.

    Args:
        run: run folder.
        step: optimiser steps that were taken.
        save_model: writes the model into the folder it is given.
        state: tensors, numbers, strings, and lists and dicts of them.
        keep_last: how many checkpoints stay.

    Raises:
        UserError: the disk is full or cannot be written; the checkpoints that were there before are untouched.
    """
    home = run / FOLDER
    place, unfinished = home / f"step_{step:08d}", home / f".step_{step:08d}"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        save_model(unfinished / "model")
        torch.save(state, unfinished / "state.pt")
        files = {path.relative_to(unfinished).as_posix(): _stamp(path) for path in _files(unfinished)}
        (unfinished / MANIFEST).write_text(
            json.dumps({"step": step, "files": files}, indent=1) + "\n", encoding="utf-8"
        )
        for path in [*_files(unfinished), unfinished]:
            _to_disk(path)
        shutil.rmtree(place, ignore_errors=True)
        unfinished.replace(place)
        _to_disk(home)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        shutil.rmtree(unfinished, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise UserError(
            f"the checkpoint of step {step} could not be written to {home} ({reason}); make room and go on with --resume {run}"
        ) from None
    for old in _newest_first(run)[max(keep_last, 1) :]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def find_checkpoint(run: Path) -> Path | None:
    """Return the newest checkpoint that is whole; broken ones are named in the log and skipped. None where there is none."""
    for checkpoint in _newest_first(run):
        fault = _fault(checkpoint)
        if fault is None:
            return checkpoint
        log.warning("%s is broken (%s) and is skipped", checkpoint, fault)
    return None


def read_state(checkpoint: Path) -> State:
    """Return the state that ``write_checkpoint`` was given, on the CPU."""
    state: State = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
    return state


def link_model(checkpoint: Path, place: Path) -> None:
    """Make ``place`` a model folder with the checkpoint's model: hard links, or copies where the disk has no links."""
    unfinished, former = place.with_name(f".{place.name}"), place.with_name(f".{place.name}.former")
    for leftover in (unfinished, former):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for path in _files(checkpoint / "model"):
        copy = unfinished / path.relative_to(checkpoint / "model")
        copy.parent.mkdir(exist_ok=True)
        try:
            os.link(path, copy)
        except OSError:
            shutil.copy2(path, copy)
    if place.exists():
        place.replace(former)
    unfinished.replace(place)
    shutil.rmtree(former, ignore_errors=True)


def _newest_first(run: Path) -> list[Path]:
    return sorted((run / FOLDER).glob("step_*"), reverse=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _fault(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return f"no readable {MANIFEST}"
    for name, stamp in files.items():
        try:
            if _stamp(checkpoint / name) != stamp:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None


def _stamp(path: Path) -> list[int | str]:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return [path.stat().st_size, digest.hexdigest()]


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
