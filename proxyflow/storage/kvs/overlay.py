"""Changes that are collected over a picture of the tree before they are applied in one go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from proxyflow.storage.kvs.entries import Directory, Entry, Value

__all__ = ["Overlay", "Parts"]

Parts = Sequence[Sequence[memoryview]]


class Overlay:
    """Staged entries, by directory.

    What was staged below a directory is forgotten when the directory itself is replaced: nothing
    could ever reach it.

    Parameters
    ----------
    base
        Returns the entry that a directory holds under a name without the changes.
    """

    def __init__(self, base: Callable[[Directory, bytes], Entry | None]) -> None:
        self._base = base
        self._staged: defaultdict[Directory, dict[bytes, Entry | None]] = defaultdict(dict)
        self._parts: dict[bytes, Parts] = {}
        # Made here, so the base has nothing in them and need not be asked.
        self._made: set[Directory] = set()
        # Directories that were walked through: to find all below one, and not to ask again.
        self._entered: defaultdict[Directory, dict[bytes, Directory]] = defaultdict(dict)

    def entry(self, directory: Directory, name: bytes) -> Entry | None:
        """Return the staged entry, or else the one of the base."""
        staged = self._staged.get(directory)
        if staged is not None and name in staged:
            return staged[name]
        if directory in self._made:
            return None
        entered = self._entered[directory].get(name)
        if entered is not None:
            return entered
        entry = self._base(directory, name)
        if isinstance(entry, Directory):
            self._entered[directory][name] = entry
        return entry

    def link(self, directory: Directory, name: bytes, entry: Entry, parts: Parts = ()) -> None:
        """Stage an entry; a directory is a new one."""
        self._replace(directory, name, entry)
        if isinstance(entry, Directory):
            self._entered[directory][name] = entry
            self._made.add(entry)
        elif isinstance(entry, Value) and parts:
            self._parts[entry.identity] = parts

    def remove(self, directory: Directory, name: bytes) -> None:
        """Stage that there is no entry."""
        self._replace(directory, name, None)

    def _replace(self, directory: Directory, name: bytes, entry: Entry | None) -> None:
        old = self._staged[directory].get(name)
        if isinstance(old, Value):
            self._parts.pop(old.identity, None)
        below = self._entered[directory].pop(name, None)
        if below is not None:
            self._forget(below)
        self._staged[directory][name] = entry

    def _forget(self, directory: Directory) -> None:
        # No recursion: directories may be nested by the thousand.
        pending = [directory]
        while pending:
            unreachable = pending.pop()
            pending.extend(self._entered.pop(unreachable, {}).values())
            for entry in self._staged.pop(unreachable, {}).values():
                if isinstance(entry, Value):
                    self._parts.pop(entry.identity, None)

    def changes(self) -> Iterator[tuple[Directory, dict[bytes, Entry | None]]]:
        """Yield what is to be written to each directory: an entry, or ``None`` to remove."""
        for directory, staged in self._staged.items():
            if staged:
                yield directory, staged

    def parts(self) -> Iterator[tuple[bytes, Parts]]:
        """Yield the values that need parts of their own, by identity."""
        yield from self._parts.items()

    def is_empty(self) -> bool:
        """Tell whether nothing is staged."""
        return not any(self._staged.values())
