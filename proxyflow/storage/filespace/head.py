"""The head of a filespace: the one object that changes, and so the one place a sync succeeds.

It names the root node of the metadata and carries, inline, the commits made since that root was
stored (the tail). A small sync writes its contents and the head, nothing else. When the tail has
grown past `TAIL_BYTES` the publishing client stores the nodes and starts an empty tail, so a head
stays small and the cost of a sync depends on what changed, however large the filespace is.

What a commit sets free stays listed (as a grave) until somebody has certainly deleted it, for the
client that published the commit may die before it gets to that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from .entry import check_id
from .errors import HubCorruptError
from .ops import Op, decode_op, encode_op
from .trie import Ref

__all__ = ["Commit", "Grave", "Head"]

FORMAT = 1
TAIL_BYTES = 32 * 1024
RECENT = 128  # transactions remembered, to recognise one's own after a lost answer


@dataclass(frozen=True, slots=True)
class Commit:
    """The changes one sync published."""

    version: int
    txn: str
    ops: tuple[Op, ...]
    body: str = field(repr=False)  # its JSON, made once: the tail is written again by every sync

    @classmethod
    def of(cls, version: int, txn: str, ops: list[Op]) -> Commit:
        """Return the commit of `ops`."""
        body = _dumps({"v": version, "txn": txn, "ops": [encode_op(op) for op in ops]})
        return cls(version, txn, tuple(ops), body)

    @classmethod
    def from_json(cls, value: Any) -> Commit:
        """Return the commit in `value`."""
        ops = tuple(decode_op(op) for op in value["ops"])
        return cls(int(value["v"]), str(value["txn"]), ops, _dumps(value))


@dataclass(frozen=True, slots=True)
class Grave:
    """What the commit `version`, made at `time`, has set free, until it is known to be deleted.

    A long list is stored as a node of its own, `listed`, lest the head grow.
    """

    version: int
    time: float
    contents: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    listed: str = ""

    def to_json(self) -> list[Any]:
        """Return this as JSON."""
        return [self.version, self.time, self.contents, self.nodes, self.listed]

    @classmethod
    def from_json(cls, value: Any) -> Grave:
        """Return what `value`, as JSON, is."""
        version, when, contents, nodes, listed = value
        return cls(
            int(version),
            float(when),
            tuple(check_id(content) for content in contents),
            tuple(check_id(node) for node in nodes),
            check_id(listed) if listed else "",
        )


@dataclass(frozen=True, slots=True)
class Head:
    """One version of a filespace's metadata.

    `base` is the version whose tree the node `root` is the root of; the tail leads from there to
    `version`.
    """

    version: int = 0
    base: int = 0
    root: Ref | None = None
    tail: tuple[Commit, ...] = ()
    graves: tuple[Grave, ...] = ()
    recent: tuple[str, ...] = ()

    @property
    def tail_bytes(self) -> int:
        """How much of the head the tail takes."""
        return sum(len(commit.body) for commit in self.tail)

    def committed(self, txn: str) -> bool:
        """Return whether the transaction `txn` is part of this version."""
        return txn in self.recent

    def following(self, txn: str, ops: list[Op]) -> Head:
        """Return the head after the changes `ops`, its tail grown by one commit."""
        version = self.version + 1
        return replace(
            self,
            version=version,
            tail=(*self.tail, Commit.of(version, txn, ops)),
            recent=(*self.recent, txn)[-RECENT:],
        )

    def folded(self, root: Ref | None) -> Head:
        """Return the head with the stored `root` of its own tree in place of the tail."""
        return replace(self, base=self.version, root=root, tail=())

    def encode(self) -> bytes:
        """Return the head as it is stored, its digest first."""
        facts = {
            "format": FORMAT,
            "version": self.version,
            "base": self.base,
            "root": self.root.to_json() if self.root else None,
            "graves": [grave.to_json() for grave in self.graves],
            "recent": self.recent,
        }
        tail = ",".join(commit.body for commit in self.tail)
        body = (_dumps(facts)[:-1] + f',"tail":[{tail}]}}').encode()
        return _digest(body) + b"\n" + body

    @classmethod
    def decode(cls, data: bytes, where: str) -> Head:
        """Return the head in `data`.

        Raises
        ------
        HubCorruptError
            If it is damaged or of an unknown format; `where` says which head it is.
        """
        digest, _, body = data.partition(b"\n")
        if digest != _digest(body):
            raise HubCorruptError(
                f"the head of {where} is damaged ({len(data)} bytes); restore it from a backup"
            )
        facts = json.loads(body)
        if facts.get("format") != FORMAT:
            raise HubCorruptError(
                f"{where} has the format {facts.get('format')!r}, this version reads {FORMAT}"
            )
        try:
            return cls(
                version=int(facts["version"]),
                base=int(facts["base"]),
                root=Ref.from_json(facts["root"]) if facts["root"] else None,
                tail=tuple(Commit.from_json(value) for value in facts["tail"]),
                graves=tuple(Grave.from_json(value) for value in facts["graves"]),
                recent=tuple(map(str, facts["recent"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise HubCorruptError(f"the head of {where} is of an unknown form") from error


# json.dumps() would make an encoder for each call.
_dumps = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def _digest(data: bytes) -> bytes:
    import xxhash

    return xxhash.xxh3_128_hexdigest(data).encode()
