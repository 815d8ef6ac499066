"""A gate before the model: a few inside, a few waiting, everybody else is told to come back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from unifashion.apps.demo.errors import Busy


class Gate:
    """Lets ``at_once`` callers in; ``waiting`` more may wait, each for ``patience`` seconds."""

    def __init__(self, at_once: int, waiting: int, patience: float) -> None:
        self._inside = threading.Semaphore(at_once)
        self._places = threading.Semaphore(at_once + waiting)
        self._patience = patience

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Be inside for the length of a ``with`` block.

        Raises:
            Busy: too many wait already, or the wait was too long.
        """
        if not self._places.acquire(blocking=False):
            raise Busy("Too many people are searching right now; try again in a few seconds.")
        try:
            if not self._inside.acquire(timeout=self._patience):
                raise Busy(f"The answer did not begin within {self._patience:.0f} seconds; try again in a minute.")
            try:
                yield
            finally:
                self._inside.release()
        finally:
            self._places.release()
