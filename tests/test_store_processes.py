"""One store in many processes: opened once in each, right under threads, forks and limits."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from proxyflow import Store, extract, get_factory
from proxyflow.cache import PayloadCache
from proxyflow.stats import StoreStats
from tests.processes import LONG, run

FORK = multiprocessing.get_context("fork")


# -- opening ---------------------------------------------------------------------------------------


def test_a_process_opens_a_store_once_and_shares_it_between_threads(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        proxies = tmp_path / "proxies"
        proxies.write_bytes(pickle.dumps([store.proxy([n]) for n in range(16)]))
        said = run(
            """
import os, pickle, sys
from concurrent.futures import ThreadPoolExecutor
from proxyflow import extract
from proxyflow.recipe import open_stores
before = len(os.listdir("/proc/self/fd"))
proxies = pickle.load(open(sys.argv[1], "rb"))
assert open_stores() == [], "unpickling a proxy opens nothing"
with ThreadPoolExecutor(16) as pool:
    assert list(pool.map(extract, proxies)) == [[n] for n in range(16)]
(store,) = open_stores()
print(store.owner, store.stats["get"].count, len(os.listdir("/proc/self/fd")) - before)
""",
            proxies,
        )
        assert said == "False 16 1"
        assert extract(store.proxy("still there")) == "still there"


def test_a_store_is_pickled_as_the_way_to_open_it(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        assert pickle.loads(pickle.dumps(store)) is store
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            key = pool.submit(Store.put, store, "from there").result()
        assert store.get(key) == "from there"


def _resolve_all(proxies: list[Any]) -> tuple[list[Any], int]:
    found = [extract(proxy) for proxy in proxies]
    found += [extract(pickle.loads(pickle.dumps(proxies[0])))]
    return found, len(os.listdir("/proc/self/fd"))


def test_a_worker_of_many_runs_holds_a_bounded_number_open(tmp_path: Path) -> None:
    stores = [Store(tmp_path / f"store{n}") for n in range(60)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        proxies = [store.proxy([n]) for n, store in enumerate(stores)]
        found, descriptors = pool.submit(_resolve_all, proxies).result()
    assert found == [*([n] for n in range(60)), [0]]
    assert descriptors < 60
    for store in stores:
        store.close()
    assert os.listdir(tmp_path) == []


def test_a_store_that_cannot_be_closed_at_exit_is_told_of_in_a_line(tmp_path: Path) -> None:
    """A server that is gone by then gives no traceback, and keeps no other store from closing."""
    script = """
import sys
from proxyflow import Store
from proxyflow.connectors.file import FileConnector
from proxyflow.errors import StoreUnreachableError

class Gone(FileConnector):
    def close(self):
        super().close()
        raise StoreUnreachableError("connection refused", store="gone://")

stores = [Store(f"file://{sys.argv[1]}/one"), Store(connector=Gone(f"{sys.argv[1]}/two"))]
stores += [Store(f"file://{sys.argv[1]}/three")]
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=True,
    )
    assert done.stderr.count("\n") == 1
    assert "connection refused; store gone://" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_proxy_of_an_ended_run_says_so(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        (tmp_path / "proxy").write_bytes(pickle.dumps(store.proxy([1])))
    with pytest.raises(AssertionError, match=r"StoreClosedError: session \w+ has ended.*keep the"):
        run("import pickle, sys; sum(pickle.load(open(sys.argv[1], 'rb')))", tmp_path / "proxy")


# -- many at once ----------------------------------------------------------------------------------


def _exchange(store: Store, seed: int, keys: list[Any]) -> int:
    """Read what everybody shares, and store, read and evict, from eight threads."""

    def work(thread: int) -> int:
        for n in range(15):
            data = bytes([seed, thread, n]) * 40_000
            proxy = store.proxy(data)
            assert store.get(keys[n % len(keys)]) == f"shared {n % len(keys)}"
            assert extract(pickle.loads(pickle.dumps(proxy))) == data
            assert get_factory(proxy).key in {stored.key for stored in store.scan()}
            store.evict(get_factory(proxy).key)
        return 15

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(work, range(8)))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_eight_threads_in_each_of_four_processes(tmp_path: Path, context: str) -> None:
    with Store(tmp_path / "store") as store:
        keys = [store.put(f"shared {n}") for n in range(5)]
        with ProcessPoolExecutor(4, multiprocessing.get_context(context)) as pool:
            work = [pool.submit(_exchange, store, seed, keys) for seed in range(4)]
            assert sum(each.result() for each in work) == 4 * 8 * 15
        assert {stored.key for stored in store.scan()} == set(keys)
    assert os.listdir(tmp_path) == []


# -- forks -----------------------------------------------------------------------------------------


_FORKS = """
import multiprocessing, sys, threading
from proxyflow import Store

def use(store, key):
    assert store.get(key) == bytes(100_000)
    store.evict(store.put("used"))

def work():
    while not done.is_set():
        use(store, key)

done = threading.Event()
with Store(sys.argv[1]) as store:
    key = store.put(bytes(100_000))
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            child = multiprocessing.get_context("fork").Process(target=use, args=(store, key))
            child.start()
            child.join(30)
            child.kill()
            child.join()
            print(child.exitcode, end=" ")
    finally:
        done.set()
        for thread in threads:
            thread.join()
"""


