"""A session in an LMDB database: what is begun and cannot be completed leaves nothing behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import threading
from pathlib import Path
from typing import Any

import pytest

from proxyflow.connectors.kvs import namespace_of
from proxyflow.connectors.lmdb import LMDBConnector
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import StoreError, StoreFullError
from proxyflow.storage import kvs
from tests.processes import Running, only_root, small_file_system

FORK = multiprocessing.get_context("fork")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_too_few_descriptors_to_begin_a_session(tmp_path: Path) -> None:
    """Whichever of them is missing, none is kept, and the next to come sweeps what was made."""

    def child() -> None:
        LMDBConnector(str(tmp_path)).close()
        before = descriptors()
        most = before + 100
        failures = 0
        for more in range(1, 16):
            resource.setrlimit(resource.RLIMIT_NOFILE, (before + more, most))
            try:
                connector = LMDBConnector(str(tmp_path))
            except StoreError:
                failures += 1
            else:
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
                connector.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        assert 0 < failures < 15
        assert descriptors() == before
        with LMDBConnector(str(tmp_path)) as connector:
            sessions = [name for name in os.listdir(tmp_path / "sessions") if name[0] != "."]
            assert sessions == [connector.session]

    process = FORK.Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_a_smaller_object_leaves_nothing_of_the_larger_one(tmp_path: Path) -> None:
    """Its room is for others at once, not only when the smaller one is evicted."""
    with LMDBConnector(str(tmp_path)) as connector:
        key = connector.new_key()
        connector.set(key, bytes(4_000_000))
        connector.set(key, b"small")
        with pytest.raises(kvs.KeyNotFoundError):
            kvs.get_dir(connector._handle, f"p.{key.name}", namespace_of(key.session))


def fill(connector: LMDBConnector, nbytes: int) -> list[Any]:
    """Put until the disk is full; return the keys."""
    keys = []
    while True:
        try:
            keys.append(connector.put(os.urandom(nbytes)))
        except StoreFullError:
            return keys


def fill_the_rest(path: Path) -> None:
    """Take what a full database leaves of its disk, as other programs do."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@only_root
@pytest.mark.parametrize("nbytes", [100, 3000, 100_000])
def test_a_full_disk_keeps_nothing_from_being_removed(tmp_path: Path, nbytes: int) -> None:
    """Eviction, the end of a session, sweeping and the next session all work, again and again."""
    disk = tmp_path / "disk"
    with small_file_system(disk, 6):
        for _ in range(2):
            with LMDBConnector(str(disk / "store")) as connector:
                keys = fill(connector, nbytes)
                fill_the_rest(disk / "of others")
                for key in keys[: len(keys) // 2]:
                    connector.evict(key)
                again = [connector.put(os.urandom(nbytes)) for _ in keys[::4]]
                fill(connector, nbytes)
                for key in [*keys, *again]:
                    connector.evict(key)
                fill(connector, nbytes)
            assert LMDBConnector.sweep_url(StoreURL.parse(f"lmdb://{disk}/store")) == []


def test_a_session_too_large_for_one_removal_goes_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of the pages that it frees may need more room than is kept."""
    remove = kvs.namespace_remove

    def remove_what_is_empty(handle: kvs.Handle, name: str) -> None:
        if any(kvs.exists(handle, value, name) for value in values):
            raise kvs.StorageFullError("no room")
        remove(handle, name)

    with LMDBConnector(str(tmp_path)) as connector:
        keys = connector.put_batch([b"small", bytes(2_000_000), b"also small"])
        values = [f"o.{key.name}" for key in keys] + [f"p.{keys[1].name}.0"]
        monkeypatch.setattr(kvs, "namespace_remove", remove_what_is_empty)
    with kvs.open(f"lmdb://{tmp_path}") as handle:
        assert namespace_of(connector.session) not in kvs.namespace_list(handle)


_DIES_FULL = """
import os, sys
from proxyflow.connectors.lmdb import LMDBConnector
from proxyflow.errors import StoreFullError
connector = LMDBConnector(sys.argv[1])
try:
    while True:
        connector.put(os.urandom(100))
except StoreFullError:
    print(connector.session, flush=True)
sys.stdin.read()
"""


@only_root
def test_what_filled_the_disk_and_died_is_swept(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_file_system(disk, 20):
        with Running(_DIES_FULL, disk / "store") as owner:
            owner.kill()
        fill_the_rest(disk / "of others")
        with LMDBConnector(str(disk / "store")) as connector:
            assert connector.put(b"there is room again")
            assert not os.path.exists(disk / "store" / "sessions" / owner.line)


@only_root
def test_a_writer_in_another_process_takes_no_room_from_removals(tmp_path: Path) -> None:
    """It puts whatever fits at every moment, so what an eviction lets go of is in danger."""
    disk = tmp_path / "disk"
    with small_file_system(disk, 20), LMDBConnector(str(disk / "store")) as connector:
        keys = fill(connector, 1000)
        ended = multiprocessing.get_context("fork").Event()

        def put() -> None:
            joined = LMDBConnector.from_config(connector.config())
            while not ended.is_set():
                try:
                    joined.put(os.urandom(1000))
                except StoreFullError:
                    threading.Event().wait(0.0001)

        writer = FORK.Process(target=put)
        writer.start()
        try:
            for key in keys[:1000]:
                connector.evict(key)
        finally:
            ended.set()
            writer.join(60)
        assert writer.exitcode == 0
