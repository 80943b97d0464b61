"""Submitting calls to an executor with large values replaced, and getting their results back."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from itertools import islice
from time import monotonic
from typing import Any

from proxyflow.boundary import Call, Resolve, ResultSpec, StoredResult, check_resolve, send
from proxyflow.connectors.protocol import Key
from proxyflow.errors import UnsupportedError
from proxyflow.lifetime import References
from proxyflow.nesting import contains_proxy
from proxyflow.policy import Policy
from proxyflow.proxy import extract
from proxyflow.store import Store

__all__ = ["Submitter", "TaskFuture", "shares_memory", "worker_count"]

Submit = Callable[..., "Future[Any]"]


def shares_memory(executor: Executor) -> bool:
    """Return whether tasks run in this process, so that nothing has to move."""
    # InterpreterPoolExecutor (3.14) is a thread pool by class, but pickles its arguments.
    return isinstance(executor, ThreadPoolExecutor) and not hasattr(executor, "_create_interpreter") \
        and type(executor).__name__ != "InterpreterPoolExecutor"


def worker_count(executor: Executor) -> int:
    """Return how many tasks run at once, as far as the executor tells."""
    count = getattr(executor, "_max_workers", None)
    return count if isinstance(count, int) and count > 0 else os.cpu_count() or 1


class TaskFuture(Future[Any]):
    """The future of a task whose arguments or result went through a store.

    Behaves as the executor's own future, which it follows. A result that is in the store is read
    when it is asked for; the stored copy is evicted when the future goes.
    """

    def __init__(self, submitter: Submitter, keys: list[Key], result_key: Key) -> None:
        super().__init__()
        self._submitter = submitter
        self._keys = keys
        self._result_key = result_key
        self._inner: Future[Any] | None = None
        self._stored: StoredResult | None = None
        self._eviction: weakref.finalize[..., Any] | None = None

    def follow(self, inner: Future[Any]) -> None:
        """Take over what becomes of the executor's future."""
        self._inner = inner
        inner.add_done_callback(self._finish)

    def cancel(self) -> bool:
        """Cancel the task if it has not started; see `concurrent.futures.Future.cancel`."""
        inner = self._inner
        # Cancelling the executor's future runs its callbacks, and thereby cancels this one.
        return super().cancel() if inner is None else inner.cancel()

    def running(self) -> bool:
        """Return whether the task is running."""
        inner = self._inner
        return super().running() if inner is None else inner.running()

    def result(self, timeout: float | None = None) -> Any:
        """Return the task's result, exactly as it returned it, as often as asked."""
        result = super().result(timeout)
        return result if self._stored is None else extract(self._stored.proxy)

    def fetch(self) -> None:
        """Read the result out of the store, so that it outlives it."""
        if self._eviction is not None and self._eviction.alive:
            self.result()
            self._eviction()

    def _finish(self, inner: Future[Any]) -> None:
        submitter = self._submitter
        submitter.references.release(self._keys)
        # Breaks the cycle of the two futures: the stored result goes with the last reference to
        # this one, not when the garbage collector comes by.
        self._inner = None
        try:
            self._take_over(inner, submitter)
        finally:
            submitter.finished(self)

    def _take_over(self, inner: Future[Any], submitter: Submitter) -> None:
        if inner.cancelled():
            submitter.discard(self._result_key, doubtful=True)
            super().cancel()
            self.set_running_or_notify_cancel()
            return
        error = inner.exception()
        if error is not None:
            submitter.discard(self._result_key, doubtful=isinstance(error, BrokenExecutor))
            self.set_exception(error)
            return
        result = inner.result()
        if isinstance(result, StoredResult):
            self._stored = result
            submitter.references.adopt(result.key, result.digest)
            self._eviction = weakref.finalize(self, submitter.references.release, [result.key])
        self.set_result(result)


