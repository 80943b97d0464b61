"""Entries as JSON, as they stand in the nodes and the commits of a hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .entry import Entry, Kind, check_id
from .errors import HubCorruptError

if TYPE_CHECKING:
    from .trie import Node

__all__ = ["decode_entry", "encode_entry"]

_TEXTS = {"c": "content", "h": "digest", "t": "target", "s": "store"}


def encode_entry(entry: Entry) -> list[Any]:
    """Return `entry` as JSON; the children of a directory must have been stored."""
    facts: dict[str, Any] = {key: getattr(entry, name) for key, name in _TEXTS.items()}
    facts = {key: text for key, text in facts.items() if text}
    if entry.config:
        facts["k"] = dict(entry.config)
    if entry.children is not None:
        assert entry.children.ref is not None
        facts["n"] = entry.children.ref.to_json()
    return [entry.kind.value, entry.id, entry.created, entry.modified, entry.size, facts]


def decode_entry(value: Any, node: Callable[[Any], Node]) -> Entry:
    """Return the entry in `value`; `node` turns the reference to its children into a node.

    Raises
    ------
    HubCorruptError
        If `value` is not an entry: the hub may be written by others.
    """
    try:
        kind, entry_id, created, modified, size, facts = value
        texts = {name: str(facts.get(key, "")) for key, name in _TEXTS.items()}
        entry = Entry(
            id=str(entry_id),
            kind=Kind(kind),
            created=int(created),
            modified=int(modified),
            size=int(size),
            config=dict(facts.get("k", {})),
            children=node(facts["n"]) if "n" in facts else None,
            **texts,
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise HubCorruptError(f"the hub holds an entry of an unknown form: {value!r}") from error
    if entry.content:
        check_id(entry.content)
    return entry
