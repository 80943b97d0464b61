"""Values inside containers: finding the large ones, replacing them, putting them back.

The containers are lists, tuples, named tuples, dicts and dataclasses. A container in which
something is replaced is rebuilt; the caller's own is never touched. What was one object in two
places is one object afterwards. A set goes as a whole, and so does what contains itself.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import operator
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from proxyflow.estimate import DEPTH, Estimator, estimate_size, estimator
from proxyflow.factory import Loan
from proxyflow.policy import Policy
from proxyflow.proxy import Proxy

__all__ = ["FLAT", "SCALARS", "Replacement", "Restoration", "all_small", "contains_proxy"]

# How deep proxies are looked for; the policy says how deep large values are.
_DEEPEST = 64

SCALARS = frozenset({type(None), bool, int, float, complex})
_TEXTS = frozenset({str, bytes})
FLAT = SCALARS | _TEXTS
_SETS = frozenset({set, frozenset})
_BUILTIN = frozenset({list, tuple, dict}) | _SETS
# Roughly what a scalar takes in a pickle.
_SCALAR = 9


class _Container(NamedTuple):
    """How to take one kind of container apart, and to make another one like it."""

    values: Callable[[Any], list[Any]]
    rebuild: Callable[[Any, list[Any]], Any]


def _find_container(kind: type) -> _Container | None:
    """Return how to handle a class of containers; None for what is not one of ours."""
    if kind in (list, tuple, set, frozenset):
        return _Container(list, lambda container, values: kind(values))
    if kind in (dict, OrderedDict, defaultdict):
        return _Container(lambda container: list(container.values()), _rebuild_dict)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _Container(list, _rebuild_named_tuple)
    if _is_plain_dataclass(kind):
        fields = [field.name for field in dataclasses.fields(kind)]
        return _Container(
            lambda container: [
                getattr(container, name, None) for name in _names(fields, container)
            ],
            functools.partial(_rebuild_dataclass, fields),
        )
    return None


# Found out once for each class: every argument of every call is looked at.
_container: Callable[[type], _Container | None] = functools.lru_cache(1024)(_find_container)


def _is_plain_dataclass(kind: type) -> bool:
    """Return whether a class is a dataclass that leaves copying and pickling to Python.

    One that does it itself, or that is a builtin container or an exception besides, may keep more
    than its fields, or do with them what a proxy in their place would not survive.
    """
    return (
        dataclasses.is_dataclass(kind)
        and not issubclass(kind, Proxy)
        and kind.__new__ is object.__new__
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and not hasattr(kind, "__copy__")
        # That of object has no module. Frozen dataclasses with slots get one from dataclasses.
        and getattr(kind.__getstate__, "__module__", None) in (None, "dataclasses")
    )


def _names(fields: list[str], container: Any) -> list[str]:
    # Besides its fields, what __post_init__ or a cached property has put there.
    return [*fields, *(name for name in getattr(container, "__dict__", ()) if name not in fields)]


def _rebuild_dict(container: Any, values: list[Any]) -> Any:
    # A copy keeps the order, and what a defaultdict makes of a missing key.
    filled = copy.copy(container)
    filled.update(zip(container, values, strict=True))
    return filled


def _rebuild_named_tuple(container: Any, values: list[Any]) -> Any:
    filled = tuple.__new__(type(container), values)
    # A subclass without __slots__ may hold more than its fields.
    if hasattr(container, "__dict__"):
        filled.__dict__.update(container.__dict__)
    return filled


def _rebuild_dataclass(fields: list[str], container: Any, values: list[Any]) -> Any:
    # Not through __init__, which may check or derive, but as copy and pickle do.
    filled = copy.copy(container)
    for name, value in zip(_names(fields, container), values, strict=True):
        if getattr(container, name, None) is not value:
            object.__setattr__(filled, name, value)
    return filled


def _flat_size(values: list[Any]) -> tuple[int, int] | None:
    """Return the bytes in numbers and texts, and those of the largest; None if there is more.

    Done without a step of the interpreter for each number: a list of a million is nothing unusual.
    """
    kinds = set(map(type, values))
    if not kinds <= FLAT:
        return None
    texts = [len(value) for value in values if type(value) in _TEXTS] if kinds & _TEXTS else []
    return _SCALAR * len(values) + sum(texts), max(texts, default=_SCALAR)


def all_small(values: Iterable[Any], limit: int) -> bool:
    """Return whether values are plainly small: no containers, no proxies, below a size."""
    for value in values:
        estimate = _leaf(type(value))
        if estimate is None or estimate(value, DEPTH) >= limit:
            return False
    return True


def _find_leaf(kind: type) -> Estimator | None:
    """Return how to estimate the instances of a class; None for containers and proxies."""
    if issubclass(kind, Proxy) or _container(kind) is not None:
        return None
    return estimator(kind)


_leaf: Callable[[type], Estimator | None] = functools.lru_cache(1024)(_find_leaf)


class _Found(NamedTuple):
    """What one value was found to be."""

    left: int
    """How many bytes stay in place when everything large in it has been replaced."""
    large: bool = False
    """Whether it, or anything in it, is to be replaced."""
    proxies: bool = False
    """Whether it is a proxy or holds one."""


_PROXY = _Found(0, proxies=True)


class Replacement:
    """Replaces the large parts of values: of all arguments of one call.

    Parameters
    ----------
    policy
        What is large, and how deep to look.
    replace
        Called with a large value; returns what takes its place. A value that occurs twice is
        replaced once, by one and the same object, so that what was identical stays identical.
    builtin_only
        Whether to look into lists, tuples and dicts alone, and at all others from without.

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

    def __init__(
        self, policy: Policy, replace: Callable[[Any], Any], *, builtin_only: bool = False
    ) -> None:
        self.proxies = False
        self._builtin_only = builtin_only
        self._policy = policy
        self._replace = replace
        # By identity. The values are kept beside it: an id is only unique while its object lives.
        self._found: dict[int, tuple[Any, _Found]] = {}
        self._open: set[int] = set()
        self._cyclic = False
        self._whole: dict[int, Any] = {}
        self._parts: dict[int, tuple[_Container, list[Any]]] = {}
        self._new: dict[int, Any] = {}

    def apply(self, value: Any) -> Any:
        """Return a value with its large parts replaced."""
        # All is measured before anything is replaced: a container that turns out to go as a whole
        # must not have had its parts stored one by one.
        self._cyclic = False
        found = self._measure(value, self._policy.depth)
        if self._cyclic:
            self._parts.pop(id(value), None)
            found = self._measure_whole(value)
            self._found[id(value)] = value, found
        self.proxies |= found.proxies
        return self._build(value) if found.large else value

    def _measure(self, value: Any, depth: int) -> _Found:
        container = _container(type(value))
        if container is None or (self._builtin_only and type(value) not in _BUILTIN):
            return self._measure_leaf(value)
        known = self._found.get(id(value))
        if known is not None:
            # Pickled once, wherever else it occurs.
            return _Found(0, known[1].large, known[1].proxies)
        if id(value) in self._open:
            self._cyclic = True
            return _Found(0)
        self._open.add(id(value))
        found = self._measure_container(container, value, depth)
        self._open.discard(id(value))
        self._found[id(value)] = value, found
        return found

    def _measure_leaf(self, value: Any) -> _Found:
        if isinstance(value, Proxy):
            return _PROXY
        return self._judge(value, estimate_size(value))

    def _measure_whole(self, value: Any) -> _Found:
        """Measure a container that is not to be looked into; one with proxies stays."""
        if contains_proxy(value):
            return _Found(estimate_size(value), proxies=True)
        return self._judge(value, estimate_size(value))

    def _judge(self, value: Any, size: int) -> _Found:
        if size >= self._policy.nbytes and self._policy.allows(value):
            self._whole[id(value)] = value
            return _Found(0, large=True)
        return _Found(size)

    def _measure_container(self, container: _Container, value: Any, depth: int) -> _Found:
        # A set goes as a whole: its elements are hashed wherever it is unpickled, and hashing a
        # proxy of text or bytes in a process with another hash seed would resolve it there.
        if depth <= 0 or not self._policy.nested or type(value) in _SETS:
            return self._measure_whole(value)
        values = container.values(value)
        keys = (_flat_size(list(value)) or (0, 0))[0] if isinstance(value, dict) else 0
        flat = _flat_size(values)
        if flat is not None and flat[1] < self._policy.nbytes:
            return self._judge(value, flat[0] + keys)
        found = [self._measure(child, depth - 1) for child in values]
        left = sum([each.left for each in found]) + keys
        proxies = any(each.proxies for each in found)
        if not proxies:
            # Many small values may make it large.
            judged = self._judge(value, left)
            if judged.large:
                return judged
        large = any(each.large for each in found)
        if large:
            self._parts[id(value)] = container, values
        return _Found(left, large, proxies)

    def _build(self, value: Any) -> Any:
        key = id(value)
        if key in self._new:
            return self._new[key]
        if key in self._whole:
            new = self._replace(value)
            self.proxies |= isinstance(new, Proxy)
        elif key in self._parts:
            container, values = self._parts[key]
            built = [self._build(child) for child in values]
            new = value if _same(values, built) else container.rebuild(value, built)
        else:
            return value
        self._new[key] = new
        return new


