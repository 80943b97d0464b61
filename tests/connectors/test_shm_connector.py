"""Shared memory is recycled, and no reader ever notices."""

from __future__ import annotations

import contextlib
import gc
import mmap
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import proxyflow
from proxyflow import Store
from proxyflow.connectors import open_url, recycling
from proxyflow.connectors.file import FileConnector
from proxyflow.connectors.filekey import FileKey
from proxyflow.connectors.root import in_memory
from proxyflow.connectors.shm import SharedMemoryConnector
from proxyflow.errors import ConfigError, StoreFullError, StoreUnreachableError
from proxyflow.storage.copying import Pieces
from proxyflow.storage.segment import Segment, _closer, lease
from proxyflow.storage.segments import SegmentPool
from tests.processes import only_root, small_file_system

MIB = 1 << 20
FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory) / "store"


@pytest.fixture
def connector(root: Path) -> Iterator[SharedMemoryConnector]:
    with SharedMemoryConnector(str(root)) as connector:
        yield connector


def inode(connector: FileConnector, key: FileKey) -> int:
    return os.stat(path_of(connector, key)).st_ino


def path_of(connector: FileConnector, key: FileKey) -> str:
    return os.path.join(connector.store_dir, *key.filename.split("."))


def free(connector: FileConnector) -> list[str]:
    """Return the free segments of all processes of the session."""
    names = os.listdir(os.path.join(connector.store_dir, connector.session))
    return [name for name in names if name.startswith(".free-")]


def open_files() -> list[str]:
    """Return what the descriptors of this process are of."""
    targets = []
    for fd in os.listdir("/proc/self/fd"):
        # That of the listing is closed by now.
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(f"/proc/self/fd/{fd}"))
    return targets


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Made(Pieces):
    """A source that does something before there is anything to write."""

    def __init__(self, nbytes: int, act: Callable[[], object]) -> None:
        self.nbytes = nbytes
        self.act = act

    @property
    def frames(self) -> list[bytes]:  # type: ignore[override]
        self.act()
        return [bytes(self.nbytes)]


# -- recycling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [65_537, 100_000, 3 * MIB, 9 * MIB])
def test_pages_of_an_evicted_object_are_used_again(
    connector: SharedMemoryConnector, nbytes: int
) -> None:
    first = connector.put(b"a" * nbytes)
    before = inode(connector, first)
    connector.evict(first)
    second = connector.put(b"b" * nbytes)
    assert inode(connector, second) == before
    assert connector.get(first) is None
    assert connector.get(second) == b"b" * nbytes


@pytest.mark.parametrize(
    "sizes",
    [
        (3 * MIB, 2 * MIB + 7, 3 * MIB),
        (300_001, 300_000, 303_000),
        (9 * MIB + 1, 9 * MIB + 4096, 9 * MIB, 20 * MIB - 1),
    ],
)
def test_objects_of_other_sizes(connector: SharedMemoryConnector, sizes: tuple[int, ...]) -> None:
    """Shorter ones and, within the pages there are, longer ones; exact to the byte."""
    for round_, nbytes in enumerate(sizes * 3):
        data = random.Random(round_).randbytes(nbytes)
        key = connector.put(data)
        assert connector.get(key) == data
        view = connector.get_view(key)
        assert view is not None
        assert view == data
        del view
        connector.evict(key)


def test_a_small_object_does_not_occupy_a_large_segment(connector: SharedMemoryConnector) -> None:
    connector.evict(connector.put(bytes(8 * MIB)))
    key = connector.put(bytes(MIB))
    assert len(free(connector)) == 1
    assert os.stat(path_of(connector, key)).st_blocks * 512 <= 2 * MIB


def test_replacing_leaves_readers_what_they_have(connector: SharedMemoryConnector) -> None:
    key = connector.new_key()
    connector.set(key, b"a" * MIB)
    view = connector.get_view(key)
    for letter in b"bcd":
        connector.set(key, bytes([letter]) * MIB)
    assert view == b"a" * MIB
    assert connector.get(key) == b"d" * MIB


def test_an_object_that_another_process_evicted(connector: SharedMemoryConnector) -> None:
    """The writer's memory of it does not bring it back."""
    key = connector.put(bytes(MIB))
    other = SharedMemoryConnector.from_config(connector.config())
    other.evict(key)
    other.close()
    assert connector.get(key) is None
    connector.evict(key)
    assert connector.get(connector.put(b"x" * MIB)) == b"x" * MIB


# -- handing over ------------------------------------------------------------------------------


