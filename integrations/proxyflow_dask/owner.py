"""The client's side of eviction: which tasks need which objects, until the scheduler forgets them.

Only the client knows what it is about to submit, so only the client evicts. The scheduler reports
the tasks it has forgotten (`proxyflow_dask.scheduler`), by number.
"""

from __future__ import annotations

import functools
import itertools
import logging
import pickle
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any, NamedTuple

from proxyflow.connectors.protocol import Key
from proxyflow.connectors.session import new_name
from proxyflow.errors import ProxyflowError
from proxyflow.lifetime import References
from proxyflow.serialize import Payload
from proxyflow.store import Store

__all__ = ["Lease", "Owner", "topic_of"]

logger = logging.getLogger("proxyflow.dask")


def topic_of(session: str) -> str:
    """Return the topic on which the scheduler reports to the owner of a session."""
    return f"proxyflow-{session}"


class Lease:
    """One count of a stored object, shared by the tasks of a submission."""

    __slots__ = ("holders", "key")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.holders = 1


class _Ticket(NamedTuple):
    leases: list[Lease]
    result: Key


class Owner:
    """Owns the session of one client's objects.

    Parameters
    ----------
    store
        Where they are.
    closes
        Whether the store is closed with this owner. One that stays open is somebody else's.
    """

    def __init__(self, store: Store, *, closes: bool = True) -> None:
        self.store = store
        self.closes = closes
        # Not that of the store's session: other owners may use the same store, and count as we do.
        self.session = new_name(10)
        self._references = References(store)
        self._tickets: dict[int, _Ticket] = {}
        self._results: set[Key] = set()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        # Evicting may mean unlinking gigabytes or asking a server: not in the client's event loop.
        self._chores: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._evictor = threading.Thread(
            target=self._do_chores, name="proxyflow-dask-eviction", daemon=True
        )
        self._evictor.start()

    @property
    def topic(self) -> str:
        """The topic on which the scheduler reports to this owner."""
        return topic_of(self.session)

    # -- submitting ----------------------------------------------------------------------------

    def lease(self, value: Any, payload: Payload | None = None) -> Lease:
        """Store a value, which may have been encoded, unless equal content is stored already.

        Raises
        ------
        StoreFullError
            If there is no room.
        """
        return Lease(self._references.acquire(value, payload))

    def issue(self, leases: list[Lease], result: Key) -> int:
        """Return the number of a new task.

        Parameters
        ----------
        leases
            What it needs whenever it runs.
        result
            The key its result is stored under; None if it is not.
        """
        with self._lock:
            for lease in leases:
                lease.holders += 1
            if result is not None:
                self._results.add(result)
            number = next(self._numbers)
            self._tickets[number] = _Ticket(leases, result)
            return number

    def settle(self, leases: Iterable[Lease]) -> None:
        """Give back the hold that making a lease gave; the tasks have theirs now."""
        self._references.release(self._let_go(leases))

    def _let_go(self, leases: Iterable[Lease]) -> list[Key]:
        free = []
        with self._lock:
            for lease in leases:
                lease.holders -= 1
                if lease.holders == 0:
                    free.append(lease.key)
        return free

    # -- being told ----------------------------------------------------------------------------

    def hear(self, event: Any) -> None:
        """Take in a report: called by the client with what was logged under the topic."""
        _, report = event
        if "forgotten" in report:
            self.forget(report["forgotten"])
        elif "stragglers" in report:
            keys = pickle.loads(report["stragglers"])
            self._chores.put(functools.partial(self._evict_stragglers, keys))
        else:
            logger.warning("%s", report["warning"])

    def forget(self, tickets: Iterable[int]) -> None:
        """Evict what only these tasks needed; a number that is not known (any more) is no error."""
        self._chores.put(functools.partial(self._release, list(tickets)))

    def _do_chores(self) -> None:
        while (chore := self._chores.get()) is not None:
            try:
                chore()
            except (ProxyflowError, OSError) as error:
                # It goes with the session at the latest; what is queued must not wait for that.
                logger.warning("an object could not be evicted: %s", error)

    def _release(self, numbers: list[int]) -> None:
        with self._lock:
            tickets = [self._tickets.pop(n) for n in numbers if n in self._tickets]
            results = [ticket.result for ticket in tickets if ticket.result is not None]
            self._results.difference_update(results)
        self._references.release(self._let_go(lease for t in tickets for lease in t.leases))
        for key in results:
            self._references.evict(key)

    def _evict_stragglers(self, keys: list[Key]) -> None:
        """Evict what tasks may have stored after they were forgotten."""
        with self._lock:
            gone = [key for key in keys if key not in self._results]
        for key in gone:
            self._references.evict(key)

    # -- the end -------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return how many tasks may still need something."""
        return len(self._tickets)

    def close(self) -> None:
        """Evict what has been reported, and end the session unless the scheduler holds it."""
        self._chores.put(None)
        if self._evictor is not threading.current_thread():
            self._evictor.join()
        if self.closes:
            self.store.close()