class Restoration:
    """Puts the targets of proxies and loans in their place: in all arguments of one call.

    Parameters
    ----------
    target
        Called with a proxy; returns what takes its place.

    Examples
    --------
    >>> proxy = Proxy(lambda: 3)
    >>> Restoration(lambda proxy: proxy + 0).apply([1, {"a": (2, proxy)}])
    [1, {'a': (2, 3)}]
    """

    def __init__(self, target: Callable[[Proxy[Any]], Any]) -> None:
        self._target = target
        self._new: dict[int, tuple[Any, Any]] = {}
        self._open: set[int] = set()
        self._cyclic = False

    def apply(self, value: Any) -> Any:
        """Return a value with every proxy in it, however nested, replaced by its target."""
        self._cyclic = False
        restored = self._visit(value, _DEEPEST)
        # What contains itself cannot be rebuilt piece by piece, and is left alone.
        return value if self._cyclic else restored

    def _visit(self, value: Any, depth: int) -> Any:
        if isinstance(value, Proxy):
            return self._target(value)
        if type(value) is Loan:
            return self._redeem(value)
        container = _container(type(value)) if depth > 0 else None
        if container is None:
            return value
        known = self._new.get(id(value))
        if known is not None:
            return known[1]
        if id(value) in self._open:
            self._cyclic = True
            return value
        values = container.values(value)
        if _flat_size(values) is not None:
            return value
        self._open.add(id(value))
        new = [self._visit(child, depth - 1) for child in values]
        self._open.discard(id(value))
        restored = value if _same(values, new) else container.rebuild(value, new)
        self._new[id(value)] = value, restored
        return restored

    def _redeem(self, loan: Loan) -> Any:
        # What was one object in two places is one loan, and one object again.
        known = self._new.get(id(loan))
        if known is None:
            known = self._new[id(loan)] = loan, loan()
        return known[1]


def contains_proxy(value: Any) -> bool:
    """Return whether a value is a proxy or holds one in a container of ours.

    Examples
    --------
    >>> contains_proxy([1, {"a": Proxy(list)}]), contains_proxy([1, {"a": 2}])
    (True, False)
    """
    seen: dict[int, Any] = {}
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, Proxy):
            return True
        container = _container(type(value))
        if container is None or id(value) in seen:
            continue
        seen[id(value)] = value
        values = container.values(value)
        if not set(map(type, values)) <= FLAT:
            pending += values
    return False


def _same(old: list[Any], new: list[Any]) -> bool:
    return all(map(operator.is_, old, new))
