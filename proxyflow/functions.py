"""Large values that a function carries: in its closure, its defaults, a partial, a bound object.

They are found where they cannot hide, while the function is pickled, and put back where it runs:
the function itself never knows.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from proxyflow import recipe as recipes
from proxyflow.connectors.protocol import Key
from proxyflow.errors import ObjectNotFoundError, SerializationError
from proxyflow.estimate import estimate_size
from proxyflow.nesting import FLAT, SCALARS
from proxyflow.policy import Policy
from proxyflow.recipe import Recipe
from proxyflow.store import Store

__all__ = ["LeanFunction", "carries", "make_lean", "opened"]

# Always taken apart, never replaced as a whole; a store is pickled as what it takes to open it.
_STRUCTURE = (type, FunctionType, MethodType, CodeType, ModuleType, Store)
_FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType, functools.partial)
_CONTAINERS = (list, tuple, dict, set, frozenset)
_MISSING = object()
# How deep functions within functions are looked for.
_DEPTH = 4


class LeanFunction:
    """Stands for a function while it travels; :func:`opened` gives the function, exactly.

    Parameters
    ----------
    name
        What to call it in logs.
    recipe
        The store that has the values.
    code
        Pickle of the function without them.
    keys
        Their keys.
    """

    __slots__ = ("__name__", "code", "keys", "recipe")

    def __init__(self, name: str, recipe: Recipe, code: bytes, keys: Sequence[Key]) -> None:
        self.__name__ = name
        self.recipe = recipe
        self.code = code
        self.keys = list(keys)

    def __reduce__(self) -> tuple[Any, ...]:
        return (LeanFunction, (self.__name__, self.recipe, self.code, self.keys))

    def __repr__(self) -> str:
        return f"<{self.__name__} without the {len(self.keys)} large values it carries>"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function."""
        return opened(self)(*args, **kwargs)


