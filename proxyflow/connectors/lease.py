"""Keeping a session alive where no lock reaches: the owner says so, again and again."""

from __future__ import annotations

import os
from collections.abc import Callable
from weakref import WeakMethod, WeakSet

from proxyflow.errors import StoreError
from proxyflow.periodic import Periodic

__all__ = ["LEASE", "Lease"]

LEASE = 900.0
"""Seconds for which an owner that has not said so counts as alive: long, since what is removed by
mistake is worse than what is kept too long, and the clocks of hosts differ."""

_EVERY = 60.0


class Lease:
    """What an owner does to be taken for alive.

    Parameters
    ----------
    renew
        A method that says so; not kept alive by this.
    """

    def __init__(self, renew: Callable[[], None]) -> None:
        self._renew = WeakMethod(renew)
        self._pid = 0

    @property
    def held(self) -> bool:
        """Whether this process has started it and not stopped it."""
        return self._pid == os.getpid()

    def start(self) -> None:
        """Renew it from now on."""
        self._pid = os.getpid()
        _held.add(self)

    def stop(self) -> None:
        """Renew it no more."""
        self._pid = 0
        _held.discard(self)

    def renew(self) -> None:
        """Renew it once."""
        method = self._renew()
        if method is not None and self.held:
            method()


class _Held:
    """The leases of this process, renewed while there are any."""

    def __init__(self) -> None:
        self._leases: WeakSet[Lease] = WeakSet()
        self._renewal = Periodic("proxyflow-lease-renewal", _EVERY, self._renew)
        os.register_at_fork(after_in_child=self._leases.clear)

    def add(self, lease: Lease) -> None:
        self._leases.add(lease)
        self._renewal.ensure_running()

    def discard(self, lease: Lease) -> None:
        self._leases.discard(lease)

    def _renew(self) -> bool:
        for lease in list(self._leases):
            try:
                lease.renew()
            except StoreError:
                # A store that does not answer now is asked again; the lease is long.
                continue
        return bool(self._leases)


_held = _Held()
