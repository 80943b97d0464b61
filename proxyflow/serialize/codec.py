"""Compression of a frame with lz4, where it pays.

A compressed frame is a table of block lengths (``u32`` each) followed by the blocks, one for every
`CHUNK` bytes of the frame. A block as long as its chunk is the chunk itself: whether lz4 pays is
decided block by block from a few samples, so that the incompressible part of a frame costs next to
nothing. Blocks are independent, so that threads share the work and frames beyond lz4's own limit
of 2 GiB need nothing special.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from time import perf_counter

from proxyflow.rate import Rate
from proxyflow.serialize.chunks import CHUNK, Piece, map_chunks, split, total

__all__ = ["MAX_RATIO", "RATE", "compress", "decompress"]

RATE = Rate()
"""How fast frames are compressed in this process."""

MAX_RATIO = 255
"""No lz4 block expands further; a header that claims more is forged."""

_WORTHWHILE = 0.9
_SMALLEST = 4096
_SAMPLE = 64 * 1024
_SAMPLES = 4


def compress(pieces: Sequence[Piece]) -> list[Piece] | None:
    """Compress a frame, or return ``None`` where that would not save a tenth of it.

    Parameters
    ----------
    pieces
        The frame. Incompressible chunks of it are returned as they are, not copied.

    Examples
    --------
    >>> frame = [b"abc" * 10_000]
    >>> packed = compress(frame)
    >>> total(packed) < total(frame)
    True
    >>> decompress(memoryview(b"".join(packed)), total(frame)) == b"".join(frame)
    True
    """
    raw = total(pieces)
    if raw < _SMALLEST:
        return None
    started = perf_counter()
    chunks = split(pieces)
    packed = map_chunks(_compress_chunk, chunks)
    RATE.add(raw, perf_counter() - started)
    blocks = [
        [block] if block is not None else chunk for chunk, block in zip(chunks, packed, strict=True)
    ]
    table = struct.pack(f"<{len(blocks)}I", *map(total, blocks))
    stored: list[Piece] = [table, *(part for block in blocks for part in block)]
    return stored if total(stored) < raw * _WORTHWHILE else None


def _compress_chunk(chunk: list[Piece]) -> bytes | None:
    """Return the block for one chunk, or ``None`` if the chunk itself is the better block."""
    raw = chunk[0] if len(chunk) == 1 else b"".join(chunk)
    if len(raw) > _SAMPLE * _SAMPLES * 2 and not _sample_pays(memoryview(raw)):
        return None
    block = _lz4_compress(raw)
    return block if len(block) < len(raw) * _WORTHWHILE else None


def _sample_pays(raw: memoryview) -> bool:
    """Tell from slices spread over the chunk whether compressing all of it is worth the time."""
    step = (len(raw) - _SAMPLE) // (_SAMPLES - 1)
    packed = sum(len(_lz4_compress(raw[i * step : i * step + _SAMPLE])) for i in range(_SAMPLES))
    return packed < _SAMPLE * _SAMPLES * _WORTHWHILE


def _lz4_compress(raw: Piece) -> bytes:
    import lz4.block

    packed: bytes = lz4.block.compress(raw, store_size=False)
    return packed


def decompress(stored: memoryview, raw: int) -> bytearray:
    """Return the frame of `raw` bytes that was compressed to `stored`.

    Memory beyond ``raw`` is only taken for one block per thread.

    Raises
    ------
    ValueError
        The frame is no compressed one of that length; the message says why.
    """
    if raw > len(stored) * MAX_RATIO:
        raise ValueError(f"{len(stored)} compressed bytes cannot hold {raw}")
    count = -(-raw // CHUNK)
    if len(stored) < 4 * count:
        raise ValueError(f"{len(stored)} bytes are too few for a table of {count} blocks")
    lengths = struct.unpack_from(f"<{count}I", stored)
    if 4 * count + sum(lengths) != len(stored):
        raise ValueError(f"the blocks take {sum(lengths)} of {len(stored) - 4 * count} bytes")
    result = bytearray(raw)
    target = memoryview(result)
    jobs = []
    position = 4 * count
    for index, length in enumerate(lengths):
        chunk = target[index * CHUNK : (index + 1) * CHUNK]
        jobs.append((stored[position : position + length], chunk))
        position += length
    map_chunks(_decompress_block, jobs)
    return result


def _decompress_block(job: tuple[memoryview, memoryview]) -> None:
    import lz4.block

    block, chunk = job
    if len(block) == len(chunk):
        chunk[:] = block
        return
    try:
        raw = lz4.block.decompress(block, uncompressed_size=len(chunk))
    except lz4.block.LZ4BlockError as error:
        raise ValueError(f"not an lz4 block: {error}") from error
    if len(raw) != len(chunk):
        raise ValueError(f"a block holds {len(raw)} bytes instead of {len(chunk)}")
    chunk[:] = raw
