"""The task boundary: large values become proxies on the way out, and objects on the way in.

The submitting process replaces (:func:`send`), the one that runs the task restores
(:class:`Call`), and the result goes the same way back (:mod:`proxyflow.results`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from proxyflow.annotations import NONE_LAZY, lazy_parameters
from proxyflow.caller import warn_caller
from proxyflow.connectors.protocol import Key
from proxyflow.errors import ConfigError, StoreFullError
from proxyflow.factory import Loan
from proxyflow.facts import describe
from proxyflow.functions import make_lean, opened
from proxyflow.lifetime import References
from proxyflow.nesting import Replacement, Restoration
from proxyflow.policy import Policy
from proxyflow.proxy import Proxy, extract, get_factory
from proxyflow.repeats import Repeats
from proxyflow.results import Results, Ticket
from proxyflow.store import Store

__all__ = [
    "AsyncCall",
    "Call",
    "Lightened",
    "Received",
    "Resolve",
    "Sent",
    "call",
    "check_resolve",
    "lighten",
    "receive",
    "restores",
    "send",
]

Resolve: TypeAlias = Literal["auto", "lazy", "eager"]


def check_resolve(value: str) -> Resolve:
    """Return a ``resolve`` option, or refuse it.

    Raises
    ------
    ConfigError
        If it is none of ``"auto"``, ``"lazy"`` and ``"eager"``.
    """
    if value not in get_args(Resolve):
        raise ConfigError(f"resolve={value!r} is unknown", remedy="use 'auto', 'lazy' or 'eager'")
    return value  # type: ignore[return-value]


# -- the way out -------------------------------------------------------------------------------


def _end(proxy: Proxy[Any]) -> Any:
    """Return what may outlive the task: the object instead of a loan, any other proxy as it is."""
    return extract(proxy) if type(get_factory(proxy)) is Loan else proxy


class Sent(NamedTuple):
    """Arguments as they travel."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    keys: list[Key]
    """What was stored for them; to be released when nothing can ask for it again."""
    proxies: bool
    """Whether there is anything to restore at the other end."""


def send(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    policy: Policy,
    references: References | Repeats,
    store: Store,
    *,
    proxies: bool = True,
) -> Sent:
    """Replace the large values in the arguments of one call.

    Not needed for arguments that are plainly small (:func:`~proxyflow.nesting.all_small`). When the
    store is full, what does not fit any more travels by value, with a warning: a slow task is worth
    more than none.

    Parameters
    ----------
    args, kwargs
        The arguments.
    policy
        What is large.
    references, store
        Where that goes.
    proxies
        Whether the task may receive proxies. If not, loans travel bare, which is faster.
    """
    keys: list[Key] = []

    def replace(value: Any) -> Any:
        key = _acquire(value, references, "an argument")
        if key is None:
            return value
        keys.append(key)
        loan = Loan(store.recipe, key)
        return Proxy(loan, describe(value, hashed=False)) if proxies else loan

    replacement = Replacement(policy, replace)
    try:
        new_args = tuple([replacement.apply(arg) for arg in args])
        new_kwargs = {name: replacement.apply(arg) for name, arg in kwargs.items()}
    except BaseException:
        references.release(keys)
        raise
    return Sent(new_args, new_kwargs, keys, bool(keys) or replacement.proxies)


class Lightened(NamedTuple):
    """A function as it travels."""

    function: Callable[..., Any]
    keys: list[Key]
    """What was stored for it; to be released when nothing can ask for it again."""


def lighten(
    function: Callable[..., Any],
    policy: Policy,
    references: References | Repeats,
    store: Store,
    *,
    by_name: bool,
) -> Lightened:
    """Replace the large values that a function carries, as in a partial or a bound method.

    Parameters
    ----------
    function
        The task.
    policy
        What is large.
    references, store
        Where that goes.
    by_name
        Whether the executor pickles functions by their names; see
        :func:`proxyflow.functions.make_lean`.
    """
    keys: list[Key] = []

    def put(value: Any) -> Key:
        key = _acquire(value, references, "what a function carries")
        if key is not None:
            keys.append(key)
        return key

    try:
        return Lightened(make_lean(function, policy, put, store.recipe, by_name=by_name), keys)
    except BaseException:
        references.release(keys)
        raise


def _acquire(value: Any, references: References | Repeats, what: str) -> Key:
    """Return the key of a value that was stored; None, with a warning, if there is no room."""
    try:
        return references.acquire(value)
    except StoreFullError as error:
        warn_caller(f"{what} is passed by value: {error}")
        return None