@pytest.fixture
def worker(connector: SharedMemoryConnector) -> Iterator[SharedMemoryConnector]:
    """Another one in the session, as in the process of a worker."""
    with SharedMemoryConnector.from_config(connector.config()) as worker:
        yield worker


def left(connector: FileConnector) -> list[str]:
    """Return what has been left to whoever writes next."""
    names = os.listdir(os.path.join(connector.store_dir, connector.session))
    return [name for name in names if name.startswith(".left-")]


def store_result(worker: FileConnector, data: bytes) -> FileKey:
    key = worker.new_key()
    worker.set(key, data)
    return key


def test_the_pages_of_a_result_are_those_of_the_next(
    connector: SharedMemoryConnector, worker: SharedMemoryConnector
) -> None:
    """Who evicts what another process wrote leaves the pages to whichever writes next."""
    first = store_result(worker, b"a" * 2 * MIB)
    before = inode(connector, first)
    for letter, nbytes in ((b"b", 2 * MIB - 5), (b"c", 2 * MIB - 4000), (b"d", 2 * MIB - 4096)):
        connector.evict(first)
        assert left(connector) == [".left-0"]
        second = store_result(worker, letter * nbytes)
        assert inode(connector, second) == before
        assert left(connector) == free(connector) == []
        assert connector.get(first) is None
        assert connector.get(second) == letter * nbytes
        first = second


def test_a_view_of_a_result_keeps_its_bytes(
    connector: SharedMemoryConnector, worker: SharedMemoryConnector
) -> None:
    """What somebody maps is nobody's to fill, until he lets go of it."""
    key = store_result(worker, b"a" * MIB)
    before = inode(connector, key)
    view = connector.get_view(key)
    connector.evict(key)
    other = store_result(worker, b"b" * MIB)
    assert view == b"a" * MIB
    assert inode(connector, other) != before
    del view
    assert inode(connector, store_result(worker, b"c" * MIB)) == before


def test_a_process_may_write_what_it_was_left(
    connector: SharedMemoryConnector, worker: SharedMemoryConnector
) -> None:
    """The next argument goes where the last result was; its own pages are its own again."""
    result = store_result(worker, b"a" * MIB)
    before = inode(connector, result)
    connector.evict(result)
    for letter in b"bc":
        key = connector.put(bytes([letter]) * MIB)
        assert inode(connector, key) == before
        assert connector.get(key) == bytes([letter]) * MIB
        connector.evict(key)


def test_only_so_much_is_left(root: Path) -> None:
    """No more than may be kept, and no more than a few files."""
    for nbytes, most in ((MIB, 8), (4 * MIB, 4), (17 * MIB, 0), (MIB - 1, 0)):
        with (
            SharedMemoryConnector(str(root), capacity=16 * MIB) as connector,
            SharedMemoryConnector.from_config(connector.config()) as worker,
        ):
            for key in [store_result(worker, bytes(nbytes)) for _ in range(10)]:
                connector.evict(key)
                assert connector.get(key) is None
            assert len(left(connector)) == most
            assert list(connector.scan()) == []


