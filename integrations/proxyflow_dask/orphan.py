"""Objects whose owner is gone, while others still want results that need them."""

from __future__ import annotations

import logging
import pickle
import threading
from collections import Counter
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any

from proxyflow import recipe as recipes
from proxyflow.connectors import connector_class
from proxyflow.connectors.protocol import Hold, Holdable, Key
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ProxyflowError, StoreClosedError, StoreError, UnsupportedError
from proxyflow.recipe import Recipe
from proxyflow.store import Store

__all__ = ["Orphan", "hold"]

logger = logging.getLogger("proxyflow.dask")


def hold(recipe: Recipe) -> Hold | None:
    """Keep a session alive beyond its owner; None if its connector, or this host, cannot."""
    if not isinstance(recipe, str):
        return None
    url = StoreURL.parse(recipe)
    kind = connector_class(url.scheme)
    if not isinstance(kind, Holdable):
        return None
    try:
        return kind.hold_url(url)
    except StoreError as error:
        logger.info("the scheduler cannot hold %s: %s", recipe, error)
        return None


class Orphan:
    """Evicts in the place of an owner that is gone, in a thread of its own.

    Parameters
    ----------
    recipe
        The store.
    needs
        For each task that is left, by number, the pickle of the keys of the objects it needs.
    lent
        Whether others, too, keep objects in the store.
    """

    def __init__(self, recipe: Recipe, needs: Mapping[int, bytes], *, lent: bool) -> None:
        self._recipe = recipe
        self._lent = lent
        self._needs = {ticket: pickle.loads(keys) for ticket, keys in needs.items()}
        self._counts: Counter[Key] = Counter(k for keys in self._needs.values() for k in keys)
        self._forgotten: SimpleQueue[int | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="proxyflow-dask-orphan", daemon=True)
        self._thread.start()

    def forget(self, ticket: int) -> None:
        """Evict what only this task needed."""
        self._forgotten.put(ticket)

    def close(self) -> None:
        """Finish what has been asked for."""
        self._forgotten.put(None)
        self._thread.join()

    def _run(self) -> None:
        # Not the one this process may have: that is the owner's, who has just closed it.
        store = self._attempt(lambda: recipes.join_store(self._recipe))
        if isinstance(store, Store) and not self._lent:
            self._attempt(lambda: self._evict_the_rest(store))
        while (ticket := self._forgotten.get()) is not None:
            for key in self._needs.pop(ticket, []):
                self._counts[key] -= 1
                if self._counts[key] == 0 and isinstance(store, Store):
                    self._attempt(lambda key=key: store.evict(key))
        if isinstance(store, Store):
            store.close()

    def _evict_the_rest(self, store: Store) -> None:
        """Evict what no task that is left needs: the owner had no time to."""
        try:
            stored = list(store.scan())
        except UnsupportedError:
            return
        for obj in stored:
            if obj.key not in self._counts:
                store.evict(obj.key)

    def _attempt(self, action: Any) -> Any:
        try:
            return action()
        except StoreClosedError as error:
            # With the session its objects are gone, too.
            logger.debug("taking over %s: %s", recipes.name_of(self._recipe), error)
            return None
        except (ProxyflowError, OSError) as error:
            logger.warning("taking over %s: %s", recipes.name_of(self._recipe), error)
            return None
