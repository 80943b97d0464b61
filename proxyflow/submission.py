"""Submitting calls to an executor with large values replaced, and getting their results back."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
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
from inspect import iscoroutinefunction
from itertools import islice
from time import monotonic
from types import FunctionType
from typing import Any, NamedTuple

from proxyflow.annotations import NONE_LAZY, lazy_parameters
from proxyflow.boundary import (
    AsyncCall,
    Call,
    Lightened,
    Resolve,
    call,
    check_resolve,
    lighten,
    restores,
    send,
)
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

__all__ = ["Submitter", "pickling_of", "shares_memory", "worker_count"]


# Executors whose way of pickling is known, by the package of their class or of a base of it.
_BY_NAME = frozenset({"concurrent", "mpi4py"})
_BY_VALUE = frozenset({"distributed", "loky"})


class Pickling(NamedTuple):
    """What executors of a class do with a call."""

    plain: bool
    """Whether they are process pools of the standard library, and of no class derived from it."""
    by_name: bool | None
    """Whether functions are pickled by their names, or by value if they have none; None if that is
    not known, or if they are not pickled at all."""


def _find_pickling(kind: type) -> Pickling:
    if issubclass(kind, ThreadPoolExecutor):
        return Pickling(plain=False, by_name=None)
    packages = [c.__module__.partition(".")[0] for c in kind.__mro__ if c is not Executor]
    by_name = next((each in _BY_NAME for each in packages if each in _BY_NAME | _BY_VALUE), None)
    # Looked up, not imported: whoever has one has imported it, and it takes its time.
    module = sys.modules.get("concurrent.futures.process")
    return Pickling(module is not None and kind is module.ProcessPoolExecutor, by_name)


# Found out once for each class: every submission asks.
pickling_of: Callable[[type], Pickling] = functools.lru_cache(maxsize=64)(_find_pickling)


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
        self._maps: weakref.WeakSet[Repeats] = weakref.WeakSet()
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
        sent = None
        # Nearly all functions are plain, and go by their names: for them not even a call.
        if type(function) is not FunctionType or not pickling_of(type(executor)).by_name:
            sent = self._lighten(executor, function, function)
        counts = self.references
        return self._submit(executor, function, sent, self.resolve, args, kwargs, counts)[0]

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

    def _lighten(
        self, executor: Executor, function: Callable[..., Any], run: Callable[..., Any]
    ) -> Lightened | None:
        """Return what runs a function without what is large in that; None if it goes as it is.

        As it does where it is not known how the executor pickles, or whether: a function that is
        handed over has to be the caller's own.
        """
        by_name = pickling_of(type(executor)).by_name
        if by_name is None or not carries(function, self.policy, by_name):
            return None
        return lighten(run, self.policy, self.references, self.store, by_name=by_name)

    def _submit(
        self,
        executor: Executor,
        function: Callable[..., Any],
        sent: Lightened | None,
        resolve: Resolve | None,
        args: Any,
        kwargs: Any,
        given: References | Repeats,
    ) -> tuple[Future[Any], bool]:
        """Submit one call; return its future and whether any argument was stored for it.

        Parameters
        ----------
        sent
            The function as it travels, if not as it is; what it carries is counted for this call.
        given
            Who counts the arguments.
        """
        travelling, keys = (function, []) if sent is None else sent
        stored: list[Key] = []
        restoring = ticket = results = None
        ticketing = self._ticketing
        limit = self._limit
        try:
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
            if results is None and restoring is None and sent is None:
                future = executor.submit(travelling, *args, **kwargs)
            elif pickling_of(type(executor)).plain:
                # A function and plain values: pickled several times as fast as an object.
                pickled = None if results is None else results.pickled
                future = executor.submit(call, travelling, restoring, pickled, ticket, args, kwargs)
            else:
                # By its name other executors list the task.
                kind = AsyncCall if iscoroutinefunction(function) else Call
                wrapped = kind(travelling, restoring, results, ticket)
                future = executor.submit(wrapped, *args, **kwargs)
        except BaseException:
            self.references.release(keys)
            raise
        # As little as possible from here on: the executor's own thread, which hands the task to a
        # worker, waits for this one to let go of the interpreter.
        if ticketing is not None or keys:
            self._running.add(future)
            TaskFuture.of(future, self._on_done, (keys, ticket))
        return future, bool(stored)

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
        chunked = chunksize > 1
        resolve: Resolve | None = self.resolve
        run = function
        if chunked:
            run = Chunk(function if restores(function) else Call(function, self.resolve))
            resolve = None
        # What it carries is for all calls as it is now.
        sent = self._lighten(executor, function, run)
        repeats = Repeats(self.references, [] if sent is None else sent.keys)
        self._maps.add(repeats)
        given = repeats if run_no_code(iterables) else self.references

        def submit_next() -> Task | None:
            chunk = list(islice(items, chunksize))
            if not chunk:
                return None
            args = (chunk,) if chunked else chunk[0]
            travelling = sent if repeats.begin_call() else None
            task = Task(*self._submit(executor, run, travelling, resolve, args, {}, given))
            repeats.end_call()
            return task

        tasks = Window(submit_next, window, repeats.close)
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
        for repeats in list(self._maps):
            repeats.close()
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
