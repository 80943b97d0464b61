"""One filespace in a hub: its head, its nodes, its contents, and the clients that wrote them.

Below the folder of a filespace stand::

    head                     the one blob that changes (`head.Head`), in a directory in two `slots`
    nodes/CLIENT/SEQ         metadata nodes, immutable
    content/CLIENT/SEQ       contents of files, immutable once published
    clients/CLIENT           who is alive; see `Owner`

Every name a client makes carries its own identifier. So what a killed client wrote but never
published can be found among its own names, and deleted.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from .blobs import Blobs
from .entry import check_id
from .errors import FilespaceNotFoundError, FsContentError, HubCorruptError
from .flock import FileLock
from .head import Head
from .streams import RangeReader

__all__ = ["Hub", "Owner", "StaleError"]

LEASE = 3600.0
SWEEP_TIMEOUT = 60.0
ATTEMPTS = 5


class StaleError(Exception):
    """A node this client's metadata leads to is gone: others have moved on; read the head again."""

    def __init__(self, node: str) -> None:
        super().__init__(node)
        self.node = node


class Hub:
    """The blobs of one filespace.

    Parameters
    ----------
    blobs
        The storage of the workspace.
    folder
        Where in it the filespace is.
    label
        What errors call it.
    """

    def __init__(self, blobs: Blobs, folder: str, label: str) -> None:
        self.blobs = blobs
        self.folder = folder
        self.label = label
        self.tag: Any = None
        self._head = Head()

    @property
    def known(self) -> Head:
        """The head read or published last."""
        return self._head

    def head(self) -> Head:
        """Return the current head; decoded only if it is not the one read last."""
        for attempt in itertools.count(1):
            tagged = self.blobs.read_tagged(f"{self.folder}/head", self.tag)
            if tagged is None:
                raise FilespaceNotFoundError(f"{self.label} does not exist (any more) in the hub")
            if tagged.tag == self.tag:
                break
            try:
                self._head = Head.decode(tagged.data, self.label)
            except HubCorruptError:
                if attempt == ATTEMPTS:
                    raise
                # Two others have published while it was read.
                time.sleep(0.001)
            else:
                self.tag = tagged.tag
                break
        return self._head

    def serialised(self, timeout: float) -> AbstractContextManager[object]:
        """Keep other publishers out where that is cheap."""
        return self.blobs.serialised(f"{self.folder}/head", timeout)

    def swap(self, head: Head) -> bool:
        """Make `head` the current one if the one last read still is; return whether."""
        tag = self.blobs.swap(f"{self.folder}/head", self.tag, head.encode())
        if tag is None:
            return False
        self.tag, self._head = tag, head
        return True

    def load_node(self, node: str) -> bytes:
        """Return a stored node; raises `StaleError` if it is gone."""
        data = self.blobs.read(self.name("nodes", node))
        if data is None:
            raise StaleError(node)
        return data

    def write_nodes(self, nodes: dict[str, bytes]) -> None:
        """Store nodes, durably."""
        self.blobs.write({self.name("nodes", node): data for node, data in nodes.items()})

    def delete(self, kind: str, ids: Iterable[str]) -> None:
        """Delete nodes or contents; missing ones are no error."""
        names = [self.name(kind, one) for one in ids]
        self.blobs.delete(names)
        for folder in {name.rpartition("/")[0] for name in names}:
            self.prune(folder.rpartition("/")[2])

    def prune(self, client: str) -> None:
        """Remove the empty folders of a client that is gone."""
        path = self.blobs.local_path(f"{self.folder}/clients/{client}")
        if path is not None and not os.path.exists(path):
            for kind in ("nodes", "content"):
                self.blobs.prune(f"{self.folder}/{kind}/{client}")

    def open_content(
        self, content: str, size: int, path: str, on_close: Callable[[], None] | None
    ) -> RangeReader:
        """Return a reader of a content that is not on this host; `path` is what it is called."""
        name = self.name("content", content)
        found = self.blobs.size(name)
        if found != size:
            raise FsContentError.at(path, f"Content in the hub has {found} bytes instead of {size}")

        def fetch(start: int, end: int) -> bytes:
            try:
                return self.blobs.read_range(name, start, end)
            except FileNotFoundError as error:
                raise FsContentError.at(
                    path, "Content was replaced by another client while it was read; open it again"
                ) from error

        return RangeReader(fetch, size, path, on_close)

    def name(self, kind: str, one: str) -> str:
        """Return the blob name of the node or content with the identifier `one`."""
        client, _, number = check_id(one).partition("-")
        return f"{self.folder}/{kind}/{client}/{number}"

    def written_by(self, client: str) -> Iterator[tuple[str, str]]:
        """Yield kind and identifier of every node and content a client has written."""
        for kind in ("nodes", "content"):
            for name in self.blobs.names(f"{self.folder}/{kind}/{client}"):
                yield kind, f"{client}-{name.rpartition('/')[2]}"


class Owner:
    """A client's claim to what it has written and not yet published.

    On a directory it is a lock that ends with the process. In an object store, which does not
    notice that, it is a record written when the client begins to publish and good for an hour.
    """

    def __init__(self, hub: Hub, client: str) -> None:
        self.hub = hub
        self.client = client
        self._name = f"{hub.folder}/clients/{client}"
        self._numbers = itertools.count(1)
        self.leaves_something = False
        """Whether something of this client may be in the hub that it does not know of."""
        self._lock: FileLock | None = None
        path = hub.blobs.local_path(self._name)
        if path is not None:
            hub.blobs.spool(f"{hub.folder}/clients")
            # Waits: another client that sweeps may have found the file before it was locked.
            self._lock = FileLock(path, timeout=SWEEP_TIMEOUT)

    def new_id(self) -> str:
        """Return the identifier of a node or content nobody has used."""
        return f"{self.client}-{next(self._numbers):x}"

    def renew(self) -> None:
        """Say that this client is about to publish."""
        if self._lock is None:
            record = json.dumps({"until": time.time() + LEASE}).encode()
            self.hub.blobs.write({self._name: record})

    def end(self) -> None:
        """Give the claim up; or leave it, as a killed client does, for others to look into."""
        if self.leaves_something:
            if self._lock is not None:
                self._lock.release()
        elif self._lock is not None:
            self._lock.remove()
            self.hub.prune(self.client)
        else:
            self.hub.blobs.delete([self._name])

    @classmethod
    def abandoned(cls, hub: Hub) -> Iterator[tuple[str, FileLock | None]]:
        """Yield the clients that are dead, each claimed for as long as the caller looks at it."""
        for name in list(hub.blobs.names(f"{hub.folder}/clients")):
            client = name.rpartition("/")[2]
            path = hub.blobs.local_path(name)
            if path is None:
                record = hub.blobs.read(name)
                if record is not None and json.loads(record)["until"] < time.time():
                    yield client, None
                continue
            try:
                lock = FileLock(path)
            except TimeoutError:
                continue
            with lock:
                yield client, lock
