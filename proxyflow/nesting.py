"""Values inside containers: finding the large ones, replacing them, putting them back.

The containers are lists, tuples, named tuples, dicts and dataclasses; sets and frozen sets are
replaced whole. A container in which something is replaced is rebuilt; the caller's own is never
touched.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

from proxyflow.policy import Policy
from proxyflow.proxy import Proxy
from proxyflow.sizes import estimate_size

__all__ = ["contains_proxy", "replace_large", "restore"]

_SEQUENCES = (list, tuple)
_SETS = (set, frozenset)
_DICTS = (dict, OrderedDict, defaultdict)

# Containers longer than this are looked at in a sample first: walking a million numbers to find
# no array among them would cost more than it could save.
_WALKED = 1024
_DEEPEST = 64


def children(container: Any) -> list[Any] | None:
    """Return the values a container holds, or None for what is not one of ours."""
    kind = type(container)
    if kind in _SEQUENCES or kind in _SETS:
        return list(container)
    if kind in _DICTS:
        return list(container.values())
    if isinstance(container, tuple) and hasattr(kind, "_fields"):
        return list(container)
    if dataclasses.is_dataclass(kind) and not isinstance(container, Proxy):
        return [getattr(container, name, None) for name in _field_names(kind)]
    return None


def rebuild(container: Any, values: list[Any]) -> Any:
    """Return a container like another one, holding other values in the same places."""
    kind = type(container)
    if kind in _SEQUENCES or kind in _SETS:
        return kind(values)
    if kind in _DICTS:
        # A copy keeps a default factory and the order.
        filled = copy.copy(container)
        filled.update(zip(container, values, strict=True))
        return filled
    if isinstance(container, tuple):
        return tuple.__new__(kind, values)
    # Not through __init__, which may check or derive, but as copy and pickle do.
    filled = copy.copy(container)
    for name, value in zip(_field_names(kind), values, strict=True):
        if getattr(container, name, None) is not value:
            object.__setattr__(filled, name, value)
    return filled


def _field_names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def replace_large(value: Any, policy: Policy, replace: Callable[[Any], Any]) -> Any:
    """Return a value with every large part replaced.

    Parameters
    ----------
    value
        Anything; normally a tuple of arguments.
    policy
        What is large, and how deep to look.
    replace
        Called with a large value; returns what takes its place. A value that occurs twice is
        replaced once, by one and the same object, so that what was identical stays identical.

    Examples
    --------
    >>> replace_large([1, {"a": "x" * 100}], Policy(100), lambda text: len(text))
    [1, {'a': 100}]
    """
    return _Replacement(policy, replace).apply(value)


class _Replacement:
    """One pass over one value: first measure, then replace."""

    def __init__(self, policy: Policy, replace: Callable[[Any], Any]) -> None:
        self._policy = policy
        self._replace = replace
        self._replaced: dict[int, tuple[Any, Any]] = {}
        self._open: set[int] = set()

    def apply(self, value: Any) -> Any:
        """Return the value with its large parts replaced."""
        return self._visit(value, self._policy.depth)[1]

    def _visit(self, value: Any, depth: int) -> tuple[int, Any]:
        """Return how many bytes stay in place, and what the value becomes."""
        values = self._children(value, depth)
        if values is None:
            return self._visit_leaf(value)
        known = self._replaced.get(id(value))
        if known is not None:
            return 0, known[1]
        self._open.add(id(value))
        try:
            visited = [self._visit(child, depth - 1) for child in values]
        finally:
            self._open.discard(id(value))
        left = sum(size for size, _ in visited)
        if left >= self._policy.nbytes and self._policy.allows(value):
            # Many small values make it large: it goes as a whole.
            return 0, self._substitute(value)
        new = [new for _, new in visited]
        if all(a is b for a, b in zip(values, new, strict=True)):
            return left, value
        return left, self._remember(value, rebuild(value, new))

    def _visit_leaf(self, value: Any) -> tuple[int, Any]:
        if isinstance(value, Proxy):
            return 0, value
        size = estimate_size(value)
        if size >= self._policy.nbytes and self._policy.allows(value):
            return 0, self._substitute(value)
        return size, value

    def _children(self, value: Any, depth: int) -> list[Any] | None:
        # What contains itself is left alone: it cannot be rebuilt piece by piece.
        # A set goes as a whole: its elements are hashed wherever it is unpickled, and hashing a
        # proxy of text or bytes in a process with another hash seed would resolve it there.
        if (
            depth <= 0
            or not self._policy.nested
            or id(value) in self._open
            or type(value) in _SETS
        ):
            return None
        values = children(value)
        if values is None or len(values) <= _WALKED:
            return values
        step = len(values) // 64
        small = self._policy.nbytes
        return values if any(estimate_size(v) >= small for v in values[::step]) else None

    def _substitute(self, value: Any) -> Any:
        known = self._replaced.get(id(value))
        return known[1] if known is not None else self._remember(value, self._replace(value))

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
    values = children(value) if depth > 0 else None
    if not values:
        return value
    new = [restore(child, target, depth - 1) for child in values]
    if all(a is b for a, b in zip(values, new, strict=True)):
        return value
    return rebuild(value, new)


def contains_proxy(value: Any, depth: int = 8) -> bool:
    """Return whether a value is a proxy or holds one, in containers of a size worth walking."""
    if isinstance(value, Proxy):
        return True
    values = children(value) if depth > 0 else None
    return bool(values) and len(values) <= _WALKED and any(
        contains_proxy(child, depth - 1) for child in values
    )
