"""Large results: stored where they are made, mapped where they are used.

What the worker keeps, sends to its peers, spills and replicates is a :class:`StoredResult` of a
few bytes; tasks and ``gather`` get the exact object.
"""

from __future__ import annotations

import asyncio
import warnings
from typing import Any, NamedTuple

from proxyflow import recipe as recipes
from proxyflow.connectors.protocol import Key
from proxyflow.errors import (
    ObjectNotFoundError,
    ProxyflowError,
    SerializationError,
    StoreFullError,
)
from proxyflow.estimate import estimate_size
from proxyflow.recipe import Recipe

__all__ = ["ResultPlace", "StoredResult", "load_result", "load_results", "pass_on"]

_MISSING = object()


class StoredResult:
    """Takes the place of a large result in the memory of workers, and on its way.

    Parameters
    ----------
    recipe
        The store.
    key
        Key of the result.
    """

    # No tuple, so that nothing that looks into containers looks into this one.
    __slots__ = ("key", "recipe")

    def __init__(self, recipe: Recipe, key: Key) -> None:
        self.recipe = recipe
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return (_arrive, (self.recipe, self.key))

    def __repr__(self) -> str:
        return f"<StoredResult {recipes.name_of(self.recipe)} {self.key!r}>"


class ResultPlace(NamedTuple):
    """Where the result of one task goes if it is large.

    The key is chosen by the client: however often the task runs, and wherever it is interrupted,
    the client knows what there may be to remove.
    """

    recipe: Recipe
    key: Key
    threshold: int

    def keep(self, result: Any) -> Any:
        """Store a large result; return what stays in the worker."""
        if type(result) is StoredResult or estimate_size(result) < self.threshold:
            return result
        store = recipes.open_store(self.recipe)
        try:
            store.write(store.encode(result), self.key)
        except SerializationError:
            # Dask lets a result that cannot be pickled stay where it is; so do we.
            return result
        except StoreFullError as error:
            warnings.warn(f"a result is passed by value: {error}", RuntimeWarning, stacklevel=2)
            return result
        return StoredResult(self.recipe, self.key)


def load_result(value: Any) -> Any:
    """Return the object behind a stored result, and anything else as it is.

    Raises
    ------
    ObjectNotFoundError
        If it is not in the store any more.
    """
    if type(value) is not StoredResult:
        return value
    store = recipes.open_store(value.recipe)
    result = store.get(value.key, _MISSING)
    if result is _MISSING:
        raise ObjectNotFoundError(
            "the result is not in the store (any more)", store=store.name, key=value.key
        )
    return result


async def load_results(gathered: Any) -> Any:
    """Return what was gathered with the stored results read, in a thread: a store may be slow."""
    return await asyncio.to_thread(_load_all, gathered) if _holds_stored(gathered) else gathered


def _holds_stored(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_stored, value.values()))
    if type(value) in (list, tuple):
        return any(map(_holds_stored, value))
    return type(value) is StoredResult


def _load_all(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _load_all(child) for key, child in value.items()}
    if type(value) in (list, tuple):
        return type(value)([_load_all(child) for child in value])
    return load_result(value)


# Whether this process has a worker, which passes stand-ins on as they are.
_has_worker = False


def pass_on() -> None:
    """Leave results where they are when they arrive in this process."""
    global _has_worker
    _has_worker = True


def _arrive(recipe: Recipe, key: Key) -> Any:
    """Return what a stand-in is where it arrives: itself in a worker, elsewhere the object.

    A client that has never heard of proxyflow can thus read a result that another one published.
    """
    stored = StoredResult(recipe, key)
    if _has_worker:
        return stored
    try:
        return load_result(stored)
    except (ProxyflowError, OSError):
        # To raise here would break the connection. Whoever uses it raises.
        return stored