def test_what_was_left_and_is_not_used_is_given_back(
    connector: SharedMemoryConnector,
    worker: SharedMemoryConnector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxyflow.storage.segments._IDLE", 0.05)
    connector.evict(store_result(worker, bytes(MIB)))
    until(lambda: not left(connector))


def test_a_file_with_holes_is_not_filled(
    connector: SharedMemoryConnector, worker: SharedMemoryConnector
) -> None:
    """Where memory is full, copying to a page that is not there would end the process."""
    key = store_result(worker, bytes(2 * MIB))
    os.truncate(path_of(connector, key), 4096)
    os.truncate(path_of(connector, key), 2 * MIB)
    before = inode(connector, key)
    connector.evict(key)
    assert inode(connector, store_result(worker, bytes(2 * MIB))) != before


@only_root
def test_what_was_left_makes_room_for_what_is_needed(tmp_path: Path) -> None:
    with (
        small_file_system(tmp_path / "memory", 8),
        SharedMemoryConnector(str(tmp_path / "memory/store"), capacity=8 * MIB) as connector,
        SharedMemoryConnector.from_config(connector.config()) as worker,
    ):
        connector.evict(store_result(worker, bytes(3 * MIB)))
        assert left(connector)
        key = connector.put(b"x" * 6 * MIB)
        assert connector.get(key) == b"x" * 6 * MIB


def leave_and_claim(config: dict[str, Any], seed: int) -> None:
    """Evict what others stored, store what others evict, and check every byte of it."""
    rng = random.Random(seed)
    with SharedMemoryConnector.from_config(config) as connector:
        for count in range(300):
            value = (seed * 50 + count) % 251
            key = store_result(connector, bytes([value]) * rng.choice([MIB, MIB + 5000]))
            data = connector.get(key)
            if data is None or data.count(value) != len(data):
                os._exit(3)
            connector.evict(key)
            if connector.get(key) is not None:
                os._exit(4)


def test_many_leave_and_claim_at_once(connector: SharedMemoryConnector) -> None:
    """No file is filled by two, and none is found under a key that is gone."""
    processes = [
        FORK.Process(target=leave_and_claim, args=(connector.config(), seed)) for seed in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert list(connector.scan()) == []


# -- leases ------------------------------------------------------------------------------------


def test_a_view_keeps_its_bytes(connector: SharedMemoryConnector) -> None:
    """Whatever is evicted and stored meanwhile; once it is gone its pages are used again."""
    key = connector.put(b"a" * MIB)
    before = inode(connector, key)
    view = connector.get_view(key)
    connector.evict(key)
    others = [connector.put(b"b" * MIB) for _ in range(3)]
    assert view == b"a" * MIB
    assert before not in [inode(connector, other) for other in others]
    del view
    connector.evict(others[0])
    again = [connector.put(b"c" * MIB) for _ in range(2)]
    assert before in [inode(connector, each) for each in again]


@pytest.mark.parametrize("nbytes", [MIB + 1, 2 * MIB - 5])
def test_a_file_that_is_filled_anew_before_its_lease(
    connector: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch, nbytes: int
) -> None:
    """Who opened it looks again: it may be another object's now, or the same key's."""

    def lease_late(fd: int) -> bool:
        if recycle:
            recycle.pop()()
        return lease(fd)

    monkeypatch.setattr("proxyflow.connectors.objectfile.lease", lease_late)
    key = connector.put(b"a" * (2 * MIB - 1000))
    before = inode(connector, key)

    def as_another() -> None:
        connector.evict(key)
        assert inode(connector, connector.put(b"b" * nbytes)) == before

    recycle = [as_another]
    assert connector.get_view(key) is None

    key = connector.put(b"a" * (2 * MIB - 1000))
    before = inode(connector, key)

    def as_the_same() -> None:
        connector.evict(key)
        connector.set(key, b"c" * nbytes)
        assert inode(connector, key) == before

    recycle = [as_the_same]
    assert connector.get_view(key) == b"c" * nbytes


@pytest.mark.parametrize("read", [FileConnector.get, FileConnector.get_view])
def test_a_file_is_not_filled_anew_while_it_is_copied(
    connector: SharedMemoryConnector,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[FileConnector, FileKey], object],
) -> None:
    """Not even where its times, being those of a tick, say nothing of what happens within one."""

    def is_named(opened: os.stat_result, name: str, directory: int) -> bool:
        return os.path.samestat(os.stat(name, dir_fd=directory), opened)

    def replace() -> None:
        while replacements:
            connector.evict(key)
            connector.set(key, replacements.pop())

    def read_half(fd: int, buffers: list[memoryview], at: int, preadv: Any = os.preadv) -> int:
        if at == 20_000:
            replace()
        return preadv(fd, [buffers[0][:20_000]], at)

    def read_halves(fd: int, nbytes: int, at: int, pread: Any = os.pread) -> bytes:
        first = pread(fd, 20_000, at)
        replace()
        return first + pread(fd, nbytes - 20_000, at + 20_000)

    replacements = [b"b" * 40_000]
    monkeypatch.setattr("proxyflow.connectors.objectfile.still_named", is_named)
    monkeypatch.setattr(os, "pread", read_halves)
    monkeypatch.setattr(os, "preadv", read_half)
    key = connector.put(b"a" * 40_000)
    assert read(connector, key) == b"b" * 40_000


def test_a_view_written_to_is_the_readers_own(connector: SharedMemoryConnector) -> None:
    key = connector.put(b"a" * MIB)
    view = connector.get_view(key)
    assert view is not None
    view[:3] = b"xyz"
    assert connector.get(key) == b"a" * MIB
    connector.evict(key)
    connector.put(b"b" * MIB)
    assert bytes(view[:5]) == b"xyzaa"


def hold(connector: SharedMemoryConnector, key: FileKey, pipe: Any) -> None:
    view = connector.get_view(key)
    pipe.send("mapped")
    pipe.recv()
    pipe.send(None if view is None else bytes(view) == b"a" * MIB)


@pytest.mark.parametrize("context", [FORK, SPAWN], ids=["fork", "spawn"])
def test_a_view_in_another_process(connector: SharedMemoryConnector, context: Any) -> None:
    key = connector.put(b"a" * MIB)
    ours, theirs = context.Pipe()
    reader = SharedMemoryConnector.from_config(connector.config())
    process = context.Process(target=hold_by_config, args=(reader.config(), key, theirs))
    process.start()
    assert ours.recv() == "mapped"
    connector.evict(key)
    for _ in range(5):
        connector.evict(connector.put(b"b" * MIB))
    ours.send("look")
    assert ours.recv() is True
    process.join()
    reader.close()


def hold_by_config(config: dict[str, Any], key: FileKey, pipe: Any) -> None:
    hold(SharedMemoryConnector.from_config(config), key, pipe)


def test_a_view_that_a_forked_child_inherits(connector: SharedMemoryConnector) -> None:
    """The child's copy is protected even when the parent has let go of its own."""
    key = connector.put(b"a" * MIB)
    views = [connector.get_view(key)]
    ours, theirs = FORK.Pipe()

    def look() -> None:
        theirs.send(theirs.recv() and views == [b"a" * MIB])

    process = FORK.Process(target=look)
    process.start()
    views.clear()
    connector.evict(key)
    for _ in range(5):
        connector.evict(connector.put(b"b" * MIB))
    ours.send(True)
    assert ours.recv() is True
    process.join()


def test_a_forked_child_leaves_its_parents_segments_alone(
    connector: SharedMemoryConnector,
) -> None:
    connector.evict(connector.put(bytes(MIB)))
    kept = connector.put(b"a" * MIB)

    def work() -> None:
        for _ in range(3):
            key = connector.put(b"c" * MIB)
            assert connector.get(key) == b"c" * MIB
            connector.evict(key)
        connector.evict(kept)

    process = FORK.Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert connector.get(kept) is None
    key = connector.put(b"d" * MIB)
    assert connector.get(key) == b"d" * MIB


def files_of_a_child(connector: FileConnector) -> list[str]:
    """Fork, and return which files of the session the child has open besides its directory."""

    def look() -> None:
        theirs.send([target for target in open_files() if f"{connector.session}/." in target])

    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=look)
    process.start()
    found: list[str] = ours.recv()
    process.join()
    return [target for target in found if not target.endswith("/.owner")]


