"""The lazy transparent proxy and its verbs.

A :class:`Proxy` stands for an object that is somewhere else. It holds a *factory* that fetches the
object, the target, the first time something needs it, and from then on every operation on the proxy
is one on the target. What never needs the target, because it was recorded when the proxy was made:
pickling, ``repr``, ``isinstance``, ``hash``, ``len``, and an array's shape, dtype and size.

The verbs are functions, since any method of ours would hide the target's method of that name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

if TYPE_CHECKING:
    from proxyflow.prefetch import ProxyFuture
    from proxyflow.pureproxy import Proxy, rebuild
elif os.environ.get("PROXYFLOW_PURE_PYTHON"):
    from proxyflow.pureproxy import Proxy, rebuild
else:
    try:
        from proxyflow.nativeproxy import Proxy, rebuild
    except ModuleNotFoundError as _error:
        if _error.name != "proxyflow._proxy":
            raise
        # It was not built: there was no compiler.
        from proxyflow.pureproxy import Proxy, rebuild

__all__ = [
    "IMPLEMENTATION",
    "Proxy",
    "extract",
    "get_factory",
    "is_resolved",
    "rebuild",
    "resolve",
    "resolve_async",
]

T = TypeVar("T")

# Which of the two implementations this process uses, "C" or "Python".
IMPLEMENTATION = "C" if rebuild.__module__ == "proxyflow._proxy" else "Python"


def resolve(proxy: Proxy[T]) -> T:
    """Return the target, fetching it if that has not happened yet.

    Raises
    ------
    TypeError
        If ``proxy`` is no proxy.
    Exception
        Whatever the factory raises; the proxy stays unresolved and can be tried again.

    Examples
    --------
    >>> resolve(Proxy(lambda: 42))
    42
    """
    _check(proxy)
    return cast(T, proxy.__proxy_target__)


def resolve_async(proxy: Proxy[T]) -> ProxyFuture[T]:
    """Start fetching the target in the background.

    Using the proxy meanwhile waits for this attempt rather than starting another.

    Returns
    -------
    concurrent.futures.Future
        Gives the target, or the factory's exception. It can also be awaited.

    Raises
    ------
    TypeError
        If ``proxy`` is no proxy.

    Examples
    --------
    >>> resolve_async(Proxy(lambda: 42)).result()
    42
    """
    _check(proxy)
    # concurrent.futures imports logging and threading; those who do not prefetch do not pay.
    from proxyflow.prefetch import prefetch

    return prefetch(proxy)


def is_resolved(proxy: Proxy[Any]) -> bool:
    """Tell whether the target has been fetched.

    Raises
    ------
    TypeError
        If ``proxy`` is no proxy.

    Examples
    --------
    >>> is_resolved(Proxy(lambda: 42))
    False
    """
    _check(proxy)
    return proxy.__proxy_resolved__


@overload
def extract(obj: Proxy[T]) -> T: ...
@overload
def extract(obj: T) -> T: ...
def extract(obj: Any) -> Any:
    """Return the target of a proxy, and anything else as it is.

    Raises
    ------
    Exception
        Whatever the factory raises.

    Examples
    --------
    >>> extract(Proxy(lambda: 42)), extract(43)
    (42, 43)
    """
    return obj.__proxy_target__ if issubclass(type(obj), Proxy) else obj


def get_factory(proxy: Proxy[Any]) -> Any:
    """Return the factory the proxy was made with.

    That of a store's proxy has the object's ``key``.

    Raises
    ------
    TypeError
        If ``proxy`` is no proxy.

    Examples
    --------
    >>> get_factory(Proxy(list))
    <class 'list'>
    """
    _check(proxy)
    return proxy.__proxy_factory__


def _check(proxy: object) -> None:
    if not issubclass(type(proxy), Proxy):
        raise TypeError(f"expected a Proxy, not {type(proxy).__name__}; extract() takes anything")


def _p(factory: Callable[[], Any], *facts: Any) -> Any:
    """Rebuild a proxy from its pickle; named to be short, since the name is in every pickle."""
    return rebuild(factory, facts)


Proxy.__proxy_rebuild__ = staticmethod(_p)
