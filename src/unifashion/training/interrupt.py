"""Ctrl-C and SIGTERM: finish the step, save, then exit. A second signal exits at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """While entered, a signal only sets ``signal``; the training loop checks it between steps.

    Attributes:
        signal: the number of the received signal, 0 if there was none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        # Python delivers signals to the main thread only, and forbids others to set handlers.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


def outlive_first_signal(worker: int) -> None:
    """Let a loader process outlive the first signal: terminals and clusters send it to all processes, not to the trainer alone.

    It ends with the trainer, which still needs it for the batches on the way. A second signal ends it at once.
    """
    for number in SIGNALS:
        signal.signal(number, lambda received, frame: signal.signal(received, signal.SIG_DFL))
