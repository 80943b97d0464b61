"""Names of files: which are allowed, and new ones that sort by time."""

from __future__ import annotations

import os
import threading
import time

from proxyflow.storage.maildir.errors import InvalidNameError

__all__ = ["base_name", "checked_name", "unique_name"]


def checked_name(name: str | os.PathLike[str], store: str) -> str:
    """Return the name if a file of a section can have it, else raise InvalidNameError."""
    try:
        text = os.fspath(name)
        os.fsencode(text)
    except (TypeError, UnicodeEncodeError) as error:
        raise InvalidNameError(f"not a file name ({error})", store=store, name=name) from error
    if not isinstance(text, str) or text in ("", ".", "..") or "/" in text or "\0" in text:
        raise InvalidNameError(
            "not the name of a file in a section",
            store=store,
            name=name,
            remedy="use a name without directories",
        )
    return text


def base_name(path: str | os.PathLike[str], store: str) -> str:
    """Return the name without leading directories, as `move` and `copy` take it."""
    try:
        text = os.path.basename(path)
    except TypeError as error:
        raise InvalidNameError(f"not a file name ({error})", store=store, name=path) from error
    return checked_name(text, store)


class _UniqueNames:
    """Time in nanoseconds, never the same twice in a process, and a token of the process."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        # A forked child inherits a lock that nobody there may release, and needs its own token.
        self._lock = threading.Lock()
        self._token = os.urandom(8).hex()
        self._last = 0

    def __call__(self) -> str:
        with self._lock:
            # The clock stands still within its resolution, and is set back now and then.
            self._last = max(time.time_ns(), self._last + 1)
            return f"{self._last:016x}-{self._token}"


unique_name = _UniqueNames()
os.register_at_fork(after_in_child=unique_name.restart)
