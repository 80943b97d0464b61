"""The tag object: what one version of a tag holds and how it lies on a volume.

A stored version is three lines: a checksum of the rest, a JSON header, and the urls as JSON. The
urls stand last and apart so that an append joins two byte strings instead of parsing a list that
may have many thousands of entries. A deleted tag is a version too, the tombstone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeGuard

import xxhash

from .errors import InvalidAttribute, InvalidUrls, ServerError, Unauthorized
from .names import object_name, url_key
from .tokens import hash_token, verify_token

__all__ = [
    "MAX_ATTRIBUTES",
    "MAX_ATTRIBUTE_NAME",
    "MAX_ATTRIBUTE_VALUE",
    "TOMBSTONE",
    "DamagedTag",
    "TagObject",
    "check_attribute",
    "check_urls",
    "encode_urls",
]

MAX_ATTRIBUTE_NAME = 1024
MAX_ATTRIBUTE_VALUE = 4096
MAX_ATTRIBUTES = 1000

#: The stored form of "deleted". Shorter than any live version, so that a listing tells them apart;
#: not empty, because a power cut can leave an empty file behind.
TOMBSTONE = b"deleted\n"

Access = Literal["read", "write"]

# json.dumps with separators makes an encoder each time.
_to_json = json.JSONEncoder(separators=(",", ":")).encode


class DamagedTag(ServerError):  # noqa: N818 - as in errors.py
    """Bytes that are no tag object; the catalogue says which tag and where."""


def _is_text(value: object) -> TypeGuard[str]:
    """Tell whether `value` is a string that UTF-8, and so JSON on the wire, can carry."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_urls(urls: Any) -> list[list[str]]:
    """Return `urls` as a list of replica sets.

    Raises
    ------
    InvalidUrls
        It is not a list of non-empty lists of strings.

    Examples
    --------
    >>> check_urls([("http://a/1", "http://b/1"), ["tag://other"]])
    [['http://a/1', 'http://b/1'], ['tag://other']]
    """
    if isinstance(urls, Iterable) and not isinstance(urls, (str, bytes, dict)):
        checked = []
        for replicas in urls:
            if not isinstance(replicas, (list, tuple)) or not replicas:
                break
            if not all(_is_text(url) and url for url in replicas):
                break
            checked.append(list(replicas))
        else:
            return checked
    raise InvalidUrls(
        "invalid urls", remedy="give a list of replica sets, each a non-empty list of URLs"
    )


def check_attribute(attr: object, value: object = "") -> tuple[str, str]:
    """Return an attribute's name and value if both keep the limits.

    Raises
    ------
    InvalidAttribute
        The name is empty, no text or above 1024 bytes; the value is no text or above 4096 bytes of
        JSON.
    """
    if not _is_text(attr) or not attr:
        raise InvalidAttribute("an attribute's name is a non-empty string")
    if len(attr.encode()) > MAX_ATTRIBUTE_NAME:
        raise InvalidAttribute(
            f"an attribute's name has at most {MAX_ATTRIBUTE_NAME} bytes", name=f"{attr[:64]}..."
        )
    if not _is_text(value):
        raise InvalidAttribute("an attribute's value is a string", name=attr)
    if len(json.dumps(value)) > MAX_ATTRIBUTE_VALUE:
        raise InvalidAttribute(
            f"an attribute's value has at most {MAX_ATTRIBUTE_VALUE} bytes as JSON", name=attr
        )
    return attr, value


def encode_urls(urls: list[list[str]]) -> bytes:
    """Return the stored form of a list of replica sets."""
    return _to_json(urls).encode()


def _join(first: bytes, second: bytes) -> bytes:
    """Return the JSON list of both lists' entries without parsing either."""
    if first == b"[]":
        return second
    if second == b"[]":
        return first
    return b"".join((memoryview(first)[:-1], b",", memoryview(second)[1:]))


