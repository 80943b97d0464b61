"""Deleting what commits have set free: when it is safe, and so that a crash forgets nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

from .entry import check_id
from .head import Grave, Head
from .hub import Hub

__all__ = ["bury", "laid_out", "ripe", "without_buried"]

GRACE = 60.0
"""For how many seconds others may still read what the head no longer names.

They need not notice: one that finds a node or a content gone reads the head again.
"""

INLINE = 256


def laid_out(
    head: Head, contents: list[str], nodes: list[str], write: Callable[[bytes], str]
) -> Head:
    """Return `head` that also lists what its last commit sets free; a long list goes elsewhere.

    `write` stores that, as a node, and returns the identifier.
    """
    if not contents and not nodes:
        return head
    grave = Grave(head.version, time.time(), tuple(contents), tuple(nodes))
    if len(contents) + len(nodes) > INLINE:
        listed = write(json.dumps([contents, nodes]).encode())
        grave = Grave(head.version, grave.time, listed=listed)
    return replace(head, graves=(*head.graves, grave))


def without_buried(head: Head, versions: set[int]) -> Head:
    """Return `head` without the contents this client has deleted after its commits `versions`."""
    graves = [
        replace(grave, contents=()) if grave.version in versions else grave for grave in head.graves
    ]
    left = tuple(grave for grave in graves if grave.contents or grave.nodes or grave.listed)
    return replace(head, graves=left)


def ripe(head: Head, now: bool) -> list[Grave]:
    """Return the graves whose contents and nodes can be deleted: all of them, if `now`."""
    limit = time.time() - GRACE
    return [grave for grave in head.graves if now or grave.time < limit]


def bury(hub: Hub, graves: list[Grave]) -> None:
    """Delete what `graves` list; having been deleted before is no error."""
    for grave in graves:
        contents, nodes = list(grave.contents), list(grave.nodes)
        data = hub.blobs.read(hub.name("nodes", grave.listed)) if grave.listed else None
        if data is not None:
            more_contents, more_nodes = json.loads(data)
            contents += map(check_id, more_contents)
            nodes += map(check_id, more_nodes)
        hub.delete("content", contents)
        hub.delete("nodes", nodes)
        if grave.listed:
            # Last, so that a crash on the way leaves the list for whoever tries again.
            hub.delete("nodes", [grave.listed])
