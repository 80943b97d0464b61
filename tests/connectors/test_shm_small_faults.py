"""Packed objects under attack and without room: forged keys, no arenas, full disks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyflow.connectors.filekey import FileKey
from proxyflow.connectors.shm import SharedMemoryConnector
from proxyflow.errors import InvalidKeyError, StoreFullError
from proxyflow.storage.arena import PREFIX, SIZE, SLOTS, remove_orphans
from tests.packed import arena_of, arenas, directory_of, files
from tests.processes import LONG, only_root, run, small_file_system

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


# -- hostile keys --------------------------------------------------------------------------------


def test_keys_that_nobody_made(connector: SharedMemoryConnector) -> None:
    """Between, beyond and instead of objects there is nothing, and never another's bytes."""
    real = connector.put(b"secret")
    prefix = real.filename[:-7]
    evil = [prefix + f"{n:07x}" for n in (1, SLOTS - 1, SLOTS, SLOTS + 1, SIZE, 0xFFFFFFF)]
    evil += [f"{connector.session}.aaaaaaaap0000000", f"aaaaaaaaaa.{real.filename[11:]}"]
    for filename in evil:
        key = FileKey(filename)
        assert (connector.get(key), connector.get_view(key)) == (None, None)
        assert not connector.exists(key)
        connector.evict(key)
    assert connector.get(real) == b"secret"


@pytest.mark.parametrize("tail", ["-000001", "+000001", "0_00001", " 000001", "000000A", "00001"])
def test_slots_that_are_no_numbers(connector: SharedMemoryConnector, tail: str) -> None:
    key = FileKey(connector.put(b"x").filename[:-7] + tail)
    for operation in (connector.get, connector.get_view, connector.exists, connector.evict):
        with pytest.raises(InvalidKeyError):
            operation(key)


def test_what_looks_like_an_object_within_another_is_none(
    connector: SharedMemoryConnector,
) -> None:
    """Whoever chooses the bytes of an object cannot make others of them."""
    with open(directory_of(connector) / (PREFIX + arena_of(connector.put(b"x"))), "rb") as arena:
        head = arena.read(16 * KIB)
    connector.put(head)
    assert len(list(connector.scan())) == 2


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo"])
def test_what_is_no_arena_is_refused(
    connector: SharedMemoryConnector, root: Path, kind: str
) -> None:
    real = connector.put(b"x")
    path = directory_of(connector) / f"{PREFIX}aaaaaaaa"
    match kind:
        case "symlink":
            path.symlink_to(directory_of(connector) / (PREFIX + arena_of(real)))
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
    key = FileKey(f"{connector.session}.aaaaaaaap0000000")
    for operation in (connector.get, connector.get_view, connector.exists, connector.evict):
        with pytest.raises(InvalidKeyError):
            operation(key)
    assert [stored.key for stored in connector.scan()] == [real]
    connector.close()
    assert not root.exists()


@pytest.mark.parametrize("content", [b"", b"short", bytes(SIZE), b"\1" * SIZE, bytes(SIZE + 1)])
def test_files_that_are_no_arenas_hold_nothing(
    connector: SharedMemoryConnector, content: bytes
) -> None:
    (directory_of(connector) / f"{PREFIX}aaaaaaaa").write_bytes(content)
    for slot in (0, SLOTS - 1):
        assert connector.get(FileKey(f"{connector.session}.aaaaaaaap{slot:07x}")) is None
    assert list(connector.scan()) == []


