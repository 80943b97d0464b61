"""Blobs being read: files that know where they came from and how to check themselves."""

from __future__ import annotations

import abc
import contextlib
import io
import mmap
from collections.abc import Callable
from typing import IO, NamedTuple

import xxhash

from .errors import BlobDamaged

__all__ = ["Blob", "Checksum", "Digest", "FileBlob", "MemoryBlob", "StreamBlob"]


class Digest(NamedTuple):
    """What is known of a blob's bytes: their number and their 128-bit xxHash.

    Examples
    --------
    >>> Digest.parse(Digest(3, "ab" * 16).encode())
    Digest(size=3, xxh3='abababababababababababababababab')
    """

    size: int
    xxh3: str

    def encode(self) -> bytes:
        """Return the stored form."""
        return f"xxh3_128 {self.xxh3} {self.size}\n".encode()

    @classmethod
    def parse(cls, data: bytes) -> Digest:
        """Raise ValueError when the bytes are not what `encode` made."""
        algorithm, xxh3, size = data.decode("ascii").split()
        if algorithm != "xxh3_128" or len(xxh3) != 32:
            raise ValueError("unknown checksum")
        return cls(int(size), xxh3)


class Checksum:
    """A digest in the making."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()
        self.size = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Count more bytes."""
        self._hash.update(data)
        self.size += len(data)

    def digest(self) -> Digest:
        """Return the digest of the bytes so far."""
        return Digest(self.size, self._hash.hexdigest())


class Blob(io.BufferedIOBase):
    """An open blob: a binary file with `url`, `size`, `digest` and ``len()``.

    Attributes
    ----------
    url : str
        The replica that is read.
    digest : Digest or None
        Size and checksum; ``None`` when the server does not tell them.
    path : str or None
        The file on this host, where the replica lies on a local volume.
    """

    url: str = ""
    digest: Digest | None = None
    path: str | None = None

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of bytes."""

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return len(self)

    def __bool__(self) -> bool:
        return True  # an empty blob is a blob

    def map(self, *, writable: bool = False) -> memoryview:
        """Return the whole blob as a buffer, without copying where the replica is local.

        With `writable` the buffer is a private copy-on-write mapping: changes reach neither the
        stored blob nor anybody else. The buffer outlives the file.
        """
        if self.path is not None and len(self):
            with open(self.path, "rb") as file:
                return _mapped(file.fileno(), len(self), writable)
        self.seek(0)
        data = self.read()
        return memoryview(bytearray(data) if writable else data)


def _mapped(fd: int, size: int, writable: bool) -> memoryview:
    access = mmap.ACCESS_COPY if writable else mmap.ACCESS_READ
    return memoryview(mmap.mmap(fd, size, access=access))


class FileBlob(io.BufferedReader, Blob):
    """A blob on a local volume."""

    def __init__(self, path: str, url: str, digest: Digest) -> None:
        super().__init__(io.FileIO(path, "rb"))
        self.path = path
        self.url = url
        self.digest = digest
        self._length = digest.size

    def map(self, *, writable: bool = False) -> memoryview:
        """Return the whole blob as a buffer; see `Blob.map`."""
        # By the open file, as gc may have removed the path meanwhile.
        return _mapped(self.fileno(), len(self), writable) if len(self) else memoryview(b"")

    def __del__(self) -> None:
        # Code written for Disco reads what `pull` yields and lets it go; that is not worth a
        # ResourceWarning per blob. One whose file was gone cannot even be closed.
        with contextlib.suppress(ValueError):
            self.close()

    def __len__(self) -> int:
        return self._length


class MemoryBlob(io.BytesIO, Blob):
    """A blob that was fetched whole."""

    def __init__(self, data: bytes, url: str, digest: Digest | None) -> None:
        super().__init__(data)
        self._length = len(data)
        self.url = url
        self.digest = digest

    def __len__(self) -> int:
        return self._length


class StreamBlob(io.BufferedReader, Blob):
    """A blob too large to be fetched whole; its checksum is compared when its last byte is read."""

    def __init__(
        self,
        raw: IO[bytes],
        url: str,
        size: int,
        digest: Digest | None,
        path: str | None = None,
    ) -> None:
        self._checked = _CheckedRaw(raw, url, digest)
        super().__init__(self._checked, buffer_size=2**20)
        self._length = size
        self.path = path
        self.url = url
        self.digest = digest

    def __len__(self) -> int:
        return self._length

    def on_read(self, report: Callable[[int], object]) -> None:
        """Call `report` with the number of bytes whenever some have been read."""
        self._checked.report = report


class _CheckedRaw(io.RawIOBase):
    """Passes bytes on; whoever reads them all in order gets them checked."""

    def __init__(self, raw: IO[bytes], url: str, digest: Digest | None) -> None:
        self._raw = raw
        self._url = url
        self._digest = digest
        self._checksum: Checksum | None = Checksum()
        self.report: Callable[[int], object] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._raw.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = self._raw.seek(offset, whence)
        self._checksum = Checksum() if position == 0 else None
        return position

    def tell(self) -> int:
        return self._raw.tell()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._raw.read(len(buffer))
        memoryview(buffer).cast("B")[: len(data)] = data
        if self.report is not None:
            self.report(len(data))
        if self._checksum is not None and self._digest is not None:
            self._checksum.update(data)
            # Who knows the length reads no further than that.
            ended = not data or self._checksum.size >= self._digest.size
            if ended and self._checksum.digest() != self._digest:
                raise BlobDamaged("the blob fails its checksum", store=self._url)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
