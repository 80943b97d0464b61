"""Taking payloads apart: nothing is copied or interpreted before it has been checked."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from proxyflow.errors import AuthenticationError, CorruptObjectError
from proxyflow.serialize import codec
from proxyflow.serialize.digest import Checksum, Digester, Mac
from proxyflow.serialize.layout import (
    AUTHENTICATED,
    LZ4,
    MAGIC,
    PRELUDE,
    RAW,
    ROW,
    SINGLE,
    VERSION,
    gap,
    header_size,
)

if TYPE_CHECKING:
    import mmap

__all__ = ["Buffer", "Contents", "unpack"]

Buffer: TypeAlias = "bytes | bytearray | memoryview | mmap.mmap"
"""What a payload is read from."""

_CHECKSUM = Checksum()
_SINGLE_DIGESTED = SINGLE.size - Checksum.size


class Contents(NamedTuple):
    """What `unpack` found.

    Attributes
    ----------
    kind
        As given to `pack`.
    stream
        Frame 0, verified.
    buffers
        The other frames: views into the payload, writable if it is, or, where they were
        compressed, writable memory of their own.
    """

    kind: int
    stream: memoryview
    buffers: list[memoryview]


def unpack(data: Buffer, *, verify: bool = True, secret: bytes | None = None) -> Contents:
    """Take a payload apart, checking it first.

    The header, the gaps, the stream and whatever is compressed are always checked. Buffers that
    are handed out as views of `data` are where ``verify`` or a secret asks for it, so that opening
    a mapped payload of any size takes no time.

    Parameters
    ----------
    data
        The whole payload, no more and no less.
    verify
        Check the buffers, too.
    secret
        Accept only what was packed with this secret; everything is checked then.

    Raises
    ------
    CorruptObjectError
        The payload is short, long, damaged, or of an unknown version; the message says where.
    AuthenticationError
        There is a secret and the payload was not packed with it, or the other way round.

    Examples
    --------
    >>> from proxyflow.serialize.payload import pack
    >>> unpack(b"".join(pack(0, [b"stream"], []).frames)[:-1])
    Traceback (most recent call last):
        ...
    proxyflow.errors.CorruptObjectError: the payload is 74 bytes long instead of 75; store ...
    """
    view = memoryview(data)
    if view.format != "B" or view.ndim != 1:
        view = view.cast("B")
    if secret is None:
        contents = _unpack_single(view)
        if contents is not None:
            return contents
    kind, rows, position, digester = _read_header(view, secret)
    frames = []
    for index, row in enumerate(rows):
        zeros = gap(position, index)
        end = position + len(zeros)
        if view[position:end] != zeros:
            raise CorruptObjectError(f"the gap before frame {index} is not filled with zeros")
        position = end + row.stored
        stored = view[end:position]
        if index == 0 and secret is not None:
            # Whoever can write to a shared mapping could otherwise swap the stream between its
            # verification and its use, which may execute it.
            stored = memoryview(bytes(stored))
        if index == 0 or verify or secret is not None or row.codec != RAW:
            _check_digest(f"frame {index}", row.digest, digester.frame([stored], row.stored))
        frames.append(stored if row.codec == RAW else _decompress(index, stored, row.raw))
    return Contents(kind, frames[0], frames[1:])


def _unpack_single(view: memoryview) -> Contents | None:
    """Do what `unpack` does for a stream alone, in half the time; None if anything is different.

    What that is, is left to be found by those who say it.
    """
    if len(view) < SINGLE.size:
        return None
    (magic, version, flags, kind, count, length, stored, raw, packed, digest, of_header) = (
        SINGLE.unpack_from(view)
    )
    if (
        (magic, version, flags, count, packed) == (MAGIC, VERSION, 0, 1, RAW)
        and length == len(view)
        and stored == raw == length - SINGLE.size
        and of_header == _CHECKSUM.header(bytes(view[:_SINGLE_DIGESTED]))
    ):
        stream = view[SINGLE.size :]
        if digest == _CHECKSUM.frame([stream], stored):
            return Contents(kind, stream, [])
    return None


class _Row(NamedTuple):
    digest: bytes
    stored: int
    raw: int
    codec: int


def _read_header(view: memoryview, secret: bytes | None) -> tuple[int, list[_Row], int, Digester]:
    """Return kind, table, header length and digester of a payload whose header holds good."""
    if len(view) < PRELUDE.size:
        raise CorruptObjectError(
            f"the payload is cut off within its header: {len(view)} bytes, at least {PRELUDE.size}"
        )
    magic, version, flags, kind, count, length = PRELUDE.unpack_from(view)
    if magic != MAGIC:
        raise CorruptObjectError(f"not a payload: starts with {magic!r} instead of {MAGIC!r}")
    if version != VERSION:
        raise CorruptObjectError(
            f"the payload has format version {version}, this proxyflow reads version {VERSION}",
            remedy="use the same version of proxyflow everywhere",
        )
    digester = _choose_digester(flags, secret)
    size = header_size(count, digester)
    if len(view) < size:
        raise CorruptObjectError(
            f"the payload is cut off within its header: {len(view)} of {size} bytes"
        )
    header = bytes(view[: size - digester.size])
    found = digester.header(header)
    _check_digest("the header", bytes(view[size - digester.size : size]), found)
    if len(view) != length:
        raise CorruptObjectError(f"the payload is {len(view)} bytes long instead of {length}")
    rows = [
        _Row(header[at + ROW.size : at + ROW.size + digester.size], *ROW.unpack_from(header, at))
        for at in range(PRELUDE.size, len(header), ROW.size + digester.size)
    ]
    _check_rows(rows, size, length)
    return kind, rows, size, digester


def _choose_digester(flags: int, secret: bytes | None) -> Digester:
    if flags not in (0, AUTHENTICATED):
        raise CorruptObjectError(f"the payload has unknown flags {flags:#04x}")
    if secret is None:
        if flags:
            raise AuthenticationError(
                "the payload is authenticated and no secret is known to check it with",
                remedy="open the store with the secret it was written with: set PROXYFLOW_SECRET "
                "in every process of the run",
            )
        return _CHECKSUM
    if not flags:
        raise AuthenticationError(
            "the payload is not authenticated, so anybody may have written it",
            remedy="write it with the secret (set PROXYFLOW_SECRET in every process of the run), "
            "or open the store without one to trust its content",
        )
    return Mac(secret)


def _check_digest(what: str, expected: bytes, found: bytes) -> None:
    if hmac.compare_digest(expected, found):
        return
    if len(expected) == Mac.size:
        raise AuthenticationError(
            f"{what} was changed, or written with another secret",
            remedy="open the store with the secret it was written with",
        )
    raise CorruptObjectError(f"{what} is damaged: digest {found.hex()} instead of {expected.hex()}")


def _check_rows(rows: Sequence[_Row], position: int, length: int) -> None:
    """Refuse a table that could not have been packed, before memory is taken for it.

    A checksum keeps nobody from making such a header on purpose.
    """
    if not rows:
        raise CorruptObjectError("the payload has no frames")
    for index, row in enumerate(rows):
        position += len(gap(position, index)) + row.stored
        if row.codec == RAW and row.raw != row.stored:
            raise CorruptObjectError(
                f"frame {index} is not compressed, but {row.stored} bytes instead of {row.raw}"
            )
        if row.codec not in (RAW, LZ4):
            raise CorruptObjectError(f"frame {index} has unknown codec {row.codec}")
    if position != length:
        raise CorruptObjectError(f"the frames end at byte {position} of {length}")


def _decompress(index: int, stored: memoryview, raw: int) -> memoryview:
    try:
        return memoryview(codec.decompress(stored, raw))
    except ValueError as error:
        raise CorruptObjectError(f"frame {index} cannot be decompressed: {error}") from error
