"""Several processes and threads on one KVS: atomic, isolated, and whole after a kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from proxyflow.storage import kvs

DEADLINE = 120


@pytest.fixture(params=["fork", "spawn"])
def start(request: pytest.FixtureRequest) -> Iterator[Callable[..., BaseProcess]]:
    """Start processes, and see them to their end."""
    context = multiprocessing.get_context(request.param)
    started: list[BaseProcess] = []

    def begin(target: Callable[..., None], *arguments: Any) -> BaseProcess:
        process = context.Process(target=target, args=arguments)
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.join()


def finish(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.join(DEADLINE)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def increment(url: str, times: int) -> None:
    with kvs.open(url) as handle:
        for _ in range(times):
            old = kvs.get(handle, "counter")
            while not kvs.compare_and_swap(handle, "counter", old, old + 1):
                old = kvs.get(handle, "counter")


def test_no_increment_is_lost(shared_url: str, start: Callable[..., BaseProcess]) -> None:
    """200 from 8 processes; with get, put and commit, Flux kept 56."""
    with kvs.open(shared_url) as handle:
        kvs.put(handle, "counter", 0)
        kvs.commit(handle)
        finish([start(increment, shared_url, 25) for _ in range(8)])
        assert kvs.get(handle, "counter") == 200


def write_pairs(url: str, count: int) -> None:
    with kvs.open(url) as handle:
        for number in range(1, count + 1):
            kvs.put(handle, "pair.left", number)
            kvs.put(handle, "other.right", number)
            # A large value is sent before the commit, and must not be seen before it either.
            kvs.put(handle, "pair.large", b"%d" % number * 3000)
            kvs.commit(handle)


def test_a_reader_sees_all_of_a_commit_or_nothing(
    shared_url: str, start: Callable[..., BaseProcess]
) -> None:
    with kvs.open(shared_url) as handle:
        writer = start(write_pairs, shared_url, 1000)
        left = 0
        while left < 1000:
            values = kvs.get_many(handle, ["pair.left", "other.right", "pair.large"], raw=True)
            if values[0] is kvs.MISSING:
                assert values == [kvs.MISSING] * 3
                continue
            assert values[0] == values[1]
            assert values[2] == values[0] * 3000
            assert int(values[0]) >= left
            left = int(values[0])
        finish([writer])


def swing(url: str, count: int) -> None:
    with kvs.open(url) as handle:
        for number in range(1, count):
            kvs.put(handle, f"versions.{number}.v", number)
            kvs.put_symlink(handle, "current", f"versions.{number}")
            kvs.put_unlink(handle, f"versions.{number - 1}")
            kvs.commit(handle)


def test_a_link_that_is_moved_always_leads_somewhere(
    shared_url: str, start: Callable[..., BaseProcess]
) -> None:
    """Following it and reading what it leads to are of the same moment."""
    with kvs.open(shared_url) as handle:
        kvs.put(handle, "versions.0.v", 0)
        kvs.put_symlink(handle, "current", "versions.0")
        kvs.commit(handle)
        writer = start(swing, shared_url, 500)
        last = 0
        while last < 499:
            value = kvs.get(handle, "current.v")
            assert value >= last
            assert kvs.get_dir(handle, "current").list_all() == (["v"], [])
            last = value
        finish([writer])
        assert list(kvs.get_dir(handle, "versions")) == ["499"]


def scramble(url: str, number: int) -> None:
    """Replace directories by values and back where others are writing."""
    with kvs.open(url) as handle:
        for step in range(60):
            match (step + number) % 4:
                case 0:
                    kvs.put(handle, "x.y.z", bytes(5000))
                case 1:
                    kvs.put(handle, "x.y", step)
                case 2:
                    kvs.put_mkdir(handle, "x")
                case 3:
                    kvs.put_unlink(handle, "x")
            kvs.put(handle, f"done.{number}", step)
            kvs.put(handle, f"x.y.{number}.last", step)
            kvs.commit(handle)


def test_writers_that_replace_each_others_directories(
    shared_url: str, start: Callable[..., BaseProcess]
) -> None:
    with kvs.open(shared_url) as handle:
        finish([start(scramble, shared_url, number) for number in range(4)])
        done = kvs.get_dir(handle, "done")
        assert {name: done[name] for name in done} == dict.fromkeys("0123", 59)
        for path, directories, files in kvs.walk("x", True, handle):
            for name in directories + files:
                assert kvs.exists(handle, kvs.join("x", path, name))
        kvs.get_dir(handle).clear()
        kvs.put_unlink(handle, "x")
        kvs.put_unlink(handle, "done")
        kvs.commit(handle)
        assert list(kvs.get_dir(handle)) == []


def commit_until_killed(url: str, acknowledge: Connection) -> None:
    with kvs.open(url) as handle:
        number = 0
        while True:
            number += 1
            kvs.put(handle, "left", number)
            kvs.put(handle, "large", b"%d" % number * 3000)
            kvs.put(handle, f"all.{number}", number)
            kvs.commit(handle)
            acknowledge.send(number)


@pytest.mark.parametrize("attempt", range(3))
def test_a_kill_loses_no_commit_and_shows_no_half_of_one(shared_url: str, attempt: int) -> None:
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=commit_until_killed, args=(shared_url, send))
    process.start()
    send.close()
    acknowledged = 0
    while acknowledged < 50 + attempt:
        acknowledged = receive.recv()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(DEADLINE)
    while True:
        try:
            acknowledged = receive.recv()
        except EOFError:
            break
    receive.close()
    with kvs.open(shared_url) as handle:
        left, large = kvs.get_many(handle, ["left", "large"], raw=True)
        # The commit under way when the kill came may have been completed, but not in part.
        assert int(left) in (acknowledged, acknowledged + 1)
        assert large == left * 3000
        numbers = sorted(int(name) for name in kvs.get_dir(handle, "all"))
        assert numbers == list(range(1, int(left) + 1))
        kvs.put(handle, "after", 1)
        kvs.commit(handle)


def test_threads_share_a_handle(handle: kvs.Handle) -> None:
    """Flux crashes."""

    def work(number: int) -> None:
        for step in range(20):
            kvs.put(handle, f"t{number}.a", step)
            kvs.put(handle, f"t{number}.b", step)
            kvs.commit(handle)
            assert kvs.get_many(handle, [f"t{number}.a", f"t{number}.b"]) == [step, step]

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, number) for number in range(8)]:
            future.result(DEADLINE)
    assert len(kvs.get_dir(handle)) == 8


def test_threads_increment(handle: kvs.Handle) -> None:
    kvs.put(handle, "counter", 0)
    kvs.commit(handle)

    def work() -> None:
        for _ in range(20):
            while True:
                old = kvs.get(handle, "counter")
                if kvs.compare_and_swap(handle, "counter", old, old + 1):
                    break

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work) for _ in range(4)]:
            future.result(DEADLINE)
    assert kvs.get(handle, "counter") == 80


def in_child(body: Callable[[], None]) -> None:
    """Run `body` in a forked child; what it raises fails the test."""
    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    process.join(DEADLINE)
    assert process.exitcode == 0


def test_a_forked_child_goes_on_with_the_handle(shared_url: str) -> None:
    with kvs.open(shared_url) as handle:
        kvs.put(handle, "a", 1)
        kvs.commit(handle)
        root = kvs.get_dir(handle)
        root["staged in parent"] = 1
        kvs.put(handle, "staged too", 1)

        def child() -> None:
            assert kvs.get(handle, "a") == 1
            root.commit()
            kvs.commit(handle)
            assert list(root) == ["a"]
            kvs.put(handle, "b", 2)
            kvs.commit(handle)

        in_child(child)
        assert list(root) == ["a", "b"]
        root.commit()
        kvs.commit(handle)
        assert list(root) == ["a", "b", "staged in parent", "staged too"]


def test_a_forked_child_has_its_own_memory(memory_url: str) -> None:
    with kvs.open(memory_url) as handle:
        kvs.put(handle, "a", 1)
        kvs.commit(handle)

        def child() -> None:
            with kvs.open(memory_url) as same:
                assert kvs.get(same, "a") == 1
            kvs.put(handle, "a", 2)
            kvs.commit(handle)
            assert kvs.get(handle, "a") == 2

        in_child(child)
        assert kvs.get(handle, "a") == 1


FORKS = """
import os, sys, threading
from concurrent.futures import ThreadPoolExecutor
from proxyflow.storage import kvs

