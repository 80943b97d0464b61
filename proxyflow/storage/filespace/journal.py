"""The changes a client has made and not yet published, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from .ops import Move, Op, Put, Remove
from .paths import related

__all__ = ["Journal"]


class Journal:
    """An ordered collection of changes in which those to one file are merged.

    A file written twice, or written and deleted, between two syncs is published once or not at
    all; what is left keeps the place of the first, for conflicting names are given in this order.
    """

    def __init__(self, ops: Iterable[Op] = ()) -> None:
        self._ops: dict[int, Op] = {}
        self._next = 0
        self._puts: dict[str, int] = {}  # content -> the change that gives it a name
        self._moves: list[int] = []
        for op in ops:
            self.append(op)

    def __iter__(self) -> Iterator[Op]:
        return iter(self._ops.values())

    def append(self, op: Op) -> int:
        """Add a change; return its number."""
        number, self._next = self._next, self._next + 1
        self._ops[number] = op
        if isinstance(op, Put) and op.entry.content:
            self._puts[op.entry.content] = number
        elif isinstance(op, Move):
            self._moves.append(number)
        return number

    def number_of(self, content: str) -> int | None:
        """Return the number of the change that gives `content` a name."""
        return self._puts.get(content)

    def merge(self, number: int, can_go: Callable[[Put], bool]) -> str | None:
        """Drop the change whose content the one at `number` replaces or deletes.

        `can_go` says whether that one may be dropped. Return the content nobody names any more.
        """
        op = self._ops[number]
        if isinstance(op, Move) or op.expect is None:
            return None
        earlier = self._puts.get(op.expect)
        before = self._ops[earlier] if earlier is not None else None
        if earlier is None or not isinstance(before, Put) or before.path != op.path:
            return None
        if any(self._between(move, earlier, op) for move in self._moves) or not can_go(before):
            return None
        del self._ops[number]
        self._puts.pop(op.expect)
        # Assigning to a key keeps its place in a dict; deleting it first would not.
        if isinstance(op, Put):
            self._ops[earlier] = replace(op, expect=before.expect)
            if op.entry.content:
                self._puts[op.entry.content] = earlier
        elif before.expect is not None:
            self._ops[earlier] = Remove(op.path, before.expect)
        else:
            del self._ops[earlier]
        return before.entry.content

    def _between(self, move: int, earlier: int, op: Put | Remove) -> bool:
        return move > earlier and any(related(path, op.path) for path in self._ops[move].paths)
