"""What several calls of a map get one after the other: stored, and read to be compared, once."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from proxyflow.connectors.protocol import Key
from proxyflow.lifetime import References

__all__ = ["Repeats", "run_no_code"]

# Taking an item from one of these runs nobody's code.
_STILL = (list, tuple, range, itertools.repeat, itertools.count)


def run_no_code(iterables: Iterable[Any]) -> bool:
    """Return whether nothing can change an object between two items of these iterables.

    A generator may write to the array that it yielded before, and yield it again.

    Examples
    --------
    >>> run_no_code([[1, 2], range(2)]), run_no_code([iter([1, 2])])
    (True, False)
    """
    return all(type(each) in _STILL for each in iterables)


class Repeats:
    """Counts the objects of a map's calls, as `References` does, and reads each only once.

    Whether a large object is the one that the call before got is told by its identity, not by its
    content: it takes no reading, and what is changed in the meantime, by whoever takes results from
    the map, does not change what the rest of the map gets.

    Parameters
    ----------
    references
        Of the store the objects go to.
    carried
        Keys of what the function of all calls carries, counted for the map.

    Examples
    --------
    >>> from proxyflow import Store
    >>> with Store("memory://") as store:
    ...     repeats, text = Repeats(store.references), "text"
    ...     keys = []
    ...     for _ in range(3):
    ...         keys.append(repeats.acquire(text))
    ...         repeats.end_call()
    ...     store.stats["put"].count, len(set(keys))
    (1, 1)
    """

    def __init__(self, references: References, carried: Sequence[Key] = ()) -> None:
        self._references = references
        self._carried = list(carried)
        # By identity; the objects are kept beside it, as an id is only unique while they live.
        self._held: dict[int, tuple[Any, Key]] = {}
        self._called: set[int] = set()
        # The map may be dropped at any time; its tasks hold what they need themselves.
        self.close = weakref.finalize(self, _release, references, self._held, self._carried)
        """Let go of everything; called a second time, it does nothing."""

    def begin_call(self) -> bool:
        """Count what the function carries once more, for a call; False when that has been let go.

        A map may be asked for more when its executor has been shut down.
        """
        if not self.close.alive:
            return False
        self._references.retain(self._carried)
        return True

    def acquire(self, obj: Any) -> Key:
        """Store an object unless the call before got it; return its key, counted once more.

        Raises
        ------
        StoreFullError
            If there is no room.
        """
        if not self.close.alive:
            # Nobody would let go of it.
            return self._references.acquire(obj)
        held = self._held.get(id(obj))
        if held is None:
            held = self._held[id(obj)] = (obj, self._references.acquire(obj))
        self._called.add(id(obj))
        self._references.retain([held[1]])
        return held[1]

    def release(self, keys: Iterable[Key]) -> None:
        """Give back what was acquired."""
        self._references.release(keys)

    def end_call(self) -> None:
        """Let go of what the call that was just made did not get."""
        gone = [self._held.pop(each)[1] for each in self._held.keys() - self._called]
        self._called.clear()
        if gone:
            self._references.release(gone)


def _release(references: References, held: dict[int, tuple[Any, Key]], carried: list[Key]) -> None:
    references.release([*carried, *(key for _, key in held.values())])
    held.clear()
