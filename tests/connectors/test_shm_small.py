"""Small objects in shared memory are packed many to a file; nobody ever sees another's bytes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import proxyflow
from proxyflow import Store
from proxyflow.connectors import recycling
from proxyflow.connectors.filekey import FileKey
from proxyflow.connectors.shm import SharedMemoryConnector
from proxyflow.errors import StoreClosedError
from proxyflow.storage.arena import PREFIX, SLOTS, remove_orphans
from tests.packed import arena_of, arenas, files
from tests.processes import LONG

KIB = 1 << 10
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory) / "store"


@pytest.fixture
def connector(root: Path) -> Iterator[SharedMemoryConnector]:
    with SharedMemoryConnector(str(root)) as connector:
        yield connector


@pytest.fixture
def joined(connector: SharedMemoryConnector) -> Iterator[SharedMemoryConnector]:
    with SharedMemoryConnector.from_config(connector.config()) as joined:
        yield joined


def in_child(action: Callable[[], None]) -> None:
    process = FORK.Process(target=action)
    process.start()
    process.join(LONG)
    assert process.exitcode == 0


def killed(action: Callable[[], None]) -> None:
    def work() -> None:
        action()
        os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=work)
    process.start()
    process.join(LONG)
    assert process.exitcode == -signal.SIGKILL


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- packing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, KIB, 33 * KIB])
def test_a_small_object_makes_no_file(connector: SharedMemoryConnector, size: int) -> None:
    key = connector.put(b"x" * size)
    assert (len(arenas(connector)), files(connector)) == (1, [])
    assert connector.get(key) == b"x" * size
    assert [(s.key, s.nbytes) for s in connector.scan()] == [(key, size)]


def test_larger_ones_and_those_with_a_key_made_before_are_files(
    connector: SharedMemoryConnector,
) -> None:
    connector.put(bytes(33 * KIB + 1))
    connector.set(connector.new_key(), b"small")
    assert (len(files(connector)), arenas(connector)) == (2, [])


TRACED = """
import os, sys
from proxyflow.connectors.shm import SharedMemoryConnector
with SharedMemoryConnector(sys.argv[1]) as connector:
    connector.get(connector.put(bytes(1024)))
    os.write(1, b"BEGIN")
    for _ in range(50):
        key = connector.put(bytes(1024))
        connector.get(key)
        connector.evict(key)
    os.write(1, b"END")
"""


def test_storing_reading_and_evicting_takes_no_system_call(root: Path) -> None:
    """Packing is for that; one that slips into the path costs more than the rest of it."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    command = [strace, sys.executable, "-c", TRACED, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    if done.returncode:
        pytest.skip("strace may not trace")
    lines = done.stderr.splitlines()
    marks = [n for n, line in enumerate(lines) if line.startswith('write(1, "')]
    assert marks[1] - marks[0] < 25  # The memory allocator has a few, and so has a thread.


def test_setting_the_key_of_a_packed_object_replaces_it(
    connector: SharedMemoryConnector, joined: SharedMemoryConnector
) -> None:
    key = connector.put(b"before")
    assert joined.get(key) == b"before"
    connector.set(key, b"after")
    assert (connector.get(key), joined.get(key)) == (b"after", b"after")
    assert [stored.nbytes for stored in connector.scan()] == [5]
    joined.evict(key)
    assert connector.get(key) is None


def test_what_was_read_is_the_readers_own(connector: SharedMemoryConnector) -> None:
    key = connector.put(b"abc")
    view = connector.get_view(key)
    assert view is not None
    view[:] = b"xyz"
    assert connector.get(key) == b"abc"
    connector.evict(key)
    assert view == b"xyz"


def test_many_objects_of_all_sizes(connector: SharedMemoryConnector) -> None:
    """Full arenas, in slots and in bytes: each object exact, and each once in a scan."""
    rng = random.Random(0)
    stored = {}
    for _ in range(3 * SLOTS):
        data = rng.randbytes(rng.choice([0, 10, 100, 1000, 3000]))
        stored[connector.put(data)] = data
    for _ in range(200):
        data = rng.randbytes(rng.randrange(16 * KIB))
        stored[connector.put(data)] = data
    assert len(arenas(connector)) > 4
    assert {s.key: s.nbytes for s in connector.scan()} == {k: len(d) for k, d in stored.items()}
    assert all(connector.get(key) == data for key, data in stored.items())


