"""Checkpoints that a run can be continued from: written whole or not at all, verified before they are used.

    checkpoints/step_00000120/
      model/          the model as ``from_pretrained`` reads it
      state.pt        optimiser, schedule, moving average (read with ``weights_only=True``)
      progress.json   the progress of the run; written again when the validation of this step is done
      manifest.json   {"files": {name: [size, hash]}}: written last; a folder that does not match it is broken

``best`` and ``last`` are hard links to the files of a checkpoint's model, so they cost no space.
"""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from unifashion.io import file_stamp, files_below, read_json, replacing_folder, write_json

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
MANIFEST, STATE, PROGRESS = "manifest.json", "state.pt", "progress.json"
State = dict[str, Any]


def write_checkpoint(
    run: Path, step: int, save_model: Callable[[Path], None], state: State, progress: State, keep_last: int
) -> Path:
    """Write the checkpoint of one step and remove all but the ``keep_last`` newest.

    Args:
        run: run folder.
        step: optimiser steps taken so far.
        save_model: writes the model into the folder it is given.
        state: tensors, numbers, strings, and lists and dicts of them.
        progress: numbers, strings, and lists and dicts of them.
        keep_last: how many checkpoints to keep.

    Raises:
        UserError: the disk is full or cannot be written; the checkpoints that were there before are untouched.
    """
    home = run / FOLDER
    folder = home / f"step_{step:08d}"
    with replacing_folder(folder, durable=True, again=f"continue with --resume {run}") as unfinished:
        save_model(unfinished / "model")
        torch.save(state, unfinished / STATE)
        files = {path.relative_to(unfinished).as_posix(): file_stamp(path) for path in files_below(unfinished)}
        write_json(unfinished / PROGRESS, progress)
        write_json(unfinished / MANIFEST, {"step": step, "files": files})
    for old in _newest_first(run)[max(keep_last, 1) :]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def update_progress(checkpoint: Path, progress: State) -> None:
    """Replace a checkpoint's record of the run's progress, once its validation is done."""
    write_json(checkpoint / PROGRESS, progress, durable=True)


def find_checkpoint(run: Path) -> Path | None:
    """Return the newest checkpoint that is whole; broken ones are named in the log and skipped. None where there is none."""
    for checkpoint in _newest_first(run):
        fault = _fault(checkpoint)
        if fault is None:
            return checkpoint
        log.warning("%s is broken (%s) and is skipped", checkpoint, fault)
    return None


def read_state(checkpoint: Path) -> tuple[State, State]:
    """Return the state, on the CPU, and the progress that ``write_checkpoint`` was given."""
    state: State = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    earlier = state.pop("progress", {})  # where checkpoints of version 0.1 keep it
    progress = read_json(checkpoint / PROGRESS) or earlier
    if "turn" in progress:
        progress["batch"] = progress["count"] = progress.pop("turn")
        progress["validated_step"] = progress["step"]
    return state, progress


def link_model(checkpoint: Path, folder: Path) -> None:
    """Make ``folder`` a model folder with the checkpoint's model: hard links, or copies where the disk has no links."""
    source = checkpoint / "model"
    with replacing_folder(folder) as unfinished:
        for path in files_below(source):
            copy = unfinished / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, copy)
            except OSError:
                shutil.copy2(path, copy)


def _newest_first(run: Path) -> list[Path]:
    return sorted((run / FOLDER).glob("step_*"), reverse=True)


def _fault(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    manifest = read_json(checkpoint / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        return f"no readable {MANIFEST}"
    for name, stamp in manifest["files"].items():
        try:
            if file_stamp(checkpoint / name) != stamp:
                return f"{name} differs from what was written"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None
