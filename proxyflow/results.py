"""How a large result travels back: stored by the worker, read by who asks for it."""

from __future__ import annotations

import functools
import itertools
import pickle
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

from proxyflow import recipe as recipes
from proxyflow.connectors.protocol import Key
from proxyflow.errors import StoreFullError
from proxyflow.estimate import estimate_size
from proxyflow.facts import describe
from proxyflow.forking import renew_in_child
from proxyflow.policy import Policy
from proxyflow.proxy import Proxy
from proxyflow.recipe import Recipe
from proxyflow.store import Store

__all__ = ["Results", "StoredResult", "Ticket", "Ticketing"]


class StoredResult:
    """Takes the place of a large result on its way back.

    Parameters
    ----------
    proxy
        Proxy of the result.
    key
        Its key.
    digest, glimpse
        Identity of its content, and what it looks like at a glimpse.
    """

    # No tuple, so that nothing that looks into containers looks into this one.
    __slots__ = ("digest", "glimpse", "key", "proxy")

    def __init__(self, proxy: Proxy[Any], key: Key, digest: bytes, glimpse: int) -> None:
        self.proxy = proxy
        self.key = key
        self.digest = digest
        self.glimpse = glimpse

    def __reduce__(self) -> tuple[Any, ...]:
        return (StoredResult, (self.proxy, self.key, self.digest, self.glimpse))


Ticket: TypeAlias = int | tuple[Any, ...] | None
"""Stands for the key of one task's result on its way to the worker: a number in a series of keys, a
key as a plain tuple, or None where a key cannot be made before its object."""


class Results:
    """Where the large results of one submitter's tasks go, and which those are.

    It is the same for all tasks, so it is pickled once, and a worker unpickles it once. What
    differs is a ticket for each task. The submitter issues it, not the worker: what a worker stored
    and was killed before it could report is thus known and can be removed.

    Parameters
    ----------
    recipe
        The store.
    make_key
        Makes a key from a ticket; None if a key cannot be made before its object.
    threshold, types
        Which results are large, as in a policy.

    Attributes
    ----------
    pickled : bytes
        For :meth:`load`.
    """

    __slots__ = ("_make_key", "pickled", "recipe", "threshold", "types")

    def __init__(
        self,
        recipe: Recipe,
        make_key: Callable[[Any], Key] | None,
        threshold: int,
        types: type | tuple[type, ...] | None = None,
    ) -> None:
        self.recipe = recipe
        self.threshold = threshold
        self.types = types
        self._make_key = make_key
        self.pickled = pickle.dumps((recipe, make_key, threshold, types), protocol=5)

    @staticmethod
    def load(pickled: bytes) -> Results:
        """Return what was pickled; done once in each process."""
        return _load(pickled)

    def key(self, ticket: Ticket) -> Key:
        """Return the key a ticket stands for; None if it stands for none."""
        return None if ticket is None or self._make_key is None else self._make_key(ticket)

    def send(self, result: Any, ticket: Ticket) -> Any:
        """Store a result if it is large; return what travels back.

        Parameters
        ----------
        result
            What the task returned.
        ticket
            Stands for the key to store it under.
        """
        if estimate_size(result) < self.threshold:
            return result
        # What an executor within this one has stored already is not stored again.
        if type(result) is StoredResult or not Policy(0, self.types).allows(result):
            return result
        return self._store(result, ticket)

    def _store(self, result: Any, ticket: Ticket) -> Any:
        store = recipes.open_store(self.recipe)
        payload = store.encode(result)
        try:
            key = store.write(payload, self.key(ticket))
        except StoreFullError as error:
            warnings.warn(f"a result is passed by value: {error}", RuntimeWarning, stacklevel=2)
            return result
        proxy = store.proxy_from_key(key, facts=describe(result, hashed=False))
        return StoredResult(proxy, key, payload.digest, payload.glimpse)


@functools.lru_cache(maxsize=64)
def _load(pickled: bytes) -> Results:
    return Results(*pickle.loads(pickled))


class Ticketing:
    """Issues the tickets of one submitter's tasks.

    Parameters
    ----------
    store
        Where large results go.
    policy
        Which those are.

    Attributes
    ----------
    results : Results
        What the tickets are good for.
    issue : callable
        Returns a ticket that nobody had before.
    """

    results: Results
    issue: Callable[[], Ticket]

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy
        self._begin()
        renew_in_child(self)

    def renew_after_fork(self) -> None:
        """Begin anew: a forked child would count on from where its parent is."""
        if not self._store.closed:
            self._begin()

    def _begin(self) -> None:
        make_key: Callable[[Any], Key] | None = self._store.new_series()
        if make_key is not None:
            self.issue = itertools.count().__next__
        elif self._store.deferrable:
            make_key = type(self._store.new_key())._make
            self.issue = lambda: (*self._store.new_key(),)
        else:
            self.issue = lambda: None
        policy = self._policy
        self.results = Results(self._store.recipe, make_key, policy.nbytes, policy.types)