def test_children_forked_in_the_midst_of_work_can_work(tmp_path: Path) -> None:
    """Whatever locks the parent's threads held at that moment.

    In a Python of its own, because a measuring of coverage has locks that do not survive a fork.
    """
    assert run(_FORKS, (tmp_path / "store").as_uri()).split() == ["0"] * 30


def _keys(store: Store) -> list[Any]:
    with ThreadPoolExecutor(4) as pool:
        return [
            key
            for keys in pool.map(lambda _: [store.new_key() for _ in range(200)], range(4))
            for key in keys
        ]


def test_parent_and_children_make_different_keys(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        keys = _keys(store)
        with ProcessPoolExecutor(2, FORK) as pool:
            for made in pool.map(_keys, [store] * 4):
                keys += made
        keys += _keys(store)
        assert len(set(keys)) == len(keys) == 6 * 800


class Blocking(str):
    """A name whose look-up takes as long as one wants, once."""

    def __init__(self, name: str) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __hash__(self) -> int:
        if not self.reached.is_set():
            self.reached.set()
            self.go_on.wait(LONG)
        return super().__hash__()


def _record(stats: StoreStats) -> None:
    stats.record("get", 0.0)
    assert stats["get"].count == 1


def _add(cache: PayloadCache) -> None:
    cache.add("key", b"payload")
    assert cache.get("key") == b"payload"
    assert cache.nbytes == sum(len(cache.get(key) or b"") for key in cache.held())


@pytest.mark.parametrize("use", ["stats", "cache"])
def test_a_lock_held_during_a_fork_is_free_in_the_child(use: str) -> None:
    name = Blocking("slow")
    stats, cache = StoreStats(), PayloadCache(1000)
    calls: dict[str, Any] = {
        "stats": (stats.record, (name, 0.0), _record, (stats,)),
        "cache": (cache.add, (name, b"payload"), _add, (cache,)),
    }
    hold, hold_args, target, args = calls[use]
    thread = threading.Thread(target=hold, args=hold_args)
    thread.start()
    assert name.reached.wait(LONG)
    child = FORK.Process(target=target, args=args)
    child.start()
    child.join(LONG)
    exitcode = child.exitcode
    name.go_on.set()
    thread.join()
    if exitcode is None:
        child.kill()
    assert exitcode == 0


class Nested(str):
    """A name whose look-up does the same thing again, as a finalizer may."""

    def __init__(self, name: str) -> None:
        self.again: Any = None

    def __hash__(self) -> int:
        again, self.again = self.again, None
        if again is not None:
            again()
        return super().__hash__()


@pytest.mark.parametrize("use", ["stats", "cache"])
def test_a_finalizer_in_the_midst_of_a_call_does_not_block_it(use: str) -> None:
    """The garbage collector may evict an object at any allocation, in any thread."""
    name = Nested("name")
    stats, cache = StoreStats(), PayloadCache(1000)
    calls: dict[str, Any] = {
        "stats": lambda key: stats.record(key, 0.0),
        "cache": lambda key: cache.add(key, b"payload"),
    }
    name.again = lambda: calls[use]("other")
    thread = threading.Thread(target=calls[use], args=(name,), daemon=True)
    thread.start()
    thread.join(LONG / 6)
    assert not thread.is_alive()


# -- limits ----------------------------------------------------------------------------------------


def test_mapped_arrays_leave_descriptors_for_everything_else(tmp_path: Path) -> None:
    """Before Python 3.13 every mapping holds one: beyond half of the limit, copies are made."""
    said = run(
        """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import numpy as np
from proxyflow import Store
with Store("file://" + sys.argv[1]) as store:
    keys = [store.put(np.full(20_000, n)) for n in range(200)]
    arrays = [store.get(key) for key in keys]
    others = [socket.socket() for _ in range(10)]
    assert all((array == n).all() for n, array in enumerate(arrays))
    for array in arrays:
        array += 1
    assert all((store.get(key) == n).all() for n, key in enumerate(keys))
    arrays.clear()
    again = [store.get(key) for key in keys]
    for other in others:
        other.close()
    print(len(again))
""",
        tmp_path / "store",
    )
    assert said == "200"


_PEAK = """
import json, os, sys
import numpy as np
from proxyflow import Store

def reset():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew from what is used now

def memory(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(field))

url, size, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
base = memory("VmRSS")
if path == "write":
    array = np.ones(size // 8)
    reset()
    key = (store := Store(url)).put(array)
    print(json.dumps([memory("VmHWM") - base, store.config(), key]), flush=True)
    sys.stdin.read()
else:
    config, key = json.loads(path)
    from proxyflow.connectors.file import FileKey
    store = Store.from_config(config)
    reset()
    array = store.get(FileKey(*key))
    opened = memory("VmHWM") - base
    assert array.sum() == size // 8
    print(json.dumps([opened, memory("VmHWM") - base]))
"""


def test_neither_writer_nor_reader_needs_the_object_twice(tmp_path: Path) -> None:
    """The peak of both, as the kernel counts it, is at most 1.1 times the object."""
    from tests.processes import Running

    size = 256 << 20
    with Running(_PEAK, (tmp_path / "store").as_uri(), size, "write") as writer:
        written, config, key = json.loads(writer.line)
        assert written < 1.1 * size
        opened, read = json.loads(run(_PEAK, "", size, json.dumps([config, key])))
        assert opened < 0.1 * size
        assert read < 1.1 * size
        writer.finish()
    assert os.listdir(tmp_path) == []
