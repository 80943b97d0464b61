"""Waiting for a change in a directory, by inotify where the kernel has it, else by looking.

See inotify(7) for what an event promises, and what it does not: changes that another host makes on
a network file system raise none, which is why a wait never relies on events alone.
"""

from __future__ import annotations

import errno
import functools
import os
import select
import time
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple

__all__ = ["DirectoryWatch"]

# A wait looks again at least this often: events are not everything (other hosts, parents renamed).
RECHECK_SECONDS = 1.0

# Without events the directory is looked at after 1 ms, then ever more rarely.
FIRST_POLL_SECONDS = 0.001
LAST_POLL_SECONDS = 0.1
POLL_GROWTH = 1.5

# How soon a wait for a directory that is not there returns: a caller that goes round and round
# until it appears should not occupy a core.
MISSING_SECONDS = 0.01

# Time stamps of files advance with the kernel's tick (up to 10 ms), so two changes that close may
# leave the same stamp. One younger than this does not prove that nothing happened since.
STAMP_DOUBT_NS = 20_000_000

# linux/inotify.h
_IN_CLOSE_WRITE = 0x00000008
_IN_MOVED_FROM = 0x00000040
_IN_MOVED_TO = 0x00000080
_IN_CREATE = 0x00000100  # hard links included
_IN_DELETE = 0x00000200
_IN_DELETE_SELF = 0x00000400
_IN_MOVE_SELF = 0x00000800
_IN_ONLYDIR = 0x01000000
_EVENTS = (
    _IN_CLOSE_WRITE
    | _IN_MOVED_FROM
    | _IN_MOVED_TO
    | _IN_CREATE
    | _IN_DELETE
    | _IN_DELETE_SELF
    | _IN_MOVE_SELF
    | _IN_ONLYDIR
)
_IN_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC

# Enough for every event of a burst; what is left over makes the next wait return, no more.
_READ_BYTES = 65536


class _Calls(NamedTuple):
    """The three system calls; each returns -1 with ``ctypes.get_errno()`` on failure."""

    init1: Callable[[int], int]
    add_watch: Callable[[int, bytes, int], int]
    rm_watch: Callable[[int, int], int]
    get_errno: Callable[[], int]


@functools.cache
def _calls() -> _Calls:
    """Bind inotify; OSError(ENOSYS) where the C library has none."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    try:
        init1, add_watch, rm_watch = (
            library.inotify_init1,
            library.inotify_add_watch,
            library.inotify_rm_watch,
        )
    except AttributeError:
        raise OSError(errno.ENOSYS, "this system has no inotify") from None
    init1.argtypes = [ctypes.c_int]
    add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
    rm_watch.argtypes = [ctypes.c_int, ctypes.c_int]
    return _Calls(init1, add_watch, rm_watch, ctypes.get_errno)


class _Inotify:
    """The directories' events; OSError if there is no inotify, none left, or not all of them."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._calls = _calls()
        self._paths = [os.fsencode(path) for path in paths]
        self._fd = self._checked(self._calls.init1(_IN_NONBLOCK_CLOEXEC))
        try:
            self._watched = self._add_watches()
        except OSError:
            os.close(self._fd)
            raise
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def _checked(self, result: int) -> int:
        if result < 0:
            number = self._calls.get_errno()
            raise OSError(number, os.strerror(number), os.fsdecode(self._paths[0]))
        return result

    def _add_watches(self) -> set[int]:
        add_watch = self._calls.add_watch
        return {self._checked(add_watch(self._fd, path, _EVENTS)) for path in self._paths}

    def wait(self, seconds: float) -> bool:
        """Wait for an event; take what is there."""
        if not self._poll.poll(seconds * 1000):
            return False
        os.read(self._fd, _READ_BYTES)
        return True

    def follow(self) -> None:
        """Watch what the paths name now; OSError if one names nothing.

        Asking again for a directory that is watched already returns its number and loses no
        event, so this tells a directory that was replaced from one that was not.
        """
        watched = self._add_watches()
        for gone in self._watched - watched:
            # Fails if the kernel dropped the watch with its directory, which is as good.
            self._calls.rm_watch(self._fd, gone)
        self._watched = watched

    def close(self) -> None:
        os.close(self._fd)