def test_the_time_of_storing_is_known(connector: SharedMemoryConnector) -> None:
    before = time.time()
    connector.put(b"first")
    [stored] = connector.scan()
    assert before <= stored.modified <= time.time()


def test_a_store_on_a_disk_or_a_durable_one_packs_nothing(root: Path) -> None:
    for options in ({"durable": True}, {"capacity": 0}):
        with SharedMemoryConnector(str(root), **options) as connector:
            assert connector.get(connector.put(b"x")) == b"x"
            assert len(files(connector)) == 1


def test_a_session_that_is_kept_can_be_read_later(root: Path) -> None:
    with SharedMemoryConnector(str(root), clear=False) as connector:
        key, config = connector.put(b"kept"), connector.config()
    with SharedMemoryConnector.from_config(config) as later:
        assert later.get(key) == b"kept"
        later.evict(key)
        assert arenas(later) == []


def test_another_session_is_reached_by_key(root: Path) -> None:
    with SharedMemoryConnector(str(root)) as one, SharedMemoryConnector(str(root)) as other:
        key = one.put(b"one's")
        assert other.get(key) == b"one's"
        other.evict(key)
        assert one.get(key) is None
        key = one.put(b"again")
        assert other.exists(key)
        one.close()
        assert not other.exists(key)


# -- eviction and what is given back -------------------------------------------------------------


def test_evicted_by_anybody_it_is_gone_for_everybody(
    connector: SharedMemoryConnector, joined: SharedMemoryConnector
) -> None:
    first, second = connector.put(b"first"), connector.put(b"second")
    assert joined.get(first) == b"first"
    joined.evict(first)
    assert (connector.get(first), connector.exists(first)) == (None, False)
    connector.evict(second)
    assert (joined.get(second), joined.exists(second)) == (None, False)
    joined.evict(second)
    assert list(connector.scan()) == []


@pytest.mark.parametrize("by_another", [False, True])
def test_an_arena_goes_with_its_last_object(
    connector: SharedMemoryConnector, joined: SharedMemoryConnector, by_another: bool
) -> None:
    """Whoever evicts that: else a long session would fill the memory."""
    keys = [connector.put(bytes(KIB)) for _ in range(3 * SLOTS)]
    assert len(arenas(connector)) >= 3
    evicting = joined if by_another else connector
    for key in random.Random(0).sample(keys, len(keys)):
        evicting.evict(key)
    assert len(arenas(connector)) == 1
    assert len(evicting._packs._mapped) == 1


def test_mappings_of_what_is_gone_are_let_go_of(
    connector: SharedMemoryConnector, joined: SharedMemoryConnector
) -> None:
    """A mapping keeps the pages of a file that has been removed."""
    for _ in range(3 * SLOTS):
        key = connector.put(b"x")
        assert joined.get(key) == b"x"
        connector.evict(key)
    assert len(connector._packs._mapped) == 1
    until(lambda: len(joined._packs._mapped) <= 1)


def test_a_connector_that_nobody_closes_keeps_no_lock(connector: SharedMemoryConnector) -> None:
    """A worker's store is often just dropped; its arena must not look as if it were filled."""
    joined = SharedMemoryConnector.from_config(connector.config())
    key = joined.put(b"x")
    del joined
    gc.collect()
    connector.evict(key)
    assert connector._recycler is not None
    remove_orphans(connector._recycler.directory)
    assert arenas(connector) == []


def test_nothing_is_packed_once_a_connector_is_closed(connector: SharedMemoryConnector) -> None:
    """Another thread may be about to store, and would leave an arena that nobody seals."""
    joined = SharedMemoryConnector.from_config(connector.config())
    recycler = joined._recycler
    assert recycler is not None
    joined.close()
    with pytest.raises(FileNotFoundError):
        recycler.pack(b"too late")
    assert arenas(connector) == []


