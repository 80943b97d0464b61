"""Recipes: how a process opens the store of a proxy it was sent, once.

A recipe is small, picklable and hashable, and holds no secret: the store's URL where it has one,
else the connector's import path with its pickled configuration and the store's options.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl, urlencode

from proxyflow.connectors.protocol import Addressable, Connector
from proxyflow.connectors.session import new_name
from proxyflow.connectors.url import StoreURL

if TYPE_CHECKING:
    from proxyflow.store import Store

__all__ = [
    "Recipe",
    "as_config",
    "forget",
    "join_store",
    "make",
    "name_of",
    "open_store",
    "register",
]

_log = logging.getLogger("proxyflow")

Recipe: TypeAlias = str | tuple[str, bytes, str, str]
"""A URL; or import path, pickled configuration, options, and a name for this one store."""

# A long-lived worker joins one session after the other; each holds a descriptor or a connection.
_JOINED = 32


class _Stores:
    """The open stores of this process, by recipe; of the joined ones only the latest."""

    def __init__(self) -> None:
        self.stores: dict[Recipe, Store] = {}
        self.lock = threading.RLock()
        self.closing_pid: int | None = None

    def renew_after_fork(self) -> None:
        # The lock may have been held by a thread that the child does not have.
        self.lock = threading.RLock()


_open = _Stores()
os.register_at_fork(after_in_child=_open.renew_after_fork)


def make(connector: Connector, options: dict[str, str]) -> Recipe:
    """Return the recipe of a store.

    Parameters
    ----------
    connector
        The store's connector.
    options
        The store's own options, as they stand in a URL.
    """
    if isinstance(connector, Addressable):
        url = StoreURL.parse(connector.url)
        return str(url.replace(options={**url.options, **options}))
    kind = type(connector)
    path = f"{kind.__module__}:{kind.__qualname__}"
    # Two connectors may have equal configurations and share nothing, as two dictionaries do.
    return (path, pickle.dumps(connector.config(), protocol=4), urlencode(options), new_name(10))


def as_config(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as a dictionary to be read by people."""
    if isinstance(recipe, str):
        return {"url": recipe}
    path, config, options, _ = recipe
    values = {k: v if k == "cache" else v == "1" for k, v in parse_qsl(options)}
    return {"connector": path, "config": pickle.loads(config), **values}


def name_of(recipe: Recipe) -> str:
    """Return the store as a user knows it."""
    return recipe if isinstance(recipe, str) else recipe[0]


def register(recipe: Recipe, store: Store) -> None:
    """Make a store the one that this process uses for a recipe."""
    with _open.lock:
        _open.stores.setdefault(recipe, store)
        joined = [r for r, s in _open.stores.items() if not s.owner]
        for surplus in joined[:-_JOINED]:
            # Not closed: another thread may be reading from it. It goes when nobody uses it.
            del _open.stores[surplus]
    _close_with_process()


def _close_with_process() -> None:
    """Have the stores closed where a child of multiprocessing ends."""
    # Those leave by os._exit, which runs multiprocessing's own finalizers but nothing of atexit.
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None or _open.closing_pid == os.getpid():
        return
    from multiprocessing.util import Finalize

    _open.closing_pid = os.getpid()
    Finalize(None, close_all, exitpriority=-1)


def forget(recipe: Recipe, store: Store) -> None:
    """Take a closed store out of use."""
    with _open.lock:
        if _open.stores.get(recipe) is store:
            del _open.stores[recipe]


def open_stores() -> list[Store]:
    """Return the open stores of this process."""
    with _open.lock:
        return list(_open.stores.values())


def open_store(recipe: Recipe) -> Store:
    """Return this process's store for a recipe, opening it (joining its session) only once.

    Raises
    ------
    StoreClosedError
        If the session has ended.
    """
    store = _open.stores.get(recipe)
    if store is not None:
        return store
    with _open.lock:
        store = _open.stores.get(recipe)
        if store is None:
            store = join_store(recipe)
            register(recipe, store)
        return store


def join_store(recipe: Recipe) -> Store:
    """Return a store of the caller's own for a recipe: nobody else has it, or closes it.

    Raises
    ------
    StoreClosedError
        If the session has ended.
    """
    from proxyflow.store import Store

    store = Store.from_config(as_config(recipe))
    # What it stores belongs to the session it was asked to join, and so do its proxies.
    forget(store.recipe, store)
    store.recipe = recipe
    return store


@atexit.register
def close_all() -> None:
    """Close the stores that are still open when the interpreter exits."""
    for store in open_stores():
        try:
            store.close()
        except Exception as error:  # noqa: BLE001 - ProxyStore's connectors raise what their clients do
            # Nobody is left to handle it, and the next store is closed all the same.
            _log.warning("could not close %s: %s", store.name, error)
