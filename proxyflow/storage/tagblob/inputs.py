"""What `chunk` can cut: paths, URLs, replica sets, open files, bytes and iterables of records."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from .area import local_root
from .blobs import Blob
from .chunking import Reader, chunks, cut
from .errors import ConfigError
from .names import safe_name
from .sources import BufferSource, Source

__all__ = ["chunk_sources"]

OpenReplicas = Callable[[list[str]], Blob]


def chunk_sources(
    inputs: Any,
    open_replicas: OpenReplicas,
    *,
    chunk_size: int,
    max_record_size: int,
    reader: Reader | None,
    record_size: int | None,
) -> Iterator[Source]:
    """Yield one source per chunk, named after its input and numbered."""
    for limit, what in ((chunk_size, "chunk_size"), (max_record_size, "max_record_size")):
        if limit < 1:
            raise ConfigError("must be positive", name=what)
    if record_size is not None and record_size < 1:
        raise ConfigError("must be positive", name="record_size")
    for number, item in enumerate(_listed(inputs)):
        if _is_records(item):
            parts = chunks(item, chunk_size, max_record_size)
            yield from _numbered(parts, f"records{number}")
            continue
        file, url, size = _open(item, number, open_replicas)
        with file:
            parts = cut(
                file,
                url,
                chunk_size=chunk_size,
                max_record_size=max_record_size,
                reader=reader,
                record_size=record_size,
                size=size,
            )
            yield from _numbered(parts, os.path.basename(url) or f"input{number}")


def _listed(inputs: Any) -> Iterable[Any]:
    single = isinstance(inputs, (str, bytes, bytearray, memoryview, os.PathLike))
    return [inputs] if single or hasattr(inputs, "read") else inputs


def _is_records(item: Any) -> bool:
    if isinstance(item, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(item, "read"):
        return False
    if isinstance(item, (list, tuple)) and item and all(isinstance(x, str) for x in item):
        return "://" not in item[0] and not os.path.exists(item[0])
    return isinstance(item, Iterable)


def _numbered(parts: Iterable[list[bytes]], base: str) -> Iterator[Source]:
    for number, buffers in enumerate(parts):
        yield BufferSource(buffers, safe_name(f"{base}-{number}"))


def _open(
    item: Any, number: int, open_replicas: OpenReplicas
) -> tuple[io.BufferedIOBase, str, int | None]:
    """Return an input as an open file, its URL and its size if known."""
    if isinstance(item, (bytes, bytearray, memoryview)):
        return io.BytesIO(item), f"bytes{number}", len(item)
    if hasattr(item, "read"):
        name = getattr(item, "name", None)
        return _Borrowed(item), name if isinstance(name, str) else f"file{number}", None
    replicas = [os.fspath(item)] if isinstance(item, (str, os.PathLike)) else list(item)
    path = replicas[0] if "://" not in replicas[0] else local_root(replicas[0])
    if path is not None:
        return open(path, "rb"), path, os.stat(path).st_size
    blob = open_replicas(replicas)
    return blob, replicas[0].split("$")[0], len(blob)


class _Borrowed(io.BufferedIOBase):
    """A caller's file, which stays open."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        return self._file.read(-1 if size is None else size)
