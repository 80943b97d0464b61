"""Bytes into and out of single files, copied as seldom as possible."""

from __future__ import annotations

import errno
import os
import pickle
import stat
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from proxyflow.storage import fileio

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["as_frames", "create", "open_regular", "read", "sync_directory", "view", "write_frames"]

# Below this a read is faster than a mapping and its page faults.
MAP_BYTES = 64 * 1024

# The system takes so many buffers in one call (IOV_MAX).
_MOST_FRAMES = os.sysconf("SC_IOV_MAX")

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# Opening a named pipe would block until somebody writes to it.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def as_frames(data: Buffer | Iterable[Buffer]) -> list[memoryview]:
    """Return flat views of the data; TypeError if it is not bytes-like and contiguous."""
    try:
        buffers: Iterable[Any] = (memoryview(data),)  # type: ignore[arg-type]
    except TypeError:
        if isinstance(data, str):
            raise
        buffers = data  # type: ignore[assignment]
    frames = []
    for buffer in buffers:
        view = memoryview(buffer)
        if not view.contiguous:
            raise TypeError(f"the buffer of this {type(buffer).__name__} is not contiguous")
        if view.nbytes:
            # Flat in either order, which a cast of the view is for C order only.
            frames.append(pickle.PickleBuffer(buffer).raw())
    return frames


def write_frames(fd: int, frames: Sequence[memoryview]) -> None:
    """Write the frames one after the other, from the file's beginning."""
    pending = list(frames)
    pending.reverse()
    offset = 0
    while pending:
        batch = pending[: -_MOST_FRAMES - 1 : -1]
        # May take less: the kernel writes at most 2 GiB at a time, or the disk gets full.
        written = os.pwritev(fd, batch, offset)
        offset += written
        while pending and written >= pending[-1].nbytes:
            written -= pending.pop().nbytes
        if written:
            pending[-1] = pending[-1][written:]


def create(name: str, dir_fd: int) -> int:
    """Open a new file for writing, readable by its owner only."""
    return os.open(name, _CREATE, 0o600, dir_fd=dir_fd)


def open_regular(name: str, dir_fd: int) -> int:
    """Open a file for reading; OSError for links, pipes and whatever else is not a plain file."""
    fd = os.open(name, _READ, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", name)
    return fd


def read(fd: int) -> bytes:
    """Return the file's content and close it."""
    with open(fd, "rb", buffering=0) as file:
        return file.readall()


def view(fd: int) -> memoryview:
    """Return the file's content, writable and private, and close it.

    The view is of a copy-on-write mapping, or of a copy if that is quicker or mappings hold half of
    the descriptors there may be: it stays as it is when the file is removed, and writing to it
    changes nothing but itself.
    """
    try:
        size = os.fstat(fd).st_size
        mapped = fileio.mappings.map(fd, size) if size >= MAP_BYTES else None
        if mapped is not None:
            return mapped
        data = memoryview(bytearray(size))
        fileio.read_into(fd, data)
        return data
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    """Bring the entries of the directory to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
