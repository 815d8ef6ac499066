"""A limit on how many requests use a model at once: a few run, a few wait, all others are asked to come back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from unifashion.apps.demo.errors import Busy


class Limiter:
    """Lets ``at_once`` callers run; ``waiting`` more may wait, each for ``patience`` seconds."""

    def __init__(self, at_once: int, waiting: int, patience: float) -> None:
        # Two counts, because a waiting request is not free either: it holds one of the server's threads and its decoded picture.
        # Without a limit on those, a burst would use up the threads that serve thumbnails, and then the memory.
        self._admitted = threading.Semaphore(at_once + waiting)
        self._running = threading.Semaphore(at_once)
        self._patience = patience

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of the slots for the length of a ``with`` block.

        Raises:
            Busy: too many wait already, or the wait was too long.
        """
        if not self._admitted.acquire(blocking=False):
            raise Busy("Too many people are searching right now; try again in a few seconds.")
        try:
            if not self._running.acquire(timeout=self._patience):
                raise Busy(f"The request did not start within {self._patience:.0f} seconds; try again in a minute.")
            try:
                yield
            finally:
                self._running.release()
        finally:
            self._admitted.release()
