"""Running a proxy's factory once, however many threads ask.

The first thread to ask for a target takes off: it calls the factory. The others wait for it to land
and look again. No proxy carries a lock for this; a flight exists only while a factory runs.
"""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable

from proxyflow.errors import ProxyflowError

__all__ = ["forget_other_threads", "single_flight"]


class _Flight:
    """One thread running the factory of one proxy."""

    __slots__ = ("aloft", "landed", "pilot")

    def __init__(self) -> None:
        self.aloft = True
        self.pilot = _thread.get_ident()
        # Held until landing, and only its pilot can let it go, so that doing so twice takes it from
        # nobody who has waited. `_thread` because a flight needs nothing more, and `threading` is
        # not otherwise imported.
        self.landed = _thread.RLock()
        self.landed.acquire()


# The flight of each proxy being resolved, by its id (the proxy is alive, its caller holds it), and
# the flight each waiting thread waits for. There is no lock around them: a lock here could be
# asked for again by the thread that holds it, from a finalizer or a signal handler that touches a
# proxy. `setdefault` is atomic and decides who flies.
_flights: dict[int, _Flight] = {}
_waiting: dict[int, _Flight] = {}


def single_flight(subject: object, landed: Callable[[], bool], fly: Callable[[], None]) -> None:
    """Return when ``landed()`` is true, having called ``fly()`` in one thread at a time.

    Parameters
    ----------
    subject
        What is being resolved; told from others by identity.
    landed
        Whether it has been.
    fly
        Resolves it. What it raises reaches the caller in whose thread it ran; the threads that
        waited try again themselves, one after the other.

    Raises
    ------
    ProxyflowError
        If waiting would never end: ``fly`` has asked for its own subject, in this thread or
        through other threads that wait for each other.
    """
    key = id(subject)
    while not landed():
        mine = _Flight()
        try:
            current = _flights.setdefault(key, mine)
            if current is mine:
                if not landed():  # another thread may have landed just before the line above
                    fly()
                return
        finally:
            try:
                _land(key, mine)
            except BaseException:
                _land(key, mine)  # a signal handler has raised in the middle of the first
                raise
        _wait(current)


def _land(key: int, flight: _Flight) -> None:
    """End a flight, also one that has ended, in part or altogether."""
    if _flights.get(key) is flight:
        del _flights[key]
    # Python runs signal handlers after a call, and there is none between the next two lines: a
    # handler there that waits for somebody who waits for this flight would not be told so.
    try:
        flight.aloft = False
        flight.landed.release()
    except RuntimeError:
        pass  # it was released before


def _wait(flight: _Flight) -> None:
    me = _thread.get_ident()
    # Announced before looking: of two threads that close a circle, at least one sees the other.
    _waiting[me] = flight
    try:
        following: _Flight | None = flight
        # A thread whose flight has landed may still be listed as waiting for it.
        while following is not None and following.aloft:
            if following.pilot == me:
                raise ProxyflowError(
                    "a factory has asked for the target of its own proxy, which it is to make",
                    remedy="let the factory use what it needs directly, not through the proxy",
                )
            following = _waiting.get(following.pilot)
        with flight.landed:
            pass
    finally:
        _waiting.pop(me, None)  # a signal handler that waited too has removed it already


def forget_other_threads() -> None:
    """Forget, in a forked child, the flights of threads that exist only in the parent."""
    me = _thread.get_ident()
    for key, flight in list(_flights.items()):
        if flight.pilot != me:
            del _flights[key]
    _waiting.clear()


os.register_at_fork(after_in_child=forget_other_threads)