@dataclass(frozen=True)
class TagObject:
    """One version of a tag.

    Examples
    --------
    >>> tag = TagObject.new("data:log", token="secret").append([["http://node/1"]])
    >>> tag.public()["urls"]
    [['http://node/1']]
    >>> TagObject.decode(tag.encode()) == tag
    True
    """

    name: str
    id: str
    last_modified: str
    # Hashes, but no reason to print them.
    read_token: str | None = field(repr=False)
    write_token: str | None = field(repr=False)
    user_data: dict[str, str]
    urls_json: bytes = field(repr=False)

    @classmethod
    def new(cls, name: str, token: str | None = None, after: str | None = None) -> TagObject:
        """Return a blank tag; `token` becomes both its read and its write token."""
        return cls(
            name,
            _next_id(name, after),
            _now(),
            read_token=hash_token(token),
            write_token=hash_token(token),
            user_data={},
            urls_json=b"[]",
        )

    @property
    def urls(self) -> list[list[str]]:
        """The replica sets."""
        urls: list[list[str]] = json.loads(self.urls_json)
        return urls

    def public(self) -> dict[str, Any]:
        """Return the tag object a client sees: everything but the tokens."""
        return {
            "version": 1,
            "id": self.id,
            "last-modified": self.last_modified,
            "urls": self.urls,
            "user-data": dict(self.user_data),
        }

    def allows(self, access: Access, token: str | None) -> bool:
        """Tell whether `token` opens the tag; the write token also reads."""
        writes = self.write_token is None or verify_token(token, self.write_token)
        if access == "write":
            return writes
        if self.read_token is None or verify_token(token, self.read_token):
            return True
        return self.write_token is not None and writes

    @staticmethod
    def matches(token: str | None, stored: str) -> bool:
        """Tell whether a stored hash is that of `token`."""
        return verify_token(token, stored)

    def authorize(self, access: Access, token: str | None, store: str) -> None:
        """Raise unless `token` opens the tag.

        Raises
        ------
        Unauthorized
            It does not.
        """
        if not self.allows(access, token):
            raise Unauthorized(
                "wrong token" if token is not None else "no token given",
                store=store,
                name=self.name,
                remedy=f"give the tag's {access} token",
            )

    def append(self, urls: list[list[str]], *, update: bool = False) -> TagObject:
        """Return the next version, with `urls` before the old ones.

        With `update`, entries whose name is there already are left out; the same object comes
        back when nothing is left.
        """
        if update:
            urls = self._unseen(urls)
        if not urls:
            return self
        return self._next(urls_json=_join(encode_urls(urls), self.urls_json))

    def _unseen(self, urls: list[list[str]]) -> list[list[str]]:
        seen = {key for replicas in self.urls if (key := url_key(replicas[0])) is not None}
        kept = []
        for replicas in urls:
            key = url_key(replicas[0])
            if key is None or key not in seen:
                kept.append(replicas)
            if key is not None:
                seen.add(key)
        return kept

    def with_urls(self, urls: list[list[str]]) -> TagObject:
        """Return the next version with other urls."""
        return self._next(urls_json=encode_urls(urls))

    def with_token(self, access: Access, token: str | None) -> TagObject:
        """Return the next version with one token set or, by ``None``, open."""
        hashed = hash_token(token)
        return self._next(**{f"{access}_token": hashed})

    def with_attribute(self, attr: str, value: str) -> TagObject:
        """Return the next version with one attribute set.

        Raises
        ------
        InvalidAttribute
            The tag would have more than 1000 attributes.
        """
        if attr not in self.user_data and len(self.user_data) >= MAX_ATTRIBUTES:
            raise InvalidAttribute(f"a tag has at most {MAX_ATTRIBUTES} attributes", name=attr)
        return self._next(user_data={**self.user_data, attr: value})

    def without_attribute(self, attr: str) -> TagObject:
        """Return the next version without an attribute."""
        if attr not in self.user_data:
            return self
        return self._next(user_data={k: v for k, v in self.user_data.items() if k != attr})

    def _next(self, **changes: Any) -> TagObject:
        return replace(self, id=_next_id(self.name, self.id), last_modified=_now(), **changes)

    def encode(self) -> bytes:
        """Return the stored form."""
        header = _to_json(
            {
                "version": 1,
                "id": self.id,
                "last-modified": self.last_modified,
                "read-token": self.read_token,
                "write-token": self.write_token,
                "user-data": self.user_data,
            }
        ).encode()
        checksum = xxhash.xxh3_64(header)
        checksum.update(self.urls_json)
        return b"".join((checksum.hexdigest().encode(), b"\n", header, b"\n", self.urls_json))

    @classmethod
    def decode(cls, stored: bytes) -> TagObject:
        """Return the version whose stored form is given.

        Raises
        ------
        DamagedTag
            The bytes are not what was stored.
        """
        checksum, _, rest = stored.partition(b"\n")
        header, _, urls_json = rest.partition(b"\n")
        computed = xxhash.xxh3_64(header)
        computed.update(urls_json)
        if computed.hexdigest().encode() != checksum:
            raise DamagedTag("the stored tag object fails its checksum")
        fields = json.loads(header.decode())
        return cls(
            name=fields["id"].split("$", 1)[0],
            id=fields["id"],
            last_modified=fields["last-modified"],
            read_token=fields["read-token"],
            write_token=fields["write-token"],
            user_data=fields["user-data"],
            urls_json=urls_json,
        )


def _now() -> str:
    return time.strftime("%Y/%m/%d %H:%M:%S")


def _next_id(name: str, after: str | None) -> str:
    """Return a fresh id, later than `after` even when the clock was set back meanwhile."""
    now = time.time_ns() // 1000
    if after is not None:
        mega, second, micro = (int(part, 16) for part in after.rsplit("$", 1)[1].split("-"))
        now = max(now, (mega * 1_000_000 + second) * 1_000_000 + micro + 1)
    return object_name(name, now)
