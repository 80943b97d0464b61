"""The metadata of a filespace as a tree of names: an immutable root and cheap edits of it.

Two directories stand at the top: ``files``, what the file system shows, and ``stores``, the data
stores; so data stores are published, merged and kept free of conflicts as files are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .entry import Entry, Kind, Summary
from .errors import HubCorruptError
from .paths import Parts, join
from .trie import Node, insert

__all__ = ["FILES", "STORES", "Tree"]

FILES: Parts = ("files",)
STORES: Parts = ("stores",)


class Tree:
    """A root and what editing it has set free: contents no name holds, nodes no version needs."""

    __slots__ = ("dropped", "freed", "root")

    def __init__(self, root: Node | None = None) -> None:
        self.root = root
        self.freed: list[str] = []
        self.dropped: list[str] = []

    def copy(self) -> Tree:
        """Return a tree with the same root whose edits leave this one alone; costs nothing."""
        return Tree(self.root)

    def lookup(self, path: Parts) -> Entry | None:
        """Return the entry at `path`; symbolic links are not followed."""
        node, entry = self.root, None
        for name in path:
            entry = node.get(name) if node is not None else None
            if entry is None:
                return None
            node = entry.children
        return entry

    def is_dir(self, path: Parts) -> bool:
        """Return whether `path` is a directory."""
        entry = self.lookup(path)
        return entry is not None and entry.kind is Kind.DIR

    def items(self, path: Parts) -> list[tuple[str, Entry]]:
        """Return the names in the directory `path` with their entries, sorted."""
        entry = self.lookup(path)
        if entry is None or entry.children is None:
            return []
        return sorted(entry.children.items(), key=lambda item: item[0])

    def walk(self, path: Parts, counter: str | None = None) -> Iterator[tuple[Parts, Entry]]:
        """Yield everything below `path`, parents first.

        With `counter`, directories in whose summary that counter is zero are not looked into.
        """
        for name, entry in self.items(path):
            here = (*path, name)
            yield here, entry
            if entry.children is not None and (not counter or entry.children.summary.get(counter)):
                yield from self.walk(here, counter)

    def summary(self, path: Parts) -> Summary:
        """Return the counters of everything below the directory `path`."""
        entry = self.lookup(path)
        return entry.children.summary if entry is not None and entry.children is not None else {}

    def put(self, path: Parts, entry: Entry) -> None:
        """Set `path` to `entry`; its directory must exist."""
        old = self.lookup(path)
        if old is not None and old.content and old.content != entry.content:
            self.freed.append(old.content)
        self.root = self._set(self.root, path, entry)

    def remove(self, path: Parts) -> None:
        """Remove the file, link, data store or empty directory at `path`."""
        old = self._existing(path)
        if old.children is not None:
            raise HubCorruptError(f"a commit removes {join(path[1:])}, which is not empty")
        if old.content:
            self.freed.append(old.content)
        self.root = self._set(self.root, path, None)

    def move(self, source: Parts, target: Parts) -> None:
        """Give the entry at `source`, with all below it, the name `target`; moves no nodes."""
        entry = self._existing(source)
        self.root = self._set(self.root, source, None)
        self.root = self._set(self.root, target, entry)

    def _existing(self, path: Parts) -> Entry:
        entry = self.lookup(path)
        if entry is None:
            raise HubCorruptError(f"a commit changes {join(path[1:])}, which does not exist")
        return entry

    def _set(self, node: Node | None, path: Parts, entry: Entry | None) -> Node | None:
        name, rest = path[0], path[1:]
        if not rest:
            return insert(node, name, entry, self.dropped)
        parent = node.get(name) if node is not None else None
        if parent is None or parent.kind is not Kind.DIR:
            raise HubCorruptError(f"a commit changes something below {name!r}, not a directory")
        changed = replace(parent, children=self._set(parent.children, rest, entry))
        return insert(node, name, changed, self.dropped)