def test_a_child_forked_while_segments_are_closed_keeps_none(root: Path) -> None:
    """Their pages would be its own for as long as it lives, whatever the parent gives back."""
    started, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        go_on.wait()

    with SharedMemoryConnector(str(root), capacity=MIB) as connector:
        keys = [connector.put(bytes(2 * MIB)) for _ in range(3)]
        _closer.run(wait)
        started.wait()
        for key in keys:
            connector.evict(key)
        connector.put(bytes(100_000))
        try:
            assert any(f"{connector.session}/.free-" in target for target in open_files())
            assert files_of_a_child(connector) == []
        finally:
            go_on.set()


def test_a_child_forked_while_something_is_stored_keeps_none(
    connector: SharedMemoryConnector,
) -> None:
    started, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        go_on.wait()

    thread = threading.Thread(target=connector.put_source, args=(Made(MIB, wait),))
    thread.start()
    started.wait()
    try:
        assert len(free(connector)) == 1
        assert files_of_a_child(connector) == []
    finally:
        go_on.set()
        thread.join()


def churn(config: dict[str, Any], keys: Any, seed: int) -> None:
    """Hold views of whatever is there, and check every byte of them again and again."""
    connector = SharedMemoryConnector.from_config(config)
    rng = random.Random(seed)
    held: list[tuple[np.ndarray, int]] = []
    while True:
        key, value = rng.choice(keys[:] or [(None, 0)])
        view = None if key is None else connector.get_view(FileKey(key))
        if view is not None:
            held.append((np.frombuffer(view, np.uint8), value))
        for array, expected in held:
            if not (array == expected).all():
                os._exit(3)
        if len(held) > 4:
            held.pop(rng.randrange(len(held)))


def stress(root: Path, seconds: float) -> None:
    rng = random.Random(1)
    with (
        FORK.Manager() as manager,
        SharedMemoryConnector(str(root), capacity=64 * MIB) as connector,
        SharedMemoryConnector.from_config(connector.config()) as other,
    ):
        keys = manager.list()
        mine: list[tuple[str, int]] = []
        readers: list[Any] = []
        reused: set[int] = set()
        count = 0
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            count += 1
            value = count % 251
            key = connector.new_key()
            # What another one wrote is left to whoever writes next.
            writer = rng.choice([connector, other])
            writer.set(key, bytes([value]) * rng.choice([200_000, MIB, 2 * MIB]))
            reused.add(inode(connector, key))
            mine.append((key.filename, value))
            if len(mine) > 6:
                gone, _ = mine.pop(rng.randrange(len(mine)))
                connector.evict(FileKey(gone))
            keys[:] = mine
            if len(readers) < 4:
                args = (connector.config(), keys, count)
                readers.append(FORK.Process(target=churn, args=args))
                readers[-1].start()
            elif count % 40 == 0:
                victim = readers.pop(0)
                victim.kill()
                victim.join()
                assert victim.exitcode == -signal.SIGKILL, "a view changed"
        for reader in readers:
            reader.kill()
            reader.join()
            assert reader.exitcode == -signal.SIGKILL, "a view changed"
        assert len(reused) < count  # Otherwise nothing was recycled, and nothing shown.


