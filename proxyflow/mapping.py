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
    """

    def __init__(self, submit_next: Callable[[], Task | None], size: int) -> None:
        self._submit_next = submit_next
        self._size = size
        self._tasks: deque[Task] = deque()
        self._stored = 0

    def fill(self) -> None:
        """Submit tasks until the window is full; cancel all if that fails."""
        try:
            while self._stored < self._size:
                task = self._submit_next()
                if task is None:
                    return
                self._tasks.append(task)
                self._stored += task.stored
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
        finally:
            self._cancel()

    def _next_result(self, deadline: float | None) -> Any:
        # The task goes with this frame: when the caller has the result, nothing of ours keeps the
        # stored copy.
        task = self._tasks[0]
        result = task.future.result(None if deadline is None else deadline - monotonic())
        self._tasks.popleft()
        self._stored -= task.stored
        self.fill()
        return result

    def _cancel(self) -> None:
        for task in self._tasks:
            task.future.cancel()
