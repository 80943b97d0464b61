"""Which waiting message to try next, without listing the directory for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

__all__ = ["Backlog"]

# Listing takes at most a twentieth of a consumer's time: a list is used for so many times as long
# as it took to make. A short list is thus made anew for almost every message.
LIST_USE = 20


class _Listing(NamedTuple):
    names: list[str]  # newest first: taking from the end of a list is cheap
    good_until: float


class Backlog:
    """The waiting messages as one consumer saw them a short while ago, oldest first.

    Consumers that compete try the same names in the same order, and all but one fail at each.
    That costs about 2 µs a try, and less than spreading them over the oldest messages: 8
    consumers on 4 cores take 100,000 messages in the same time either way (1.5 s), so they keep
    the order.

    Threads may share a backlog. Each name is handed to one of them.
    """

    def __init__(self) -> None:
        self._listing = _Listing([], 0.0)

    def take(self, list_names: Callable[[], Iterable[str]]) -> str | None:
        """Return a name worth trying, or ``None`` if nothing is waiting."""
        while True:
            names, good_until = self._listing
            if not names or time.monotonic() >= good_until:
                names = self._list(list_names)
                if not names:
                    return None
            try:
                return names.pop()
            except IndexError:
                # Another thread took the rest meanwhile.
                continue

    def forget(self) -> None:
        """List anew for the next message: older ones are waiting again."""
        self._listing = _Listing([], 0.0)

    def _list(self, list_names: Callable[[], Iterable[str]]) -> list[str]:
        began = time.monotonic()
        names = sorted(list_names(), reverse=True)
        now = time.monotonic()
        self._listing = _Listing(names, now + LIST_USE * (now - began))
        return names
