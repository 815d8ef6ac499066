"""Checkpoints that a run can be continued from: written whole or not at all, verified before they are used.

    checkpoints/step_00000120/
      model/          the model as ``from_pretrained`` reads it
      state.pt        optimiser, schedule, moving average (read with ``weights_only=True``)
      progress.json   the progress of the run, and a hash of it; written again when the validation of this step is done
      manifest.json   {"step": step, "files": {name: [size, hash]}}: written last; a folder that does not match it is broken

``best`` and ``last`` are hard links to the files of a checkpoint's model, so they cost no space.
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
from unifashion.io import file_stamp, files_below, read_json, replacing_folder, write_json

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
MANIFEST, STATE, PROGRESS = "manifest.json", "state.pt", "progress.json"
HASH = "hash"  # of the other entries of progress.json
COUNTS = ("step", "epoch", "batch", "count", "validated_step", "best_step")
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
        _write_progress(unfinished, progress)
        write_json(unfinished / MANIFEST, {"step": step, "files": files})
    _prune(run, keep_last)
    return folder


def update_progress(checkpoint: Path, progress: State) -> None:
    """Replace a checkpoint's record of the run's progress, once its validation is done."""
    _write_progress(checkpoint, progress, durable=True)


def _write_progress(folder: Path, progress: State, durable: bool = False) -> None:
    # Not in the manifest, because two files cannot be replaced in one step.
    write_json(folder / PROGRESS, {**progress, HASH: _hash(progress)}, durable)


def _hash(progress: State) -> str:
    return hashlib.blake2b(json.dumps(progress, sort_keys=True).encode(), digest_size=16).hexdigest()


def find_checkpoint(run: Path) -> Path | None:
    """Return the newest checkpoint that is whole; broken ones are named in the log and skipped. None where there is none.

    Raises:
        UserError: there are some, and all of them are broken.
    """
    checkpoints = _newest_first(run)
    for checkpoint in checkpoints:
        fault = _fault(checkpoint)
        if fault is None:
            return checkpoint
        log.warning("%s is broken (%s) and is skipped", checkpoint, fault)
    if checkpoints:
        raise UserError(
            f"--resume {run}: all of its checkpoints are broken; restore one, or start a new run with --init-from {run}/last"
        )
    return None


def keep_checkpoint(checkpoint: Path, keep_last: int) -> None:
    """Remove what would be in the way of a run that continues from a checkpoint: broken newer ones, and too many older ones."""
    run = checkpoint.parents[1]
    for newer in _newest_first(run):
        if newer == checkpoint:
            break
        shutil.rmtree(newer)
    _prune(run, keep_last)


def _prune(run: Path, keep_last: int) -> None:
    for old in _newest_first(run)[max(keep_last, 1) :]:
        shutil.rmtree(old, ignore_errors=True)


def read_state(checkpoint: Path) -> tuple[State, State]:
    """Return the state, on the CPU, and the progress that ``write_checkpoint`` was given."""
    state: State = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    earlier = state.pop("progress", {})  # where checkpoints of version 0.1 keep it
    progress = _read_progress(checkpoint) or earlier
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


def _read_progress(checkpoint: Path) -> State | None:
    """Return what ``progress.json`` holds; None if it is damaged. Early versions wrote no hash."""
    progress = read_json(checkpoint / PROGRESS)
    if not isinstance(progress, dict) or not {"step", "epoch", "sums", "lengths"} <= progress.keys():
        return None
    written = progress.pop(HASH, None)
    whole = _is_sound(progress) if written is None else written == _hash(progress)
    return progress if whole else None


def _is_sound(progress: State) -> bool:
    """Return whether a record without a hash could have been written here."""
    counts = [progress[name] for name in COUNTS if name in progress]
    numbers = [progress.get("seconds", 0), progress.get("best") or 0]
    for name in ("sums", "lengths", "broken"):
        if not isinstance(progress.get(name, {}), dict):
            return False
        numbers += progress.get(name, {}).values() if name != "broken" else ()
    return all(type(count) is int and count >= 0 for count in counts) and all(type(x) in (int, float) for x in numbers)


def _fault(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    manifest = read_json(checkpoint / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict) or STATE not in manifest["files"]:
        return f"no readable {MANIFEST}"
    for name, stamp in manifest["files"].items():
        try:
            if not (checkpoint / name).is_file() or file_stamp(checkpoint / name) != stamp:
                return f"{name} differs from what was written"
        except (OSError, ValueError) as error:
            return f"{name}: {error}"
    progress = _read_progress(checkpoint)
    if progress is None and not (checkpoint / PROGRESS).exists():
        progress = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True).get("progress")
    if progress is None or progress.get("step") != manifest.get("step"):
        return f"{PROGRESS} is missing or damaged"
    return None