# -- no room -------------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_without_room_for_an_arena_objects_are_files(
    connector: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Pages are taken before they are written to: where there are none, that would kill."""
    left = [calls]
    allocate = os.posix_fallocate

    def fail(*args: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(*args)

    monkeypatch.setattr(os, "posix_fallocate", fail)
    keys = [connector.put(bytes([n]) * KIB) for n in range(250)]
    assert bool(files(connector))
    assert len(arenas(connector)) == min(calls, 1)
    assert all(connector.get(key) == bytes([n]) * KIB for n, key in enumerate(keys))
    for key in keys:
        connector.evict(key)
    assert list(connector.scan()) == []


@only_root
def test_a_full_file_system_is_an_error_and_no_signal(tmp_path: Path) -> None:
    with (
        small_file_system(tmp_path / "memory", 2),
        SharedMemoryConnector(str(tmp_path / "memory/store")) as connector,
    ):
        keys: list[FileKey] = []
        with pytest.raises(StoreFullError, match="no room"):
            keys.extend(connector.put(bytes([n % 251]) * KIB) for n in range(3 * KIB))
        assert len(keys) > 1000
        for n, key in enumerate(keys):
            assert connector.get(key) == bytes([n % 251]) * KIB
            connector.evict(key)
        assert connector.get(connector.put(b"again")) == b"again"


@only_root
def test_an_empty_arena_makes_room_for_what_is_needed(tmp_path: Path) -> None:
    with (
        small_file_system(tmp_path / "memory", 2),
        SharedMemoryConnector(str(tmp_path / "memory/store")) as connector,
    ):
        connector.evict(connector.put(b"small"))
        data = bytes(1960 * KIB)
        assert connector.get(connector.put(data)) == data


def die_at(call: str, config: dict[str, Any]) -> None:
    connector = SharedMemoryConnector.from_config(config)
    setattr(os, call, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
    connector.put(b"small")


def look_around(connector: SharedMemoryConnector) -> None:
    """Do what opens every arena there is, in one way or another."""
    list(connector.scan())
    with contextlib.suppress(StoreFullError):
        connector.put(bytes(100 * KIB))


def exit_code(function: Callable[..., None], *args: object) -> int | None:
    process = FORK.Process(target=function, args=args)
    process.start()
    process.join(LONG)
    return process.exitcode


@only_root
@pytest.mark.parametrize("call", ["posix_fallocate", "ftruncate"])
def test_an_arena_that_was_never_finished_is_no_trap_when_memory_is_full(
    tmp_path: Path, call: str
) -> None:
    """Who reads where there is no page, nor room for one, is killed; and it goes with the dead."""
    with (
        small_file_system(tmp_path / "memory", 2),
        SharedMemoryConnector(str(tmp_path / "memory/store")) as connector,
    ):
        assert exit_code(die_at, call, connector.config()) == -signal.SIGKILL
        assert len(arenas(connector)) == 1
        with (tmp_path / "memory/filler").open("wb", 0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4 * KIB))
        assert exit_code(look_around, connector) == 0
        assert arenas(connector) == []


def test_an_arena_with_a_hole_in_it_is_none(connector: SharedMemoryConnector) -> None:
    """By its length alone nobody knows that there are pages to read from."""
    path = directory_of(connector) / (PREFIX + "aaaaaaaa")
    with path.open("wb") as file:
        file.truncate(SIZE)
    assert connector.get(FileKey(f"{connector.session}.aaaaaaaap0000000")) is None
    assert path.stat().st_blocks == 0
    assert list(connector.scan()) == []


def test_an_arena_taken_for_an_orphan_before_it_is_locked_is_not_filled(
    connector: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What went there nobody else would find."""
    lock = fcntl.flock

    def lock_late(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        assert connector._recycler is not None
        remove_orphans(connector._recycler.directory)
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    key = connector.put(b"small")
    with SharedMemoryConnector.from_config(connector.config()) as joined:
        assert joined.get(key) == b"small"


LIMITED = """
import resource, sys
from proxyflow.connectors.shm import SharedMemoryConnector
resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, resource.RLIM_INFINITY))
with SharedMemoryConnector(sys.argv[1]) as connector:
    keys = [connector.put(bytes([n]) * 1024) for n in range(200)]
    assert all(connector.get(key) == bytes([n]) * 1024 for n, key in enumerate(keys))
"""


def test_a_limit_on_the_size_of_files(root: Path) -> None:
    run(LIMITED, root)
    assert not root.exists()
