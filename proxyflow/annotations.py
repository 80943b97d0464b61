"""Which parameters of a function are annotated ``Proxy[...]`` and thus want the lazy proxy."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from proxyflow.proxy import Proxy

__all__ = ["NONE_LAZY", "LazyParameters", "lazy_parameters"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class LazyParameters(NamedTuple):
    """Which arguments of a function stay proxies."""

    positions: frozenset[int]
    names: frozenset[str]
    rest_from: int | None = None
    """From which position on a lazy ``*args`` takes them."""
    other_names: frozenset[str] | None = None
    """The parameters that a lazy ``**kwargs`` does not take."""

    def position(self, index: int) -> bool:
        """Return whether the positional argument at an index stays a proxy."""
        return index in self.positions or (self.rest_from is not None and index >= self.rest_from)

    def keyword(self, name: str) -> bool:
        """Return whether a keyword argument stays a proxy."""
        return name in self.names or (self.other_names is not None and name not in self.other_names)

    def bound(self) -> LazyParameters:
        """Return the same for a method, which has got its first argument already."""
        return self._replace(
            positions=frozenset(i - 1 for i in self.positions if i),
            rest_from=self.rest_from and self.rest_from - 1,
        )


NONE_LAZY = LazyParameters(frozenset(), frozenset())

# Weakly: a function that came by value is another one in each task, and holds what it closes over.
_remembered: WeakKeyDictionary[Callable[..., Any], LazyParameters] = WeakKeyDictionary()


def lazy_parameters(function: Callable[..., Any]) -> LazyParameters:
    """Return which parameters of a function are annotated ``Proxy[...]``.

    An annotation counts wherever it names the proxy, as in ``Proxy[T] | None`` or
    ``list[Proxy[T]]``, and also as text, or when the other names in it cannot be resolved.

    Examples
    --------
    >>> def f(a: Proxy[bytes], b: bytes, *, c: Proxy[str] | None = None): ...
    >>> lazy = lazy_parameters(f)
    >>> lazy.position(0), lazy.position(1), lazy.keyword("c")
    (True, False, True)
    """
    if isinstance(function, MethodType):
        lazy = lazy_parameters(function.__func__)
        return lazy if lazy is NONE_LAZY else lazy.bound()
    if not isinstance(function, FunctionType):
        return _inspect(function)
    known = _remembered.get(function)
    if known is None:
        known = _remembered[function] = _inspect(function)
    return known


def _inspect(function: Callable[..., Any]) -> LazyParameters:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        # Some builtins have no signature, and no annotations either.
        return NONE_LAZY
    hints = _hints(function)
    lazy = {name for name, p in parameters.items() if _is_proxy(hints.get(name, p.annotation))}
    if not lazy:
        return NONE_LAZY
    kinds = {name: parameter.kind for name, parameter in parameters.items()}
    positional = [name for name, kind in kinds.items() if kind in _POSITIONAL]
    by_name = {name for name, kind in kinds.items() if kind in _BY_NAME}
    rest = any(kinds[name] is inspect.Parameter.VAR_POSITIONAL for name in lazy)
    others = any(kinds[name] is inspect.Parameter.VAR_KEYWORD for name in lazy)
    return LazyParameters(
        frozenset(i for i, name in enumerate(positional) if name in lazy),
        frozenset(by_name & lazy),
        rest_from=len(positional) if rest else None,
        other_names=frozenset(by_name) if others else None,
    )


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    target = inspect.unwrap(function)
    while isinstance(target, functools.partial):
        target = inspect.unwrap(target.func)
    if not inspect.isroutine(target):
        name = "__init__" if isinstance(target, type) else "__call__"
        target = getattr(target if isinstance(target, type) else type(target), name)
    try:
        return get_type_hints(target)
    except (NameError, TypeError, AttributeError, SyntaxError):
        # A name that exists only for type checkers; the annotations as text must do.
        return {}


_NAMED = re.compile(r"\bProxy\b")


def _is_proxy(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return _NAMED.search(annotation) is not None
    if annotation is Proxy or get_origin(annotation) is Proxy:
        return True
    return any(_is_proxy(part) for part in get_args(annotation) if part is not ...)