def test_no_view_ever_changes(root: Path) -> None:
    """Readers hold views over evictions, check every byte, and are killed at random."""
    stress(root, 4)


@pytest.mark.soak
def test_no_view_ever_changes_for_long(root: Path) -> None:
    stress(root, 300)


class Interrupted:
    """What is interrupted while it is copied, with a part of the target still in use."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.views: list[memoryview] = []

    @property
    def frames(self) -> list[bytes]:
        raise AssertionError("this is to be copied to where it lies")

    def copy_into(self, target: memoryview) -> None:
        self.views.append(target[:10])
        raise KeyboardInterrupt


@pytest.mark.parametrize("nbytes", [300_000, 3 * MIB])
def test_an_interrupted_copy_leaves_nothing(connector: SharedMemoryConnector, nbytes: int) -> None:
    """Not even where a thread still copies; and what is let go of later is let go of."""
    connector.evict(connector.put(bytes(nbytes)))
    source = Interrupted(nbytes)
    with pytest.raises(KeyboardInterrupt):
        connector.put_source(source)
    assert free(connector) == []
    assert list(connector.scan()) == []
    source.views[0][:] = bytes(10)
    key = connector.put(b"a" * nbytes)
    assert connector.get(key) == b"a" * nbytes
    source.views.clear()
    connector.close()
    until(lambda: not any(f"{connector.session}/" in target for target in open_files()))


# -- bounds ------------------------------------------------------------------------------------


def test_no_more_is_kept_than_allowed(root: Path) -> None:
    with SharedMemoryConnector(str(root), capacity=3 * MIB) as connector:
        for key in [connector.put(bytes(MIB)) for _ in range(6)]:
            connector.evict(key)
        connector.put(bytes(100_000))
        assert len(free(connector)) <= 3
    with SharedMemoryConnector(str(root), capacity=0) as connector:
        connector.evict(connector.put(bytes(MIB)))
        assert free(connector) == []


def test_many_objects_take_few_descriptors(connector: SharedMemoryConnector) -> None:
    keys = [connector.put(bytes([n % 256]) * 300_000) for n in range(400)]
    gc.collect()
    assert sum(connector.session in target for target in open_files()) < 270
    assert all(connector.get(key) == bytes([n % 256]) * 300_000 for n, key in enumerate(keys))
    for key in keys:
        connector.evict(key)
    assert list(connector.scan()) == []


def with_few_descriptors(url: str) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 64, hard))
    with SharedMemoryConnector(url) as connector:
        keys = [connector.put(bytes([n]) * 300_000) for n in range(200)]
        views = [connector.get_view(key) for key in keys]
        assert all(view == bytes([n]) * 300_000 for n, view in enumerate(views))
        del views
        # Many to a file, and more files than may be open.
        keys = [connector.put(n.to_bytes(2, "little") * 7000) for n in range(75 * 128)]
        assert len(open_files()) < highest + 48
        assert all(connector.get(key)[:2] == n.to_bytes(2, "little") for n, key in enumerate(keys))


def test_where_few_files_may_be_open(root: Path) -> None:
    """The limit is often 1024 and may be lower; no number of objects uses it up."""
    process = SPAWN.Process(target=with_few_descriptors, args=(str(root),))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_what_is_not_used_is_given_back(
    connector: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyflow.storage.segments._IDLE", 0.05)
    connector.evict(connector.put(bytes(MIB)))
    until(lambda: not free(connector))


@only_root
def test_what_is_kept_makes_room_for_what_is_needed(tmp_path: Path) -> None:
    with (
        small_file_system(tmp_path / "memory", 8),
        SharedMemoryConnector(str(tmp_path / "memory/store"), capacity=8 * MIB) as connector,
    ):
        connector.evict(connector.put(bytes(3 * MIB)))
        key = connector.put(b"x" * 6 * MIB)
        assert connector.get(key) == b"x" * 6 * MIB
        with pytest.raises(StoreFullError, match="no room"):
            connector.put(bytes(6 * MIB))
        assert len(list(connector.scan())) == 1
        assert free(connector) == []


@only_root
def test_what_is_being_given_back_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store is full only when it is so after its own pages are back, however long that takes."""

    def close(fd: int, close: Callable[[int], None] = os.close) -> None:
        if threading.current_thread().name == "proxyflow-closer":
            time.sleep(0.3)
        close(fd)

    monkeypatch.setattr("os.close", close)
    with (
        small_file_system(tmp_path / "memory", 8),
        SharedMemoryConnector(str(tmp_path / "memory/store"), capacity=MIB) as connector,
    ):
        for letter in b"abc":
            key = connector.put(bytes([letter]) * 6 * MIB)
            assert connector.get(key) == bytes([letter]) * 6 * MIB
            connector.evict(key)


