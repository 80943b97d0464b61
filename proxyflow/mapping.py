"""The tasks of a map: several items to a task, a bounded number of tasks at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from time import monotonic
from typing import Any, NamedTuple

from proxyflow.proxy import extract

__all__ = ["Chunk", "Task", "Window"]


class Chunk:
    """Runs several items of a map in one task."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return (Chunk, (self.call,))

    def __call__(self, chunk: Any) -> list[Any]:
        """Run the items."""
        # Many small items may have made the chunk itself worth a proxy.
        return [self.call(*args) for args in extract(chunk)]


class Task(NamedTuple):
    """A task of a map."""

    future: Future[Any]
    stored: bool
    """Whether anything was stored for it."""


class Window:
    """The tasks of a map that are in flight, or done and not yet taken by the caller.

    Parameters
    ----------
    submit_next
        Submits the next task; returns None when there are no more.
    size
        How many tasks that something was stored for there may be.
    close
        Called when there is nothing more to submit; maybe more than once.
    """

    def __init__(
        self, submit_next: Callable[[], Task | None], size: int, close: Callable[[], object]
    ) -> None:
        self._submit_next = submit_next
        self._size = size
        self._close = close
        self._tasks: deque[Task] = deque()
        self._stored = 0
        self._error: Exception | None = None

    def fill(self) -> None:
        """Submit the first tasks; cancel all if that fails."""
        try:
            self._submit_more()
        except BaseException:
            self._cancel()
            raise

    def results(self, deadline: float | None, *, chunked: bool) -> Iterator[Any]:
        """Yield the results in order, submitting more as they are taken."""
        try:
            while self._tasks:
                if chunked:
                    yield from self._next_result(deadline)
                else:
                    yield self._next_result(deadline)
            if self._error is not None:
                raise self._error
        finally:
            self._cancel()

    def _next_result(self, deadline: float | None) -> Any:
        # The task goes with this frame: when the caller has the result, nothing of ours keeps the
        # stored copy. An exception knows the frame it came through, and the future the exception.
        task = self._tasks.popleft()
        try:
            result = task.future.result(None if deadline is None else deadline - monotonic())
            self._stored -= task.stored
        except BaseException:
            task.future.cancel()
            raise
        finally:
            del task
        self._go_on()
        return result

    def _go_on(self) -> None:
        """Submit more; what is wrong with that comes after the results there are."""
        if self._error is None:
            try:
                self._submit_more()
            except Exception as error:  # noqa: BLE001 - an executor's, or somebody's iterator's
                self._error = error
                self._close()

    def _submit_more(self) -> None:
        while self._stored < self._size:
            task = self._submit_next()
            if task is None:
                self._close()
                return
            self._tasks.append(task)
            self._stored += task.stored

    def _cancel(self) -> None:
        self._close()
        for task in self._tasks:
            task.future.cancel()
