"""Work in the background is done once, by the process that has queued it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path
from weakref import WeakSet

from proxyflow.storage.background import Background
from tests.processes import LONG

FORK = multiprocessing.get_context("fork")


class Opened:
    """A file that stays open until it is closed, as a segment does."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def is_open(path: Path) -> bool:
    wanted = path.stat()
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.path.samestat(os.stat(f"/proc/self/fd/{fd}"), wanted):
                return True
        except FileNotFoundError:
            # That of the listing is closed by now.
            continue
    return False


def test_what_is_queued_can_still_be_closed_in_a_forked_child(tmp_path: Path) -> None:
    """By whoever knows it weakly; its descriptors would be open there for the child's life."""
    path = tmp_path / "file"
    path.touch()
    background = Background("example")
    busy, go_on = threading.Event(), threading.Event()
    background.run(lambda: busy.set() or go_on.wait(LONG))
    assert busy.wait(LONG)
    opened = Opened(path)
    every = WeakSet([opened])
    background.run(opened.close)
    del opened

    def work() -> None:
        assert is_open(path)
        for one in every:
            one.close()
        assert not is_open(path)
        # It works for the child, and on nothing else.
        done = threading.Event()
        background.run(done.set)
        assert done.wait(LONG)

    child = FORK.Process(target=work)
    child.start()
    child.join(LONG)
    assert child.exitcode == 0
    assert is_open(path)
    go_on.set()
    background.wait()
    assert not is_open(path)
