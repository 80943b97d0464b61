"""What a DDFS stands on: the operations of a master, without names' many spellings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from .blobs import Blob
from .sources import Source

__all__ = ["ATTR_READ_TOKEN", "ATTR_URLS", "ATTR_WRITE_TOKEN", "DELETED", "Engine"]

#: Attributes that are parts of the tag object itself.
ATTR_URLS = "ddfs:urls"
ATTR_READ_TOKEN = "ddfs:read-token"
ATTR_WRITE_TOKEN = "ddfs:write-token"
#: What deleting a tag or an attribute answers.
DELETED = "deleted"


class Engine(Protocol):
    """A tag/blob store; tag names come bare and checked, urls checked.

    Raises Unauthorized where the token does not fit, TagNotFound and AttributeNotFound where there
    is nothing, and the other errors of `proxyflow.storage.tagblob.errors` as they apply.
    """

    master: str

    def get(self, name: str, token: str | None) -> dict[str, Any]:
        """Return the tag object a client sees."""
        ...

    def get_attribute(self, name: str, attr: str, token: str | None) -> Any:
        """Return the value of an attribute."""
        ...

    def set_attribute(self, name: str, attr: str, value: Any, token: str | None) -> list[str]:
        """Set an attribute and return the tag object's URLs."""
        ...

    def delete_attribute(self, name: str, attr: str, token: str | None) -> str:
        """Delete an attribute."""
        ...

    def append(
        self,
        name: str,
        urls: list[list[str]],
        token: str | None,
        *,
        update: bool = False,
        delayed: bool = False,
    ) -> list[str]:
        """Put urls before those of the tag and return the tag object's URLs."""
        ...

    def put(
        self,
        name: str,
        urls: list[list[str]],
        token: str | None,
        attributes: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Replace the urls, set attributes, and return the tag object's URLs."""
        ...

    def delete(self, name: str, token: str | None) -> str:
        """Delete the tag."""
        ...

    def names(self, prefix: str) -> list[str]:
        """Return the file names directly in a directory."""
        ...

    def store(
        self, source: Source, replicas: int | None, *, include: Collection[str], retries: int
    ) -> list[str]:
        """Store a blob and return the URLs of its replicas."""
        ...

    def push(
        self,
        name: str,
        sources: Sequence[Source],
        replicas: int | None,
        token: str | None,
        *,
        include: Collection[str],
        retries: int,
        update: bool = False,
    ) -> tuple[list[str], list[list[str]]] | None:
        """Store blobs and append them to a tag in one exchange, which is worth it for small ones.

        Returns the tag object's URLs and the replica sets; ``None``, and nothing done, where there
        is no such exchange.
        """
        ...

    def open(self, urls: list[str]) -> Blob:
        """Return a file for reading."""
        ...

    def close(self) -> None:
        """Give up what is held open."""
        ...
