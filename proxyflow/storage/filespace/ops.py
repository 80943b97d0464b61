"""The changes a client makes: what its journal, and later a commit, consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from .codec import decode_entry, encode_entry
from .entry import Entry
from .errors import HubCorruptError
from .paths import Parts
from .tree import Tree
from .trie import Node

__all__ = ["Move", "Op", "Put", "Remove", "decode_op", "encode_op"]


@dataclass(frozen=True, slots=True)
class Put:
    """Set `path` to `entry`, where the client found `expect` (a version, ``None``: nothing).

    `store` is the data store an external file needs, should another client have removed it. With
    `replaces` the entry takes the place of a file that others have put there meanwhile.
    """

    path: Parts
    entry: Entry
    expect: str | None = None
    store: Entry | None = None
    replaces: bool = False

    @property
    def paths(self) -> tuple[Parts, ...]:
        """The paths this changes."""
        return (self.path,)

    def apply(self, tree: Tree) -> None:
        """Make the change to `tree`."""
        tree.put(self.path, self.entry)


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove `path`, where the client found the version `expect`."""

    path: Parts
    expect: str

    @property
    def paths(self) -> tuple[Parts, ...]:
        """The paths this changes."""
        return (self.path,)

    def apply(self, tree: Tree) -> None:
        """Make the change to `tree`."""
        tree.remove(self.path)


@dataclass(frozen=True, slots=True)
class Move:
    """Rename `source`, the entry with the identifier `expect`, to `target`."""

    source: Parts
    target: Parts
    expect: str

    @property
    def paths(self) -> tuple[Parts, ...]:
        """The paths this changes."""
        return (self.source, self.target)

    def apply(self, tree: Tree) -> None:
        """Make the change to `tree`."""
        tree.move(self.source, self.target)


Op: TypeAlias = Put | Remove | Move


def encode_op(op: Op) -> list[Any]:
    """Return `op` as JSON, without what only its author needs."""
    match op:
        case Put():
            return ["put", op.path, encode_entry(op.entry)]
        case Remove():
            return ["remove", op.path, op.expect]
        case Move():
            return ["move", op.source, op.target, op.expect]


def decode_op(value: Any) -> Op:
    """Return the change in `value`; raises `HubCorruptError` if it is none."""
    try:
        match value:
            case ["put", path, entry]:
                return Put(_parts(path), decode_entry(entry, _no_children))
            case ["remove", path, expect]:
                return Remove(_parts(path), str(expect))
            case ["move", source, target, expect]:
                return Move(_parts(source), _parts(target), str(expect))
    except TypeError as error:
        raise HubCorruptError(f"the hub holds a change of an unknown form: {value!r}") from error
    raise HubCorruptError(f"the hub holds a change of an unknown form: {value!r}")


def _parts(value: Any) -> Parts:
    parts = tuple(value)
    if not parts or not all(
        isinstance(name, str) and name not in ("", ".", "..") for name in parts
    ):
        raise TypeError("not a path")
    return parts


def _no_children(value: Any) -> Node:
    raise HubCorruptError(f"a change brings a directory with nodes of its own: {value!r}")
