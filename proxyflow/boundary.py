"""The task boundary: large values become proxies on the way out, and objects on the way in.

The submitting process replaces (:func:`send`), the one that runs the task restores
(:class:`Call`), and the result goes the same way back (:class:`StoredResult`).
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args, get_origin, get_type_hints

from proxyflow import recipe as recipes
from proxyflow.connectors.protocol import Key
from proxyflow.errors import ConfigError, StoreFullError
from proxyflow.estimate import estimate_size
from proxyflow.facts import describe
from proxyflow.lifetime import References
from proxyflow.nesting import Replacement, restore
from proxyflow.policy import Policy
from proxyflow.proxy import Proxy, extract, resolve
from proxyflow.recipe import Recipe
from proxyflow.store import Store

__all__ = ["Call", "Resolve", "Sent", "StoredResult", "check_resolve", "send"]

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
    references: References,
    store: Store,
) -> Sent:
    """Replace the large values in the arguments of one call.

    When the store is full, what does not fit any more travels by value, with a warning: a slow
    task is worth more than none.
    """
    keys: list[Key] = []

    def replace(value: Any) -> Any:
        try:
            key = references.acquire(value)
        except StoreFullError as error:
            warnings.warn(f"an argument is passed by value: {error}", RuntimeWarning, stacklevel=4)
            return value
        keys.append(key)
        return store.proxy_from_key(key, value, hashed=False)

    replacement = Replacement(policy, replace)
    try:
        new_args = tuple([replacement.apply(arg) for arg in args])
        new_kwargs = {name: replacement.apply(arg) for name, arg in kwargs.items()}
    except BaseException:
        references.release(keys)
        raise
    return Sent(new_args, new_kwargs, keys, replacement.proxies)


# -- the way in --------------------------------------------------------------------------------


class StoredResult:
    """Takes the place of a large result on its way back.

    Parameters
    ----------
    proxy
        Proxy of the result.
    key
        Its key.
    digest
        Identity of its content.
    """

    # No tuple, so that nothing that looks into containers looks into this one.
    __slots__ = ("digest", "key", "proxy")

    def __init__(self, proxy: Proxy[Any], key: Key, digest: bytes) -> None:
        self.proxy = proxy
        self.key = key
        self.digest = digest

    def __reduce__(self) -> tuple[Any, ...]:
        return (StoredResult, (self.proxy, self.key, self.digest))


class Call:
    """A function as it runs in a worker: arguments restored before, result stored after.

    Parameters
    ----------
    function
        The task.
    resolve
        Which parameters receive the object rather than the proxy; None where there is nothing
        to restore.
    recipe
        The store a large result goes to; None for by value.
    key
        Key of the result, chosen by the submitter; None for a new one.
    threshold
        From how many bytes on a result is large.
    """

    __slots__ = ("function", "key", "recipe", "resolve", "threshold")

    def __init__(
        self,
        function: Callable[..., Any],
        resolve: Resolve | None,
        recipe: Recipe | None = None,
        key: Key = None,
        threshold: int = 0,
    ) -> None:
        self.function = function
        self.resolve = resolve
        self.recipe = recipe
        self.key = key
        self.threshold = threshold

    def __reduce__(self) -> tuple[Any, ...]:
        return (Call, (self.function, self.resolve, self.recipe, self.key, self.threshold))

    def __repr__(self) -> str:
        return f"<Call of {self.function!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task."""
        if self.resolve is not None:
            args, kwargs = receive(self.function, args, kwargs, self.resolve)
        result = self.function(*args, **kwargs)
        if self.resolve is not None:
            # A task may hand on what it was lent; the loan ends with the task.
            result = restore(result, extract, depth=2)
        if self.recipe is not None and estimate_size(result) >= self.threshold:
            return store_result(result, self.recipe, self.key)
        return result


def receive(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], mode: Resolve
) -> tuple[tuple[Any, ...], dict[str, Any]]:
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
        return args, kwargs
    lazy = _lazy_parameters(function) if mode == "auto" else _NONE_LAZY
    if lazy is _NONE_LAZY:
        return tuple(restore(arg, resolve) for arg in args), {
            name: restore(value, resolve) for name, value in kwargs.items()
        }
    return tuple(
        arg if lazy.position(i) else restore(arg, resolve) for i, arg in enumerate(args)
    ), {
        name: value if lazy.keyword(name) else restore(value, resolve)
        for name, value in kwargs.items()
    }


def store_result(result: Any, recipe: Recipe, key: Key) -> Any:
    """Store a large result; return what travels back."""
    store = recipes.open_store(recipe)
    payload = store.encode(result)
    try:
        key = store.write(payload, key)
    except StoreFullError as error:
        warnings.warn(f"a result is passed by value: {error}", RuntimeWarning, stacklevel=2)
        return result
    proxy = store.proxy_from_key(key, facts=describe(result, hashed=False))
    return StoredResult(proxy, key, payload.digest)


# -- annotations -------------------------------------------------------------------------------


class _LazyParameters(NamedTuple):
    """Which parameters of a function are annotated ``Proxy[...]``."""

    positions: frozenset[int]
    names: frozenset[str]
    positional_only: frozenset[str] = frozenset()
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


_NONE_LAZY = _LazyParameters(frozenset(), frozenset())


def _lazy_parameters(function: Callable[..., Any]) -> _LazyParameters:
    try:
        return _inspect(function)
    except TypeError:
        # Not hashable, so it cannot be remembered.
        return _inspect.__wrapped__(function)


@functools.lru_cache(maxsize=256)
def _inspect(function: Callable[..., Any]) -> _LazyParameters:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        # Some builtins have no signature, and no annotations either.
        return _NONE_LAZY
    hints = _hints(function)
    lazy = {name for name, p in parameters.items() if _is_proxy(hints.get(name, p.annotation))}
    if not lazy:
        return _NONE_LAZY
    kinds = {name: p.kind for name, p in parameters.items()}
    positional = [n for n, k in kinds.items() if k in (inspect.Parameter.POSITIONAL_ONLY, _EITHER)]
    by_name = {n for n, k in kinds.items() if k in (inspect.Parameter.KEYWORD_ONLY, _EITHER)}
    rest = any(kinds[n] is inspect.Parameter.VAR_POSITIONAL for n in lazy)
    others = any(kinds[n] is inspect.Parameter.VAR_KEYWORD for n in lazy)
    return _LazyParameters(
        frozenset(i for i, name in enumerate(positional) if name in lazy),
        frozenset(by_name & lazy),
        rest_from=len(positional) if rest else None,
        other_names=frozenset(by_name) if others else None,
    )


_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    target = inspect.unwrap(function)
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target):
        target = target.__init__ if isinstance(target, type) else type(target).__call__
    try:
        return get_type_hints(target)
    except (NameError, TypeError, AttributeError, SyntaxError):
        # A name that exists only for type checkers; the annotations as text must do.
        return {}


_PROXY_TEXT = re.compile(r"(\w+\.)*Proxy\b")


def _is_proxy(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return any(_PROXY_TEXT.match(part.strip()) for part in annotation.split("|"))
    if annotation is Proxy or get_origin(annotation) is Proxy:
        return True
    return any(_is_proxy(part) for part in get_args(annotation) if part is not ...)
