"""Values inside containers: finding the large ones, replacing them, putting them back.

The containers are lists, tuples, named tuples, dicts and dataclasses; sets and frozen sets are
replaced whole. A container in which something is replaced is rebuilt; the caller's own is never
touched.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import operator
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from proxyflow.estimate import estimate_size
from proxyflow.policy import Policy
from proxyflow.proxy import Proxy

__all__ = ["Replacement", "contains_proxy", "restore"]

# Containers longer than this are looked at in a sample first: walking a million numbers to find
# no array among them would cost more than it could save.
_WALKED = 1024
_DEEPEST = 64


class _Container(NamedTuple):
    """How to take one kind of container apart, and to make another one like it."""

    values: Callable[[Any], list[Any]]
    rebuild: Callable[[Any, list[Any]], Any]


@functools.lru_cache(maxsize=1024)
def _container(kind: type) -> _Container | None:
    """Return how to handle a class of containers; None for what is not one of ours."""
    if kind in (list, tuple, set, frozenset):
        return _Container(list, lambda container, values: kind(values))
    if kind in (dict, OrderedDict, defaultdict):
        return _Container(lambda container: list(container.values()), _rebuild_dict)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _Container(list, lambda container, values: tuple.__new__(kind, values))
    if dataclasses.is_dataclass(kind) and not issubclass(kind, Proxy):
        names = [field.name for field in dataclasses.fields(kind)]
        return _Container(
            lambda container: [getattr(container, name, None) for name in names],
            functools.partial(_rebuild_dataclass, names),
        )
    return None


def _rebuild_dict(container: Any, values: list[Any]) -> Any:
    # A copy keeps the order, and what a defaultdict makes of a missing key.
    filled = copy.copy(container)
    filled.update(zip(container, values, strict=True))
    return filled


def _rebuild_dataclass(names: list[str], container: Any, values: list[Any]) -> Any:
    # Not through __init__, which may check or derive, but as copy and pickle do.
    filled = copy.copy(container)
    for name, value in zip(names, values, strict=True):
        if getattr(container, name, None) is not value:
            object.__setattr__(filled, name, value)
    return filled


class Replacement:
    """Replaces the large parts of values: of all arguments of one call.

    Parameters
    ----------
    policy
        What is large, and how deep to look.
    replace
        Called with a large value; returns what takes its place. A value that occurs twice is
        replaced once, by one and the same object, so that what was identical stays identical.

    Attributes
    ----------
    proxies : bool
        Whether any proxy has been seen or put in place.

    Examples
    --------
    >>> replacement = Replacement(Policy(100), lambda text: len(text))
    >>> replacement.apply([1, {"a": "x" * 100}])
    [1, {'a': 100}]
    """

    def __init__(self, policy: Policy, replace: Callable[[Any], Any]) -> None:
        self.proxies = False
        self._policy = policy
        self._replace = replace
        self._replaced: dict[int, tuple[Any, Any]] = {}
        self._open: set[int] = set()

    def apply(self, value: Any) -> Any:
        """Return a value with its large parts replaced."""
        return self._visit(value, self._policy.depth)[1]

    def _visit(self, value: Any, depth: int) -> tuple[int, Any]:
        """Return how many bytes stay in place, and what the value becomes."""
        container = _container(type(value))
        values = None if container is None else self._values(container, value, depth)
        if container is None or values is None:
            return self._visit_leaf(value)
        known = self._replaced.get(id(value))
        if known is not None:
            return 0, known[1]
        self._open.add(id(value))
        try:
            visited = [self._visit(child, depth - 1) for child in values]
        finally:
            self._open.discard(id(value))
        left = sum([size for size, _ in visited])
        if left >= self._policy.nbytes and self._policy.allows(value):
            # Many small values make it large: it goes as a whole.
            return 0, self._substitute(value)
        new = [new for _, new in visited]
        if _same(values, new):
            return left, value
        return left, self._remember(value, container.rebuild(value, new))

    def _visit_leaf(self, value: Any) -> tuple[int, Any]:
        if isinstance(value, Proxy):
            self.proxies = True
            return 0, value
        size = estimate_size(value)
        if size >= self._policy.nbytes and self._policy.allows(value):
            return 0, self._substitute(value)
        return size, value

    def _values(self, container: _Container, value: Any, depth: int) -> list[Any] | None:
        """Return the values to look at inside a container; None where it goes as a whole."""
        # What contains itself is left alone: it cannot be rebuilt piece by piece.
        if depth <= 0 or not self._policy.nested or id(value) in self._open:
            return None
        # A set goes as a whole: its elements are hashed wherever it is unpickled, and hashing a
        # proxy of text or bytes in a process with another hash seed would resolve it there.
        if isinstance(value, set | frozenset):
            return None
        values = container.values(value)
        if len(values) <= _WALKED:
            return values
        sample = values[:: len(values) // 64]
        return values if any(estimate_size(v) >= self._policy.nbytes for v in sample) else None

    def _substitute(self, value: Any) -> Any:
        known = self._replaced.get(id(value))
        if known is not None:
            return known[1]
        new = self._remember(value, self._replace(value))
        self.proxies |= isinstance(new, Proxy)
        return new

    def _remember(self, value: Any, new: Any) -> Any:
        # The value is kept beside its id: an id is only unique while its object lives.
        self._replaced[id(value)] = (value, new)
        return new


def restore(value: Any, target: Callable[[Proxy[Any]], Any], depth: int = _DEEPEST) -> Any:
    """Return a value with every proxy in it, however nested, replaced by its target.

    Parameters
    ----------
    value
        Anything.
    target
        Called with a proxy; returns what takes its place.
    depth
        How many containers deep to look.
    """
    if isinstance(value, Proxy):
        return target(value)
    container = _container(type(value)) if depth > 0 else None
    if container is None:
        return value
    values = container.values(value)
    new = [restore(child, target, depth - 1) for child in values]
    return value if _same(values, new) else container.rebuild(value, new)


def contains_proxy(value: Any, depth: int = 8) -> bool:
    """Return whether a value is a proxy or holds one, in containers of a size worth walking."""
    if isinstance(value, Proxy):
        return True
    container = _container(type(value)) if depth > 0 else None
    if container is None:
        return False
    values = container.values(value)
    return len(values) <= _WALKED and any(contains_proxy(child, depth - 1) for child in values)


def _same(old: list[Any], new: list[Any]) -> bool:
    return all(map(operator.is_, old, new))
