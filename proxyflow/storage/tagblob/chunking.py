"""Cutting records into chunks: every chunk holds whole records, about as many bytes as asked."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .errors import RecordTooLarge

__all__ = [
    "CHUNK_SIZE",
    "MAX_RECORD_SIZE",
    "Reader",
    "chunks",
    "cut",
    "fixed_records",
    "line_groups",
]

CHUNK_SIZE = 64 * 2**20
MAX_RECORD_SIZE = 2**20

#: Turns an open file, its size if known, and its URL into records.
Reader = Callable[[io.BufferedIOBase, int | None, str], Iterable[bytes | str]]

_BLOCK = 2**20


def chunks(
    records: Iterable[bytes | str], chunk_size: int, max_record_size: int
) -> Iterator[list[bytes]]:
    """Yield chunks as lists of buffers that stand one after the other.

    A chunk ends before the record that would make it larger than `chunk_size`; a record that alone
    is larger gets a chunk of its own.

    Raises
    ------
    RecordTooLarge
        A record has more than `max_record_size` bytes.

    Examples
    --------
    >>> list(chunks([b"aa", b"bb", b"cc"], chunk_size=4, max_record_size=10))
    [[b'aa', b'bb'], [b'cc']]
    """
    chunk: list[bytes] = []
    size = 0
    for record in records:
        data = record.encode() if isinstance(record, str) else bytes(record)
        if len(data) > max_record_size:
            raise _too_large(len(data), max_record_size)
        if chunk and size + len(data) > chunk_size:
            yield chunk
            chunk, size = [], 0
        chunk.append(data)
        size += len(data)
    if chunk:
        yield chunk


def line_groups(file: io.BufferedIOBase, group_size: int, max_record_size: int) -> Iterator[bytes]:
    r"""Yield runs of whole lines of at most `group_size` bytes, or one line if that is longer.

    Taking lines in runs rather than one by one is what makes large files quick to cut.

    Raises
    ------
    RecordTooLarge
        A line has more than `max_record_size` bytes.

    Examples
    --------
    >>> import io
    >>> list(line_groups(io.BytesIO(b"a\nbb\nccc"), group_size=5, max_record_size=10))
    [b'a\nbb\n', b'ccc']
    """
    rest = b""
    while block := file.read(_BLOCK):
        rest += block
        end = rest.rfind(b"\n") + 1
        yield from _grouped(rest[:end], group_size, max_record_size)
        rest = rest[end:]
        if len(rest) > max_record_size:
            raise _too_large(len(rest), max_record_size)
    if rest:
        yield rest


def _grouped(lines: bytes, group_size: int, max_record_size: int) -> Iterator[bytes]:
    start = 0
    while start < len(lines):
        end = lines.rfind(b"\n", start, start + group_size) + 1
        if end == 0:
            end = lines.index(b"\n", start) + 1  # a single line longer than a group
        group = lines[start:end]
        longest = max(map(len, group.split(b"\n"))) + 1
        if longest > max_record_size:
            raise _too_large(longest, max_record_size)
        yield group
        start = end


def fixed_records(file: io.BufferedIOBase, record_size: int) -> Iterator[bytes]:
    """Yield records of `record_size` bytes; the last one may be shorter.

    Examples
    --------
    >>> import io
    >>> list(fixed_records(io.BytesIO(b"aabbc"), 2))
    [b'aa', b'bb', b'c']
    """
    while record := file.read(record_size):
        while len(record) < record_size and (more := file.read(record_size - len(record))):
            record += more
        yield record


def _too_large(size: int, limit: int) -> RecordTooLarge:
    return RecordTooLarge(
        f"a record of {size} bytes or more is above the limit of {limit}",
        remedy="raise max_record_size",
    )


def cut(
    file: io.BufferedIOBase,
    url: str,
    *,
    chunk_size: int,
    max_record_size: int,
    reader: Reader | None = None,
    record_size: int | None = None,
    size: int | None = None,
) -> Iterator[list[bytes]]:
    """Yield the chunks of a file: by `reader`, by a fixed record size, or else by lines."""
    records: Any
    if reader is not None:
        records = reader(file, size, url)
    elif record_size is not None:
        records = fixed_records(file, record_size)
    else:
        groups = line_groups(file, min(chunk_size, _BLOCK), max_record_size)
        # A group is many records, so only the cut itself is left to do.
        return chunks(groups, chunk_size, max(chunk_size, max_record_size))
    return chunks(records, chunk_size, max_record_size)