def test_few_arenas_are_mapped(
    connector: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take a descriptor; beyond the bound they are mapped anew when they are needed."""
    monkeypatch.setattr(connector._packs, "_most", 2)
    keys = [connector.put(bytes([n % 251]) * 10 * KIB) for n in range(500)]
    assert len(arenas(connector)) >= 4
    assert all(connector.get(key) == bytes([n % 251]) * 10 * KIB for n, key in enumerate(keys))
    assert len(connector._packs._mapped) == 2


def test_an_empty_arena_is_given_back_when_idle(
    connector: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyflow.storage.arena._IDLE", 0.05)
    kept = connector.put(b"kept")
    connector.evict(connector.put(b"gone"))
    recycler = connector._recycler
    assert recycler is not None
    for _ in range(3):
        recycler.trim()
        time.sleep(0.1)
    more = connector.put(b"more")
    assert arena_of(more) == arena_of(kept)
    connector.evict(more)
    connector.evict(kept)
    until(lambda: not arenas(connector))
    assert connector.get(connector.put(b"next")) == b"next"


def stored_by_the_dead(connector: SharedMemoryConnector) -> list[FileKey]:
    pipe, theirs = FORK.Pipe()
    config = connector.config()

    def work() -> None:
        connector = SharedMemoryConnector.from_config(config)
        theirs.send([connector.put(b"from the dead") for _ in range(3)])

    killed(work)
    keys: list[FileKey] = pipe.recv()
    return keys


def test_an_arena_of_a_killed_process_is_removed_when_it_is_empty(
    connector: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not before: what the dead have stored stays as long as the session."""
    keys = stored_by_the_dead(connector)
    monkeypatch.setattr(recycling, "_ORPHANS_EVERY", 0.0)
    mine = connector.put(b"mine")
    recycler = connector._recycler
    assert recycler is not None
    recycler.trim()
    assert [connector.get(key) for key in [*keys, mine]] == [b"from the dead"] * 3 + [b"mine"]
    for key in keys:
        connector.evict(key)
    recycler.trim()
    assert arenas(connector) == [PREFIX + arena_of(mine)]


def test_who_evicts_the_last_object_of_the_dead_lets_go_of_its_arena(
    connector: SharedMemoryConnector, joined: SharedMemoryConnector
) -> None:
    """Nobody else may come by for long: one that stores nothing looks for no orphans."""
    keys = stored_by_the_dead(connector)
    mine = connector.put(b"mine")
    for key in [*keys, mine]:
        assert joined.get(key) is not None
        joined.evict(key)
    joined._packs.trim()
    assert [name for _, name in joined._packs._mapped] == [arena_of(mine)]
    assert arenas(connector) == [PREFIX + arena_of(mine)]


def test_whoever_has_an_orphan_mapped_lets_go_of_it_when_it_is_removed(
    connector: SharedMemoryConnector, joined: SharedMemoryConnector
) -> None:
    """It still looks as if it were being filled, and a mapping keeps the pages."""
    keys = stored_by_the_dead(connector)
    for key in keys:
        assert joined.get(key) is not None
        connector.evict(key)
    assert connector._recycler is not None
    remove_orphans(connector._recycler.directory)
    assert arenas(connector) == []
    assert all(arena.finished for arena in joined._packs._mapped.values())


def test_the_last_object_of_an_orphan_takes_its_arena_with_it(
    connector: SharedMemoryConnector,
) -> None:
    """Once somebody has seen that the writer is dead, it is as if that had sealed it."""
    keys = stored_by_the_dead(connector)
    assert connector._recycler is not None
    remove_orphans(connector._recycler.directory)
    assert all(connector.get(key) == b"from the dead" for key in keys)
    for key in keys:
        connector.evict(key)
    assert arenas(connector) == []
    assert connector._packs._mapped == {}


def test_an_empty_arena_of_a_living_process_is_no_orphan(
    connector: SharedMemoryConnector, joined: SharedMemoryConnector
) -> None:
    """It would go on storing where nobody else looks."""
    connector.evict(connector.put(b"gone"))
    assert joined._recycler is not None
    remove_orphans(joined._recycler.directory)
    joined._packs.trim()
    assert joined.get(connector.put(b"next")) == b"next"


# -- the end -------------------------------------------------------------------------------------


def test_nothing_is_left_and_nothing_is_found_after_the_end(
    root: Path, connector: SharedMemoryConnector, joined: SharedMemoryConnector
) -> None:
    """A mapping outlives its file: without more, others would go on reading, and storing."""
    ours, theirs = connector.put(b"ours"), joined.put(b"theirs")
    assert [joined.get(ours), connector.get(theirs)] == [b"ours", b"theirs"]
    connector.close()
    assert not root.exists()
    assert [joined.get(key) for key in (ours, theirs)] == [None, None]
    assert not joined.exists(theirs)
    with pytest.raises(StoreClosedError):
        joined.put(b"too late")


def test_a_dead_owners_arenas_are_swept(root: Path) -> None:
    pipe, theirs = FORK.Pipe()

    def work() -> None:
        store = Store(f"shm://{root}")
        theirs.send((store.put("small"), store.config()))
        theirs.recv()

    process = FORK.Process(target=work)
    process.start()
    key, config = pipe.recv()
    with Store.from_config(config) as store:
        assert store.get(key) == "small"
        process.kill()
        process.join()
        assert len(proxyflow.gc(f"shm://{root}")) == 1
        assert store.get(key) is None
    assert not root.exists()


# -- processes and threads -----------------------------------------------------------------------


def test_a_forked_child_packs_on_its_own(connector: SharedMemoryConnector) -> None:
    """Both would write to the same place."""
    mine = connector.put(b"parent")

    def work() -> None:
        assert connector.get(mine) == b"parent"
        key = connector.put(b"child")
        assert arena_of(key) != arena_of(mine)
        assert connector.get(key) == b"child"
        connector.evict(mine)

    in_child(work)
    assert connector.get(mine) is None
    assert arena_of(connector.put(b"next")) == arena_of(mine)


def test_a_forked_child_does_not_keep_its_parents_lock(connector: SharedMemoryConnector) -> None:
    """A killed parent's arena would look as if it were being filled, for as long as it lives."""
    key = connector.put(b"x")
    recycler = connector._recycler
    assert recycler is not None
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=lambda: theirs.send("here") or theirs.recv())
    process.start()
    assert ours.recv() == "here"
    # As if it were killed: its descriptors go.
    recycler._writer.forget()
    connector._packs.renew_after_fork()
    connector.evict(key)
    remove_orphans(recycler.directory)
    assert arenas(connector) == []
    ours.send("go")
    process.join(LONG)


