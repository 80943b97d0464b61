"""What engines do around fork(): a child inherits locks, sockets and maps that are not its own."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

__all__ = ["ForkAware", "track"]


class ForkAware(Protocol):
    """An object that has something to do around fork()."""

    def before_fork(self) -> None:
        """In the parent, before: bring what is shared to rest."""

    def after_fork_in_parent(self) -> None:
        """In the parent, after."""

    def after_fork_in_child(self) -> None:
        """In the child, its only thread being the one that forked."""


_tracked: weakref.WeakSet[ForkAware] = weakref.WeakSet()

# Two threads may fork at the same time. Held from before the fork until after it.
_forking = threading.Lock()

# Those that were brought to rest; an object made by another thread meanwhile is not among them.
_resting: list[ForkAware] = []


def track(engine: ForkAware) -> None:
    """Tell an engine about forks for as long as it lives."""
    _tracked.add(engine)


def _before() -> None:
    _forking.acquire()
    _resting[:] = list(_tracked)
    for engine in _resting:
        engine.before_fork()


def _after_in_parent() -> None:
    for engine in _resting:
        engine.after_fork_in_parent()
    _resting.clear()
    _forking.release()


def _after_in_child() -> None:
    for engine in _resting:
        engine.after_fork_in_child()
    _resting.clear()
    _forking.release()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
