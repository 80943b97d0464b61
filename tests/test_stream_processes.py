"""Streams between processes: nothing is lost and nothing is done twice, whoever is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxyflow import Store
from proxyflow.stream import Stream
from tests.processes import Running, run

SPAWN = multiprocessing.get_context("spawn")
LONG = 120.0

_CONSUMER = """
import sys
from proxyflow import Store
with Store(sys.argv[1]) as store, store.stream("frames") as stream:
    item = stream.claim(60)
    print(sum(item.proxy), flush=True)
    sys.stdin.read()
    item.ack()
"""


def produce(stream: Stream, producer: int, count: int) -> None:
    with stream:
        for number in range(count):
            data = np.full(200, number)
            stream.append(data, metadata=f"{producer}.{number}")


def consume(stream: Stream, log: str) -> None:
    """Work until all is done, with a line in the log before and after each acknowledgement."""
    # One write of a line is either in the file or not, even if we are killed.
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with stream:
        for item in stream:
            number = item.metadata.partition(".")[2]
            assert (item.proxy == int(number)).all(), "damaged"
            os.write(fd, f"began {item.metadata}\n".encode())
            item.ack()
            os.write(fd, f"ended {item.metadata}\n".encode())
    os.close(fd)


def logged(directory: Path, group: str, kind: str) -> Counter[str]:
    return Counter(
        line.split()[1]
        for path in directory.glob(f"{group}-*")
        for line in path.read_text().splitlines()
        if line.startswith(kind)
    )


class Crowd:
    """Producers of a stream, and consumers of two groups."""

    def __init__(self, store: Store, directory: Path, producers: int, consumers: int) -> None:
        self.store = store
        self.directory = directory
        self.started = 0
        self.stream = store.stream("frames", maxsize=300)
        self.groups = ("a", "b")
        # Made before the first object, so that each receives every one.
        for group in self.groups:
            store.stream("frames", group=group).close()
        self.producers: list[BaseProcess] = []
        self.producer_count = producers
        self.consumers = [self.consumer(group) for group in self.groups for _ in range(consumers)]

    def consumer(self, group: str) -> BaseProcess:
        self.started += 1
        log = str(self.directory / f"{group}-{self.started}")
        stream = self.store.stream("frames", group=group)
        process = SPAWN.Process(target=consume, args=(stream, log), name=group)
        process.start()
        stream.close()
        return process

    def produce(self, count: int) -> None:
        for number in range(self.producer_count):
            process = SPAWN.Process(target=produce, args=(self.stream, number, count))
            process.start()
            self.producers.append(process)

    def kill_a_consumer(self) -> None:
        victim = self.consumers.pop(random.randrange(len(self.consumers)))
        victim.kill()
        victim.join(LONG)
        self.consumers.append(self.consumer(victim.name))

    def finish(self) -> None:
        self.stream.close_for_writing()
        for process in self.consumers:
            process.join(LONG)
        assert {process.exitcode for process in self.consumers} == {0}

    def check(self, expected: set[str], killed: int) -> None:
        """Every object was acknowledged once in each group, and is gone."""
        self.stream.recover()
        assert (self.stream.backlog, list(self.store.scan())) == (0, [])
        for group in self.groups:
            began = logged(self.directory, group, "began")
            ended = logged(self.directory, group, "ended")
            assert set(began) == expected, "lost"
            assert all(count == 1 for count in ended.values()), "acknowledged twice"
            # Who was killed between the acknowledgement and the line that tells of it cannot tell.
            assert len(expected) - len(ended) <= killed
            if not killed:
                assert all(count == 1 for count in began.values()), "delivered twice"


@pytest.mark.parametrize("kill_every", [None, 0.05])
def test_each_object_reaches_one_consumer_of_each_group(
    tmp_path: Path, kill_every: float | None
) -> None:
    """Four producers, two groups of two consumers each; also with consumers killed at random."""
    run_crowd(tmp_path, 400 if kill_every else 1000, kill_every, producers=4, consumers=2)


@pytest.mark.soak
def test_100_000_objects_survive_killed_consumers(tmp_path: Path) -> None:
    run_crowd(tmp_path, 12_500, 0.05, producers=8, consumers=8)


def run_crowd(
    tmp_path: Path, count: int, kill_every: float | None, producers: int, consumers: int
) -> None:
    killed = 0
    with Store(f"maildir://{tmp_path}/store") as store:
        crowd = Crowd(store, tmp_path, producers, consumers)
        crowd.produce(count)
        while any(process.is_alive() for process in crowd.producers):
            time.sleep(kill_every or 0.05)
            if kill_every:
                crowd.kill_a_consumer()
                killed += 1
        crowd.finish()
        assert {process.exitcode for process in crowd.producers} == {0}
        crowd.check({f"{p}.{n}" for p in range(producers) for n in range(count)}, killed)
        assert bool(killed) == bool(kill_every)


def test_what_a_killed_producer_had_appended_is_received(tmp_path: Path) -> None:
    """All it had appended, in full, and nothing of what it was about to."""
    with Store(f"maildir://{tmp_path}/store") as store:
        crowd = Crowd(store, tmp_path, producers=2, consumers=1)
        crowd.produce(100_000)
        deadline = time.monotonic() + LONG
        for process in crowd.producers:
            while not any(
                name.startswith(f"{crowd.producers.index(process)}.")
                for name in logged(tmp_path, "a", "ended")
            ):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.kill()
            process.join(LONG)
        crowd.finish()
        expected = set(logged(tmp_path, "a", "began")) | set(logged(tmp_path, "b", "began"))
        for producer in range(2):
            numbers = sorted(int(e.split(".")[1]) for e in expected if e[0] == str(producer))
            assert numbers == list(range(len(numbers)))
        crowd.stream.recover()
        assert (crowd.stream.backlog, list(store.scan())) == (0, [])


def test_an_item_of_a_killed_consumer_is_delivered_again(tmp_path: Path) -> None:
    """To somebody who waits for the end, too."""
    with Store(f"maildir://{tmp_path}/store") as store, store.stream("frames") as stream:
        stream.append([1, 2, 3])
        stream.close_for_writing()
        with Running(_CONSUMER, store.config()["url"]) as consumer:
            assert consumer.line == "6"
            assert (stream.waiting, stream.claimed) == (0, 1)
            consumer.kill()
        assert [sum(item.proxy) for item in stream.items(ack=True)] == [6]
        assert list(stream) == []


def test_a_living_consumer_keeps_its_item(tmp_path: Path) -> None:
    with Store(f"maildir://{tmp_path}/store") as store, store.stream("frames") as stream:
        stream.append([1, 2, 3])
        stream.close_for_writing()
        with Running(_CONSUMER, store.config()["url"]) as consumer:
            consumer.stop()
            assert stream.recover() == 0
            consumer.finish()
        assert list(stream) == []
        assert list(store.scan()) == []


def test_a_stream_is_opened_by_url_and_name(tmp_path: Path) -> None:
    with Store(f"maildir://{tmp_path}/store") as store:
        run(
            """
