"""A client of one filespace: its view, its pending contents, and how a sync publishes them."""

from __future__ import annotations

import functools
import os
import random
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

from .burial import bury, laid_out, ripe, without_buried
from .cleaner import Cleaner
from .contents import Contents
from .entry import new_id
from .errors import (
    FilespaceNotLinkedError,
    FilespaceSyncError,
    HubCorruptError,
    HubError,
)
from .head import TAIL_BYTES, Head
from .hub import Hub, Owner, StaleError
from .journal import Journal
from .ops import Op
from .paths import Parts
from .sweep import sweep
from .tree import Tree
from .trie import store
from .turns import Turns
from .view import View, contents_of

__all__ = ["Client", "retrying"]

F = TypeVar("F", bound=Callable[..., Any])

FOLD_OPS = 512


class Client:
    """One link to a filespace.

    Parameters
    ----------
    hub
        The filespace.
    max_age
        For how many seconds metadata read from the hub is used without looking again.
    sync_timeout
        How many seconds a sync waits for other clients that publish.
    """

    def __init__(self, hub: Hub, max_age: float, sync_timeout: float) -> None:
        self.hub = hub
        self.lock = Turns()
        self.owner = Owner(hub, new_id())
        self.contents = Contents(hub, self.owner)
        self.view = View(hub, self.contents, max_age)
        self._sync_timeout = sync_timeout
        self._syncing = Turns()
        self._buried: set[int] = set()
        self._cleaner = Cleaner()
        self._missing = (-1, "")
        self._streams: weakref.WeakSet[Any] = weakref.WeakSet()
        self._pid = os.getpid()
        self._linked = True
        try:
            with self.lock:
                self._fresh()
            sweep(hub)
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raise unless this process linked the filespace and has not unlinked it."""
        if not self._linked:
            raise FilespaceNotLinkedError(f"{self.hub.label} is not linked any more; link it again")
        if self._pid != os.getpid():
            raise FilespaceNotLinkedError(
                f"{self.hub.label} was linked by process {self._pid}; link it in this one too"
            )

    @property
    def is_linked(self) -> bool:
        """Whether the filespace can be used in this process."""
        return self._linked and self._pid == os.getpid()

    def tree(self) -> Tree:
        """Return what this client sees, others' changes brought in if the last look is too old."""
        self.check()
        return self.view.fresh()

    def refresh(self) -> None:
        """Bring in what others have published."""
        self.check()
        with self.lock:
            self._fresh()

    def record(self, *ops: Op) -> None:
        """Make changes to what this client sees."""
        self.view.record(ops)

    def when_idle(self, work: Callable[[], None]) -> None:
        """Do `work` now, or if this thread is in the middle of an operation, after that."""
        self._syncing.when_free(lambda: self.lock.when_free(work))

    def track(self, stream: Any) -> Any:
        """Remember an open file, to be closed by `close`."""
        self._streams.add(stream)
        return stream

    def sync(self, only: Parts | None = None, compact: bool = False) -> None:
        """Publish pending changes (of the one path `only`); return when they are durable.

        Raises
        ------
        FilespaceSyncError
            If they could not be; they stay pending.
        """
        self.check()
        with self._syncing:
            try:
                with self.lock:
                    contents = self.view.contents_of(only)
                self.contents.publish(contents)
                self._publish(only, compact)
                if compact and self.view.head.graves:
                    self._publish(only, compact)  # what the first time has set free
            except (HubError, OSError) as error:
                raise FilespaceSyncError(
                    f"sync of {self.hub.label} failed, its changes are kept and it can be tried "
                    f"again: {error}"
                ) from error

    def close_streams(self) -> None:
        """Close the files that are still open."""
        for stream in list(self._streams):
            stream.close()

    def close(self) -> None:
        """Give up what is not published and end the link; a forked child only forgets it."""
        linked, self._linked = self._linked, False
        if linked and self._pid == os.getpid():
            self._cleaner.close()
            self.contents.clear()
            self.owner.end()

    def _fresh(self) -> None:
        while True:
            try:
                self.view.refresh()
                return
            except StaleError as error:
                self.reload(error)

    def reload(self, stale: StaleError) -> None:
        """Read the metadata anew after a node it led to was gone.

        Raises
        ------
        HubCorruptError
            If that is no wonder: the head leads to it still.
        """
        while True:
            head = self.hub.head()
            missing = (head.version, stale.node)
            if missing == self._missing:
                raise HubCorruptError(
                    f"{self.hub.label}: metadata node {stale.node} is missing in the hub"
                ) from stale
            self._missing = missing
            try:
                self.view.refresh(reload=True)
                return
            except StaleError as error:
                stale = error

    def _publish(self, only: Parts | None, compact: bool) -> None:
        deadline = time.monotonic() + self._sync_timeout
        pause = 0.005
        while True:
            with self.lock, self.hub.serialised(self._sync_timeout):
                try:
                    self._fresh()
                    ready, waiting = self.view.select(only)
                    if not (ready or compact) or self._commit(ready, waiting, compact):
                        return
                except StaleError as error:
                    self.reload(error)
            if time.monotonic() > deadline:
                raise HubError(f"other clients kept publishing for {self._sync_timeout:g} s")
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 0.5)

    def _commit(self, ready: list[Op], waiting: list[Op], compact: bool) -> bool:
        """Try once to make `ready` the next version; return whether it is."""
        view, txn = self.view, new_id()[:16]
        tree = view.published.copy()
        tree.dropped = list(view.published.dropped)
        for op in ready:
            op.apply(tree)
        # Many changes would be folded at once anyhow: they need not go through the tail.
        fold = compact or len(ready) > FOLD_OPS
        head = view.head.following(txn, [] if fold else ready)
        head = without_buried(head, self._buried)
        self._buried.intersection_update({grave.version for grave in head.graves})
        old = ripe(head, now=compact)
        bury(self.hub, old)
        head = replace(head, graves=tuple(grave for grave in head.graves if grave not in old))
        fold = fold or head.tail_bytes > TAIL_BYTES
        nodes: dict[str, bytes] = {}

        def write(data: bytes) -> str:
            node = self.owner.new_id()
            nodes[node] = data
            return node

        dropped: list[str] = []
        if fold:
            assert tree.root is not None
            folded = Tree(store(tree.root, write, self.hub.load_node))
            head = head.folded(folded.root.ref if folded.root else None)
            folded.freed, dropped, tree = tree.freed, tree.dropped, folded
        head = laid_out(head, tree.freed, dropped, write)
        if not self._swap(head, txn, nodes, waiting):
            self.hub.delete("nodes", nodes)
            return False
        self._published(head, tree, ready, waiting)
        return True

    def _swap(self, head: Head, txn: str, nodes: dict[str, bytes], waiting: list[Op]) -> bool:
        """Make `head` the current one; return whether it is."""
        try:
            if nodes:
                self.owner.renew()
                self.hub.write_nodes(nodes)
            return self.hub.swap(head) or self.hub.head().committed(txn)
        except (HubError, OSError):
            # It may have happened all the same, the answer being lost on the way.
            self.owner.leaves_something = True
            self.view.doubt(txn, waiting)
            raise

    def _published(self, head: Head, tree: Tree, ready: list[Op], waiting: list[Op]) -> None:
        """Take note that `head` was published, then delete what it has set free."""
        freed, tree.freed = tree.freed, []
        self.view.journal = Journal(waiting)
        self.contents.settle(contents_of(ready))
        now = self.hub.known
        self.view.adopt(now, tree if now.version == head.version else None)
        if freed and self.hub.blobs.keeps_open_files:
            self._cleaner.delete(
                lambda: self.hub.delete("content", freed), lambda: self._buried.add(head.version)
            )


def retrying(method: F) -> F:
    """Run a method of something that has a `client` under its lock, again if it was stale."""

    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        client: Client = self.client
        with client.lock:
            while True:
                try:
                    return method(self, *args, **kwargs)
                except StaleError as error:
                    client.reload(error)

    return cast(F, run)
