"""One thread for every use of a model: questions that wait together are answered together, and few may wait.

Two requests that use the models at once are hardly faster than one after the other and take twice the memory, as all models
share a device. Several searches in one pass take little longer than one.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from unifashion.apps.demo.errors import Busy

MOST_AT_ONCE = 16  # questions; more would keep the first one waiting for the last

Question = TypeVar("Question")
Answer = TypeVar("Answer")
T = TypeVar("T")


class ModelThread(Generic[Question, Answer]):
    """Answers questions and does other work on one thread; at most ``waiting`` may wait, each for ``patience`` seconds."""

    def __init__(
        self, answer_all: Callable[[Sequence[Question]], Sequence[Answer | Exception]], waiting: int, patience: float
    ) -> None:
        """Take what answers several questions: an exception in an answer's place is raised for who asked that question."""
        self._answer_all, self._patience = answer_all, patience
        # A request that waits is not free: it holds one of the server's threads and its decoded picture.
        self._places = threading.Semaphore(waiting + 1)
        self._asked: deque[tuple[Question, Future[Answer]]] = deque()
        self._work: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        # A daemon: a program that is stopped does not wait until a person is drawn.
        threading.Thread(target=self._do_work, name="models", daemon=True).start()

    def ask(self, question: Question) -> Answer:
        """Return the answer to a question.

        Raises:
            Busy: too many wait already, or the wait was too long.
        """
        answer: Future[Answer] = Future()
        with self._place():
            self._asked.append((question, answer))
            self._work.put(self._answer_those_waiting)
            return self._result(answer)

    def run(self, job: Callable[[], T]) -> T:
        """Return what a function returns that uses a model in another way; raises as ``ask``."""
        done: Future[T] = Future()
        with self._place():
            self._work.put(lambda: _fulfil(_begun([done]), lambda: [job()]))
            return self._result(done)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise Busy("Too many people are searching right now; try again in a few seconds.")
        try:
            yield
        finally:
            self._places.release()

    def _result(self, future: "Future[T]") -> T:
        wait([future], self._patience)
        if not future.done() and future.cancel():  # what has begun is worth waiting for
            raise Busy(f"The request did not start within {self._patience:g} seconds; try again in a minute.")
        return future.result()

    def _do_work(self) -> None:
        while True:
            self._work.get()()

    def _answer_those_waiting(self) -> None:
        """Answer what was asked first; nothing is left for the later calls of those who are answered here too."""
        batch: list[tuple[Question, Future[Answer]]] = []
        while self._asked and len(batch) < MOST_AT_ONCE:
            question, answer = self._asked.popleft()
            batch += [(question, begun) for begun in _begun([answer])]
        _fulfil([answer for _, answer in batch], lambda: self._answer_all([question for question, _ in batch]))


def _begun(futures: Sequence["Future[T]"]) -> list["Future[T]"]:
    """Return those that nobody has given up; from now on nobody can."""
    return [future for future in futures if future.set_running_or_notify_cancel()]


def _fulfil(futures: Sequence["Future[T]"], compute: Callable[[], Sequence[T | Exception]]) -> None:
    """Give every future its result, or all of them the exception: what fails must not end the thread."""
    if not futures:
        return
    try:
        results = compute()
    except BaseException as error:
        for future in futures:
            future.set_exception(error)
        return
    for future, result in zip(futures, results, strict=True):
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
