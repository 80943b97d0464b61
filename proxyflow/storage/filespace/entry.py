"""What the hub knows of one name: a file, a directory, a symbolic link, a data store."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from .errors import HubCorruptError

if TYPE_CHECKING:
    from .trie import Node

__all__ = ["Entry", "Kind", "Summary", "check_id", "combine", "contribution", "new_entry", "new_id"]

Summary = Mapping[str, int]
"""Additive counters of everything below a node; how statistics stay cheap."""

_OBJECT_ID = re.compile(r"[0-9a-f]{32}-[0-9a-f]{1,12}\Z")


class Kind(StrEnum):
    """What an entry is."""

    FILE = "file"
    DIR = "dir"
    LINK = "link"
    EXTERNAL = "external"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name's metadata; immutable, a change makes a new one.

    `content` names the immutable content object of a file; two versions of a file never share
    one, which is what lets a conflict be seen and a replaced content be deleted without counting.
    """

    id: str
    kind: Kind
    created: int
    modified: int
    size: int = 0
    content: str = ""
    digest: str = ""
    target: str = ""
    store: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    children: Node | None = None

    @property
    def version(self) -> str:
        """What changes whenever somebody replaces what is under the name."""
        if self.kind is Kind.STORE:
            return self.digest or self.id
        return self.content or self.id


def new_id() -> str:
    """Return an identifier nobody else has."""
    return uuid.uuid4().hex


def new_entry(kind: Kind, **facts: Any) -> Entry:
    """Return a new entry created now."""
    now = facts.pop("created", None) or time.time_ns()
    return Entry(id=new_id(), kind=kind, created=now, modified=now, **facts)


def check_id(value: object) -> str:
    """Return `value` if it names an object as a client does; what is in a hub is not trusted."""
    if not isinstance(value, str) or not _OBJECT_ID.match(value):
        raise HubCorruptError(f"the hub names an object {value!r}, which no client does")
    return value


def contribution(entry: Entry) -> dict[str, int]:
    """Return what `entry`, with all below it, adds to the counters of its directory."""
    match entry.kind:
        case Kind.FILE:
            return {"files": 1, "bytes": entry.size}
        case Kind.EXTERNAL:
            return {"externals": 1, "external_bytes": entry.size, f"store:{entry.store}": 1}
        case Kind.DIR:
            below = entry.children.summary if entry.children is not None else {}
            return combine({"dirs": 1}, below)
        case Kind.LINK:
            return {"links": 1}
        case Kind.STORE:
            return {"stores": 1}


def combine(one: Summary, other: Summary, sign: int = 1) -> dict[str, int]:
    """Return the sum (or difference) of two counters without the zeros."""
    total = dict(one)
    for name, value in other.items():
        total[name] = total.get(name, 0) + sign * value
    return {name: value for name, value in total.items() if value}