def used(directory: Path) -> int:
    status = os.statvfs(directory)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@contextlib.contextmanager
def other_process(
    connector: SharedMemoryConnector, work: Callable[[Any, Any], Any]
) -> Iterator[Any]:
    """Have another process of the session work once, and stay; give what it returns."""

    def serve() -> None:
        with SharedMemoryConnector.from_config(connector.config()) as joined:
            theirs.send(work(joined, joined.new_key()))
            theirs.recv()

    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=serve)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send("end")
        process.join()


@only_root
@pytest.mark.parametrize("by_key", [True, False])
def test_what_another_process_evicts_takes_no_memory(tmp_path: Path, by_key: bool) -> None:
    """A worker does not hold on to the pages of results that have been fetched and evicted."""

    def work(joined: SharedMemoryConnector, key: FileKey) -> FileKey:
        if not by_key:
            return joined.put(bytes(4 * MIB))
        joined.set(key, bytes(4 * MIB))
        return key

    memory = tmp_path / "memory"
    with (
        small_file_system(memory, 8),
        SharedMemoryConnector(str(memory / "store")) as connector,
        other_process(connector, work) as key,
    ):
        assert used(memory) > 4 * MIB
        connector.evict(key)
        until(lambda: used(memory) < MIB)


@pytest.mark.parametrize("reused", [False, True])
def test_an_object_that_another_process_has_replaced(
    connector: SharedMemoryConnector, reused: bool
) -> None:
    """Its segment is not ours to fill again: the next object would be stored in another file.

    Nor are its pages, which that process may have used for an object of its own.
    """
    key = connector.put(b"first" * MIB)

    def replace(joined: SharedMemoryConnector, _: FileKey) -> FileKey:
        if reused:
            joined.evict(key)
        kept = joined.put(b"there" * MIB)
        joined.set(key, b"other" * MIB)
        return kept

    with other_process(connector, replace) as kept:
        assert connector.get(key) == b"other" * MIB
        connector.evict(key)
        assert not connector.exists(key)
        stored = {connector.put(bytes([n]) * 5 * MIB): bytes([n]) * 5 * MIB for n in range(4)}
        stored[kept] = b"there" * MIB
        assert {key: connector.get(key) for key in stored} == stored


@pytest.mark.parametrize("nbytes", [12 * MIB, 15 * MIB])
def test_an_object_that_another_process_has_replaced_in_the_same_file(
    connector: SharedMemoryConnector, nbytes: int
) -> None:
    """Its segment is as long as it is now, and copying beyond its end would kill."""
    key = connector.put(bytes(16 * MIB))
    before = inode(connector, key)

    def replace(joined: SharedMemoryConnector, _: FileKey) -> None:
        joined.evict(key)
        joined.set(key, b"b" * nbytes)

    with other_process(connector, replace):
        assert inode(connector, key) == before
        connector.evict(key)
        assert connector.get(key) is None
        assert connector.get(connector.put(b"c" * 16 * MIB)) == b"c" * 16 * MIB


@only_root
def test_what_does_not_fit_goes_to_the_disk(tmp_path: Path) -> None:
    with (
        small_file_system(tmp_path / "memory", 4),
        Store(f"shm://{tmp_path}/memory/store?spill={tmp_path}/disk") as store,
    ):
        array = np.arange(2 * MIB, dtype=np.float64)
        key = store.put(array)
        assert (store.get(key) == array).all()
        store.evict(key)
        assert not store.exists(key)


def dirty(config: dict[str, Any]) -> None:
    connector = SharedMemoryConnector.from_config(config)
    connector.evict(connector.put(bytes(MIB)))
    os.kill(os.getpid(), signal.SIGKILL)