import sys
from proxyflow import Store
with Store(sys.argv[1]) as store, store.stream("results") as stream:
    stream.append({"answer": 42}, metadata="from there")
    stream.close_for_writing()
""",
            store.config()["url"],
        )
        with store.stream("results") as stream:
            (item,) = stream
            assert (item.proxy["answer"], item.metadata) == (42, "from there")


def total(proxy: Any) -> int:
    return int(sum(proxy))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_the_proxy_is_resolved_wherever_it_is_sent(tmp_path: Path, context: str) -> None:
    """The consumer of a stream may be one who hands out work and reads nothing itself."""
    with (
        Store(f"maildir://{tmp_path}/store") as store,
        store.stream("frames") as stream,
        ProcessPoolExecutor(2, multiprocessing.get_context(context)) as pool,
    ):
        stream.extend([list(range(n)) for n in range(1, 9)])
        stream.close_for_writing()
        work = [(item, pool.submit(total, item.proxy)) for item in stream]
        for item, future in work:
            with item:
                future.result()
        assert [future.result() for _, future in work] == [n * (n - 1) // 2 for n in range(1, 9)]
        assert store.stats["get"].count == 0
        assert list(store.scan()) == []


def test_importing_streams_is_light() -> None:
    said = run(
        """
import json, sys
import proxyflow
print(json.dumps([name for name in sys.modules if name.startswith("proxyflow.st")]))
"""
    )
    loaded = json.loads(said)
    assert "proxyflow.stream" not in loaded
    assert not any(name.startswith("proxyflow.storage.maildir") for name in loaded)