handle = kvs.open(sys.argv[1])
kvs.put(handle, "a", bytes(20_000))
kvs.commit(handle)
stop = threading.Event()
statuses = []

def work(number):
    step = 0
    while not stop.is_set():
        step += 1
        assert len(kvs.get(handle, "a", raw=True)) == 20_000
        kvs.put(handle, f"t{number}", step)
        kvs.commit(handle)

def fork(times):
    for _ in range(times):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                assert len(kvs.get(handle, "a", raw=True)) == 20_000
                kvs.put(handle, "from.child", 1)
                kvs.commit(handle)
                assert kvs.get(handle, "from.child") == 1
                status = 0
            finally:
                os._exit(status)
        statuses.append(os.waitpid(pid, 0)[1])

with ThreadPoolExecutor(3) as pool:
    working = [pool.submit(work, number) for number in range(3)]
    forking = [threading.Thread(target=fork, args=(15,)) for _ in range(2)]
    for thread in forking:
        thread.start()
    for thread in forking:
        thread.join()
    stop.set()
    for future in working:
        future.result()
handle.close()
print(set(statuses), len(statuses))
"""


def test_forks_while_threads_are_at_work(url: str) -> None:
    """A child finds no lock taken, no reply to another's call, no map of its parent's.

    In a process of its own: tools that trace a program take locks too, and lose them in forks.
    """
    done = subprocess.run(
        [sys.executable, "-c", FORKS, url],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == "{0} 30\n", done.stderr


def test_watch_sees_the_commits_of_other_processes(
    shared_url: str, start: Callable[..., BaseProcess]
) -> None:
    with kvs.open(shared_url) as handle:
        values = kvs.watch(handle, "pair.left", timeout=DEADLINE)
        assert next(values) is kvs.MISSING
        writer = start(write_pairs, shared_url, 20)
        seen = [next(values)]
        while seen[-1] != 20:
            seen.append(next(values))
        assert seen == sorted(seen)
        finish([writer])
        values.close()  # type: ignore[attr-defined]