class _Stamp:
    """A directory's time stamp, and whether it has changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen = self._look()
        self._sure = self._seen is None or self._is_old(self._seen)
        self.missing = self._seen is None

    def _look(self) -> os.stat_result | None:
        try:
            return os.stat(self._path)
        except OSError:
            # Missing, or unreachable: in either case the caller's own look tells why.
            return None

    @staticmethod
    def _is_old(stamp: os.stat_result) -> bool:
        return time.time_ns() - stamp.st_mtime_ns >= STAMP_DOUBT_NS

    def may_have_changed(self) -> bool:
        """Look again."""
        stamp = self._look()
        self.missing = stamp is None
        if stamp is None or self._seen is None:
            return stamp is not self._seen
        if any(
            getattr(stamp, field) != getattr(self._seen, field)
            for field in ("st_dev", "st_ino", "st_mtime_ns", "st_nlink", "st_size")
        ):
            return True
        # Said once, and not before the stamp would tell of anything further.
        return not self._sure and self._is_old(stamp)


class _Polling:
    """The directories' time stamps, looked at ever more rarely."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._stamps = [_Stamp(path) for path in paths]

    def wait(self, seconds: float) -> bool:
        """Wait for another stamp; return soon where there is no directory."""
        deadline = time.monotonic() + seconds
        pause = FIRST_POLL_SECONDS
        while True:
            if any(stamp.may_have_changed() for stamp in self._stamps):
                return True
            if seconds > 0 and any(stamp.missing for stamp in self._stamps):
                time.sleep(min(MISSING_SECONDS, seconds))
                return True
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            time.sleep(min(pause, remaining))
            pause = min(pause * POLL_GROWTH, LAST_POLL_SECONDS)

    def close(self) -> None:
        """Nothing is held."""


class DirectoryWatch:
    """Wait until something may have changed in a directory, or in any of several.

    Make the watch *before* looking at the directory: then nothing that happens between the look
    and the wait is missed. Entries created, linked, renamed, removed, or closed after writing count
    as changes; the files of subdirectories do not.

    Where inotify is missing or its limits (``fs.inotify.max_user_instances``) are reached, the
    directory's time stamp is polled, after 1 ms at first and every 100 ms later on. A file
    rewritten in place leaves that stamp alone; it is then noticed within the second after which
    every wait returns.

    Parameters
    ----------
    path
        The directory. It may be missing, vanish, or be replaced: waits then return soon, and the
        watch goes on with whatever the path names next.
    more
        Further directories, for changes in any of them.

    Raises
    ------
    ValueError
        The path holds a NUL character.

    Notes
    -----
    One thread uses a watch at a time; threads that wait for the same directory take one watch
    each. A forked child may go on with the watch it inherited: it gets events of its own and takes
    none from its parent. The first wait of the child returns ``True`` at once.

    Closing may take the kernel some 10 ms. Who waits often for the same directory keeps its watch;
    the first wait after a pause then returns ``True`` for what happened meanwhile.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as directory, DirectoryWatch(directory) as watch:
    ...     before = watch.wait(timeout=0)
    ...     pathlib.Path(directory, "letter").touch()
    ...     after = watch.wait(timeout=5)
    >>> before, after
    (False, True)
    """

    def __init__(self, path: str | os.PathLike[str], *more: str | os.PathLike[str]) -> None:
        self._source: _Inotify | _Polling | None = None
        # A later chdir does not change what is watched.
        self._paths = [os.path.abspath(os.fspath(each)) for each in (path, *more)]
        for each in self._paths:
            if "\0" in each:
                raise ValueError(f"a path holds no NUL character: {each!r}")
        self._begin()

    def _begin(self) -> None:
        """Take note of changes from here on, as a source that belongs to this process."""
        self._drop()
        self._pid = os.getpid()
        try:
            self._source = _Inotify(self._paths)
        except OSError:
            self._source = _Polling(self._paths)

    def _drop(self) -> None:
        # In a forked child this closes the child's descriptor only; the parent's goes on.
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until something may have changed since the watch was made or last waited.

        Returns ``True`` after a second even if no change was noticed, because not every change is
        (see the module): look again, then wait for the time that remains.

        Parameters
        ----------
        timeout
            Seconds to wait at most; ``None`` for no limit. Zero asks without waiting. A negative
            one is a deadline that has passed: ``False`` without asking, so that a loop towards a
            deadline ends even where the directory never rests.

        Returns
        -------
        bool
            ``True`` if the directory is worth another look, ``False`` if the time is up.

        Raises
        ------
        ValueError
            The watch was closed.
        """
        source = self._source
        if source is None:
            raise ValueError(f"wait on a closed watch of {self._names()}")
        if timeout is not None and timeout < 0:
            return False
        if self._pid != os.getpid():
            self._begin()
            return True
        seconds = RECHECK_SECONDS if timeout is None else min(timeout, RECHECK_SECONDS)
        changed = source.wait(seconds)
        if not changed and timeout is not None and timeout <= RECHECK_SECONDS:
            return False
        # The caller looks after this, so whatever happens from here on has to be noticed.
        self._renew(source)
        return True

    def _renew(self, source: _Inotify | _Polling) -> None:
        """Go on with the directory that the path names now."""
        if isinstance(source, _Inotify):
            try:
                source.follow()
            except OSError:
                self._begin()
        else:
            # Back to events as soon as there is a directory, or an instance is free.
            self._begin()

    def close(self) -> None:
        """Stop watching; closing twice is no error."""
        self._drop()

    def __enter__(self) -> DirectoryWatch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._source is not None:
            # A descriptor would be held for as long as the collector pleases.
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<DirectoryWatch of {self._names()}>"

    def _names(self) -> str:
        return ", ".join(map(repr, self._paths))
