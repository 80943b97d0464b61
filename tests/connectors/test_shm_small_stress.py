"""Packed objects are stored, read and evicted by many processes, some of which are killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyflow.connectors.filekey import FileKey
from proxyflow.connectors.shm import SharedMemoryConnector
from proxyflow.storage.arena import remove_orphans
from tests.packed import arena_of, arenas

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory) / "store"


def pattern(number: int) -> bytes:
    """Return bytes that tell in every place which object they are of."""
    return number.to_bytes(4, "little") * (1 + number * 7919 % 700)


def check(config: dict[str, Any], keys: Any, seed: int) -> None:
    """Read, list and evict what is there, checking every byte."""
    connector = SharedMemoryConnector.from_config(config)
    rng = random.Random(seed)
    while True:
        for filename, number in rng.sample(shared := keys[:], min(20, len(shared))):
            data = connector.get(FileKey(filename))
            if data is not None and data != pattern(number):
                os._exit(3)
            if rng.random() < 0.2:
                connector.evict(FileKey(filename))
                if connector.get(FileKey(filename)) is not None:
                    os._exit(4)
        connector.put(pattern(1))


def stress(root: Path, seconds: float) -> None:
    rng = random.Random(1)
    with FORK.Manager() as manager, SharedMemoryConnector(str(root)) as connector:
        keys = manager.list()
        mine: list[tuple[str, int]] = []
        others: list[Any] = []
        made = set()
        count = 0
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for _ in range(100):
                count += 1
                key = connector.put(pattern(count))
                made.add(arena_of(key))
                mine.append((key.filename, count))
                if len(mine) > 300:
                    filename, number = mine.pop(rng.randrange(len(mine)))
                    data = connector.get(FileKey(filename))
                    assert data is None or data == pattern(number)
                    connector.evict(FileKey(filename))
            keys[:] = mine[-100:] + rng.sample(mine, min(50, len(mine)))
            if len(others) < 4:
                others.append(FORK.Process(target=check, args=(connector.config(), keys, count)))
                others[-1].start()
            elif rng.random() < 0.05:
                victim = others.pop(0)
                victim.kill()
                victim.join()
                assert victim.exitcode == -signal.SIGKILL, "an object changed"
        for other in others:
            other.kill()
            other.join()
            assert other.exitcode == -signal.SIGKILL, "an object changed"
        for stored in connector.scan():
            connector.evict(stored.key)
        recycler = connector._recycler
        assert recycler is not None
        recycler._writer.make_room()
        remove_orphans(recycler.directory)
        assert arenas(connector) == []
        assert len(made) > 2  # Otherwise no arena was full, and nothing shown.
    assert not root.exists()


def test_no_object_is_ever_anothers(root: Path) -> None:
    """Others read and evict what is stored, check every byte, and are killed at random."""
    stress(root, 4)


@pytest.mark.soak
def test_no_object_is_ever_anothers_for_long(root: Path) -> None:
    stress(root, 300)
