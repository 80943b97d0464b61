"""The future of a task whose arguments or result went through a store."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeAlias

from proxyflow.proxy import extract
from proxyflow.results import StoredResult

__all__ = ["OnDone", "TaskFuture"]

OnDone: TypeAlias = Callable[["TaskFuture", Any, BaseException | None], None]


class TaskFuture(Future[Any]):
    """The executor's own future, made to keep the store in step with the task.

    A future that followed the executor's would have to repeat its every state; this *is* the
    executor's, so cancelling, waiting, callbacks and exceptions are what they always were. Its
    class is changed right after it was made, before anybody else has seen it.

    What the task needed is evicted before the outcome is announced: who has the result finds
    nothing left in the store.
    """

    _on_done: OnDone | None = None
    _eviction: weakref.finalize[..., Any] | None = None

    @staticmethod
    def of(future: Future[Any], on_done: OnDone) -> TaskFuture:
        """Turn an executor's future into one of these.

        Parameters
        ----------
        future
            What the executor returned.
        on_done
            Called once with the future, its result and its exception when the task is done. A
            task that was cancelled has a ``CancelledError``.
        """
        if isinstance(future, TaskFuture):
            # Submitted through two wrappers: both want to know.
            earlier = future.__dict__.pop("_on_done", None)
            future._on_done = on_done if earlier is None else _both(earlier, on_done)
        else:
            kind = type(future)
            future.__class__ = TaskFuture if kind is Future else _task_future_class(kind)
            assert isinstance(future, TaskFuture)
            future._on_done = on_done
        # The task may have ended before that.
        future.add_done_callback(TaskFuture._catch_up)
        return future

    def set_result(self, result: Any) -> None:
        """Set the result; called by the executor."""
        self._done(result, None)
        super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        """Set the exception; called by the executor."""
        self._done(None, exception)
        super().set_exception(exception)

    def cancel(self) -> bool:
        """Cancel the task if it has not started."""
        cancelled = super().cancel()
        if cancelled:
            self._done(None, CancelledError())
        return cancelled

    @staticmethod
    def _catch_up(future: Future[Any]) -> None:
        assert isinstance(future, TaskFuture)
        if future._on_done is not None:
            error = CancelledError() if future.cancelled() else future.exception()
            future._done(None if error else Future.result(future), error)

    def _done(self, result: Any, error: BaseException | None) -> None:
        # Taken out in one step: of all threads that come here, one finds it.
        on_done = self.__dict__.pop("_on_done", None)
        if on_done is not None:
            on_done(self, result, error)

    def result(self, timeout: float | None = None) -> Any:
        """Return the task's result, exactly as it returned it, as often as asked."""
        result = super().result(timeout)
        return extract(result.proxy) if type(result) is StoredResult else result

    def fetch(self) -> None:
        """Read the result out of the store, so that it outlives it."""
        if self._eviction is not None and self._eviction.alive:
            self.result()
            self._eviction()


def _both(first: OnDone, second: OnDone) -> OnDone:
    def on_done(future: TaskFuture, result: Any, error: BaseException | None) -> None:
        first(future, result, error)
        second(future, result, error)

    return on_done


def _make_class(kind: type) -> type[TaskFuture]:
    """Return the class for an executor that has futures of its own, like loky."""
    return type("TaskFuture", (TaskFuture, kind), {})


_task_future_class: Callable[[type], type[TaskFuture]] = functools.cache(_make_class)
