"""What one client sees: the published state with its own unpublished changes on top."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import replace

from .contents import Contents
from .entry import Entry
from .head import Head
from .hub import Hub
from .journal import Journal
from .models import Conflict
from .ops import Op, Put
from .paths import Parts, join, related
from .rebase import Rebase
from .tree import Tree
from .trie import Node

__all__ = ["View"]

logger = logging.getLogger(__name__)


class View:
    """The published tree, the journal of this client's changes, and the two together.

    Not safe for threads by itself: its client's lock is held around every call.

    Parameters
    ----------
    hub
        Where the published state comes from.
    contents
        This client's pending contents.
    max_age
        For how many seconds a state read from the hub is used without looking again.
    """

    def __init__(self, hub: Hub, contents: Contents, max_age: float) -> None:
        self._hub, self._contents, self._max_age = hub, contents, max_age
        self._checked = 0.0
        self.head = Head(version=-1)
        self.published = Tree()
        self.working = Tree()
        self.journal = Journal()
        self._doubt: tuple[str, list[Op]] = ("", [])
        self.conflicts: list[Conflict] = []

    def fresh(self) -> Tree:
        """Return the working tree, others' changes brought in if the last look is too old."""
        if self.head.version < 0 or time.monotonic() - self._checked >= self._max_age:
            self.refresh()
        return self.working

    def refresh(self, reload: bool = False) -> None:
        """Bring in what others have published; this client's changes stay on top.

        With `reload`, forget the nodes in memory: some of them led to others that are gone.
        """
        checked = time.monotonic()
        head = self._hub.head()
        if head is not self.head:
            self._settle_doubt(head)
        if reload or head is not self.head:
            self.adopt(head, None if reload else self._advanced(head))
        self._checked = checked

    def adopt(self, head: Head, published: Tree | None) -> None:
        """Make `head`, whose tree is `published` if known, the state below the journal."""
        if published is None:
            root = Node.stored(head.root, self._hub.load_node) if head.root else None
            published = Tree(root)
            for commit in head.tail:
                _apply(commit.ops, published)
        working = published.copy()
        conflicts: list[Conflict] = []
        rebase = Rebase(
            working, lambda path, free: conflicts.append(Conflict(_shown(path), _shown(free)))
        )
        journal = Journal(rebase.replay(self.journal))
        working.freed.clear()
        # Nothing is assigned before all of it has worked: a node that is gone raises StaleError
        # halfway, and the next attempt must start from what was there.
        self.head, self.published, self.working, self.journal = head, published, working, journal
        for conflict in conflicts:
            logger.warning("%s: %s", self._hub.label, conflict)
        self.conflicts.extend(conflicts)

    def record(self, ops: Iterable[Op]) -> None:
        """Make changes that are known to be possible; this client sees them from now on."""
        for op in ops:
            op.apply(self.working)
            number = self.journal.append(op)
            # While the next version is still being written the one before stands.
            if not (isinstance(op, Put) and self._contents.being_written(op.entry.content)):
                self._merge(number)
        self.working.freed.clear()

    def completed(self, content: str) -> None:
        """Note that `content`, which had been given a name when it was opened, is complete."""
        number = self.journal.number_of(content)
        if number is None:
            self._contents.discard([content])  # its name was deleted while it was being written
        else:
            self._merge(number)

    def abandon(self, content: str) -> None:
        """Undo the changes that gave a name to `content`, which could not be written whole."""
        kept = [
            op for op in self.journal if not (isinstance(op, Put) and op.entry.content == content)
        ]
        self.journal = Journal(kept)
        self.adopt(self.head, self.published)
        self._contents.discard([content])

    def doubt(self, txn: str, waiting: list[Op]) -> None:
        """Note that nobody knows whether the transaction `txn` was published.

        It made all of the journal but `waiting`. The head will tell when it can be read: published
        changes must not be made again, they would conflict with themselves.
        """
        kept = {id(op) for op in waiting}
        self._doubt = (txn, [op for op in self.journal if id(op) not in kept])

    def _settle_doubt(self, head: Head) -> None:
        (txn, ops), self._doubt = self._doubt, ("", [])
        if head.committed(txn):
            made = {id(op) for op in ops}
            self.journal = Journal(op for op in self.journal if id(op) not in made)
            self._contents.settle(contents_of(ops))

    def _merge(self, number: int) -> None:
        doubted = {id(op) for op in self._doubt[1]}
        content = self.journal.merge(
            number,
            lambda put: (
                self._contents.get(put.entry.content) is not None and id(put) not in doubted
            ),
        )
        if content and not self._contents.being_written(content):
            self._contents.discard([content])

    def sized(self, entry: Entry) -> Entry:
        """Return `entry` with the size and digest its pending content has by now."""
        pending = self._contents.get(entry.content) if entry.content else None
        if pending is None or not pending.streamed:
            return entry
        modified = pending.modified or entry.modified
        size = pending.current_size()
        return replace(entry, modified=modified, size=size, digest=pending.digest)

    def contents_of(self, only: Parts | None) -> list[str]:
        """Return the pending contents a sync (of `only` one path) would publish names for."""
        return contents_of(op for op in self.journal if only is None or op.paths == (only,))

    def select(self, only: Parts | None) -> tuple[list[Op], list[Op]]:
        """Split the journal into what can be published now and what must wait.

        A change waits for its content to be complete, and for changes to related paths that
        wait. With `only`, everything waits that the change of that path does not stand on.
        """
        chosen = self._standing_under(only) if only is not None else None
        ready: list[Op] = []
        waiting: list[Op] = []
        held: list[Parts] = []
        for index, op in enumerate(self.journal):
            if chosen is not None and index not in chosen:
                waiting.append(op)
                continue
            blocked = isinstance(op, Put) and not self._contents.ready(op.entry.content)
            if blocked or any(related(path, other) for path in op.paths for other in held):
                held.extend(op.paths)
                waiting.append(op)
            elif isinstance(op, Put):
                ready.append(replace(op, entry=self.sized(op.entry)))
            else:
                ready.append(op)
        return ready, waiting

    def _standing_under(self, path: Parts) -> set[int]:
        """Return the journal's indices of the changes of `path` and of those they stand on."""
        needed, chosen = [path], set()
        for index, op in reversed(list(enumerate(self.journal))):
            if any(related(one, other) for one in op.paths for other in needed):
                chosen.add(index)
                needed.extend(op.paths)
        return chosen

    def _advanced(self, head: Head) -> Tree | None:
        """Return the tree of `head` if it follows from the one in memory, which keeps its nodes."""
        if self.head.version < 0 or self.head.base != head.base:
            return None
        tree = self.published.copy()
        tree.dropped = list(self.published.dropped)
        for commit in head.tail:
            if commit.version > self.head.version:
                _apply(commit.ops, tree)
        return tree


def contents_of(ops: Iterable[Op]) -> list[str]:
    """Return the contents that `ops` give names to."""
    return [op.entry.content for op in ops if isinstance(op, Put) and op.entry.content]


def _apply(ops: Iterable[Op], tree: Tree) -> None:
    for op in ops:
        op.apply(tree)


def _shown(path: Parts) -> str:
    return join(path[1:])
