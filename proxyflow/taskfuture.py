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

# `Future.done` takes a lock to look at the same field.
_NOT_DONE = frozenset({"PENDING", "RUNNING"})

OnDone: TypeAlias = Callable[["TaskFuture", Any, Any, BaseException | None], None]


class TaskFuture(Future[Any]):
    """The executor's own future, made to keep the store in step with the task.

    A future that followed the executor's would have to repeat its every state; this *is* the
    executor's, so cancelling, waiting, callbacks and exceptions are what they always were. Its
    class is changed right after it was made, before anybody else has seen it.

    What the task needed is evicted before the outcome is announced: who has the result finds
    nothing left in the store.
    """

    # Every task of every size pays for what happens here, three or four times what a hot loop
    # shows, as another process has had the caches in between.

    _pending: tuple[OnDone, Any] | None = None
    """What to call when the task is done, and what the submitter wants to be told then."""
    _eviction: weakref.finalize[..., Any] | None = None

    @staticmethod
    def of(future: Future[Any], on_done: OnDone, task: Any) -> TaskFuture:
        """Turn an executor's future into one of these.

        Parameters
        ----------
        future
            What the executor returned.
        on_done
            Called once with the future, `task`, its result and its exception when the task is
            done. A task that was cancelled has a ``CancelledError``.
        task
            What the submitter knows of the task.
        """
        kind = type(future)
        if isinstance(future, TaskFuture):
            # Submitted through two wrappers: both want to know.
            earlier = future.__dict__.pop("_pending", None)
            future._pending = (_both, (earlier, (on_done, task))) if earlier else (on_done, task)
        else:
            future.__class__ = TaskFuture if kind is Future else _task_future_class(kind)
            assert isinstance(future, TaskFuture)
            future._pending = on_done, task
        # The task may have ended before that. (If it is about to, `_invoke_callbacks` comes.)
        if future._state not in _NOT_DONE:
            future._catch_up()
        return future

    def set_result(self, result: Any) -> None:
        """Set the result; called by the executor."""
        # Taken out in one step: of all threads that come here or to `_done`, one finds it.
        pending = self.__dict__.pop("_pending", None)
        if pending is not None:
            pending[0](self, pending[1], result, None)
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

    def _invoke_callbacks(self) -> None:
        # Called by the executor's own methods too, which may have been entered before the class
        # was changed.
        if self._pending is not None:
            self._catch_up()
        super()._invoke_callbacks()  # type: ignore[misc]

    def _catch_up(self) -> None:
        error = CancelledError() if self.cancelled() else self.exception()
        self._done(None if error else Future.result(self), error)

    def _done(self, result: Any, error: BaseException | None) -> None:
        pending = self.__dict__.pop("_pending", None)
        if pending is not None:
            pending[0](self, pending[1], result, error)

    def result(self, timeout: float | None = None) -> Any:
        """Return the task's result, exactly as it returned it, as often as asked."""
        result = super().result(timeout)
        return extract(result.proxy) if type(result) is StoredResult else result

    def fetch(self) -> None:
        """Read the result out of the store, so that it outlives it."""
        if self._eviction is not None and self._eviction.alive:
            self.result()
            self._eviction()


def _both(
    future: TaskFuture, pending: tuple[Any, Any], result: Any, error: BaseException | None
) -> None:
    for on_done, task in pending:
        on_done(future, task, result, error)


def _make_class(kind: type) -> type[TaskFuture]:
    """Return the class for an executor that has futures of its own, like loky."""
    return type("TaskFuture", (TaskFuture, kind), {})


_task_future_class: Callable[[type], type[TaskFuture]] = functools.cache(_make_class)
