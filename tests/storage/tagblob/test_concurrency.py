"""Many processes at one tag: no append is lost, and a delete ends in a legal state."""

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import Any

import pytest

from proxyflow.storage.tagblob import DDFS, locks

PROCESSES = 8
APPENDS = 25  # each: 200 in all
FEW = 6

# Clean processes as with "spawn", but what takes long to import is imported once.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["proxyflow.storage.tagblob.embedded", "s3fs", "urllib3"])


def _append(arguments: dict[str, Any], tag: str, worker: int, start: Any) -> None:
    ddfs = DDFS(**arguments)
    start.wait()
    for number in range(APPENDS):
        ddfs.tag(tag, [[f"http://node/{worker}-{number}"]])


def _run(target: Any, *arguments: Any) -> None:
    start = context.Barrier(PROCESSES)
    processes = [
        context.Process(target=target, args=(*arguments, worker, start))
        for worker in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * PROCESSES


def test_two_hundred_parallel_appends_lose_none(
    ddfs: DDFS, master: dict[str, Any], tag: str
) -> None:
    _run(_append, master, tag)
    found = [url for (url,) in ddfs.urls(tag)]
    expected = {f"http://node/{w}-{n}" for w in range(PROCESSES) for n in range(APPENDS)}
    assert set(found) == expected
    assert len(found) == len(expected)
    # What one process appended stands in its order: the latest first.
    for worker in range(PROCESSES):
        own = [url for url in found if f"/{worker}-" in url]
        assert own == [f"http://node/{worker}-{n}" for n in reversed(range(APPENDS))]


def _append_or_delete(arguments: dict[str, Any], tag: str, worker: int, start: Any) -> None:
    ddfs = DDFS(**arguments)
    start.wait()
    if worker == 0:
        ddfs.delete(tag)
        return
    for number in range(FEW):
        ddfs.tag(tag, [[f"http://node/{worker}-{number}"]])


def test_a_delete_racing_appends_ends_in_a_legal_state(
    ddfs: DDFS, master: dict[str, Any], tag: str
) -> None:
    ddfs.tag(tag, [["http://node/old"]])
    ddfs.setattr(tag, "old", "1")
    _run(_append_or_delete, master, tag)
    urls = [url for (url,) in ddfs.urls(tag)] if ddfs.exists(tag) else []
    # What was there before the delete is gone, with the attributes; of every process, all that
    # it appended after the delete is there.
    assert "http://node/old" not in urls
    assert not ddfs.exists(tag) or ddfs.attrs(tag) == {}
    for worker in range(1, PROCESSES):
        kept = [int(url.rsplit("-", 1)[1]) for url in urls if f"/{worker}-" in url]
        assert kept == sorted(range(FEW), reverse=True)[: len(kept)]


def test_threads_of_one_process_lose_no_append(ddfs: DDFS, tag: str) -> None:
    def append(worker: int) -> None:
        for number in range(10):
            ddfs.tag(tag, [[f"http://node/{worker}-{number}"]])

    threads = [threading.Thread(target=append, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({url for (url,) in ddfs.urls(tag)}) == 60


def test_concurrent_updates_with_the_same_blob_keep_one(ddfs: DDFS, tag: str) -> None:
    blob = ["disco://node/ddfs/vol0/blob/7f/part$584-e8d2f-3a0"]

    def append() -> None:
        ddfs.tag(tag, [blob], update=True)

    threads = [threading.Thread(target=append) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ddfs.urls(tag) == [blob]


def test_a_forked_child_uses_the_store_on_its_own(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [["http://node/parent"]])
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ddfs.tag(tag, [["http://node/child"]])
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    ddfs.tag(tag, [["http://node/parent again"]])
    assert len(ddfs.urls(tag)) == 3


def test_a_child_forked_under_a_lock_does_not_keep_it(tmp_path: Any) -> None:
    path = str(tmp_path / "lock")
    read, write = os.pipe()
    with locks.FileLock(path) as held:
        assert held
        pid = os.fork()
        if pid == 0:
            os.close(write)
            os.read(read, 1)  # lives on until the parent says so
            os._exit(0)
        with locks.FileLock(path, wait=False) as again:
            assert not again
    with locks.FileLock(path, wait=False) as free:
        assert free
    os.close(write)
    os.close(read)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_lock_of_a_killed_process_is_free(local: DDFS) -> None:
    local.tag("data", [])
    area = local.engine._area  # type: ignore[attr-defined]
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with area.lock("gc"):
            os.write(write, b"x")
            threading.Event().wait()
    os.read(read, 1)
    os.close(read)
    os.close(write)
    with area.lock("gc", wait=False) as held:
        assert not held
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    with area.lock("gc", wait=False) as held:
        assert held


@pytest.mark.parametrize("workers", [4])
def test_one_process_pushes_while_others_pull(ddfs: DDFS, tag: str, workers: int) -> None:
    failures: list[BaseException] = []

    def pull() -> None:
        try:
            for _ in range(5):
                for blob in ddfs.pull(tag):
                    with blob:
                        assert blob.read() == blob.url.split("/")[-1].split("$")[0].encode()
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    ddfs.push(tag, [(b"first", "first")])
    threads = [threading.Thread(target=pull) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for number in range(10):
        name = f"blob-{number}"
        ddfs.push(tag, [(name.encode(), name)])
    for thread in threads:
        thread.join()
    assert failures == []
