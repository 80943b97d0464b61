"""What our server does beyond a Disco master's protocol: less back and forth for what is small.

Every answer of the server announces it in a header, and a client uses what the last answer
announced; so one that speaks to a Disco master, or to a server that was replaced meanwhile, keeps
to Disco's requests.

Besides, a client that finds a blob damaged says so by a ``POST`` to its address, and the server, if
it finds the same, writes it anew from another replica. The checksum of an answer announces that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from .area import Buffer
from .errors import Forbidden
from .names import safe_name

__all__ = ["EXTENSIONS_HEADER", "MAX_BLOBS", "Extensions", "pack_blobs", "unpack_blobs"]

EXTENSIONS_HEADER = "X-DDFS-Extensions"
#: Blobs in one request: what a thread of the server writes in some tens of milliseconds.
MAX_BLOBS = 256


class Extensions(NamedTuple):
    """What a server announces.

    Attributes
    ----------
    blobs : int
        Bytes that ``POST /ddfs/blobs`` takes: blobs, and the tag to put them into, in one request;
        0 where it takes none.
    attributes : bool
        Whether ``PUT /ddfs/tag/TAG`` takes attributes besides the urls.

    Examples
    --------
    >>> Extensions.parse(Extensions(blobs=1024, attributes=True).encode())
    Extensions(blobs=1024, attributes=True)
    >>> Extensions.parse(None)
    Extensions(blobs=0, attributes=False)
    """

    blobs: int = 0
    attributes: bool = False

    def encode(self) -> str:
        """Return the header's value."""
        return f"blobs={self.blobs}" + (" attributes" if self.attributes else "")

    @classmethod
    def parse(cls, header: str | None) -> Extensions:
        """Return what a header's value announces; words that mean nothing here are passed over."""
        blobs = 0
        words = (header or "").split()
        for word in words:
            if word.startswith("blobs=") and word[6:].isdecimal():
                blobs = int(word[6:])
        return cls(blobs, "attributes" in words)


def pack_blobs(blobs: Sequence[tuple[str, Sequence[Buffer]]]) -> list[Buffer]:
    r"""Return the body of a request with these blobs: a line of names and sizes, then the bytes.

    Examples
    --------
    >>> b"".join(pack_blobs([("a", [b"x", b"y"]), ("b", [b"z"])]))
    b'[["a", 2], ["b", 1]]\nxyz'
    """
    described = [(name, sum(map(len, chunks))) for name, chunks in blobs]
    body: list[Buffer] = [json.dumps(described).encode() + b"\n"]
    for _, chunks in blobs:
        body += chunks
    return body


def unpack_blobs(body: bytearray) -> list[tuple[str, memoryview]]:
    r"""Return the names and bytes of the blobs in a request.

    Raises
    ------
    Forbidden
        The body is something else.

    Examples
    --------
    >>> [(name, bytes(data)) for name, data in unpack_blobs(bytearray(b'[["a", 2]]\nxy'))]
    [('a', b'xy')]
    """
    at = body.find(b"\n") + 1
    try:
        described = json.loads(body[:at])
        names, sizes = zip(*described, strict=True) if described else ((), ())
        is_right = (
            len(names) <= MAX_BLOBS
            and all(isinstance(name, str) and name == safe_name(name) != "" for name in names)
            and all(type(size) is int and size >= 0 for size in sizes)
            and sum(sizes) == len(body) - at
        )
    except (ValueError, TypeError, RecursionError):
        is_right = False
    if not is_right:
        raise Forbidden("Invalid request body.", remedy="send names and sizes, then the blobs")
    blobs = []
    for name, size in zip(names, sizes, strict=True):
        blobs.append((name, memoryview(body)[at : at + size]))
        at += size
    return blobs
