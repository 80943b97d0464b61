"""A killed run leaves nothing that gc() does not find; the default store looks everywhere."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxyflow
from proxyflow import Store
from tests.processes import Running, only_root, small_file_system

_RUN = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from proxyflow import Store
from proxyflow_futures import ProxyExecutor

def task(data, directory):
    assert len(data) == 1 << 20
    open(os.path.join(directory, str(os.getpid())), "w").close()
    time.sleep(60)

if __name__ == "__main__":
    url, context, directory = sys.argv[1:]
    store = Store(url)
    pool = ProcessPoolExecutor(2, multiprocessing.get_context(context))
    executor = ProxyExecutor(pool, store, policy="64 KiB")
    for n in range(6):
        executor.submit(task, bytes([n]) * (1 << 20), directory)
    while len(os.listdir(directory)) < 2:
        time.sleep(0.01)
    print(store.session, flush=True)
    time.sleep(60)
"""

# A script of its own, because children that are spawned have to import it.
_LAUNCH = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_run_killed_in_the_midst_is_removed_and_its_neighbour_is_not(
    tmp_path: Path, context: str
) -> None:
    """Its workers outlive it, and have its arguments mapped."""
    root, workers, script = tmp_path / "store", tmp_path / "workers", tmp_path / "run.py"
    workers.mkdir()
    script.write_text(_RUN)
    with Store(root) as neighbour, Store(root) as watcher:
        keys = [neighbour.put(bytes([n]) * 100_000) for n in range(4)]
        with Running(_LAUNCH, script, root.as_uri(), context, workers) as run:
            assert len(list((root / run.line).iterdir())) == 1 + 6
            run.kill()
            try:
                assert proxyflow.gc(root.as_uri()) == [run.line]
                left = [name for name in os.listdir(root) if not name.startswith(".")]
                assert sorted(left) == sorted([neighbour.session, watcher.session])
                assert neighbour.get_batch(keys) == [bytes([n]) * 100_000 for n in range(4)]
            finally:
                for pid in os.listdir(workers):
                    os.kill(int(pid), signal.SIGKILL)
    assert not root.exists()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in for /dev/shm and the temp directory of a host."""
    for variable in ("PROXYFLOW_STORE", "PROXYFLOW_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "tmp").mkdir()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        (tmp_path / "shm").symlink_to(memory)
        monkeypatch.setattr("proxyflow.config._SHARED_MEMORY", str(tmp_path / "shm"))
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        yield tmp_path


def dead_session(root: Path) -> str:
    with Running.owner(root.as_uri()) as owner:
        owner.kill()
        return owner.line


def test_the_default_store_lies_in_shared_memory_and_spills(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyflow.config._ROOM", 1)
    name = f"proxyflow-{os.geteuid()}"
    with Store() as store:
        assert store.connector.store_dir == str(elsewhere / "shm" / name)
        assert store.connector.spill == str(elsewhere / "tmp" / name)
    assert os.listdir(elsewhere / "shm") == os.listdir(elsewhere / "tmp") == []


def test_without_room_in_shared_memory_the_disk_will_do(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyflow.config._ROOM", 1 << 60)
    with Store() as store:
        assert store.connector.store_dir == str(elsewhere / "tmp" / f"proxyflow-{os.geteuid()}")
        assert store.connector.spill is None


def test_gc_looks_wherever_a_default_store_may_have_been(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run that filled shared memory must not hide behind the lack of room there."""
    monkeypatch.setattr("proxyflow.config._ROOM", 1 << 60)
    name = f"proxyflow-{os.geteuid()}"
    dead = [dead_session(elsewhere / where / name) for where in ("shm", "tmp")]
    assert proxyflow.gc() == sorted(dead)
    assert os.listdir(elsewhere / "shm") == os.listdir(elsewhere / "tmp") == []


@only_root
def test_room_taken_by_a_dead_run_counts_as_room(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyflow.config._ROOM", 4 << 20)
    shm = elsewhere / "small"
    monkeypatch.setattr("proxyflow.config._SHARED_MEMORY", str(shm))
    root = shm / f"proxyflow-{os.geteuid()}"
    with small_file_system(shm, 5):
        root.mkdir(mode=0o700)
        session = root / dead_session(root)
        (session / "abcdefghijklmn").write_bytes(bytes(3 << 20))
        with Store() as store:
            assert store.connector.store_dir == str(root)
            assert not session.exists()


def test_a_directory_that_somebody_else_prepared_is_not_used(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory that everybody may write to, the name could be taken by another user."""
    monkeypatch.setattr("proxyflow.config._ROOM", 1)
    name = f"proxyflow-{os.geteuid()}"
    (elsewhere / "shm" / name).mkdir(mode=0o777)
    (elsewhere / "shm" / name).chmod(0o777)
    with Store() as store:
        directory = store.connector.store_dir
        assert directory.startswith(str(elsewhere / "shm" / name) + "-")
    assert os.listdir(elsewhere / "shm") == [name]


def test_a_host_without_shared_memory_uses_the_disk(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyflow.config._SHARED_MEMORY", str(elsewhere / "missing"))
    with Store() as store:
        assert store.connector.store_dir.startswith(str(elsewhere / "tmp"))


def test_shared_memory_as_temp_directory_is_used_once(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxyflow.config._ROOM", 1)
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere / "shm"))
    with Store() as store:
        assert store.connector.spill is None


def test_age_is_told_by_the_clock_of_the_file_system(tmp_path: Path) -> None:
    """A lease that is over by a skewed local clock is not over."""
    session = tmp_path / "store" / dead_session(tmp_path / "store")
    record = session / ".owner"
    record.write_text(record.read_text().replace('"boot": "', '"boot": "another-'))
    real = time.time
    try:
        time.time = lambda: real() + 86400
        assert proxyflow.gc(tmp_path / "store") == []
    finally:
        time.time = real
