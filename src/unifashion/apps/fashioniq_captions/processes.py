"""Several model copies, each in a process with its own GPU: the photos are split among them, the results come back here.

Every process writes its own journal, so nothing is lost when one or all are killed, and the next run may use a different number
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
from unifashion.apps.fashioniq_captions.pipeline import Problem, caption_photos
from unifashion.apps.fashioniq_captions.settings import CaptionerSettings
from unifashion.errors import UserError

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # how often to check that the processes are alive while no result arrives


def num_copies(settings: CaptionerSettings, num_photos: int) -> int:
    """Return how many model copies to start: what was asked for, else one for every GPU; not more than there are photos.

    Raises:
        UserError: more copies than GPUs.
    """
    gpus = torch.cuda.device_count()
    if gpus and settings.num_processes > gpus:
        raise UserError(f"--num-processes {settings.num_processes}: there are {gpus} GPUs")
    return max(1, min(settings.num_processes or gpus, num_photos))


def caption_in_processes(
    photos: Sequence[Photo], settings: CaptionerSettings, folder: Path, copies: int
) -> Iterator[Entry | Problem]:
    """Start the processes and yield their results as they arrive.

    Raises:
        UserError: the error of a process, or that one was killed.
    """
    # "spawn", because CUDA does not survive a fork.
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    processes = [
        context.Process(target=_work, args=(photos[rank::copies], settings, folder, rank, results), daemon=True)
        for rank in range(copies)
    ]
    for process in processes:
        process.start()
    running = set(range(copies))
    try:
        while running:
            try:
                rank, result = results.get(timeout=POLL_SECONDS)
            except queue.Empty:
                for rank in running:
                    if not processes[rank].is_alive() and results.empty():
                        raise UserError(
                            f"captioning process {rank} was killed (exit code {processes[rank].exitcode}), perhaps because "
                            "memory ran out; run the same command again to continue"
                        ) from None
                continue
            if isinstance(result, str):
                raise UserError(result)
            if result is None:
                running.discard(rank)
            else:
                yield result
    finally:
        for rank, process in enumerate(processes):
            if rank in running:
                process.terminate()
            process.join()


def _work(photos: Sequence[Photo], settings: CaptionerSettings, folder: Path, rank: int, results: Any) -> None:
    """Run in a separate process: put (rank, result) for each photo, then (rank, None), or (rank, sentence)."""
    from unifashion.apps.fashioniq_captions.llava import LlavaBackend

    parent = multiprocessing.parent_process()
    try:
        backend = LlavaBackend(settings, f"cuda:{rank}" if torch.cuda.is_available() else "cpu")
        with Journal(folder, rank) as journal:
            for result in caption_photos(backend, photos, journal, chain=settings.chain, prompt=settings.prompt):
                results.put((rank, result))
                if parent is not None and not parent.is_alive():  # killed: nobody reads the results any more
                    return
        results.put((rank, None))
    except UserError as error:
        results.put((rank, str(error)))
    except KeyboardInterrupt:
        pass  # the parent gets the same signal and reports it
