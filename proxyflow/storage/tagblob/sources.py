"""What can be pushed: paths, open files and buffers, all seen as a run of chunks."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, Protocol

from .area import Buffer
from .errors import InvalidName, TruncatedUpload
from .names import safe_name

__all__ = [
    "BufferSource",
    "FileSource",
    "PathSource",
    "Source",
    "announced_chunks",
    "held_chunks",
    "make_source",
    "sized",
]

PIECE = 2**20


class Source(Protocol):
    """The bytes of one blob to be.

    `chunks` may be called again when `rewindable`, which is how a failed upload is repeated. A
    chunk is valid until the next one is asked for, or for good when `lasting`.
    """

    @property
    def name(self) -> str:
        """The prefix of the blob's name."""
        ...

    @property
    def rewindable(self) -> bool:
        """Whether `chunks` may be called again."""
        ...

    @property
    def lasting(self) -> bool:
        """Whether a chunk stays valid when the next one is asked for."""
        ...

    def known_size(self) -> int | None:
        """Return the number of bytes if that costs nothing."""
        ...

    def chunks(self) -> Iterator[Buffer]:
        """Yield the bytes."""
        ...


def _pieces(file: IO[bytes]) -> Iterator[Buffer]:
    """Yield a file's bytes from where it stands, through one buffer."""
    if not hasattr(file, "readinto"):
        while piece := file.read(PIECE):
            yield piece
        return
    buffer = bytearray(PIECE)
    view = memoryview(buffer)
    while count := file.readinto(buffer):
        yield view[:count]


class PathSource:
    """A file by its path."""

    rewindable = True
    lasting = False

    def __init__(self, path: str, name: str) -> None:
        self.path = path
        self.name = name
        os.stat(path)  # what cannot be pushed fails before anything else is

    def known_size(self) -> int | None:
        """Return the number of bytes."""
        return os.stat(self.path).st_size

    def chunks(self) -> Iterator[Buffer]:
        """Yield the bytes."""
        with open(self.path, "rb", buffering=0) as file:
            yield from _pieces(file)


class BufferSource:
    """Buffers in memory, written one after the other without being joined."""

    rewindable = True
    lasting = True

    def __init__(self, buffers: Sequence[Any], name: str) -> None:
        self._views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        self.name = name

    def known_size(self) -> int | None:
        """Return the number of bytes."""
        return sum(view.nbytes for view in self._views)

    def chunks(self) -> Iterator[Buffer]:
        """Yield the bytes."""
        for view in self._views:
            for start in range(0, len(view), 8 * PIECE):
                yield view[start : start + 8 * PIECE]


class FileSource:
    """An open binary file, from where it stands to its end."""

    lasting = False

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self.name = name
        self.rewindable = _seekable(file)
        self._start = file.tell() if self.rewindable else 0

    def known_size(self) -> int | None:
        """Return the number of bytes if that costs nothing."""
        if not self.rewindable:
            return None
        size = self._file.seek(0, os.SEEK_END) - self._start
        self._file.seek(self._start)
        return size

    def chunks(self) -> Iterator[Buffer]:
        """Yield the bytes."""
        if self.rewindable:
            self._file.seek(self._start)
        yield from _pieces(self._file)


def _seekable(file: IO[bytes]) -> bool:
    return bool(hasattr(file, "seekable") and file.seekable())


@contextmanager
def sized(source: Source) -> Iterator[tuple[Source, int]]:
    """Give out a source that can be rewound, and its size.

    A stream that knows neither is read into a temporary file first.
    """
    size = source.known_size()
    if size is not None:
        yield source, size
        return
    with tempfile.TemporaryFile() as file:
        for chunk in source.chunks():
            file.write(chunk)
        size = file.seek(0, os.SEEK_CUR)
        file.seek(0)
        yield FileSource(file, source.name), size


def announced_chunks(source: Source, length: int) -> Iterator[Buffer]:
    """Yield the first `length` bytes of a source: others may write to a file while it is sent.

    More than was announced would be the next request of the connection.

    Raises
    ------
    TruncatedUpload
        There are fewer.

    Examples
    --------
    >>> source = BufferSource([b"header", b"body"], "grown")
    >>> [bytes(chunk) for chunk in announced_chunks(source, 8)]
    [b'header', b'bo']
    """
    left = length
    for chunk in source.chunks():
        if left == 0:
            return
        yield chunk[:left]
        left -= min(left, len(chunk))
    if left:
        raise TruncatedUpload(
            f"the source ended {left} bytes before the {length} it had",
            name=source.name,
            remedy="push it when nobody writes to it",
        )


def held_chunks(source: Source) -> list[Buffer]:
    """Return all chunks of a small source, copied where they would not last."""
    if source.lasting:
        return list(source.chunks())
    return [bytes(chunk) for chunk in source.chunks()]


def make_source(item: Any) -> Source:
    """Return the source for a path, a ``(path, name)``, ``(file, name)`` or ``(buffers, name)``.

    Characters that may not stand in a blob name become ``_``.

    Examples
    --------
    >>> source = make_source(([b"head", b"body"], "my blob"))
    >>> source.name, source.known_size()
    ('my_blob', 8)
    """
    if isinstance(item, (str, os.PathLike)):
        path = os.fspath(item)
        return PathSource(path, _name(os.path.basename(path)))
    content, name = item
    name = _name(name)
    if isinstance(content, (str, os.PathLike)):
        return PathSource(os.fspath(content), name)
    if isinstance(content, (bytes, bytearray, memoryview)):
        return BufferSource([content], name)
    if hasattr(content, "read"):
        if isinstance(content, io.TextIOBase):
            raise TypeError("push needs files opened in binary mode")
        return FileSource(content, name)
    if isinstance(content, Iterable):
        return BufferSource(list(content), name)
    raise TypeError(f"cannot push a {type(content).__name__}: give a path, a file or buffers")


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidName("a blob needs a name", name=str(name)[:64])
    return safe_name(name)
