"""How a large result travels back: stored by the worker, read by who asks for it."""

from __future__ import annotations

import functools
import pickle
import warnings
from typing import Any

from proxyflow import recipe as recipes
from proxyflow.connectors.protocol import Key
from proxyflow.errors import StoreFullError
from proxyflow.estimate import estimate_size
from proxyflow.facts import describe
from proxyflow.policy import Policy
from proxyflow.proxy import Proxy
from proxyflow.recipe import Recipe
from proxyflow.store import Store

__all__ = ["Results", "StoredResult"]


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


class Results:
    """Where the large results of one submitter's tasks go, and which those are.

    It is the same for all tasks, so it is pickled once, and a worker unpickles it once.

    Parameters
    ----------
    recipe
        The store.
    key_class
        Class of the store's keys; None if a key cannot be made before its object.
    threshold, types
        Which results are large, as in a policy.

    Attributes
    ----------
    pickled : bytes
        For :meth:`load`.
    """

    __slots__ = ("key_class", "pickled", "recipe", "threshold", "types")

    def __init__(
        self,
        recipe: Recipe,
        key_class: type | None,
        threshold: int,
        types: type | tuple[type, ...] | None = None,
    ) -> None:
        self.recipe = recipe
        self.key_class = key_class
        self.threshold = threshold
        self.types = types
        self.pickled = pickle.dumps((recipe, key_class, threshold, types), protocol=5)

    @classmethod
    def of(cls, store: Store, policy: Policy) -> Results:
        """Return where a store and a policy send results."""
        key_class = type(store.new_key()) if store.deferrable else None
        return cls(store.recipe, key_class, policy.nbytes, policy.types)

    @staticmethod
    def load(pickled: bytes) -> Results:
        """Return what was pickled; done once in each process."""
        return _load(pickled)

    def send(self, result: Any, key: Key) -> Any:
        """Store a result if it is large; return what travels back.

        Parameters
        ----------
        result
            What the task returned.
        key
            The key to store it under, as a tuple; None for a new one.
        """
        if estimate_size(result) < self.threshold:
            return result
        # What an executor within this one has stored already is not stored again.
        if type(result) is StoredResult or not Policy(0, self.types).allows(result):
            return result
        return self._store(result, key)

    def _store(self, result: Any, key: Key) -> Any:
        store = recipes.open_store(self.recipe)
        payload = store.encode(result)
        try:
            key = store.write(payload, None if self.key_class is None else self.key_class(*key))
        except StoreFullError as error:
            warnings.warn(f"a result is passed by value: {error}", RuntimeWarning, stacklevel=2)
            return result
        proxy = store.proxy_from_key(key, facts=describe(result, hashed=False))
        return StoredResult(proxy, key, payload.digest)


@functools.lru_cache(maxsize=64)
def _load(pickled: bytes) -> Results:
    recipe, key_class, threshold, types = pickle.loads(pickled)
    return Results(recipe, key_class, threshold, types)
