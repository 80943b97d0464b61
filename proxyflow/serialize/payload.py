r"""The frame format: what a stored object looks like, byte by byte.

A payload is a header and frames. Frame 0 (the *stream*) says what the object is, the others are
its large *buffers*. All integers are little-endian::

    prelude   magic b"\x93PXF" | version u8 | flags u8 | kind u8 | 0 u8 | frames u32 | length u64
    table     per frame: stored length u64 | raw length u64 | codec u8 | digest
    digest    of prelude and table
    stream    frame 0, right after the header
    buffers   frames 1..., each at the next multiple of 64 bytes, the gaps filled with zeros

``length`` is that of the whole payload. Where a frame lies follows from the lengths before it;
offsets are not stored, so none can be forged. Digests are of the bytes as stored. They are 16-byte
XXH3-128 checksums, or, with flag ``0x01``, 32-byte BLAKE2b MACs (`proxyflow.serialize.digest`).
Codec 0 is none, 1 is lz4 (`proxyflow.serialize.codec`). A kind means something to the caller only.

Every reader checks everything it is going to copy or to interpret before it does so; see `unpack`.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from proxyflow.errors import AuthenticationError, CorruptObjectError
from proxyflow.serialize import codec
from proxyflow.serialize.chunks import Piece, total
from proxyflow.serialize.digest import Checksum, Digester, Mac

if TYPE_CHECKING:
    import mmap

__all__ = ["ALIGNMENT", "Buffer", "Contents", "Payload", "pack", "unpack"]

Buffer: TypeAlias = "bytes | bytearray | memoryview | mmap.mmap"
"""What a payload is read from."""

ALIGNMENT = 64
"""A cache line, and the widest vector: what Arrow recommends and NumPy profits from."""

_MAGIC = b"\x93PXF"  # no text file starts with 0x93, and ASCII-only transports damage it
_VERSION = 1
_AUTHENTICATED = 0x01
_RAW, _LZ4 = 0, 1

_PRELUDE = struct.Struct("<4sBBBxIQ")
_ROW = struct.Struct("<QQB")
_ZEROS = bytes(ALIGNMENT)
_CHECKSUM = Checksum()

# The whole header of a payload of one frame with a checksum, as small objects are.
_SINGLE = struct.Struct("<4sBBBxIQQQB16s16s")
_SINGLE_DIGESTED = _SINGLE.size - Checksum.size


@dataclass(slots=True)
class Payload:
    """A packed object, ready to be written.

    Attributes
    ----------
    frames
        The payload in pieces: ``b"".join(frames)`` is all of it, and ``os.pwritev`` takes them as
        they are, at most ``IOV_MAX`` at a time. Large buffers are the object's own memory: write
        them before the object changes.
    nbytes
        The length of the pieces together.
    digest
        16 bytes, equal for equal content (kind, stream and buffers) and different for different
        content, compressed or not. Without a secret this is an XXH3-128 hash, which someone who
        chooses the content could make collide. With one it is a keyed BLAKE2b, for which only
        holders of the secret could, and which differs from secret to secret: equal content is
        recognised among those who share it, and the digest tells nobody else what the content is.

    Examples
    --------
    >>> payload = pack(0, [b"stream"], [])
    >>> payload.nbytes == len(b"".join(payload.frames))
    True
    """

    frames: list[Piece]
    nbytes: int
    digest: bytes


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


def pack(
    kind: int,
    stream: Sequence[Piece],
    buffers: Sequence[memoryview],
    *,
    compress: bool = False,
    secret: bytes | None = None,
) -> Payload:
    """Put a stream and buffers into the frame format without copying them.

    Parameters
    ----------
    kind
        0 to 255; kept for the reader.
    stream
        Frame 0, in any number of pieces.
    buffers
        The other frames, one piece each.
    compress
        Compress every frame that gets a tenth smaller by it.
    secret
        Authenticate the payload with this.

    Examples
    --------
    >>> payload = pack(7, [b"what it is"], [memoryview(b"large")], secret=b"s")
    >>> contents = unpack(b"".join(payload.frames), secret=b"s")
    >>> contents.kind, bytes(contents.stream), bytes(contents.buffers[0])
    (7, b'what it is', b'large')
    """
    if secret is None and not compress and not buffers:
        return _pack_single(kind, stream)
    digester: Digester = _CHECKSUM if secret is None else Mac(secret)
    frames: list[Sequence[Piece]] = [stream, *([buffer] for buffer in buffers)]
    rows: list[bytes] = []
    summary: list[bytes] = [bytes([kind])]
    body: list[Piece] = []
    position = _header_size(len(frames), digester)
    for index, pieces in enumerate(frames):
        raw = stored = total(pieces)
        digest = digester.frame(pieces, raw)
        summary.append(_ROW.pack(raw, raw, _RAW) + digest)
        packed = codec.compress(pieces) if compress else None
        if packed is not None:
            pieces, stored = packed, total(packed)
            digest = digester.frame(pieces, stored)
        rows.append(_ROW.pack(stored, raw, _RAW if packed is None else _LZ4) + digest)
        gap = -position % ALIGNMENT if index else 0
        if gap:
            body.append(_ZEROS[:gap])
        body.extend(pieces)
        position += gap + stored
    flags = 0 if secret is None else _AUTHENTICATED
    prelude = _PRELUDE.pack(_MAGIC, _VERSION, flags, kind, len(frames), position)
    header = b"".join([prelude, *rows])
    header += digester.header(header)
    return Payload([header, *body], position, digester.identity(b"".join(summary)))


def _pack_single(kind: int, stream: Sequence[Piece]) -> Payload:
    """Do what `pack` does for a stream alone, in half the time."""
    raw = total(stream)
    nbytes = _SINGLE.size + raw
    row = _ROW.pack(raw, raw, _RAW) + _CHECKSUM.frame(stream, raw)
    header = _PRELUDE.pack(_MAGIC, _VERSION, 0, kind, 1, nbytes) + row
    header += _CHECKSUM.header(header)
    return Payload([header, *stream], nbytes, _CHECKSUM.identity(bytes([kind]) + row))


def _header_size(frames: int, digester: Digester) -> int:
    return _PRELUDE.size + frames * (_ROW.size + digester.size) + digester.size


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
    >>> unpack(b"".join(pack(0, [b"stream"], []).frames)[:-1])
    Traceback (most recent call last):
        ...
    proxyflow.errors.CorruptObjectError: the payload is 74 bytes long instead of 75
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
        end = position + (-position % ALIGNMENT if index else 0)
        if view[position:end] != _ZEROS[: end - position]:
            raise CorruptObjectError(f"the gap before frame {index} is not filled with zeros")
        position = end + row.stored
        stored = view[end:position]
        if index == 0 and secret is not None:
            # Whoever can write to a shared mapping could otherwise swap the stream between its
            # verification and its use, which may execute it.
            stored = memoryview(bytes(stored))
        if index == 0 or verify or secret is not None or row.codec != _RAW:
            _check_digest(f"frame {index}", row.digest, digester.frame([stored], row.stored))
        frames.append(stored if row.codec == _RAW else _decompress(index, stored, row.raw))
    return Contents(kind, frames[0], frames[1:])


def _unpack_single(view: memoryview) -> Contents | None:
    """Do what `unpack` does for a stream alone, in half the time; None if anything is different.

    What that is, is left to be found by those who say it.
    """
    if len(view) < _SINGLE.size:
        return None
    (magic, version, flags, kind, count, length, stored, raw, packed, digest, of_header) = (
        _SINGLE.unpack_from(view)
    )
    if (
        (magic, version, flags, count, packed) == (_MAGIC, _VERSION, 0, 1, _RAW)
        and length == len(view)
        and stored == raw == length - _SINGLE.size
        and of_header == _CHECKSUM.header(bytes(view[:_SINGLE_DIGESTED]))
    ):
        stream = view[_SINGLE.size :]
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
    if len(view) < _PRELUDE.size:
        raise CorruptObjectError(
            f"the payload is cut off within its header: {len(view)} bytes, at least {_PRELUDE.size}"
        )
    magic, version, flags, kind, count, length = _PRELUDE.unpack_from(view)
    if magic != _MAGIC:
        raise CorruptObjectError(f"not a payload: starts with {magic!r} instead of {_MAGIC!r}")
    if version != _VERSION:
        raise CorruptObjectError(
            f"the payload has format version {version}, this proxyflow reads version {_VERSION}",
            remedy="use the same version of proxyflow everywhere",
        )
    digester = _choose_digester(flags, secret)
    size = _header_size(count, digester)
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
        _Row(header[at + _ROW.size : at + _ROW.size + digester.size], *_ROW.unpack_from(header, at))
        for at in range(_PRELUDE.size, len(header), _ROW.size + digester.size)
    ]
    _check_rows(rows, size, length)
    return kind, rows, size, digester


def _choose_digester(flags: int, secret: bytes | None) -> Digester:
    if flags not in (0, _AUTHENTICATED):
        raise CorruptObjectError(f"the payload has unknown flags {flags:#04x}")
    if secret is None:
        if flags:
            raise AuthenticationError(
                "the payload is authenticated and no secret is known to check it with",
                remedy="open the store with the secret it was written with",
            )
        return _CHECKSUM
    if not flags:
        raise AuthenticationError(
            "the payload is not authenticated, so anybody may have written it",
            remedy="write it with the secret, or open the store without one to trust its content",
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
        position += (-position % ALIGNMENT if index else 0) + row.stored
        if row.codec == _RAW and row.raw != row.stored:
            raise CorruptObjectError(
                f"frame {index} is not compressed, but {row.stored} bytes instead of {row.raw}"
            )
        if row.codec not in (_RAW, _LZ4):
            raise CorruptObjectError(f"frame {index} has unknown codec {row.codec}")
    if position != length:
        raise CorruptObjectError(f"the frames end at byte {position} of {length}")


def _decompress(index: int, stored: memoryview, raw: int) -> memoryview:
    try:
        return memoryview(codec.decompress(stored, raw))
    except ValueError as error:
        raise CorruptObjectError(f"frame {index} cannot be decompressed: {error}") from error
