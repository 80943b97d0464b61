"""Large values that a function carries: in its closure, its defaults, a partial, a bound object.

They are found where they cannot hide, while the function is pickled, and put back where it is
unpickled: the function itself never knows.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from proxyflow import recipe as recipes
from proxyflow.connectors.protocol import Key
from proxyflow.decorator import ProxiedFunction
from proxyflow.errors import ObjectNotFoundError
from proxyflow.estimate import estimate_size
from proxyflow.policy import Policy
from proxyflow.recipe import Recipe
from proxyflow.store import Store

__all__ = ["LeanFunction", "make_lean"]

# Always taken apart, never replaced as a whole; a store is pickled as what it takes to open it.
_STRUCTURE = (type, FunctionType, CodeType, ModuleType, ProxiedFunction, Store)
_CONTAINERS = (list, tuple, dict, set, frozenset)
_MISSING = object()


class LeanFunction:
    """Stands for a function while it travels: unpickling one gives the function, exactly.

    Parameters
    ----------
    recipe
        The store that has the values.
    code
        Pickle of the function without them.
    keys
        Their keys.
    """

    __slots__ = ("code", "keys", "recipe")

    def __init__(self, recipe: Recipe, code: bytes, keys: Sequence[Key]) -> None:
        self.recipe = recipe
        self.code = code
        self.keys = list(keys)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_load, (self.recipe, self.code, self.keys))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function."""
        return _load(self.recipe, self.code, self.keys)(*args, **kwargs)


def make_lean(
    function: Callable[..., Any], policy: Policy, put: Callable[[Any], Key], recipe: Recipe
) -> Callable[..., Any]:
    """Return what travels in place of a function: itself, unless it carries something large.

    Parameters
    ----------
    function
        The task.
    policy
        What is large.
    put
        Stores a value and returns its key, or None if it has to travel by value.
    recipe
        The store.
    """
    if _travels_by_name(function):
        return function
    file = io.BytesIO()
    pickler = _Pickler(file, policy, put)
    try:
        pickler.dump(function)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError):
        # Whatever is wrong with it is for the client itself to find, and to say in its own words.
        return function
    return LeanFunction(recipe, file.getvalue(), pickler.keys) if pickler.keys else function


def _travels_by_name(function: Any) -> bool:
    """Return whether another process imports the function, so that nothing travels with it."""
    if isinstance(function, BuiltinFunctionType):
        return function.__self__ is None or isinstance(function.__self__, ModuleType)
    name = getattr(function, "__module__", None)
    if name == "__main__" or name in cloudpickle.list_registry_pickle_by_value():
        return False
    found: Any = sys.modules.get(name) if isinstance(name, str) else None
    for part in getattr(function, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is function


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle's pickler, but of a large value it writes only where it has been put."""

    def __init__(self, file: io.BytesIO, policy: Policy, put: Callable[[Any], Key]) -> None:
        super().__init__(file, protocol=5)
        self.keys: list[Key] = []
        self._policy = policy
        self._put = put
        # The values are kept: an id is only unique while its object lives.
        self._places: dict[int, tuple[Any, int | None]] = {}

    def persistent_id(self, obj: Any) -> int | None:
        """Return the place of a large value among the keys; None for what is pickled as usual."""
        if issubclass(type(obj), _STRUCTURE) or not self._is_large(obj):
            return None
        known = self._places.get(id(obj))
        if known is None:
            key = self._put(obj)
            place = None if key is None else len(self.keys)
            if place is not None:
                self.keys.append(key)
            known = self._places[id(obj)] = (obj, place)
        return known[1]

    def _is_large(self, obj: Any) -> bool:
        if not self._policy.wants(obj):
            return False
        if type(obj) not in _CONTAINERS:
            return True
        # What is large in it is replaced on its own, and the rest stays.
        values = obj.values() if isinstance(obj, dict) else obj
        return not any(estimate_size(value) >= self._policy.nbytes for value in values)


class _Unpickler(pickle.Unpickler):
    def __init__(self, code: bytes, recipe: Recipe, keys: list[Key]) -> None:
        super().__init__(io.BytesIO(code))
        self._recipe = recipe
        self._keys = keys

    def persistent_load(self, place: Any) -> Any:
        store = recipes.open_store(self._recipe)
        key = self._keys[place]
        value = store.get(key, _MISSING)
        if value is _MISSING:
            raise ObjectNotFoundError("what a function carries is gone", store=store.name, key=key)
        return value


def _load(recipe: Recipe, code: bytes, keys: list[Key]) -> Any:
    return _Unpickler(code, recipe, keys).load()
