"""What was stored within a ``with store.scope():`` block, to be evicted on leaving it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from proxyflow.connectors.protocol import Key

if TYPE_CHECKING:
    from proxyflow.store import Store

__all__ = ["note", "scope"]

# The keys made within the innermost scope of this thread or task.
_innermost: ContextVar[list[tuple[Store, Key]] | None] = ContextVar("proxyflow_scope", default=None)


def note(store: Store, keys: list[Key]) -> list[Key]:
    """Take note of keys that were just made; return them."""
    made = _innermost.get()
    if made is not None:
        made.extend((store, key) for key in keys)
    return keys


@contextlib.contextmanager
def scope(owner: Store) -> Iterator[Store]:
    """Evict on leaving what this thread stored in `owner`; the rest is the outer scope's."""
    made: list[tuple[Store, Key]] = []
    outer = _innermost.set(made)
    try:
        yield owner
    finally:
        _innermost.reset(outer)
        # All of them are tried; the first failure, if any, is raised after that.
        with contextlib.ExitStack() as evictions:
            for store, key in made:
                if store is not owner:
                    note(store, [key])
                elif not store.closed:
                    evictions.callback(store.evict, key)
