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
"""

from __future__ import annotations

import struct

from proxyflow.serialize.digest import Checksum, Digester

__all__ = [
    "ALIGNMENT",
    "AUTHENTICATED",
    "LZ4",
    "MAGIC",
    "PRELUDE",
    "RAW",
    "ROW",
    "SINGLE",
    "VERSION",
    "gap",
    "header_size",
]

ALIGNMENT = 64
"""A cache line, and the widest vector: what Arrow recommends and NumPy profits from."""

MAGIC = b"\x93PXF"  # no text file starts with 0x93, and ASCII-only transports damage it
VERSION = 1
AUTHENTICATED = 0x01
RAW, LZ4 = 0, 1

PRELUDE = struct.Struct("<4sBBBxIQ")
ROW = struct.Struct("<QQB")

SINGLE = struct.Struct("<4sBBBxIQQQB16s16s")
"""The whole header of a payload of one frame with a checksum, as small objects are."""

_ZEROS = bytes(ALIGNMENT)


def header_size(frames: int, digester: Digester) -> int:
    """Return the length of the header of a payload with so many frames."""
    return PRELUDE.size + frames * (ROW.size + digester.size) + digester.size


def gap(position: int, index: int) -> bytes:
    """Return the zeros between the end of what is before a frame, and the frame."""
    return _ZEROS[: -position % ALIGNMENT] if index else b""


assert SINGLE.size == header_size(1, Checksum())
