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
from proxyflow.errors import ObjectNotFoundError, SerializationError, StoreFullError
from proxyflow.estimate import estimate_size
from proxyflow.recipe import Recipe

__all__ = ["ResultPlace", "StoredResult", "load_result", "load_results"]

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
        return (StoredResult, (self.recipe, self.key))

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


async def load_results(data: dict[Any, Any]) -> dict[Any, Any]:
    """Return gathered results with the stored ones read, in a thread: a store may be slow."""
    if not any(type(value) is StoredResult for value in data.values()):
        return data
    return await asyncio.to_thread(lambda: {key: load_result(value) for key, value in data.items()})