def test_free_segments_of_a_killed_process_are_removed(
    connector: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = FORK.Process(target=dirty, args=(connector.config(),))
    process.start()
    process.join()
    assert len(free(connector)) == 1
    monkeypatch.setattr(recycling, "_ORPHANS_EVERY", 0.0)
    connector.put(b"something")
    until(lambda: not free(connector))


def test_free_segments_of_a_killed_process_are_removed_when_all_is_idle(
    connector: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without another object being stored, and without anybody in need of the room."""
    monkeypatch.setattr("proxyflow.storage.segments._IDLE", 0.05)
    process = FORK.Process(target=dirty, args=(connector.config(),))
    process.start()
    process.join()
    assert len(free(connector)) == 1
    connector.evict(connector.put(bytes(3 * MIB)))
    until(lambda: not free(connector))


def test_a_free_segment_removed_under_the_writer(connector: SharedMemoryConnector) -> None:
    """Whoever needs the room may take a segment for an orphan in the instant it has no lock."""
    connector.evict(connector.put(bytes(MIB)))
    directory = os.path.join(connector.store_dir, connector.session)
    for name in free(connector):
        os.unlink(os.path.join(directory, name))
    assert connector.get(connector.put(b"a" * MIB)) == b"a" * MIB


def test_capacity_is_a_part_of_what_is_free(root: Path) -> None:
    root.mkdir()
    capacity = recycling.default_capacity(str(root))
    assert 0 < capacity <= os.statvfs(root).f_bavail * os.statvfs(root).f_frsize // 4 + MIB


# -- as a store --------------------------------------------------------------------------------


def test_url(root: Path) -> None:
    connector = open_url(f"shm://{root}?capacity=1MiB")
    assert connector.capacity == MIB
    assert connector.url == f"shm://{root}?capacity={MIB}#{connector.session}"
    joined = open_url(connector.url)
    assert joined.session == connector.session
    assert not joined.owner
    joined.close()
    connector.close()
    assert not root.exists()


def test_only_memory_will_do(tmp_path: Path) -> None:
    if not in_memory(str(tmp_path)):
        with pytest.raises(ConfigError, match="not in shared memory"):
            Store(f"shm://{tmp_path}/store")
        with pytest.raises(ConfigError, match="three slashes"):
            Store("shm://host/directory")


def test_a_directory_on_a_disk_is_not_recycled(tmp_path: Path) -> None:
    with FileConnector(str(tmp_path / "store")) as connector:
        connector.evict(connector.put(bytes(MIB)))
        assert bool(free(connector)) == in_memory(str(tmp_path))


def test_the_default_store_is_in_shared_memory() -> None:
    with Store() as store:
        assert store.name.startswith("shm://")
        assert isinstance(store.connector, SharedMemoryConnector)


def test_gc_removes_a_dead_owners_segments(root: Path) -> None:
    def own() -> None:
        store = Store(f"shm://{root}")
        key = store.put(bytes(MIB))
        store.evict(key)
        store.put(bytes(MIB))
        os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=own)
    process.start()
    process.join()
    assert len(proxyflow.gc(f"shm://{root}")) == 1
    assert not root.exists()


def test_eviction_by_the_garbage_collector_in_the_midst_of_a_put(root: Path) -> None:
    """It takes no lock, so it can come at any time; the segment is sorted by whoever is next."""
    root.mkdir()
    directory = os.open(root, os.O_RDONLY)
    pool = SegmentPool(directory, MIB)
    segment = pool.take(5)
    segment.fill(Pieces([b"12345"]))
    pool.publish(segment, "name")
    assert pool.withdraw("name")
    assert not pool.withdraw("name")
    again = pool.take(5)
    assert again is segment
    again.discard(directory)
    pool.close()
    assert os.listdir(root) == []
    os.close(directory)


@pytest.fixture
def pool(root: Path) -> Iterator[SegmentPool]:
    root.mkdir()
    directory = os.open(root, os.O_RDONLY)
    pool = SegmentPool(directory, MIB)
    yield pool
    pool.close()
    assert not any(name.startswith(".free-") for name in os.listdir(root))
    os.close(directory)


def publish(pool: SegmentPool, name: str) -> None:
    segment = pool.take(5)
    segment.fill(Pieces([b"12345"]))
    pool.publish(segment, name)


def test_another_thread_withdraws_what_is_about_to_be_forgotten(pool: SegmentPool) -> None:
    class Withdrawn(dict[str, Segment]):
        def __iter__(self) -> Iterator[str]:
            for name in list(self.keys()):
                self.pop(name).close()
                yield name

    pool._published, pool._most = Withdrawn(), 0
    publish(pool, "name")


def test_another_thread_withdraws_something_while_all_is_discarded(pool: SegmentPool) -> None:
    """It is discarded too, and not lost, its file with it."""

    class Growing(deque[Segment]):
        def __iter__(self) -> Iterator[Segment]:
            yield from list(super().__iter__())
            pool.withdraw("second")

        def popleft(self) -> Segment:
            segment = super().popleft()
            pool.withdraw("second")
            return segment

    publish(pool, "first")
    publish(pool, "second")
    pool._returned = Growing()
    assert pool.withdraw("first")
    pool.close()


def test_another_thread_closes_the_pool_while_something_is_withdrawn(
    pool: SegmentPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def withdraw(
        self: Segment, name: str, directory: int, withdraw: Any = Segment.withdraw
    ) -> None:
        withdraw(self, name, directory)
        pool.close()

    publish(pool, "name")
    monkeypatch.setattr(Segment, "withdraw", withdraw)
    assert pool.withdraw("name")
    assert not pool._returned


def test_a_store_closed_while_something_is_stored_holds_on_to_nothing(
    connector: SharedMemoryConnector, worker: SharedMemoryConnector
) -> None:
    """Its pages would stay for as long as the process, though another one evicts it."""
    key = worker.put_source(Made(100_000, worker.close))
    assert connector.get(key) == bytes(100_000)
    assert path_of(connector, key) not in open_files()


def test_a_source_that_lacks_a_file_is_not_asked_again(connector: SharedMemoryConnector) -> None:
    """That is another file than the one that is missing when somebody needed its room."""
    asked: list[int] = []

    def fail() -> None:
        asked.append(1)
        assert len(asked) == 1
        raise FileNotFoundError("what it is made from")

    with pytest.raises(StoreUnreachableError):
        connector.put_source(Made(100_000, fail))
    assert free(connector) == []


def test_a_put_that_is_interrupted_at_its_end(
    connector: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has stored is an object like any other, and evicting that is no error."""

    def publish(*args: Any, publish: Any = SegmentPool.publish, **options: Any) -> None:
        publish(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SegmentPool, "publish", publish)
        with pytest.raises(KeyboardInterrupt):
            connector.put(b"a" * MIB)
    for stored in connector.scan():
        assert connector.get(stored.key) == b"a" * MIB
        connector.evict(stored.key)
    assert list(connector.scan()) == []
    assert connector.get(connector.put(b"b" * MIB)) == b"b" * MIB


# -- pages made ready --------------------------------------------------------------------------


def can_populate() -> bool:
    if os.environ.get("PROXYFLOW_PURE_PYTHON") or find_spec("proxyflow.storage._populate") is None:
        return False
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:
        try:
            memory.madvise(22)  # MADV_POPULATE_READ
        except OSError:
            return False
    return True


needs_populate = pytest.mark.skipif(not can_populate(), reason="not with this kernel or build")
needs_room = pytest.mark.skipif(
    shutil.disk_usage("/dev/shm").free < 200 * MIB, reason="little shared memory"
)


def mapped_privately(path: str) -> list[int]:
    """Return how many bytes of each private mapping of a file are in the page table."""
    found = []
    with open("/proc/self/smaps") as smaps:
        of_file = False
        for line in smaps:
            fields = line.split()
            if "-" in fields[0]:
                of_file = fields[1] == "rw-p" and fields[-1] == path
            elif of_file and fields[0] == "Rss:":
                found.append(int(fields[1]) * 1024)
    return found


def make_ready(connector: SharedMemoryConnector, key: FileKey, nbytes: int) -> bool:
    """Get a view and read its first `nbytes`; return whether soon all pages are there."""
    path = path_of(connector, key)
    view = connector.get_view(key)
    assert view is not None
    size = -(-view.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    assert bytes(view[:nbytes]) == bytes(nbytes)
    time.sleep(0.05)
    ready = mapped_privately(path) == [size]
    del view
    # What a reader lets go of is not kept for it.
    until(lambda: mapped_privately(path) == [])
    return ready


@needs_populate
@needs_room
def test_the_pages_of_a_large_view_are_made_ready_ahead_of_its_reader(
    connector: SharedMemoryConnector,
) -> None:
    """Who reads on meets no fault for every few pages, who touches a little of it costs nothing."""
    key = connector.put(bytes(80 * MIB))
    until(lambda: make_ready(connector, key, MIB))
    assert not make_ready(connector, key, 1000)
    # A forked child has no thread for it yet.
    child = FORK.Process(target=lambda: until(lambda: make_ready(connector, key, MIB)))
    child.start()
    child.join()
    assert child.exitcode == 0