def crowd(config: dict[str, Any], seed: int) -> None:
    connector = SharedMemoryConnector.from_config(config)

    def work(seed: int) -> None:
        rng = random.Random(seed)
        mine: list[tuple[FileKey, bytes]] = []
        for _ in range(400):
            data = rng.randbytes(rng.randrange(3000))
            mine.append((connector.put(data), data))
            key, expected = rng.choice(mine)
            assert connector.get(key) == expected
            if len(mine) > 20:
                key, _ = mine.pop(rng.randrange(len(mine)))
                connector.evict(key)
                assert connector.get(key) is None
        for key, expected in mine:
            assert connector.get(key) == expected
            connector.evict(key)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(seed, seed + 8)))
    connector.close()


def test_threads_in_processes(connector: SharedMemoryConnector) -> None:
    workers = [FORK.Process(target=crowd, args=(connector.config(), 10 * n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LONG)
        assert worker.exitcode == 0
    assert list(connector.scan()) == []
    assert arenas(connector) == []


def test_eviction_by_the_garbage_collector_in_the_midst_of_a_put(
    connector: SharedMemoryConnector,
) -> None:
    """It may come while this very thread, or another one, is storing."""
    key = connector.put(b"x")
    recycler = connector._recycler
    assert recycler is not None
    with recycler._writer._lock, connector._packs._lock:
        evicting = threading.Thread(target=connector.evict, args=(key,))
        evicting.start()
        evicting.join(5)
        assert not evicting.is_alive()
    assert connector.get(key) is None


def test_storing_in_the_midst_of_a_put(
    connector: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler or a finalizer may; what it stores has a key and a place of its own."""
    nested: list[FileKey] = []
    busy = []

    def allocate(
        fd: int, start: int, nbytes: int, allocate: Callable[..., None] = os.posix_fallocate
    ) -> None:
        allocate(fd, start, nbytes)
        if start and not busy:
            busy.append(True)
            nested.append(connector.put(b"nested" * KIB))
            busy.clear()

    monkeypatch.setattr("os.posix_fallocate", allocate)
    stored = [(connector.put(bytes([n]) * 5000), bytes([n]) * 5000) for n in range(250)]
    stored += [(key, b"nested" * KIB) for key in nested]
    assert len(nested) > 1
    assert len(dict(stored)) == len(stored)
    assert all(connector.get(key) == data for key, data in stored)
    assert len(list(connector.scan())) == len(stored)
