"""The lists that link a process's objects to its session's tag, so that `walk` sees them.

A list is written by one process only, and kept short: it is rewritten with each object. One that
is full is emptied of what the process has evicted, if that is most of it, and else followed by
another one.
"""

from __future__ import annotations

import threading

from proxyflow.connectors.session import new_name
from proxyflow.storage.tagblob import DDFS

__all__ = ["SessionLists"]

#: The most links in a list.
LENGTH = 500


class SessionLists:
    """Links from a session's tag to the tags of this process's objects.

    Parameters
    ----------
    ddfs
        The store.
    session_tag
        What the lists are linked from.
    """

    def __init__(self, ddfs: DDFS, session_tag: str) -> None:
        self._ddfs = ddfs
        self._session_tag = session_tag
        self._list = ""
        self._linked = 0
        self._live: set[str] = set()
        # Guards the above. A full list waits until nobody appends to it.
        self._idle = threading.Condition()
        self._appending = 0

    def link(self, tag: str) -> None:
        """Link the tag of an object that is about to be stored."""
        with self._idle:
            if not self._list or self._linked >= LENGTH:
                self._idle.wait_for(lambda: self._appending == 0)
            if not self._list or self._linked >= LENGTH:  # unless another thread did this already
                self._make_room()
            self._linked += 1
            self._live.add(tag)
            self._appending += 1
            name = self._list
        try:
            self._ddfs.tag(name, [[f"tag://{tag}"]])
        finally:
            with self._idle:
                self._appending -= 1
                self._idle.notify_all()

    def unlink(self, tag: str) -> None:
        """Note that an object is gone: its link goes when there is something to gain."""
        with self._idle:
            self._live.discard(tag)

    def _make_room(self) -> None:
        if self._list and len(self._live) <= LENGTH // 2:
            self._ddfs.put(self._list, [[f"tag://{tag}"] for tag in sorted(self._live)])
            self._linked = len(self._live)
            return
        name = f"{self._session_tag}-{new_name(10)}"
        self._ddfs.admit_readers(name)
        self._ddfs.tag(self._session_tag, [[f"tag://{name}"]])
        self._list, self._linked, self._live = name, 0, set()