def opened(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that a lean one stands for; any other one as it is.

    Raises
    ------
    ObjectNotFoundError
        If what it carries is gone.
    """
    if type(function) is not LeanFunction:
        return function
    unpickler = _Unpickler(function.code, function.recipe, function.keys)
    original: Callable[..., Any] = unpickler.load()
    return original


def carries(function: Callable[..., Any], policy: Policy, by_name: bool) -> bool:
    """Return whether a function seems to carry something large: a quick look, before each call.

    Parameters
    ----------
    function
        The task.
    policy
        What is large.
    by_name
        Whether functions travel by their names alone, or by value if they have none.

    Examples
    --------
    >>> from functools import partial
    >>> carries(partial(max, bytes(1000)), Policy(1000), by_name=True)
    True
    >>> carries(max, Policy(1000), by_name=True)
    False
    """
    if _goes_by_name(function, by_name):
        return False
    parts = _parts(function, by_name, _DEPTH)
    return any(estimate_size(part) >= policy.nbytes for part in parts)


def _goes_by_name(function: Any, by_name: bool) -> bool:
    # As nearly every one does, so this should take no time.
    if type(function) is not FunctionType:
        return False
    if by_name:
        return True
    # Not so where it was made in another one, or is a lambda.
    return function.__module__ != "__main__" and "<" not in function.__qualname__


def _parts(function: Any, by_name: bool, depth: int) -> Iterator[Any]:
    """Yield what a function carries."""
    parts: list[Any]
    if isinstance(function, FunctionType):
        parts = [_content(cell) for cell in function.__closure__ or ()]
        parts += [function.__defaults__, function.__kwdefaults__]
        if function.__module__ == "__main__" and not by_name:
            # Where it travels by value, what it refers to goes with it.
            names = function.__code__.co_names
            parts += [function.__globals__.get(name) for name in names]
    elif isinstance(function, functools.partial):
        parts = [function.func, *function.args, *function.keywords.values()]
    elif isinstance(function, MethodType | BuiltinFunctionType):
        parts = [function.__self__]
    elif hasattr(type(function), "restores_proxies"):
        # One that is decorated; as a method it has an object.
        parts = [getattr(function, "__self__", None)]
    elif isinstance(getattr(type(function), "__wrapped__", None), property):
        # A call that another executor has wrapped already.
        parts = [function.__wrapped__]
    else:
        parts = []
        yield function
    for part in parts:
        if depth and _is_function(part):
            yield from _parts(part, by_name, depth - 1)
        else:
            yield part


def _is_function(part: Any) -> bool:
    return isinstance(part, _FUNCTIONS) or hasattr(type(part), "restores_proxies")


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        # A variable that has no value yet.
        return None


def make_lean(
    function: Callable[..., Any],
    policy: Policy,
    put: Callable[[Any], Key],
    recipe: Recipe,
    *,
    by_name: bool,
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
    by_name
        Whether functions travel by their names, as plain ``pickle`` has it; or by value where
        ``cloudpickle`` does that: those of ``__main__``, and those without a name.
    """
    if not by_name and _travels_by_name(function):
        return function
    file = io.BytesIO()
    pickler = _pickler_class(by_name)(file, policy, put)
    try:
        pickler.dump(function)
    except Exception:
        if pickler.failed_to_put:
            raise
        # Whatever is wrong with it is for the executor itself to find, and to say in its words.
        return function
    if not pickler.keys:
        return function
    return LeanFunction(_name(function), recipe, file.getvalue(), pickler.keys)


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _travels_by_name(function: Any) -> bool:
    """Return whether another process imports the function, so that nothing travels with it."""
    import cloudpickle

    if isinstance(function, BuiltinFunctionType):
        return function.__self__ is None or isinstance(function.__self__, ModuleType)
    name = getattr(function, "__module__", None)
    if name == "__main__" or name in cloudpickle.list_registry_pickle_by_value():
        return False
    found: Any = sys.modules.get(name) if isinstance(name, str) else None
    for part in getattr(function, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is function


@functools.cache
def _pickler_class(by_name: bool) -> Any:
    """Return a pickler of either kind; cloudpickle is imported when it is needed."""
    if by_name:
        return type("_NamePickler", (_Omitting, pickle.Pickler), {})
    import cloudpickle

    return type("_ValuePickler", (_Omitting, cloudpickle.Pickler), {})


class _Omitting:
    """Makes a pickler write only where a large value has been put, in place of the value."""

    def __init__(self, file: io.BytesIO, policy: Policy, put: Callable[[Any], Key]) -> None:
        super().__init__(file, protocol=5)  # type: ignore[call-arg]
        self.keys: list[Key] = []
        self.failed_to_put = False
        self._policy = policy
        self._put = put
        # The values are kept: an id is only unique while its object lives.
        self._places: dict[int, tuple[Any, int | None]] = {}

    def persistent_id(self, obj: Any) -> int | None:
        """Return the place of a large value among the keys; None for what is pickled as usual."""
        kind = type(obj)
        # Of scalars there may be a million, and they come one by one.
        if kind in SCALARS or self._is_structure(kind) or not self._is_large(obj):
            return None
        known = self._places.get(id(obj))
        if known is None:
            key = self._stored(obj)
            place = None if key is None else len(self.keys)
            if place is not None:
                self.keys.append(key)
            known = self._places[id(obj)] = (obj, place)
        return known[1]

    def _stored(self, obj: Any) -> Key:
        try:
            return self._put(obj)
        except SerializationError:
            # For the executor to find, like all that cannot be pickled.
            return None
        except BaseException:
            self.failed_to_put = True
            raise

    @staticmethod
    def _is_structure(kind: type) -> bool:
        return issubclass(kind, _STRUCTURE) or hasattr(kind, "restores_proxies")

    def _is_large(self, obj: Any) -> bool:
        if not self._policy.wants(obj):
            return False
        kind = type(obj)
        if kind in _CONTAINERS:
            # One that the pickler makes, like a function's globals, may hold what is shared with
            # others: functions, or objects that are changed.
            return _is_plain(obj) and not self._has_large(_values(obj))
        # What is large in it is replaced on its own, and the rest stays: it may be shared, too.
        return _is_leaf(kind) or not self._has_large(getattr(obj, "__dict__", {}).values())

    def _has_large(self, values: Iterable[Any]) -> bool:
        return any(estimate_size(value) >= self._policy.nbytes for value in list(values))


def _values(container: Any) -> Iterable[Any]:
    return container.values() if type(container) is dict else container


def _is_leaf(kind: type) -> bool:
    """Return whether the instances of a class are arrays, tables, numbers or texts."""
    return kind in FLAT or hasattr(kind, "nbytes") or hasattr(kind, "memory_usage")


def _is_plain(container: Any) -> bool:
    """Return whether a container holds nothing but arrays, numbers, texts and tuples of them."""
    values = [*container, *_values(container)]
    inner = [value for each in values if type(each) is tuple for value in each]
    return all(map(_is_leaf, {*map(type, values), *map(type, inner)} - {tuple}))


class _Unpickler(pickle.Unpickler):
    def __init__(self, code: bytes, recipe: Recipe, keys: list[Key]) -> None:
        super().__init__(io.BytesIO(code))
        self._recipe = recipe
        self._keys = keys
        # What was one object in two places is one again.
        self._values: dict[int, Any] = {}

    def persistent_load(self, place: Any) -> Any:
        if place not in self._values:
            self._values[place] = self._get(place)
        return self._values[place]

    def _get(self, place: int) -> Any:
        store = recipes.open_store(self._recipe)
        key = self._keys[place]
        value = store.get(key, _MISSING)
        if value is _MISSING:
            raise ObjectNotFoundError("what a function carries is gone", store=store.name, key=key)
        return value
