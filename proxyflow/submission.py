"""Submitting calls to an executor with large values replaced, and getting their results back."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
)
from itertools import islice
from time import monotonic
from typing import Any, NamedTuple

from proxyflow.annotations import NONE_LAZY, lazy_parameters
from proxyflow.boundary import Call, Resolve, call, check_resolve, restores, send
from proxyflow.connectors.protocol import Key
from proxyflow.nesting import all_small, contains_proxy
from proxyflow.policy import Policy
from proxyflow.proxy import extract
from proxyflow.results import StoredResult, Ticket, Ticketing
from proxyflow.store import Store
from proxyflow.taskfuture import TaskFuture

__all__ = ["Submitter", "shares_memory", "worker_count"]


def shares_memory(executor: Executor) -> bool:
    """Return whether tasks run in this process, so that nothing has to move."""
    # InterpreterPoolExecutor (3.14) is a thread pool by class, but pickles its arguments.
    isolated = getattr(concurrent.futures, "InterpreterPoolExecutor", ())
    return isinstance(executor, ThreadPoolExecutor) and not isinstance(executor, isolated)


def worker_count(executor: Executor) -> int:
    """Return how many tasks run at once, as far as the executor tells."""
    count = getattr(executor, "_max_workers", None)
    return count if isinstance(count, int) and count > 0 else os.cpu_count() or 1


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
        self._limit = policy.nbytes
        self.resolve: Resolve = check_resolve(resolve)
        self._ticketing = Ticketing(store, policy) if results else None
        self.references = store.references
        self.pid = os.getpid()
        self._doubtful: list[Key] = []
        self._running: set[Future[Any]] = set()
        self._stored: weakref.WeakSet[TaskFuture] = weakref.WeakSet()
        self._idle = threading.Condition()
        self._on_done = self._finish
        self._closing = False

    def submit(
        self, executor: Executor, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Future[Any]:
        """Submit one call.

        Parameters
        ----------
        executor
            What runs it.
        function, args, kwargs
            The call.
        """
        return self._submit(executor, function, self.resolve, args, kwargs)[0]

    def submit_shared(
        self, executor: Executor, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Future[Any]:
        """Submit one call to an executor of this process: values are handed over as they are."""
        if contains_proxy((args, kwargs)):
            function = self.restoring(function)
        return executor.submit(function, *args, **kwargs)

    def restoring(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that takes proxies where another one takes objects."""
        if self.resolve == "lazy" or restores(function):
            return function
        return Call(function, self.resolve)

    def _submit(
        self,
        executor: Executor,
        function: Callable[..., Any],
        resolve: Resolve | None,
        args: Any,
        kwargs: Any,
    ) -> tuple[Future[Any], bool]:
        """Submit one call; return its future and whether anything was stored for it."""
        keys: list[Key] = []
        restoring = ticket = None
        # Most arguments are small: for them a call should cost no more than this look.
        limit = self._limit
        if not (all_small(args, limit) and (not kwargs or all_small(kwargs.values(), limit))):
            restoring = None if restores(function) else _resolve_for(function, resolve)
            args, kwargs, keys, proxies = send(
                args,
                kwargs,
                self.policy,
                self.references,
                self.store,
                proxies=restoring != "eager",
            )
            restoring = restoring if proxies else None
        ticketing = self._ticketing
        results = None
        if ticketing is not None:
            results, ticket = ticketing.results, ticketing.issue()
        try:
            if results is None and restoring is None:
                future = executor.submit(function, *args, **kwargs)
            elif self._pickles_plainly(executor):
                # A function and plain values: pickled several times as fast as an object.
                pickled = None if results is None else results.pickled
                future = executor.submit(call, function, restoring, pickled, ticket, args, kwargs)
            else:
                # By its name other executors list the task.
                wrapped = Call(function, restoring, results, ticket)
                future = executor.submit(wrapped, *args, **kwargs)
        except BaseException:
            self.references.release(keys)
            raise
        # As little as possible from here on: the executor's own thread, which hands the task to a
        # worker, waits for this one to let go of the interpreter.
        if ticketing is not None or keys:
            self._running.add(future)
            TaskFuture.of(future, self._on_done, (keys, ticket))
        return future, bool(keys)

    @staticmethod
    def _pickles_plainly(executor: Executor) -> bool:
        # Looked up, not imported: whoever has one has imported it, and it takes its time.
        module = sys.modules.get("concurrent.futures.process")
        return module is not None and type(executor) is module.ProcessPoolExecutor

    def _finish(
        self,
        future: TaskFuture,
        task: tuple[list[Key], Ticket],
        result: Any,
        error: BaseException | None,
    ) -> None:
        """Evict what nobody can ask for any more, now that a task is done."""
        keys, ticket = task
        if keys:
            self.references.release(keys)
        if type(result) is StoredResult:
            self._adopt(future, result, ticket)
        elif error is not None:
            self._drop_result(ticket, error)
        self._running.discard(future)
        if self._closing and not self._running:
            with self._idle:
                self._idle.notify_all()

    def _adopt(self, future: TaskFuture, result: StoredResult, ticket: Ticket) -> None:
        """Keep a stored result for as long as somebody can ask the future for it."""
        # One that another submitter's wrapping of the same call stored is not ours to evict.
        if self._result_key(ticket) not in (None, result.key):
            return
        self.references.adopt(result.key, result.digest, result.glimpse)
        future._eviction = weakref.finalize(future, self.references.release, [result.key])
        with self._idle:
            self._stored.add(future)

    def _drop_result(self, ticket: Ticket, error: BaseException) -> None:
        """Evict what a task that failed may have stored all the same."""
        # A worker may have stored its result and died, or be about to store it.
        key = self._result_key(ticket)
        if key is not None:
            self.references.evict(key)
            if isinstance(error, CancelledError | BrokenExecutor):
                self._doubtful.append(key)

    def _result_key(self, ticket: Ticket) -> Key:
        return None if self._ticketing is None else self._ticketing.results.key(ticket)

    def map(
        self,
        executor: Executor,
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
        executor
            What runs it.
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
        run = _Chunk(function if restores(function) else Call(function, self.resolve))

        def submit_next() -> _Task | None:
            chunk = list(islice(items, chunksize))
            if not chunk:
                return None
            if chunksize == 1:
                return _Task(*self._submit(executor, function, self.resolve, chunk[0], {}))
            return _Task(*self._submit(executor, run, None, (chunk,), {}))

        tasks = _Window(submit_next, window)
        tasks.fill()
        return tasks.results(deadline, chunked=chunksize > 1)

    # -- cleaning up ---------------------------------------------------------------------------

    def wait_idle(self) -> None:
        """Wait until every task is done."""
        self._closing = True
        with self._idle:
            self._idle.wait_for(lambda: not self._running)

    def cancel(self) -> None:
        """Cancel every task that has not started."""
        for future in list(self._running):
            future.cancel()

    def close(self) -> None:
        """Read the results that are still in the store, and leave nothing there."""
        with self._idle:
            stored = list(self._stored)
        with contextlib.ExitStack() as fetches:
            # One that fails keeps none of the others.
            for future in stored:
                fetches.callback(future.fetch)
        doubtful, self._doubtful = self._doubtful, []
        for key in doubtful:
            self.references.evict(key)


def _resolve_for(function: Callable[..., Any], resolve: Resolve | None) -> Resolve | None:
    """Return how to restore a call's arguments, in the plainest terms."""
    if resolve == "auto" and lazy_parameters(function) is NONE_LAZY:
        return "eager"
    return resolve


class _Chunk:
    """Runs several items of a map in one task."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Chunk, (self.call,))

    def __call__(self, chunk: Any) -> list[Any]:
        # Many small items may have made the chunk itself worth a proxy.
        return [self.call(*args) for args in extract(chunk)]


class _Task(NamedTuple):
    """A task of a map."""

    future: Future[Any]
    stored: bool
    """Whether anything was stored for it."""


class _Window:
    """The tasks of a map that are in flight, or done and not yet taken by the caller.

    Parameters
    ----------
    submit_next
        Submits the next task; returns None when there are no more.
    size
        How many tasks that something was stored for there may be.
    """

    def __init__(self, submit_next: Callable[[], _Task | None], size: int) -> None:
        self._submit_next = submit_next
        self._size = size
        self._tasks: deque[_Task] = deque()
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