class Submitter:
    """Submits calls with large values replaced; shared by the executor wrapper and the decorator.

    Parameters
    ----------
    store
        Where large values go.
    policy
        Which values those are.
    resolve
        What the function receives: ``"auto"``, ``"lazy"`` or ``"eager"``.
    results
        Whether large results come back through the store.
    """

    def __init__(
        self, store: Store, policy: Policy, resolve: str = "auto", results: bool = True
    ) -> None:
        self.store = store
        self.policy = policy
        self.resolve: Resolve = check_resolve(resolve)
        self.results = results
        self.references = References(store)
        self._doubtful: list[Key] = []
        self._futures: weakref.WeakSet[TaskFuture] = weakref.WeakSet()
        self._pending = 0
        self._idle = threading.Condition()

    def submit(
        self, submit: Submit, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Future[Any]:
        """Submit one call.

        Parameters
        ----------
        submit
            The executor's own ``submit``.
        function, args, kwargs
            The call.
        """
        return self._submit(submit, function, self.resolve, args, kwargs)[0]

    def submit_shared(
        self, submit: Submit, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Future[Any]:
        """Submit one call to an executor of this process: values are handed over as they are."""
        if self.resolve != "lazy" and contains_proxy((args, kwargs)):
            function = Call(function, self.resolve, None)
        return submit(function, *args, **kwargs)

    def _submit(
        self,
        submit: Submit,
        function: Callable[..., Any],
        resolve: Resolve | None,
        args: Any,
        kwargs: Any,
    ) -> tuple[Future[Any], bool]:
        """Submit one call; return its future and whether anything was stored for it."""
        sent = send(args, kwargs, self.policy, self.references, self.store)
        spec = self._result_spec() if self.results else None
        restoring = resolve if sent.proxies else None
        if spec is not None or restoring is not None:
            function = Call(function, restoring, spec)
        elif not sent.keys:
            return submit(function, *args, **kwargs), False
        future = TaskFuture(self, sent.keys, spec.key if spec else None)
        try:
            inner = submit(function, *sent.args, **sent.kwargs)
        except BaseException:
            self.references.release(sent.keys)
            raise
        with self._idle:
            self._pending += 1
        self._futures.add(future)
        future.follow(inner)
        return future, bool(sent.keys)

    def map(
        self,
        submit: Submit,
        function: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        *,
        timeout: float | None,
        chunksize: int,
        window: int,
    ) -> Iterator[Any]:
        """Map a function over iterables, results in order.

        Parameters
        ----------
        submit
            The executor's own ``submit``.
        function, iterables
            What to map over what.
        timeout
            Seconds until the last result must have come, counted from now.
        chunksize
            How many items to a task.
        window
            How many tasks that have something in the store may be in flight, or done and not yet
            taken by the caller. The rest of the iterables is not touched until then.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        deadline = None if timeout is None else monotonic() + timeout
        items = zip(*iterables, strict=False)
        tasks: deque[tuple[Future[Any], bool]] = deque()
        run = _Chunk(Call(function, self.resolve, None))

        def fill() -> None:
            while sum(stored for _, stored in tasks) < window:
                chunk = list(islice(items, chunksize))
                if not chunk:
                    return
                if chunksize == 1:
                    task = self._submit(submit, function, self.resolve, chunk[0], {})
                else:
                    task = self._submit(submit, run, None, (chunk,), {})
                tasks.append(task)

        try:
            fill()
        except BaseException:
            _cancel(tasks)
            raise
        return _results(tasks, fill, deadline, chunksize > 1)

    def _result_spec(self) -> ResultSpec:
        try:
            key = self.store.new_key()
        except UnsupportedError:
            key = None
        return ResultSpec(self.store.recipe, key, self.policy.nbytes)

    # -- cleaning up ---------------------------------------------------------------------------

    def discard(self, key: Key, *, doubtful: bool) -> None:
        """Remove what a task that failed or was cancelled may have stored as its result.

        Parameters
        ----------
        key
            Where its result would be.
        doubtful
            Whether a worker may still be about to store it; :meth:`close` then looks again.
        """
        if key is not None:
            self.references.evict(key)
            if doubtful:
                self._doubtful.append(key)

    def finished(self, future: TaskFuture) -> None:
        """Take note that a task is done."""
        with self._idle:
            self._pending -= 1
            self._idle.notify_all()

    def wait_idle(self) -> None:
        """Wait until every task is done."""
        with self._idle:
            self._idle.wait_for(lambda: not self._pending)

    def pending(self) -> list[TaskFuture]:
        """Return the futures that are not done."""
        return [future for future in list(self._futures) if not future.done()]

    def close(self) -> None:
        """Read the results that are still in the store, and leave nothing there."""
        for future in list(self._futures):
            future.fetch()
        doubtful, self._doubtful = self._doubtful, []
        for key in doubtful:
            self.references.evict(key)


class _Chunk:
    """Runs several items of a map in one task."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Chunk, (self.call,))

    def __call__(self, chunk: Any) -> list[Any]:
        # Many small items may have made the chunk itself worth a proxy.
        return [self.call(*args) for args in extract(chunk)]


def _results(
    tasks: deque[tuple[Future[Any], bool]],
    fill: Callable[[], None],
    deadline: float | None,
    chunked: bool,
) -> Iterator[Any]:
    try:
        while tasks:
            future = tasks[0][0]
            result = future.result(None if deadline is None else deadline - monotonic())
            tasks.popleft()
            # Gone before the caller has the result: nothing of ours keeps the stored copy.
            del future
            fill()
            if chunked:
                yield from result
            else:
                yield result
            del result
    finally:
        _cancel(tasks)


def _cancel(tasks: Iterable[tuple[Future[Any], bool]]) -> None:
    for future, _ in tasks:
        future.cancel()
