"""File locks: across processes and threads, with both kinds of hub."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from filespace_support import Bucket

from proxyflow.storage.filespace import (
    Filespace,
    FsLockedError,
    FsNotFoundError,
    Workspace,
)

Link = Callable[..., Filespace]


def _count(hub: str, rounds: int) -> None:
    with Workspace(hub).link_filespace(name="data") as filespace:
        for _ in range(rounds):
            with filespace.fs.open(
                "/counter", "r+", lock_type="exclusive", lock_timeout=60
            ) as file:
                number = int(file.read())
                file.seek(0)
                file.write(str(number + 1))


def test_an_exclusive_lock_makes_read_modify_write_safe_across_processes(tmp_path: Any) -> None:
    """Whoever gets the lock next sees what the one before wrote: no increment is lost."""
    hub = str(tmp_path / "hub")
    with Workspace(hub).link_filespace(name="data") as filespace:
        filespace.fs.write_file("/counter", b"0")
        filespace.sync_all()
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=_count, args=(hub, 40)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(timeout=120)
            assert worker.exitcode == 0
        assert filespace.fs.read_file("/counter") == b"80"


def test_shared_locks_go_together_exclusive_ones_do_not(link: Link) -> None:
    one, two = link(), link()
    one.fs.write_file("/f", b"x")
    one.sync_all()
    with one.fs.open("/f", "rb", lock_type="shared"):
        with two.fs.open("/f", "rb", lock_type="shared") as file:
            assert file.read() == b"x"
        with pytest.raises(FsLockedError) as caught:
            two.fs.open("/f", "r+b", lock_type="exclusive", lock_timeout=0)
        assert caught.value.errno == errno.EBUSY
        with two.fs.open("/f", "rb") as unlocked:  # advisory: binds those who ask
            assert unlocked.read() == b"x"
    with one.fs.open("/f", "r+b", lock_type="exclusive"):
        for lock_type in ("shared", "exclusive"):
            with pytest.raises(FsLockedError):
                two.fs.open("/f", "rb", lock_type=lock_type, lock_timeout=0.05)
    with two.fs.open("/f", "rb", lock_type="exclusive", lock_timeout=0) as file:
        assert file.read() == b"x"


def test_a_lock_is_waited_for(link: Link) -> None:
    one, two = link(), link()
    one.fs.write_file("/f", b"old")
    one.sync_all()
    held = one.fs.open("/f", "wb", lock_type="exclusive")
    held.write(b"new")
    results: list[bytes] = []

    def wait() -> None:
        with two.fs.open("/f", "rb", lock_type="shared", lock_timeout=60) as file:
            results.append(file.read())

    waiter = threading.Thread(target=wait)
    waiter.start()
    held.close()
    waiter.join(timeout=60)
    assert results == [b"new"]


def test_closing_an_exclusively_locked_file_publishes_it_and_nothing_else(link: Link) -> None:
    one, two = link(), link()
    one.fs.write_file("/unrelated", b"pending")
    one.fs.create_dir("/d/e")
    one.fs.write_file("/d/other", b"pending")
    with one.fs.open("/d/e/f", "wb", lock_type="exclusive") as file:
        file.write(b"locked")
        assert not two.fs.file_exists("/d/e/f")
    assert two.fs.read_file("/d/e/f") == b"locked"
    assert two.fs.list_dir("/d") == ["e"]
    assert two.fs.list_dir("/") == ["d"]
    one.sync_all()
    assert two.fs.read_file("/d/other") == b"pending"


def test_a_lock_is_let_go_when_opening_fails(link: Link) -> None:
    one, two = link(), link()
    for _ in range(2):
        with pytest.raises(FsNotFoundError):
            one.fs.open("/nope", "r+b", lock_type="exclusive", lock_timeout=0)
    with two.fs.open("/nope", "wb", lock_type="exclusive", lock_timeout=0):
        pass


def test_a_killed_holder_loses_its_lock(tmp_path: Any) -> None:
    hub = str(tmp_path / "hub")
    filespace = Workspace(hub).link_filespace(name="data")
    filespace.fs.write_file("/f", b"x")
    filespace.sync_all()
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        mine = Workspace(hub).link_filespace(name="data")
        held = mine.fs.open("/f", "r+b", lock_type="exclusive")
        os.write(told, b"held")
        time.sleep(600)
        held.close()
        os._exit(0)
    assert os.read(ready, 4) == b"held"
    with pytest.raises(FsLockedError):
        filespace.fs.open("/f", "rb", lock_type="shared", lock_timeout=0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with filespace.fs.open("/f", "rb", lock_type="shared", lock_timeout=60) as file:
        assert file.read() == b"x"
    for pipe in (ready, told):
        os.close(pipe)
    filespace.unlink()


def test_a_lock_does_not_outlive_its_holder_in_a_forked_child(filespace: Filespace) -> None:
    """A child inherits open files; were its copy kept, the parent could not let go."""
    filespace.fs.write_file("/f", b"x")
    filespace.sync_all()
    held = filespace.fs.open("/f", "rb", lock_type="exclusive")
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    try:
        held.close()
        with filespace.fs.open("/f", "rb", lock_type="exclusive", lock_timeout=0) as file:
            assert file.read() == b"x"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_lease_that_is_over_is_taken_and_one_that_is_held_is_renewed(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object store does not notice a killed holder; its lock expires instead."""
    from proxyflow.storage.filespace import leases

    monkeypatch.setattr(leases, "LEASE", 3.0)
    with Workspace(f"s3://{bucket.name}/hub", storage_options=bucket.storage_options) as workspace:
        filespace = workspace.link_filespace(name="data")
        filespace.fs.write_file("/f", b"x")
        filespace.sync_all()
        held = filespace.fs.open("/f", "rb", lock_type="exclusive")
        listing = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="hub/locks/")
        key = listing["Contents"][0]["Key"]

        def until() -> float:
            body = bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read()
            return float(next(iter(json.loads(body).values()))[1])

        first, deadline = until(), time.monotonic() + 60
        while until() == first:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        held.close()
        dead = {"somebody dead": ["exclusive", time.time() + 1]}
        bucket.put(key, json.dumps(dead).encode())
        with filespace.fs.open("/f", "rb", lock_type="exclusive", lock_timeout=60) as file:
            assert file.read() == b"x"


