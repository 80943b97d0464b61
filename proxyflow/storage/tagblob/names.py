"""Names: tags, blobs, stored objects and the URLs they are found at.

The alphabet, the form ``NAME$MEGA-SEC-MICRO`` of a stored object and the path
``/ddfs/VOLUME/KIND/HH/OBJECT`` are those of the Disco Distributed Filesystem; see the DDFS chapter
of the Disco documentation.
"""

from __future__ import annotations

import functools
import hashlib
import re
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from .errors import InvalidName, InvalidTag

__all__ = [
    "LOCAL_HOST",
    "MAX_NAME",
    "ObjectUrl",
    "blob_name",
    "blob_object_prefix",
    "canonize_tag",
    "check_name",
    "hash_dir",
    "is_object_name",
    "object_name",
    "own_blob",
    "parse_object_url",
    "safe_name",
    "tag_link",
    "tag_name",
    "url_key",
]

MAX_NAME = 511
#: Longer blob names are replaced by their md5, so that a stored object stays a legal file name.
MAX_BLOB_NAME = 200
#: The host of a URL that means "this store"; a server puts its own address in its place.
LOCAL_HOST = "localhost"

_NAME = re.compile(rf"[A-Za-z0-9_\-@:]{{1,{MAX_NAME}}}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_\-@:]")
_OBJECT = re.compile(r"([A-Za-z0-9_\-@:]{1,511})\$[0-9a-f]{1,8}-[0-9a-f]{1,8}-[0-9a-f]{1,8}")
_NAMED = re.compile(r"/[0-9a-f]{2}/([^/$]+)\$[^/]*$")
_OBJECT_URL = re.compile(
    r"(?:(?P<scheme>disco|http)://(?P<host>[^/?#]*))?"
    r"/ddfs/(?P<volume>vol[A-Za-z0-9_\-]*)/(?P<kind>blob|tag)/(?P<hash>[0-9a-f]{2})/(?P<object>[^/?#]+)"
)


def check_name(name: object, what: str = "name") -> str:
    r"""Return `name` if it is a legal tag or blob name.

    Raises
    ------
    InvalidName
        Not a string, empty, longer than 511 characters, or outside ``[A-Za-z0-9_\-@:]``.

    Examples
    --------
    >>> check_name("data:log")
    'data:log'
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    shown = name if isinstance(name, str) and len(name) <= 64 else f"{str(name)[:64]}..."
    raise InvalidName(
        f"invalid {what}",
        name=shown,
        remedy=f"use 1 to {MAX_NAME} characters of [A-Za-z0-9_-@:]",
    )


def safe_name(name: str) -> str:
    """Replace what may not stand in a name by ``_``.

    Examples
    --------
    >>> safe_name("big file.txt")
    'big_file_txt'
    """
    return _UNSAFE.sub("_", name)


def canonize_tag(tag: Any) -> str:
    """Return `tag`, a name, a ``tag://`` URL or a replica set of one, as a ``tag://`` URL.

    Only the form is looked at; whether the name is legal is for the store to say.

    Raises
    ------
    InvalidTag
        What was given cannot be a tag: another URL, a path, nothing at all.

    Examples
    --------
    >>> canonize_tag("data:log"), canonize_tag(["tag://data:log"])
    ('tag://data:log', 'tag://data:log')
    """
    candidate = tag
    if isinstance(tag, Iterable) and not isinstance(tag, (str, bytes)):
        candidate = next(iter(tag), None)
    if isinstance(candidate, str) and candidate:
        if candidate.startswith("tag://"):
            return candidate
        if "://" not in candidate and "/" not in candidate:
            return f"tag://{candidate}"
    raise InvalidTag("not a tag", name=str(tag)[:64], remedy="give a tag name or a tag:// URL")


def tag_link(replicas: Any) -> str | None:
    """Return the ``tag://`` URL an entry of a tag's urls links to, or ``None`` for a blob.

    Examples
    --------
    >>> tag_link(["tag://other"]), tag_link(["http://node/file"])
    ('tag://other', None)
    """
    try:
        return canonize_tag(replicas)
    except InvalidTag:
        return None


def tag_name(tag: Any) -> str:
    """Return the bare, checked name of a tag given as a name or URL.

    Examples
    --------
    >>> tag_name("tag://data:log")
    'data:log'
    """
    return check_name(canonize_tag(tag)[len("tag://") :], "tag name")


def blob_name(url: str) -> str:
    """Return the name a blob was pushed under, from any URL of it.

    Examples
    --------
    >>> blob_name("disco://node1/ddfs/vol0/blob/7f/part-0$584-e8d2f-3a0")
    'part-0'
    """
    return url.rsplit("/", 1)[-1].split("$", 1)[0]


def blob_object_prefix(name: str) -> str:
    """Return the name a blob is stored under: itself, or its md5 when it is long.

    Examples
    --------
    >>> blob_object_prefix("part-0"), len(blob_object_prefix("x" * 201))
    ('part-0', 32)
    """
    check_name(name, "blob name")
    if len(name) <= MAX_BLOB_NAME:
        return name
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()


def object_name(name: str, micros: int | None = None) -> str:
    """Return a stored object's name: `name` and a moment in microseconds since the epoch.

    Examples
    --------
    >>> object_name("data:log", 1_500_000_123_000_042)
    'data:log$5dc-7b-2a'
    """
    if micros is None:
        micros = time.time_ns() // 1000
    seconds, micro = divmod(micros, 1_000_000)
    mega, second = divmod(seconds, 1_000_000)
    return f"{name}${mega:x}-{second:x}-{micro:x}"


def is_object_name(candidate: str) -> bool:
    """Tell whether `candidate` has the form of a stored object's name."""
    return _OBJECT.fullmatch(candidate) is not None