# -- the way in --------------------------------------------------------------------------------


class Call:
    """A function as it runs in a worker: arguments restored before, result stored after.

    Parameters
    ----------
    function
        The task.
    resolve
        Which parameters receive the object rather than the proxy; None where there is nothing
        to restore.
    results
        How a large result travels back; None for by value.
    ticket
        What stands for the key of the result; issued by the submitter.
    """

    __slots__ = ("function", "resolve", "results", "ticket")

    def __init__(
        self,
        function: Callable[..., Any],
        resolve: Resolve | None,
        results: Results | None = None,
        ticket: Ticket = None,
    ) -> None:
        self.function = function
        self.resolve = resolve
        self.results = results
        self.ticket = ticket

    def __reduce__(self) -> tuple[Any, ...]:
        # All but the function is plain: a process pool looks twice, in Python, at each object of a
        # class it pickles.
        results = None if self.results is None else self.results.pickled
        return (_load_call, (type(self), self.function, self.resolve, results, self.ticket))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.function!r}>"

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The task, whose signature and annotations this has too."""
        return self.function

    @property
    def __name__(self) -> str:
        """The name under which schedulers list the task."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the task."""
        return _run(self.function, self.resolve, self.results, self.ticket, args, kwargs)


class AsyncCall(Call):
    """A coroutine function as it runs in a worker of Dask's, which awaits it."""

    __slots__ = ()

    # How Dask recognises a callable object that has to be awaited.
    __tornado_coroutine__ = True

    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the task."""
        function, args, kwargs, lent = _begin(self.function, self.resolve, args, kwargs)
        return _finish(await function(*args, **kwargs), lent, self.results, self.ticket)


def call(
    function: Callable[..., Any],
    resolve: Resolve | None,
    results: bytes | None,
    ticket: Ticket,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run a task, like a :class:`Call` of it: for executors that do not care for its name."""
    found = None if results is None else Results.load(results)
    return _run(function, resolve, found, ticket, args, kwargs)


def _run(
    function: Callable[..., Any],
    resolve: Resolve | None,
    results: Results | None,
    ticket: Ticket,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    function, args, kwargs, lent = _begin(function, resolve, args, kwargs)
    return _finish(function(*args, **kwargs), lent, results, ticket)


def _begin(
    function: Callable[..., Any],
    resolve: Resolve | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], bool]:
    function, lent = opened(function), False
    if resolve is not None:
        args, kwargs, lent = receive(function, args, kwargs, resolve)
    return function, args, kwargs, lent


def _finish(result: Any, lent: bool, results: Results | None, ticket: Ticket) -> Any:
    if lent:
        # A task may hand on what it was lent; the loan ends with the task.
        result = Restoration(_end).apply(result)
    return result if results is None else results.send(result, ticket)


def _load_call(
    kind: type[Call],
    function: Callable[..., Any],
    resolve: Resolve | None,
    results: bytes | None,
    ticket: Ticket,
) -> Call:
    return kind(function, resolve, None if results is None else Results.load(results), ticket)


def restores(function: Callable[..., Any]) -> bool:
    """Return whether a function sees to the proxies among its arguments itself.

    That is so for a call that another executor wrapped already, and for ``@proxied`` functions,
    also in a partial: whoever is closest to the function decides what it receives.
    """
    if isinstance(function, Call):
        return function.resolve is not None or restores(function.function)
    if type(function) is functools.partial:
        return restores(function.func)
    return getattr(type(function), "restores_proxies", False)


class Received(NamedTuple):
    """Arguments as the function wants them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    lent: bool
    """Whether there may be proxies among them."""


def receive(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], mode: Resolve
) -> Received:
    """Return the arguments as the function wants them.

    Parameters
    ----------
    function
        Whose annotations decide when `mode` is ``"auto"``: a parameter annotated ``Proxy[...]``
        receives the proxy, every other one the exact object.
    args, kwargs
        The arguments, with proxies.
    mode
        ``"auto"``, ``"lazy"`` (all proxies stay) or ``"eager"`` (none does).
    """
    if mode == "lazy":
        return Received(args, kwargs, lent=True)
    lazy = lazy_parameters(function) if mode == "auto" else NONE_LAZY
    into = Restoration(extract).apply
    return Received(
        tuple([arg if lazy.position(i) else into(arg) for i, arg in enumerate(args)]),
        {name: arg if lazy.keyword(name) else into(arg) for name, arg in kwargs.items()},
        lent=lazy is not NONE_LAZY,
    )
