"""Putting objects into the frame format of `proxyflow.serialize.layout`, without copying them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import xxhash

from proxyflow.serialize import codec
from proxyflow.serialize.chunks import Piece, total
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
from proxyflow.storage.copying import copy_pieces

__all__ = ["Payload", "pack"]

_CHECKSUM = Checksum()

# Up to this size a payload is digested at once: the memory is in a cache.
_SMALL = 64 << 10

# From this size on a glimpse takes less time than a digest.
_GLIMPSE_FROM = 256 << 10
# It is of so many buffers, and of each at so many places so many bytes: a cache line.
_SAMPLES = 16
_SAMPLE = 64


class Payload:
    """A packed object, ready to be written: as pieces, or copied to where it will lie.

    A large one is *sealed*, that is digested, when it is asked for its pieces or its digest; or
    while it is copied, for then its memory is read once instead of twice. Write it, or ask it for
    its digest, before the object changes.

    Attributes
    ----------
    nbytes : int
        The length of the payload.

    Examples
    --------
    >>> payload = pack(0, [b"stream"], [])
    >>> payload.nbytes == len(b"".join(payload.frames))
    True
    >>> memory = bytearray(payload.nbytes)
    >>> payload.copy_into(memoryview(memory))
    >>> memory == b"".join(payload.frames)
    True
    """

    __slots__ = ("_draft", "_glimpse", "_sealed", "nbytes")

    def __init__(self, nbytes: int, *, draft: _Draft | None = None, sealed: _Sealed | None = None):
        self.nbytes = nbytes
        self._draft = draft
        self._sealed = sealed
        self._glimpse: int | None = None

    @property
    def frames(self) -> list[Piece]:
        """The payload in pieces.

        ``b"".join(frames)`` is all of it, and ``os.pwritev`` takes them as they are, at most
        ``IOV_MAX`` at a time. Large buffers are the object's own memory.
        """
        return self._seal().pieces

    @property
    def digest(self) -> bytes:
        """16 bytes that stand for the content.

        They are equal for equal content (kind, stream and buffers) and different for different
        content, compressed or not. Without a secret this is an XXH3-128 hash, which someone who
        chooses the content could make collide. With one it is a keyed BLAKE2b, for which only
        holders of the secret could, and which differs from secret to secret: equal content is
        recognised among those who share it, and the digest tells nobody else what the content is.
        """
        return self._seal().digest

    @property
    def sealed(self) -> bool:
        """Whether it has been digested."""
        return self._sealed is not None

    @property
    def glimpse(self) -> int:
        """A number that is the same for equal content, and hardly ever for other content.

        It comes from some bytes of the large buffers, which takes microseconds; of small payloads
        it is the length.
        """
        if self._glimpse is None:
            draft = None if self.nbytes < _GLIMPSE_FROM else self._draft
            self._glimpse = self.nbytes if draft is None else draft.glimpse()
        return self._glimpse

    def copy_into(self, target: memoryview) -> None:
        """Write the payload into flat memory of its length."""
        if self._sealed is None:
            self._seal(target)
        else:
            copy_pieces(target, self._sealed.pieces)

    def _seal(self, into: memoryview | None = None) -> _Sealed:
        if self._sealed is None:
            assert self._draft is not None
            self._sealed = self._draft.seal(into)
        return self._sealed


class _Sealed(NamedTuple):
    """A payload whose digests are known."""

    pieces: list[Piece]
    digest: bytes


class _Frame(NamedTuple):
    """One frame of a payload, and where in it that lies."""

    pieces: Sequence[Piece]
    stored: int
    raw: int
    codec: int
    content: bytes | None
    """Digest of what was compressed."""
    zeros: bytes
    """What is to lie before it."""
    start: int


class _Draft:
    """A payload of which everything is known but the digests."""

    __slots__ = ("_digester", "_frames", "_kind", "nbytes")

    def __init__(self, kind: int, frames: int, digester: Digester) -> None:
        self._kind = kind
        self._digester = digester
        self._frames: list[_Frame] = []
        self.nbytes = header_size(frames, digester)

    def add(self, pieces: Sequence[Piece], *, compress: bool) -> None:
        """Append a frame, compressed if that is asked for and worth it."""
        raw = stored = total(pieces)
        content = None
        packed = codec.compress(pieces) if compress else None
        if packed is not None:
            content = self._digester.frame(pieces, raw)
            pieces, stored = packed, total(packed)
        zeros = gap(self.nbytes, len(self._frames))
        start = self.nbytes + len(zeros)
        scheme = RAW if packed is None else LZ4
        self._frames.append(_Frame(pieces, stored, raw, scheme, content, zeros, start))
        self.nbytes = start + stored

    def glimpse(self) -> int:
        """Return a number for the total length and some bytes of the first buffers."""
        seen: list[Piece] = [self.nbytes.to_bytes(8, "little")]
        # The stream may be in other pieces the next time.
        for frame in self._frames[1:_SAMPLES]:
            buffer = memoryview(frame.pieces[0])
            step = max(1, len(buffer) // _SAMPLES)
            seen += [buffer[at : at + _SAMPLE] for at in range(0, len(buffer), step)]
            seen.append(buffer[-_SAMPLE:])
        return xxhash.xxh3_64_intdigest(b"".join(seen))

    def seal(self, into: memoryview | None) -> _Sealed:
        """Digest everything, and copy it if there is memory for it."""
        rows: list[bytes] = []
        summary = [bytes([self._kind])]
        pieces: list[Piece] = []
        for frame in self._frames:
            place = None
            if into is not None:
                place = into[frame.start : frame.start + frame.stored]
                into[frame.start - len(frame.zeros) : frame.start] = frame.zeros
            digest = self._digester.frame(frame.pieces, frame.stored, place)
            rows.append(ROW.pack(frame.stored, frame.raw, frame.codec) + digest)
            summary.append(ROW.pack(frame.raw, frame.raw, RAW) + (frame.content or digest))
            if frame.zeros:
                pieces.append(frame.zeros)
            pieces.extend(frame.pieces)
        header = self._header(rows)
        if into is not None:
            into[: len(header)] = header
        return _Sealed([header, *pieces], self._digester.identity(b"".join(summary)))

    def _header(self, rows: Sequence[bytes]) -> bytes:
        flags = AUTHENTICATED if isinstance(self._digester, Mac) else 0
        prelude = PRELUDE.pack(MAGIC, VERSION, flags, self._kind, len(rows), self.nbytes)
        header = b"".join([prelude, *rows])
        return header + self._digester.header(header)


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
    >>> from proxyflow.serialize.unpacking import unpack
    >>> payload = pack(7, [b"what it is"], [memoryview(b"large")], secret=b"s")
    >>> contents = unpack(b"".join(payload.frames), secret=b"s")
    >>> contents.kind, bytes(contents.stream), bytes(contents.buffers[0])
    (7, b'what it is', b'large')
    """
    if secret is None and not compress and not buffers and (raw := total(stream)) <= _SMALL:
        return _pack_single(kind, stream, raw)
    draft = _Draft(kind, 1 + len(buffers), _CHECKSUM if secret is None else Mac(secret))
    draft.add(stream, compress=compress)
    for buffer in buffers:
        draft.add([buffer], compress=compress)
    return Payload(draft.nbytes, draft=draft)


def _pack_single(kind: int, stream: Sequence[Piece], raw: int) -> Payload:
    """Do what `pack` does for a small stream alone, in half the time."""
    nbytes = SINGLE.size + raw
    row = ROW.pack(raw, raw, RAW) + _CHECKSUM.frame(stream, raw)
    header = PRELUDE.pack(MAGIC, VERSION, 0, kind, 1, nbytes) + row
    header += _CHECKSUM.header(header)
    digest = _CHECKSUM.identity(bytes([kind]) + row)
    return Payload(nbytes, sealed=_Sealed([header, *stream], digest))