@functools.lru_cache(maxsize=1024)  # asked for several times for each file
def hash_dir(obj: str) -> str:
    """Return the directory of a stored object: two hex digits, to keep directories small.

    Examples
    --------
    >>> hash_dir("data:log$5dc-7b-2a")
    '95'
    """
    return hashlib.md5(obj.encode(), usedforsecurity=False).hexdigest()[:2]


class ObjectUrl(NamedTuple):
    """The parts of the URL of a stored object.

    Examples
    --------
    >>> ObjectUrl("localhost", "vol0", "tag", "data:log$5dc-7b-2a").url
    'disco://localhost/ddfs/vol0/tag/95/data:log$5dc-7b-2a'
    """

    host: str
    volume: str
    kind: str
    object: str

    @property
    def path(self) -> str:
        """The path of the URL."""
        return f"/ddfs/{self.volume}/{self.kind}/{hash_dir(self.object)}/{self.object}"

    @property
    def url(self) -> str:
        """The URL."""
        return f"disco://{self.host}{self.path}"

    @property
    def name(self) -> str:
        """The name the object was stored under."""
        return self.object.split("$", 1)[0]


def parse_object_url(url: str) -> ObjectUrl | None:
    """Return the parts of a stored object's URL or path; ``None`` for any other URL.

    The hash directory must be the right one: a forged path leads nowhere.

    Examples
    --------
    >>> parse_object_url("disco://node1/ddfs/vol0/tag/95/data:log$5dc-7b-2a").volume
    'vol0'
    >>> parse_object_url("/ddfs/vol0/blob/00/../../etc/passwd") is None
    True
    """
    match = _OBJECT_URL.fullmatch(url)
    if match is None or not is_object_name(match["object"]):
        return None
    if hash_dir(match["object"]) != match["hash"]:
        return None
    return ObjectUrl(match["host"] or "", match["volume"], match["kind"], match["object"])


def own_blob(url: str) -> ObjectUrl | None:
    """Return the parts of the URL of a blob on this store's volumes; ``None`` for any other.

    Examples
    --------
    >>> own_blob("disco://othernode/ddfs/vol0/blob/95/data:log$5dc-7b-2a") is None
    True
    """
    parts = parse_object_url(url)
    own = parts is not None and parts.kind == "blob" and parts.host == LOCAL_HOST
    return parts if own else None


def url_key(url: str) -> str | None:
    """Return what ``update=True`` compares: a linked tag's URL, a blob's name prefix.

    ``None`` says that the URL is never a duplicate.

    Examples
    --------
    >>> url_key("tag://other"), url_key("disco://n/ddfs/vol0/blob/7f/part-0$1-2-3")
    ('tag://other', 'part-0')
    >>> url_key("http://node/file") is None
    True
    """
    if url.startswith("tag://"):
        return url
    match = _NAMED.search(url)
    return match[1] if match else None
