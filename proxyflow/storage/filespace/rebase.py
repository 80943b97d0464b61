"""Making a client's changes on top of what others published meanwhile; nothing gets lost.

Each change says which version it found. If that is still there it is made as it is; otherwise:

* a file (or link) whose name others gave to something else takes a ``_conflicted`` name, and the
  client's later changes follow it there, unless it was written to replace whatever file is there;
  one that others deleted is created again;
* directories of the same name become one directory;
* removing or moving something others have replaced is given up: theirs stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from .entry import Entry, Kind, new_entry
from .ops import Move, Op, Put, Remove
from .paths import MAX_NAME_BYTES, Parts
from .tree import FILES, STORES, Tree

__all__ = ["Rebase"]

SUFFIX = "_conflicted"


class Rebase:
    """Replays changes on `tree`, edited in place.

    Parameters
    ----------
    tree
        The state to change.
    on_conflict
        Called with the path a change was meant for and the one it took instead.
    """

    def __init__(self, tree: Tree, on_conflict: Callable[[Parts, Parts], None]) -> None:
        self.tree = tree
        self._on_conflict = on_conflict
        self._moved: dict[Parts, Parts] = {}
        self._done: list[Op] = []

    def replay(self, ops: Iterable[Op]) -> list[Op]:
        """Make `ops`; return what they came to: changes that apply to the tree as it was."""
        for op in ops:
            match op:
                case Put():
                    self._put(op)
                case Remove():
                    self._remove(op)
                case Move():
                    self._move(op)
        return self._done

    def _make(self, op: Op) -> None:
        op.apply(self.tree)
        self._done.append(op)

    def _put(self, op: Put) -> None:
        entry = op.entry
        if entry.kind is Kind.EXTERNAL:
            entry = replace(entry, store=self._store_name(op))
        path = self._place(op.path)
        now = self.tree.lookup(path)
        if now is not None and (now.version == entry.version or _merges(now, entry)):
            return
        if now is not None and now.version != op.expect and not _replaces(op, now):
            path, now = self._conflicted(path), None
        expect = now.version if now is not None else None
        self._make(replace(op, path=path, entry=entry, expect=expect))

    def _store_name(self, op: Put) -> str:
        """Return what the data store of an external file is called now, restored if need be."""
        path = self._follow((*STORES, op.entry.store))
        if self.tree.lookup(path) is None and op.store is not None:
            self._make(Put(path, op.store))
        return path[-1]

    def _remove(self, op: Remove) -> None:
        path = self._follow(op.path)
        now = self.tree.lookup(path)
        if now is None or now.version != op.expect or now.children is not None:
            return
        if now.kind is Kind.STORE and self.tree.summary(FILES).get(f"store:{path[-1]}"):
            return
        self._make(replace(op, path=path))

    def _move(self, op: Move) -> None:
        source = self._follow(op.source)
        now = self.tree.lookup(source)
        if now is None or now.id != op.expect:
            return
        target = self._follow(op.target)
        if target[: len(source)] == source:
            return  # it is there by a conflict, or others moved the target's place into it
        target = self._place(op.target)
        if self.tree.lookup(target) is not None:
            target = self._conflicted(target)
        self._make(replace(op, source=source, target=target))

    def _place(self, path: Parts) -> Parts:
        """Return where `path` leads now, its directories made again if others removed them."""
        path = self._follow(path)
        for depth in range(1, len(path)):
            now = self.tree.lookup(path[:depth])
            if now is not None and now.kind is not Kind.DIR:
                path = (*self._conflicted(path[:depth]), *path[depth:])
                now = None
            if now is None:
                self._make(Put(path[:depth], new_entry(Kind.DIR)))
        return path

    def _follow(self, path: Parts) -> Parts:
        for depth in range(len(path), 0, -1):
            moved = self._moved.get(path[:depth])
            if moved is not None:
                return (*moved, *path[depth:])
        return path

    def _conflicted(self, path: Parts) -> Parts:
        """Return a free name for what was meant to be `path`, and send later changes there."""
        count = 1
        while self.tree.lookup(free := (*path[:-1], _name(path[-1], count))) is not None:
            count += 1
        self._moved[path] = free
        self._on_conflict(path, free)
        return free


def _merges(now: Entry, entry: Entry) -> bool:
    """Return whether what is there and what was to be put there are one thing already."""
    if now.kind is not entry.kind:
        return False
    return now.kind is Kind.DIR or (now.kind is Kind.STORE and now.config == entry.config)


def _replaces(op: Put, now: Entry) -> bool:
    """Return whether a file was written to replace whatever file is there."""
    return op.replaces and op.entry.kind is Kind.FILE and now.kind is Kind.FILE


def _name(name: str, count: int) -> str:
    suffix = SUFFIX if count == 1 else f"{SUFFIX}_{count}"
    room = MAX_NAME_BYTES - len(suffix)
    return name.encode()[:room].decode(errors="ignore") + suffix
