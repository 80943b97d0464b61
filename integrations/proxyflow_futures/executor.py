"""An executor around any other, whose large arguments and results travel as proxies."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from proxyflow.boundary import check_resolve
from proxyflow.connectors.memory import MemoryConnector
from proxyflow.errors import ConfigError
from proxyflow.policy import Policy
from proxyflow.store import Store
from proxyflow.submission import Submitter, pickling_of, shares_memory, worker_count

__all__ = ["ProxyExecutor"]

P = ParamSpec("P")
T = TypeVar("T")


class ProxyExecutor(Executor):
    """An executor around any other, whose large arguments and results travel as proxies.

    A large argument is stored once, mapped where the task runs, and evicted when its future is
    done, failed or cancelled. The function receives the exact object.

    Parameters
    ----------
    executor
        Any executor: a process pool of either start method, a thread pool, ``loky``'s,
        ``distributed.Client.get_executor()``.
    store
        Where large values go. By default a store of its own, closed with the executor.
    policy
        Which values those are: a :class:`~proxyflow.Policy`, or a size like ``"1 MiB"``. By
        default values from 1 MiB on between processes, and none between threads of one process,
        where nothing has to move.
    resolve
        What the function receives for a value that was replaced. ``"auto"``: the lazy proxy where
        the parameter is annotated ``Proxy[...]``, else the object. ``"lazy"``: always the proxy.
        ``"eager"``: always the object.
    results
        Whether a large result comes back through the store as well.

    Raises
    ------
    ConfigError
        If an argument makes no sense.

    Examples
    --------
    >>> from concurrent.futures import ProcessPoolExecutor
    >>> with ProxyExecutor(ProcessPoolExecutor(2), policy="1 kB") as executor:
    ...     future = executor.submit(len, bytes(100_000))
    ...     future.result()
    100000
    """

    def __init__(
        self,
        executor: Executor,
        store: Store | None = None,
        *,
        policy: Policy | int | str | None = None,
        resolve: str = "auto",
        results: bool = True,
    ) -> None:
        _check(executor, store)
        rule, resolve = Policy.of(policy), check_resolve(resolve)
        self._executor = executor
        self._shared = shares_memory(executor) and policy is None
        self._owns_store = store is None
        self._submitter = Submitter(Store() if store is None else store, rule, resolve, results)

    @property
    def store(self) -> Store:
        """The store large values go to."""
        return self._submitter.store

    def __repr__(self) -> str:
        return f"<ProxyExecutor of {self._executor!r} through {self.store!r}>"

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a call; see `concurrent.futures.Executor.submit`.

        Raises
        ------
        SerializationError
            If a large argument cannot be pickled.
        """
        if self._shared:
            return self._submitter.submit_shared(self._executor, fn, args, kwargs)
        return self._submitter.submit(self._executor, fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """Map a function over iterables; see `concurrent.futures.Executor.map`.

        Large items are replaced one by one, and only so many are in flight at a time (twice the
        workers, and two): the rest is taken from the iterables as the caller takes results, so a
        generator of any length fills neither the store nor the memory.

        What comes in one call after the other, as in ``map(f, [array] * 100, range(100))`` or
        ``map(partial(f, array), range(100))``, is stored once, as it is when the first call is
        made. Of lists, tuples, `range` and `itertools.repeat` that is told by identity; what other
        iterables yield is read, as they may fill one array again and again.
        """
        if self._shared:
            fn = self._submitter.restoring(fn)
            return self._executor.map(fn, *iterables, timeout=timeout, chunksize=chunksize)
        return self._submitter.map(
            self._executor,
            fn,
            iterables,
            timeout=timeout,
            chunksize=chunksize,
            window=2 * worker_count(self._executor) + 2,
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the executor down; see `concurrent.futures.Executor.shutdown`.

        Results that are still in the store are read first: their futures stay good, and the store
        is empty afterwards. Without `wait` that happens when the last task is done.
        """
        self._shutdown_executor(wait, cancel_futures)
        if wait:
            self._finish()
        else:
            threading.Thread(target=self._finish, name="proxyflow-shutdown").start()

    def _shutdown_executor(self, wait: bool, cancel_futures: bool) -> None:
        parameters = inspect.signature(self._executor.shutdown).parameters
        if not cancel_futures:
            self._executor.shutdown(wait=wait)
        elif "cancel_futures" in parameters:
            self._executor.shutdown(wait=wait, cancel_futures=True)
        else:
            self._submitter.cancel()
            self._executor.shutdown(wait=wait)

    def _finish(self) -> None:
        self._submitter.wait_idle()
        try:
            self._submitter.close()
        finally:
            if self._owns_store:
                self.store.close()


def _check(executor: object, store: object) -> None:
    """Refuse at once what would otherwise fail with the first task, or in another thread."""
    if isinstance(executor, type) or not hasattr(executor, "submit"):
        raise ConfigError(f"not an executor: {executor!r}")
    if store is not None and not isinstance(store, Store):
        raise ConfigError(f"not a store: {store!r}", remedy="give Store(url)")
    in_memory = store is not None and isinstance(store.connector, MemoryConnector)
    if in_memory and isinstance(executor, Executor) and pickling_of(type(executor)).plain:
        raise ConfigError(
            "memory:// is the memory of one process, and the tasks run in others",
            remedy="give no store, or one that all of them reach",
        )
