"""Clients that are killed: at every step of a sync, and with changes pending."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from filespace_support import Bucket, files_below

from proxyflow.storage.filespace import Filespace, Workspace

STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "fcntl.flock")

BEFORE = {"/a": b"a" * 10_000, "/b": b"b"}
AFTER = {"/a": b"new a" * 5000, "/c": b"c", "/d/e": b"e"}


def state_of(filespace: Filespace) -> dict[str, bytes]:
    fs = filespace.fs
    names = [f"/{name}" for name in fs.list_dir("/") if fs.file_exists(f"/{name}")]
    names += [f"/d/{name}" for name in (fs.list_dir("/d") if fs.dir_exists("/d") else [])]
    return {name: fs.read_file(name) for name in names}


def change(filespace: Filespace) -> None:
    fs = filespace.fs
    fs.write_file("/a", AFTER["/a"])
    fs.write_file("/c", AFTER["/c"])
    fs.delete("/b")
    fs.create_dir("/d")
    fs.write_file("/d/e", AFTER["/d/e"])


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Run `work` in a child that kills itself at its `step`-th system-level step.

    Return whether it was killed, that is, whether there are that many steps.
    """
    child = os.fork()
    if child == 0:
        try:
            _arm(step)
            work()
        except BaseException:  # noqa: BLE001  the parent sees the exit code
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL
    assert os.WEXITSTATUS(status) == 0
    return False


