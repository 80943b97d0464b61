"""``@proxied``: a task function that sends its own large arguments as proxies."""

from __future__ import annotations

import functools
import importlib
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, Generic, ParamSpec, TypeVar, overload

from proxyflow.boundary import Call, check_resolve
from proxyflow.nesting import contains_proxy
from proxyflow.policy import Policy
from proxyflow.store import Store
from proxyflow.submission import Submitter, shares_memory, worker_count

__all__ = ["ProxiedFunction", "proxied"]

P = ParamSpec("P")
T = TypeVar("T")

# What runs tasks and is no executor, by the path of its class, and where its way to run a function
# of ours is: imported when one is met, as this package knows nothing of the integrations.
_RUNNERS = {"distributed.client:Client": "proxyflow_dask.decorated"}

# The stores that decorated functions use, by URL: functions that name the same URL share one.
_stores: dict[str | None, Store] = {}
_stores_lock = threading.Lock()


def _renew_lock() -> None:
    global _stores_lock
    _stores_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _shared_store(where: Store | str | None) -> Store:
    if isinstance(where, Store):
        return where
    with _stores_lock:
        store = _stores.get(where)
        if store is None or store.closed:
            store = _stores[where] = Store(where)
        return store


class ProxiedFunction(Generic[P, T]):
    """A task function that sends its own large arguments as proxies; made by :func:`proxied`.

    Parameters
    ----------
    function
        The task.
    store, policy, resolve, results
        As for :func:`proxied`.
    """

    restores_proxies = True
    """Tells executors to leave to this function what becomes of the proxies it is sent."""

    def __init__(
        self,
        function: Callable[P, T],
        store: Store | str | None = None,
        policy: Policy | int | str | None = None,
        resolve: str = "auto",
        results: bool = True,
    ) -> None:
        self._of_class = isinstance(function, classmethod)
        self._of_nobody = isinstance(function, staticmethod)
        if isinstance(function, staticmethod | classmethod):
            function = function.__func__
        functools.update_wrapper(self, function)
        self._function = function
        self._options = (store, policy, check_resolve(resolve), results)
        self._submitter: Submitter | None = None

    def __repr__(self) -> str:
        return f"<proxied {self._function!r}>"

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function here; a proxy among the arguments is resolved by its rule."""
        if not contains_proxy((args, kwargs)):
            return self._function(*args, **kwargs)
        result: T = Call(self._function, self._options[2])(*args, **kwargs)
        return result

    @overload
    def submit(self, executor: Executor, /, *args: Any, **kwargs: Any) -> Future[T]: ...
    @overload
    def submit(self, executor: Any, /, *args: Any, **kwargs: Any) -> Any: ...
    def submit(self, executor: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Submit a call to an executor or a Dask client, large arguments as proxies.

        Parameters
        ----------
        executor
            Any `concurrent.futures.Executor`, or a `distributed.Client`.
        *args, **kwargs
            The function's arguments.

        Returns
        -------
        concurrent.futures.Future or distributed.Future
            The executor's own. What a Dask task needs is evicted when Dask forgets it.
        """
        runner = _runner_of(executor)
        if runner is not None:
            return runner.submit(executor, self, self._options, args, kwargs)
        target = _as_executor(executor)
        submitter = self._open()
        if shares_memory(target):
            return submitter.submit_shared(target, self, args, kwargs)
        return submitter.submit(target, self, args, kwargs)

    @overload
    def map(
        self,
        executor: Executor,
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]: ...
    @overload
    def map(self, executor: Any, /, *iterables: Iterable[Any]) -> Any: ...
    def map(
        self,
        executor: Any,
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Any:
        """Map the function over iterables, large items as proxies.

        Parameters
        ----------
        executor
            Any `concurrent.futures.Executor`, or a `distributed.Client`.
        *iterables
            The arguments, one iterable for each.
        timeout
            Seconds until the last result must have come.
        chunksize
            How many items to a task.

        Returns
        -------
        iterator or list of distributed.Future
            The results in order from an executor, futures from a Dask client, as its own ``map``
            gives; `timeout` and `chunksize` are for executors only.
        """
        runner = _runner_of(executor)
        if runner is not None:
            if timeout is not None or chunksize != 1:
                raise TypeError("a Dask client's map has neither timeout nor chunksize")
            return runner.map(executor, self, self._options, iterables)
        target = _as_executor(executor)
        if shares_memory(target):
            return target.map(self, *iterables, timeout=timeout, chunksize=chunksize)
        return self._open().map(
            target,
            self,
            iterables,
            timeout=timeout,
            chunksize=chunksize,
            window=2 * worker_count(target) + 2,
        )

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> ProxiedFunction[P, T]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> BoundProxiedFunction[T]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if self._of_class:
            return BoundProxiedFunction(self, type(instance) if owner is None else owner)
        if self._of_nobody or instance is None:
            return self
        return BoundProxiedFunction(self, instance)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # Partial functions and other callable objects have no name.
        name: str = vars(self).get("__qualname__", "")
        found = _find(self.__module__, name)
        if _unbound(found) is not self:
            return (_load, (None, None, self._by_value()))
        if self.__module__ != "__main__":
            return name if found is self else (_load, (self.__module__, name, None))
        # A worker of this host has this function in its own __main__, with what an initializer
        # may have set there; a worker elsewhere has another __main__ and needs the code.
        return (_load, (self.__module__, name, self._by_value(required=False)))

    def _by_value(self, *, required: bool = True) -> bytes | None:
        import cloudpickle

        try:
            return bytes(cloudpickle.dumps((self._function, self._options)))
        except (TypeError, AttributeError, pickle.PicklingError):
            # Something it refers to cannot be pickled; then it is found by name or not at all.
            if required:
                raise
            return None

    @property
    def store(self) -> Store:
        """The store of this process that large values go to; opened when first asked for."""
        return self._open().store

    def _open(self) -> Submitter:
        """Return the submitter of this process, opening the store when it is first needed."""
        submitter = self._submitter
        # A forked child starts afresh: locks may be held in its copy, by threads it does not have.
        if submitter is None or submitter.pid != os.getpid() or submitter.store.closed:
            store, policy, resolve, results = self._options
            submitter = Submitter(_shared_store(store), Policy.of(policy), resolve, results)
            self._submitter = submitter
        return submitter


class BoundProxiedFunction(Generic[T]):
    """A proxied function as a method of an object."""

    restores_proxies = True

    def __init__(self, function: ProxiedFunction[..., T], instance: Any) -> None:
        self.__func__ = function
        self.__self__ = instance

    def __repr__(self) -> str:
        return f"<bound {self.__func__!r} of {self.__self__!r}>"

    def __call__(self, /, *args: Any, **kwargs: Any) -> T:
        """Call the method here."""
        return self.__func__(self.__self__, *args, **kwargs)

    @overload
    def submit(self, executor: Executor, /, *args: Any, **kwargs: Any) -> Future[T]: ...
    @overload
    def submit(self, executor: Any, /, *args: Any, **kwargs: Any) -> Any: ...
    def submit(self, executor: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Submit a call of the method; see :meth:`ProxiedFunction.submit`."""
        return self.__func__.submit(executor, self.__self__, *args, **kwargs)

    @overload
    def map(
        self, executor: Executor, /, *iterables: Iterable[Any], **options: Any
    ) -> Iterator[T]: ...
    @overload
    def map(self, executor: Any, /, *iterables: Iterable[Any], **options: Any) -> Any: ...
    def map(self, executor: Any, /, *iterables: Iterable[Any], **options: Any) -> Any:
        """Map the method over iterables; see :meth:`ProxiedFunction.map`."""
        instances = (self.__self__ for _ in iter(int, 1))
        return self.__func__.map(executor, instances, *iterables, **options)


@overload
def proxied(function: Callable[P, T], /) -> ProxiedFunction[P, T]: ...


@overload
def proxied(
    *,
    store: Store | str | None = None,
    policy: Policy | int | str | None = None,
    resolve: str = "auto",
    results: bool = True,
) -> Callable[[Callable[P, T]], ProxiedFunction[P, T]]: ...


def proxied(
    function: Callable[P, T] | None = None,
    /,
    *,
    store: Store | str | None = None,
    policy: Policy | int | str | None = None,
    resolve: str = "auto",
    results: bool = True,
) -> Any:
    """Make a task function send its own large arguments as proxies.

    Calling the function works as before. ``f.submit(executor, ...)`` and ``f.map(executor, ...)``
    run it elsewhere; arguments are evicted after completion. A proxy that reaches the function by
    any other way is resolved by the same rule.

    Works on methods too. Put it outside of ``@classmethod``: from Python 3.13 on, a function within
    one is not told the class when it is asked for its ``submit``.

    Parameters
    ----------
    store
        Where large values go: a URL, opened when first needed and closed at exit; or a store.
    policy
        Which values those are; by default from 1 MiB on.
    resolve
        What the function receives for a value that was replaced. ``"auto"``: the lazy proxy where
        the parameter is annotated ``Proxy[...]``, else the object. ``"lazy"``: always the proxy.
        ``"eager"``: always the object.
    results
        Whether a large result comes back through the store as well.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> @proxied(policy="1 MiB")
    ... def total(values, scale=1):
    ...     return sum(values) * scale
    >>> total([1, 2, 3])
    6
    >>> with ThreadPoolExecutor() as executor:
    ...     total.submit(executor, [1, 2, 3], scale=2).result()
    12
    """
    if function is not None:
        return ProxiedFunction(function)
    return functools.partial(
        ProxiedFunction, store=store, policy=policy, resolve=resolve, results=results
    )


def _runner_of(target: Any) -> Any:
    """Return the module that runs functions of ours on what is no executor; None for executors."""
    for kind in type(target).__mro__:
        path = _RUNNERS.get(f"{kind.__module__}:{kind.__qualname__}")
        if path is not None:
            return importlib.import_module(path)
    return None


def _as_executor(target: Any) -> Executor:
    if isinstance(target, Executor):
        return target
    raise TypeError(f"neither an executor nor a Dask client: {target!r}")


def _find(module: str, qualname: str) -> Any:
    """Return what goes by that name in a module this process has loaded."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _unbound(found: Any) -> Any:
    """Return the function of what was found; a class method is found bound to its class."""
    return found.__func__ if isinstance(found, BoundProxiedFunction) else found


def _load(module: str | None, name: str | None, code: bytes | None) -> Any:
    """Return a pickled function: the one of this process if there is one, else a new one."""
    if module and code is None:
        importlib.import_module(module)
    found = _unbound(_find(module, name)) if module and name else None
    if isinstance(found, ProxiedFunction):
        return found
    if code is None:
        raise AttributeError(f"there is no task function {name!r} in {module!r} here")
    import cloudpickle

    function, options = cloudpickle.loads(code)
    return ProxiedFunction(function, *options)
