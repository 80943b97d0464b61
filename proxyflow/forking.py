"""Locks in a forked child: another thread of the parent may have held them when it forked."""

from __future__ import annotations

import os
from typing import Protocol, TypeVar
from weakref import WeakSet

__all__ = ["renew_in_child"]


class Renewable(Protocol):
    """Something with locks."""

    def renew_after_fork(self) -> None:
        """Replace every lock by a new one; called in the child, before anything else runs."""
        ...


T = TypeVar("T", bound=Renewable)

_renewables: WeakSet[Renewable] = WeakSet()


def renew_in_child(renewable: T) -> T:
    """Have an object's locks replaced in every child that is forked while it lives.

    Examples
    --------
    >>> import threading
    >>> class Counter:
    ...     def __init__(self):
    ...         self.renew_after_fork()
    ...         renew_in_child(self)
    ...     def renew_after_fork(self):
    ...         self.lock = threading.RLock()
    >>> counter = Counter()
    >>> held = counter.lock.acquire()
    >>> pid = os.fork()
    >>> if pid == 0:
    ...     os._exit(0 if counter.lock.acquire(timeout=1) else 1)
    >>> os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    0
    """
    _renewables.add(renewable)
    return renewable


def _renew() -> None:
    for renewable in list(_renewables):
        renewable.renew_after_fork()


os.register_at_fork(after_in_child=_renew)