def _arm(step: int) -> None:
    steps = itertools.count(1)

    def last() -> bool:
        # Deleting goes on in another thread.
        return next(steps) == step

    def count(event: str, _: Any) -> None:
        if event in STEPS and last():
            os.kill(os.getpid(), signal.SIGKILL)

    def halfway(fd: int, data: Any, at: int, write: Any = os.pwrite) -> int:
        """Overwriting is no single step: the kernel may have written any part of it."""
        if last():
            write(fd, data[: len(data) // 2], at)
            os.kill(os.getpid(), signal.SIGKILL)
        written: int = write(fd, data, at)
        return written

    def synced(fd: int, sync: Any) -> None:
        if last():
            os.kill(os.getpid(), signal.SIGKILL)
        sync(fd)

    sys.addaudithook(count)
    os.pwrite = halfway
    for name in ("fsync", "fdatasync"):
        setattr(os, name, functools.partial(synced, sync=getattr(os, name)))


@pytest.mark.parametrize("compact", [False, True], ids=["sync_all", "compact"])
def test_a_sync_killed_at_any_step_leaves_one_of_the_two_states(
    tmp_path: Any, compact: bool
) -> None:
    """Before or after, never between; the next client tidies up and can do it again."""
    step, seen = 0, set[str]()
    killed = True
    while killed:
        step += 1
        hub = str(tmp_path / f"hub{step}")
        with Workspace(hub).link_filespace(name="data") as first:
            first.fs.write_file("/a", BEFORE["/a"])
            first.sync_all()  # from now on its head is overwritten
            first.fs.write_file("/b", BEFORE["/b"])

        def work(hub: str = hub) -> None:
            filespace = Workspace(hub).link_filespace(name="data")
            change(filespace)
            if compact:
                filespace.compact()
            else:
                filespace.sync_all()

        killed = killed_at(step, work)
        with Workspace(hub).link_filespace(name="data") as survivor:
            state = state_of(survivor)
            assert state in (BEFORE, AFTER)
            seen.add("after" if state == AFTER else "before")
            if state == BEFORE:
                change(survivor)
                survivor.sync_all()
            assert state_of(survivor) == AFTER
            survivor.compact()
            kept = files_below(hub)
            assert len([path for path in kept if "/content/" in path]) == len(AFTER)
            assert len([path for path in kept if "/nodes/" in path]) <= 3
            assert len([path for path in kept if "/clients/" in path]) == 1
    assert seen == {"before", "after"}
    assert step > 15


def test_what_a_killed_client_had_pending_is_swept(tmp_path: Any) -> None:
    hub = str(tmp_path / "hub")
    live = Workspace(hub).link_filespace(name="data")
    live.fs.write_file("/mine", b"pending too")

    def work() -> None:
        filespace = Workspace(hub).link_filespace(name="data")
        filespace.fs.write_file("/published", b"p")
        filespace.sync_all()
        filespace.fs.write_file("/pending", b"x" * 100_000)
        filespace.fs.open("/open", "wb").write(b"y" * 1_000_000)
        os.kill(os.getpid(), signal.SIGKILL)

    assert killed_at(0, work)
    assert len([path for path in files_below(hub) if "/content/" in path]) == 4
    with Workspace(hub).link_filespace(name="data") as next_client:
        assert next_client.fs.list_dir("/") == ["published"]
    assert len([path for path in files_below(hub) if "/content/" in path]) == 2
    assert live.fs.read_file("/mine") == b"pending too"
    live.unlink()
    with Workspace(hub).link_filespace(name="data") as last:
        assert last.fs.list_dir("/") == ["mine", "published"]


def test_sweeping_keeps_what_dead_clients_had_published_everywhere(tmp_path: Any) -> None:
    """In the tail, in stored nodes, in directories: only what nobody names is deleted."""
    hub = str(tmp_path / "hub")

    def work() -> None:
        filespace = Workspace(hub).link_filespace(name="data")
        filespace.fs.create_dir("/d/e")
        for number in range(150):
            filespace.fs.write_file(f"/d/e/{number}", b"%d" % number)
        filespace.compact()
        filespace.fs.write_file("/tail", b"t")
        filespace.sync_all()
        filespace.fs.write_file("/pending", b"p")
        os.kill(os.getpid(), signal.SIGKILL)

    assert killed_at(0, work)
    with Workspace(hub).link_filespace(name="data") as survivor:
        assert len([path for path in files_below(hub) if "/content/" in path]) == 151
        assert survivor.fs.read_file("/tail") == b"t"
        names = survivor.fs.list_dir("/d/e")
        assert all(survivor.fs.read_file(f"/d/e/{name}") == name.encode() for name in names)
        assert len(names) == 150


def test_an_object_store_client_killed_while_publishing_is_swept_when_its_lease_is_over(
    bucket: Bucket,
) -> None:
    hub, options = f"s3://{bucket.name}/hub", bucket.storage_options
    with Workspace(hub, storage_options=options).link_filespace(name="data") as filespace:
        filespace.fs.write_file("/kept", b"k")
        identity = filespace.id
    dead = "d" * 32
    folder = f"hub/filespaces/{identity}"
    bucket.put(f"{folder}/content/{dead}/1", b"uploaded, never named")
    bucket.put(f"{folder}/clients/{dead}", json.dumps({"until": time.time() - 1}).encode())
    bucket.put(f"{folder}/content/{'e' * 32}/1", b"another client is uploading this")
    bucket.put(f"{folder}/clients/{'e' * 32}", json.dumps({"until": time.time() + 99}).encode())
    with Workspace(hub, storage_options=options).link_filespace(name="data") as filespace:
        assert filespace.fs.read_file("/kept") == b"k"
    listing = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=folder)
    keys = {item["Key"].removeprefix(folder) for item in listing["Contents"]}
    assert not any(dead in key for key in keys)
    assert f"/content/{'e' * 32}/1" in keys


def test_spools_of_killed_clients_of_an_object_store_are_swept(
    bucket: Bucket, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    hub, options = f"s3://{bucket.name}/hub", bucket.storage_options
    abandoned = tmp_path / "filespace-spool-abandoned"
    abandoned.mkdir()
    (abandoned / ".lock").touch()
    (abandoned / "content").write_bytes(b"x")
    with Workspace(hub, storage_options=options) as workspace:
        one = workspace.link_filespace(name="data")
        one.fs.write_file("/f", b"1")
        assert not abandoned.exists()
        with Workspace(hub, storage_options=options) as other:
            two = other.link_filespace(name="data")
            two.fs.write_file("/g", b"2")
            assert len(list(tmp_path.iterdir())) == 2
        one.sync_all()
        assert one.fs.list_dir("/") == ["f", "g"]
    assert list(tmp_path.iterdir()) == []
