"""A persistent map from names to entries, kept in the hub as small immutable nodes.

Changing one name of 100,000 copies the few nodes on the way to it and leaves the others shared
with the version before: that is why a sync costs what changed, and why a snapshot (the private
view of a client) costs nothing. A leaf holds up to `LEAF_MAX` entries; a fuller one becomes a
branch that spreads its names over 64 children by 6 bits of their hash per level.

Nodes are loaded when first needed. Their identifiers are unique rather than content hashes:
a node deleted as garbage must never come back to life because equal content was written again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from .codec import decode_entry, encode_entry
from .entry import Entry, Summary, check_id, combine, contribution
from .errors import HubCorruptError

__all__ = ["Node", "Ref", "insert", "store"]

LEAF_MAX = 64
LEAF_MERGE = 24  # well below LEAF_MAX, so that one name going in and out does not flip the shape
BITS = 6

Loader = Callable[[str], bytes]
"""Reads the node of an identifier from the hub."""


@dataclass(frozen=True, slots=True)
class Ref:
    """Where a stored node is, how to verify it, and the counters that spare loading it."""

    id: str
    digest: str
    count: int
    summary: Summary

    def to_json(self) -> list[Any]:
        """Return this as JSON."""
        return [self.id, self.digest, self.count, dict(self.summary)]

    @classmethod
    def from_json(cls, value: Any) -> Ref:
        """Return what `value`, as JSON, is."""
        node_id, digest, count, summary = value
        return cls(
            check_id(node_id), str(digest), int(count), {str(k): int(v) for k, v in summary.items()}
        )


class Node:
    """One immutable node: a leaf of entries or a branch of nodes; `ref` once it is stored."""

    __slots__ = ("_children", "_entries", "_load", "count", "ref", "summary")

    def __init__(
        self,
        count: int,
        summary: Summary,
        *,
        entries: dict[str, Entry] | None = None,
        children: dict[int, Node] | None = None,
        ref: Ref | None = None,
        load: Loader | None = None,
    ) -> None:
        self.count = count
        self.summary = summary
        self.ref = ref
        self._entries = entries
        self._children = children
        self._load = load

    @classmethod
    def stored(cls, ref: Ref, load: Loader) -> Node:
        """Return the node at `ref`, to be loaded when it is first looked into."""
        return cls(ref.count, ref.summary, ref=ref, load=load)

    @classmethod
    def leaf(cls, entries: dict[str, Entry]) -> Node:
        """Return an unstored leaf."""
        summary: Summary = {}
        for entry in entries.values():
            summary = combine(summary, contribution(entry))
        return cls(len(entries), summary, entries=entries)

    @property
    def entries(self) -> dict[str, Entry] | None:
        """The entries of a leaf, ``None`` for a branch."""
        self._ensure_loaded()
        return self._entries

    @property
    def children(self) -> dict[int, Node]:
        """The children of a branch."""
        self._ensure_loaded()
        return self._children or {}

    def get(self, name: str) -> Entry | None:
        """Return the entry under `name`."""
        node: Node | None = self
        bits = _hash(name)
        while node is not None:
            entries = node.entries
            if entries is not None:
                return entries.get(name)
            node = node.children.get(bits & 63)
            bits >>= BITS
        return None

    def items(self) -> Iterator[tuple[str, Entry]]:
        """Yield every name directly in this map with its entry, in no particular order."""
        entries = self.entries
        if entries is not None:
            yield from entries.items()
        else:
            for child in self.children.values():
                yield from child.items()

    def refs(self) -> Iterator[str]:
        """Yield the identifiers of the stored nodes of this map, not of directories in it."""
        if self.ref is not None:
            yield self.ref.id
        if self.entries is None:
            for child in self.children.values():
                yield from child.refs()

    def _ensure_loaded(self) -> None:
        if self._entries is not None or self._children is not None:
            return
        assert self.ref is not None
        assert self._load is not None
        data = self._load(self.ref.id)
        if _digest(data) != self.ref.digest:
            raise HubCorruptError(f"metadata node {self.ref.id} does not match its digest")
        kind, body = json.loads(data)
        # Assigned in one step each, so that a thread that finds the attribute finds it complete.
        if kind == "leaf":
            self._entries = {name: decode_entry(value, self._node) for name, value in body.items()}
        else:
            self._children = {int(digit): self._node(value) for digit, value in body.items()}

    def _node(self, value: Any) -> Node:
        assert self._load is not None
        return Node.stored(Ref.from_json(value), self._load)


def insert(node: Node | None, name: str, entry: Entry | None, dropped: list[str]) -> Node | None:
    """Return the map with `name` set to `entry`, or without it if `entry` is ``None``.

    Identifiers of stored nodes that the new map no longer uses are appended to `dropped`.
    """
    if node is None:
        return None if entry is None else Node.leaf({name: entry})
    old = node.get(name)
    if old is None and entry is None:
        return node
    delta: Summary = contribution(entry) if entry is not None else {}
    if old is not None:
        delta = combine(delta, contribution(old), -1)
    change = (entry is not None) - (old is not None)
    return _insert(node, name, entry, dropped, 0, delta, change)


def _insert(
    node: Node,
    name: str,
    entry: Entry | None,
    dropped: list[str],
    level: int,
    delta: Summary,
    change: int,
) -> Node | None:
    if node.ref is not None:
        dropped.append(node.ref.id)
    count, summary = node.count + change, combine(node.summary, delta)
    if count == 0:
        return None
    if node.entries is not None:
        entries = dict(node.entries)
        if entry is None:
            del entries[name]
        else:
            entries[name] = entry
        if len(entries) > LEAF_MAX:
            return _split(entries, level)
        return Node(count, summary, entries=entries)
    children = dict(node.children)
    digit = (_hash(name) >> (BITS * level)) & 63
    child = children.get(digit)
    if child is None:
        assert entry is not None
        grown: Node | None = Node.leaf({name: entry})
    else:
        grown = _insert(child, name, entry, dropped, level + 1, delta, change)
    if grown is None:
        del children[digit]
    else:
        children[digit] = grown
    branch = Node(count, summary, children=children)
    return _merge(branch, dropped) if count <= LEAF_MERGE else branch


def _split(entries: dict[str, Entry], level: int) -> Node:
    groups: dict[int, dict[str, Entry]] = {}
    for name, entry in entries.items():
        groups.setdefault((_hash(name) >> (BITS * level)) & 63, {})[name] = entry
    children = {
        digit: Node.leaf(group) if len(group) <= LEAF_MAX else _split(group, level + 1)
        for digit, group in groups.items()
    }
    summary: Summary = {}
    for child in children.values():
        summary = combine(summary, child.summary)
    return Node(len(entries), summary, children=children)


def _merge(branch: Node, dropped: list[str]) -> Node:
    entries = dict(branch.items())
    dropped.extend(branch.refs())
    return Node(branch.count, branch.summary, entries=entries)


def store(node: Node, write: Callable[[bytes], str], load: Loader) -> Node:
    """Return `node` with every unstored node at and below it handed to `write`, children first.

    `write` returns the identifier it gives to the node.
    """
    if node.ref is not None:
        return node
    entries, children = node.entries, None
    if entries is not None:
        entries = {name: _store_entry(entry, write, load) for name, entry in entries.items()}
        body: Any = ["leaf", {name: encode_entry(entry) for name, entry in entries.items()}]
    else:
        children = {digit: store(child, write, load) for digit, child in node.children.items()}
        refs = {digit: child.ref for digit, child in children.items()}
        body = ["branch", {digit: ref.to_json() for digit, ref in refs.items() if ref}]
    data = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    ref = Ref(write(data), _digest(data), node.count, node.summary)
    return Node(node.count, node.summary, entries=entries, children=children, ref=ref, load=load)


def _store_entry(entry: Entry, write: Callable[[bytes], str], load: Loader) -> Entry:
    if entry.children is None or entry.children.ref is not None:
        return entry
    return replace(entry, children=store(entry.children, write, load))


def _hash(name: str) -> int:
    # Not Python's hash(): the shape must be the same in every process.
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")


def _digest(data: bytes) -> str:
    import xxhash

    return xxhash.xxh3_128_hexdigest(data)
