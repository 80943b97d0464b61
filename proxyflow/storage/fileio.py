"""Moving bytes between memory and files: gather writes, atomic publication, private mappings."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import secrets
import sys
import weakref
from collections.abc import Callable, Sequence

__all__ = [
    "Descriptor",
    "Mappings",
    "descriptors",
    "discard",
    "mappings",
    "names",
    "open_unnamed",
    "publish",
    "read",
    "read_into",
    "write_frames",
    "write_new",
]

_IOV_MAX = 1024
_ONE_CALL = 0x7FFFF000
"""The most bytes Linux moves in one read or write (see write(2))."""


class Descriptor:
    """A file descriptor that is closed when nobody uses it any more.

    Closing one while another thread works with its number would let that thread loose on whatever
    file gets the number next; so a user holds on to this object, not to the number alone.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Bound early: at the end of the interpreter the module's names may be gone before this.
        close(self.fd)


def names(directory: int) -> list[str]:
    """Return the names in a directory given by its descriptor.

    A descriptor has one position, which every thread and every forked child that lists by it moves
    on for the others; so this lists by a new one.
    """
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def open_unnamed(directory: int) -> int:
    """Open a new file that has no name yet, in a directory given by its descriptor.

    A process that dies before :func:`publish` leaves nothing behind. Where the file system has no
    unnamed files (NFS), the file has a temporary name that starts with ``.tmp-``.
    """
    try:
        return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except OSError as error:
        # EISDIR is how kernels and file systems say that they do not know O_TMPFILE.
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    return os.open(_temporary_name(), flags, 0o600, dir_fd=directory)


def publish(fd: int, directory: int, name: str) -> None:
    """Give a file from :func:`open_unnamed` its name, replacing what has that name.

    Before, nobody sees the file; after, everybody sees all of it.
    """
    source = f"/proc/self/fd/{fd}"
    if os.fstat(fd).st_nlink:
        # It has a temporary name: the file system knows no unnamed files.
        temporary = os.path.basename(os.readlink(source))
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        return
    try:
        _link(source, directory, name)
    except FileExistsError:
        temporary = _temporary_name()
        _link(source, directory, temporary)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


def discard(fd: int, directory: int) -> None:
    """Remove the temporary name, if it has one, of a file that will not be published."""
    if os.fstat(fd).st_nlink:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)


def _link(source: str, directory: int, name: str) -> None:
    # Only linkat(2) follows the link in /proc, and CPython only calls it when a directory
    # descriptor is given for the source too; an absolute source ignores it.
    os.link(source, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=True)


def _temporary_name() -> str:
    return f".tmp-{secrets.token_hex(8)}"


def write_new(
    directory: int,
    name: str,
    frames: Sequence[bytes | bytearray | memoryview],
    *,
    durable: bool = False,
) -> None:
    """Write a file that a reader sees all of or not at all, replacing what has its name.

    It has no name until it is complete: a writer that is killed, or that runs out of room, leaves
    nothing.

    Parameters
    ----------
    directory
        Descriptor of the directory.
    name
        Its name there.
    frames
        Its content, in pieces that are not joined.
    durable
        Whether it has reached the disk on return.
    """
    fd = open_unnamed(directory)
    try:
        write_frames(fd, frames)
        if durable:
            os.fsync(fd)
        publish(fd, directory, name)
    except BaseException:
        discard(fd, directory)
        raise
    finally:
        os.close(fd)
    if durable:
        os.fsync(directory)


def write_frames(fd: int, frames: Sequence[bytes | bytearray | memoryview]) -> int:
    """Write pieces one after the other from the start of a file, without joining them.

    Returns
    -------
    int
        The number of bytes written.
    """
    pending = [view for view in (memoryview(frame).cast("B") for frame in frames) if view.nbytes]
    pending.reverse()
    offset = 0
    while pending:
        batch: list[memoryview] = pending[: -_IOV_MAX - 1 : -1]
        written = os.pwritev(fd, batch, offset)
        offset += written
        while pending and written >= pending[-1].nbytes:
            written -= pending.pop().nbytes
        if written:
            # A write of more than two gigabytes, or one that a signal cut short, goes on here.
            pending[-1] = pending[-1][written:]
    return offset


def read(fd: int) -> bytes:
    """Return the whole of a file as bytes."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, min(size, _ONE_CALL), 0)
    if len(data) == size:
        return data
    whole = bytearray(size)
    read_into(fd, memoryview(whole))
    return bytes(whole)


def read_into(fd: int, buffer: memoryview) -> None:
    """Fill a buffer from the start of a file.

    Raises
    ------
    EOFError
        If the file is shorter.
    """
    done = 0
    while done < buffer.nbytes:
        count = os.preadv(fd, [buffer[done : done + _ONE_CALL]], done)
        if count == 0:
            raise EOFError(f"file ends after {done} of {buffer.nbytes} bytes")
        done += count


def descriptors(share: int, most: int) -> int:
    """Return how many descriptors to hold: one in `share` of what the process may open, or `most`.

    Examples
    --------
    >>> 0 < descriptors(8, 100) <= 100
    True
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else min(most, soft // share)


class Mappings:
    """Private mappings of files, bounded by the descriptors they hold.

    Python's ``mmap`` keeps a descriptor open for as long as the mapping lives (before 3.13 always),
    and the limit is often 1024: a process that keeps many mapped arrays would find itself unable
    to open a socket. Beyond `limit` nothing is mapped; the caller reads a copy instead.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        # A set, because adding and discarding need no lock: a finalizer may run in the midst of
        # anything, and a lock could be held by a thread that a forked child does not have.
        self._alive: set[weakref.ref[mmap.mmap]] = set()

    @property
    def limit(self) -> int:
        """How many descriptors mappings may hold: half of what the process may open."""
        return max(16, descriptors(2, 1 << 30)) if self._limit is None else self._limit

    def map(self, fd: int, size: int, *, keep: bool = False) -> memoryview | None:
        """Map a file copy-on-write: writable, and private to the caller.

        Parameters
        ----------
        fd
            The file.
        size
            Its size.
        keep
            Whether a copy of the descriptor, and with it a lock, has to live as long as the
            mapping.

        Returns
        -------
        memoryview or None
            None if too many mappings are alive.
        """
        if sys.version_info >= (3, 13) and not keep:
            return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_COPY, trackfd=False))
        if len(self._alive) >= self.limit:
            return None
        try:
            mapped = mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            return None
        self._alive.add(weakref.ref(mapped, self._alive.discard))
        return memoryview(mapped)


mappings = Mappings()
"""The one this process uses: the bound is the process's."""
