"""Several model copies, each in a process with a GPU of its own: the photos are dealt out, the results come back to one place.

Every process writes a journal of its own, so nothing is lost when one or all are killed, and the next run may have another number
of them.
"""

import logging
import multiprocessing
import queue
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from unifashion.apps.fashioniq_captions.journal import Entry, Journal
from unifashion.apps.fashioniq_captions.photos import Photo
from unifashion.apps.fashioniq_captions.pipeline import Problem, work
from unifashion.apps.fashioniq_captions.settings import CaptionerSettings
from unifashion.errors import UserError

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # how often the processes are looked after while no result arrives


def num_copies(settings: CaptionerSettings, num_photos: int) -> int:
    """Return how many model copies to start: what was asked for, else one for every GPU; not more than there are photos.

    Raises:
        UserError: more copies than GPUs.
    """
    gpus = torch.cuda.device_count()
    if gpus and settings.num_processes > gpus:
        raise UserError(f"--num-processes {settings.num_processes}: there are {gpus} GPUs")
    return max(1, min(settings.num_processes or gpus, num_photos))


def share_out(
    photos: Sequence[Photo], settings: CaptionerSettings, folder: Path, copies: int
) -> Iterator[Entry | Problem]:
    """Start the processes and yield their results as they arrive.

    Raises:
        UserError: what a process says before it ends, or that it was killed.
    """
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    processes = [
        context.Process(target=_serve, args=(photos[number::copies], settings, folder, number, results), daemon=True)
        for number in range(copies)
    ]
    for process in processes:
        process.start()
    running = set(range(copies))
    try:
        while running:
            try:
                number, result = results.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                for number in running:
                    if not processes[number].is_alive() and results.empty():
                        raise UserError(
                            f"captioning process {number} was killed (exit code {processes[number].exitcode}), perhaps for its "
                            "memory; give the same command again, it goes on where it stood"
                        ) from None
                continue
            if isinstance(result, str):
                raise UserError(result)
            if result is None:
                running.discard(number)
            else:
                yield result
    finally:
        for number, process in enumerate(processes):
            if number in running:
                process.terminate()
            process.join()


def _serve(photos: Sequence[Photo], settings: CaptionerSettings, folder: Path, number: int, results: Any) -> None:
    """Run in a process of its own: put (number, result) for each photo, then (number, None), or (number, sentence)."""
    from unifashion.apps.fashioniq_captions.llava import LlavaBackend

    parent = multiprocessing.parent_process()
    try:
        backend = LlavaBackend(settings, f"cuda:{number}" if torch.cuda.is_available() else "cpu")
        with Journal(folder, number) as journal:
            for result in work(backend, photos, journal, chain=settings.chain, prompt=settings.prompt):
                results.put((number, result))
                if parent is not None and not parent.is_alive():
                    return
        results.put((number, None))
    except UserError as error:
        results.put((number, str(error)))
    except KeyboardInterrupt:
        pass  # the parent says it
