"""Submitting calls to an executor with large values replaced, and getting their results back."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import sys
import threading
import weakref
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
from typing import Any

from proxyflow.annotations import NONE_LAZY, lazy_parameters
from proxyflow.boundary import Call, Resolve, call, check_resolve, lighten, restores, send
from proxyflow.connectors.protocol import Key
from proxyflow.functions import carries
from proxyflow.lifetime import References
from proxyflow.mapping import Chunk, Task, Window
from proxyflow.nesting import all_small, contains_proxy
from proxyflow.policy import Policy
from proxyflow.repeats import Repeats, run_no_code
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
        counts = self.references
        carrying = carries(function, self.policy)
        task = self._submit(
            executor, function, self.resolve, args, kwargs, carrying, counts, counts
        )
        return task.future

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
        carrying: bool,
        carried: References | Repeats,
        given: References | Repeats,
    ) -> Task:
        """Submit one call.

        Parameters
        ----------
        carrying
            Whether the function seems to carry something large.
        carried, given
            Who counts what it carries, and what it is given.
        """
        keys: list[Key] = []
        restoring = ticket = results = None
        sent = function
        ticketing = self._ticketing
        limit = self._limit
        try:
            if carrying:
                by_name = _process_pool(executor) is not None
                sent, keys = lighten(function, self.policy, carried, self.store, by_name=by_name)
            # Most arguments are small: for them a call should cost no more than this look.
            if not (all_small(args, limit) and (not kwargs or all_small(kwargs.values(), limit))):
                restoring = None if restores(function) else _resolve_for(function, resolve)
                proxies = restoring != "eager"
                args, kwargs, stored, proxies = send(
                    args, kwargs, self.policy, given, self.store, proxies=proxies
                )
                keys = [*keys, *stored]
                restoring = restoring if proxies else None
            if ticketing is not None:
                results, ticket = ticketing.results, ticketing.issue()
            if results is None and restoring is None:
                future = executor.submit(sent, *args, **kwargs)
            elif type(executor) is _process_pool(executor):
                # A function and plain values: pickled several times as fast as an object.
                pickled = None if results is None else results.pickled
                future = executor.submit(call, sent, restoring, pickled, ticket, args, kwargs)
            else:
                # By its name other executors list the task.
                wrapped = Call(sent, restoring, results, ticket)
                future = executor.submit(wrapped, *args, **kwargs)
        except BaseException:
            self.references.release(keys)
            raise
        # As little as possible from here on: the executor's own thread, which hands the task to a
        # worker, waits for this one to let go of the interpreter.
        if ticketing is not None or keys:
            self._running.add(future)
            TaskFuture.of(future, self._on_done, (keys, ticket))
        return Task(future, bool(keys))

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
        carrying = carries(function, self.policy)
        repeats = Repeats(self.references)
        given = repeats if run_no_code(iterables) else self.references
        chunked = chunksize > 1
        resolve: Resolve | None = self.resolve
        run = function
        if chunked:
            run = Chunk(function if restores(function) else Call(function, self.resolve))
            resolve = None

        def submit_next() -> Task | None:
            chunk = list(islice(items, chunksize))
            if not chunk:
                return None
            args = (chunk,) if chunked else chunk[0]
            task = self._submit(executor, run, resolve, args, {}, carrying, repeats, given)
            repeats.end_call()
            return task

        tasks = Window(submit_next, window)
        tasks.fill()
        return tasks.results(deadline, chunked=chunked)

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


def _process_pool(executor: Executor) -> type[Executor] | None:
    """Return the class of plain process pools, if an executor is one of them."""
    # Looked up, not imported: whoever has one has imported it, and it takes its time.
    module = sys.modules.get("concurrent.futures.process")
    if module is None or not isinstance(executor, module.ProcessPoolExecutor):
        return None
    return module.ProcessPoolExecutor  # type: ignore[no-any-return]


def _resolve_for(function: Callable[..., Any], resolve: Resolve | None) -> Resolve | None:
    """Return how to restore a call's arguments, in the plainest terms."""
    if resolve == "auto" and lazy_parameters(function) is NONE_LAZY:
        return "eager"
    return resolve