def test_locks_that_were_let_go_leave_no_files(tmp_path: Any) -> None:
    """A hub would keep one for every name ever locked, each session of a store included."""
    hub = str(tmp_path / "hub")
    with Workspace(hub).link_filespace(name="data") as filespace:
        fs = filespace.fs
        for number in range(5):
            fs.write_file(f"/{number}", b"x")
            with fs.open(f"/{number}", "rb", lock_type="shared"):
                with fs.open(f"/{number}", "rb", lock_type="shared"):
                    pass
                with pytest.raises(FsLockedError):
                    fs.open(f"/{number}", "r+b", lock_type="exclusive", lock_timeout=0)
            fs.open(f"/{number}", "r+b", lock_type="exclusive").close()
    assert os.listdir(tmp_path / "hub" / "locks") == []


def _take_turns(path: str, rounds: int, overlaps: Any) -> None:
    from proxyflow.storage.filespace.flock import FileLock

    for number in range(rounds):
        shared = number % 3 == 0
        with FileLock(path, shared=shared, timeout=60, transient=True):
            if shared:
                continue
            try:
                os.close(os.open(path + ".held", os.O_CREAT | os.O_EXCL))
                os.unlink(path + ".held")
            except FileExistsError:
                overlaps.value += 1


def test_a_lock_whose_file_comes_and_goes_keeps_others_out(tmp_path: Any) -> None:
    """Two holders of two files of the same name would each believe to be the only one."""
    context = multiprocessing.get_context("fork")
    overlaps = context.Value("i", 0)
    path = str(tmp_path / "lock")
    workers = [context.Process(target=_take_turns, args=(path, 400, overlaps)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert overlaps.value == 0
    assert os.listdir(tmp_path) == []
