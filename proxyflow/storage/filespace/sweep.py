"""Deleting what killed clients wrote and never published."""

from __future__ import annotations

from collections.abc import Iterator

from .entry import Kind
from .hub import Hub, Owner
from .ops import Put
from .trie import Node

__all__ = ["sweep"]


def sweep(hub: Hub) -> None:
    """Delete what no head names of everything that dead clients have written.

    Looks at every name of the filespace, but only if a client was killed and has left something.
    """
    for client, lock in Owner.abandoned(hub):
        written = list(hub.written_by(client))
        if written:
            # Read after the client is known to be dead: nothing of it can be published any more.
            named = set(_named(hub))
            for kind, one in written:
                if (kind, one) not in named:
                    hub.delete(kind, [one])
        if lock is not None:
            lock.remove()
            hub.prune(client)
        else:
            hub.blobs.delete([f"{hub.folder}/clients/{client}"])


def _named(hub: Hub) -> Iterator[tuple[str, str]]:
    """Yield kind and identifier of everything the current head leads to, garbage included."""
    head = hub.head()
    for grave in head.graves:
        yield from (("content", one) for one in grave.contents)
        yield from (("nodes", one) for one in (*grave.nodes, grave.listed))
    for commit in head.tail:
        for op in commit.ops:
            if isinstance(op, Put):
                yield "content", op.entry.content
    if head.root is not None:
        yield from _below(Node.stored(head.root, hub.load_node))


def _below(node: Node) -> Iterator[tuple[str, str]]:
    yield from (("nodes", one) for one in node.refs())
    for _, entry in node.items():
        if entry.kind is Kind.FILE:
            yield "content", entry.content
        elif entry.children is not None:
            yield from _below(entry.children)
