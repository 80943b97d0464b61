"""What is kept for later is given back, whatever else happens in the process."""

from __future__ import annotations

import errno
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxyflow.connectors.shm import SharedMemoryConnector
from proxyflow.connectors.trimming import trimming
from proxyflow.periodic import poll
from tests.processes import LONG

FORK = multiprocessing.get_context("fork")


class Kept:
    """Something that is kept; what a look at it does is said by a function."""

    def __init__(self, trim: Callable[[], bool] = lambda: False) -> None:
        self.looks = 0
        self._trim = trim

    def trim(self) -> bool:
        self.looks += 1
        return self._trim()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming._periodic, "_interval", 0.05)


@pytest.fixture
def connector() -> Iterator[SharedMemoryConnector]:
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as directory,
        SharedMemoryConnector(str(Path(directory) / "store")) as connector,
    ):
        yield connector


def test_it_is_looked_at_until_there_is_nothing_left() -> None:
    answers = iter([True, True])
    kept = Kept(lambda: next(answers, False))
    trimming.add(kept)
    assert poll(lambda: kept.looks >= 3, LONG)


def test_one_that_fails_keeps_nothing_else_from_being_given_back() -> None:
    """Out of descriptors for a moment, a process would hold its memory for good."""

    def fail() -> bool:
        if failing.looks < 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return False

    failing, other = Kept(fail), Kept()
    for kept in (failing, other):
        trimming.add(kept)
    trimming.look()
    assert poll(lambda: failing.looks >= 3 and other.looks, LONG)


def test_one_that_is_kept_already_starts_the_thread_that_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever has ended it, the next object that is stored brings it back."""
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    kept = Kept(lambda: 1 / 0 > 0)
    trimming.add(kept)
    for looks in (1, 2, 3):
        assert poll(lambda looks=looks: kept.looks >= looks, LONG)
        assert poll(lambda: not trimming._periodic._running, LONG)
        trimming.add(kept)
    trimming.discard(kept)


def test_what_is_added_in_the_midst_of_its_own_look_is_looked_at_again() -> None:
    """Another thread may get something to keep after the look, and before it is dropped."""

    def trim() -> bool:
        if kept.looks == 1:
            trimming.add(kept)
            return False
        return kept.looks < 4

    kept = Kept(trim)
    trimming.add(kept)
    assert poll(lambda: kept.looks >= 4, LONG)


def test_others_may_add_during_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who needs room looks, in the midst of storing, and would fail with an error about sets."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    over = threading.Event()

    def add() -> None:
        while not over.is_set():
            trimming.add(Kept())

    adding = [threading.Thread(target=add) for _ in range(2)]
    try:
        for thread in adding:
            thread.start()
        for _ in range(3000):
            trimming.look()
    finally:
        over.set()
        sys.setswitchinterval(interval)
        for thread in adding:
            thread.join(LONG)


def test_a_forked_child_gives_back_on_its_own(
    connector: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker of a pool does that its parent has forked after it had stored something."""
    monkeypatch.setattr("proxyflow.storage.segments._IDLE", 0.05)
    connector.evict(connector.put(bytes(1 << 20)))
    pipe, theirs = FORK.Pipe()

    def work() -> None:
        kept = connector.put(bytes(1 << 20))
        connector.evict(kept)
        evicted = connector.put(bytes(2 << 20))
        theirs.send(evicted)
        theirs.recv()
        recycler = connector._recycler
        assert recycler is not None
        assert poll(lambda: not recycler._pool._free and not recycler._pool._published, LONG)

    child = FORK.Process(target=work)
    child.start()
    connector.evict(pipe.recv())
    pipe.send("go on")
    child.join(LONG)
    assert child.exitcode == 0
