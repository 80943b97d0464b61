"""What the engine asks of a server: round trips, memory, scripts, promises."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest

from proxyflow.storage import kvs
from proxyflow.storage.kvs import values
from tests.redis_server import RedisServer, redis_server
from tests.storage.kvs.network import put

MIB = 1024 * 1024


def commands_run(server: RedisServer) -> dict[str, int]:
    lines = server.cli("INFO", "commandstats").decode().splitlines()
    stats = [line.removeprefix("cmdstat_").split(":", 1) for line in lines if "calls=" in line]
    return {name: int(rest.split("calls=")[1].split(",")[0]) for name, rest in stats}


def test_round_trips(server: RedisServer, redis_url: str) -> None:
    """A thousand keys are one or two scripts; so are a thousand reads."""
    with kvs.open(redis_url) as handle:
        keys = [f"d.sub.k{number}" for number in range(1000)]
        for scripts in (2, 1):  # the second commit knows the directories
            server.cli("CONFIG", "RESETSTAT")
            for key in keys:
                kvs.put(handle, key, scripts)
            kvs.commit(handle)
            assert commands_run(server).get("evalsha") in range(1, scripts + 2)
        server.cli("CONFIG", "RESETSTAT")
        assert kvs.get_many(handle, keys) == [1] * 1000
        ran = commands_run(server)
        assert ran["hmget"] == 1
        assert "evalsha" not in ran
    with kvs.open(redis_url) as newcomer:
        server.cli("CONFIG", "RESETSTAT")
        assert kvs.get_many(newcomer, keys) == [1] * 1000
        assert commands_run(server)["evalsha"] == 1


def test_a_key_in_a_directory_read_before_is_one_plain_command(
    server: RedisServer, redis_url: str
) -> None:
    with kvs.open(redis_url) as handle, kvs.open(redis_url) as reader:
        put(handle, "d.sub.a", 1)
        put(handle, "d.sub.b", 2)
        assert kvs.get(reader, "d.sub.a") == 1
        server.cli("CONFIG", "RESETSTAT")
        assert kvs.get(reader, "d.sub.b") == 2
        ran = commands_run(server)
        assert ran["hget"] == 1
        assert "evalsha" not in ran


@pytest.mark.parametrize("key", ["d", "d.sub"])
def test_what_is_remembered_of_directories_is_never_believed(redis_url: str, key: str) -> None:
    """Another handle puts a new directory, nothing, a value or a link in the place of the old."""
    with kvs.open(redis_url) as handle, kvs.open(redis_url) as reader:
        put(handle, "elsewhere.sub.a", "elsewhere")
        put(handle, "elsewhere.a", "elsewhere")
        for number in range(3):
            put(handle, "d.sub.a", number)
            assert kvs.get(reader, "d.sub.a") == number
            kvs.put_unlink(handle, key)
            if number:
                put(handle, "d.sub.b", 1)
            kvs.commit(handle)
            assert kvs.get_many(reader, ["d.sub.a", "d.sub.b"])[0] is kvs.MISSING
            assert not kvs.exists(reader, "d.sub.a")
        put(handle, key, "a value")
        assert not kvs.exists(reader, "d.sub.a")
        kvs.put_symlink(handle, key, "elsewhere")
        kvs.commit(handle)
        assert kvs.get(reader, "d.sub.a") == "elsewhere"
        put(handle, "elsewhere.sub.a", "moved")
        put(handle, "elsewhere.a", "moved")
        assert kvs.get(reader, "d.sub.a") == "moved"


def test_more_keys_than_the_server_takes_at_once(redis_url: str) -> None:
    """It would close the connection without a word."""
    with kvs.open(redis_url) as handle:
        for number in range(550_000):
            kvs.put(handle, f"k{number}", 1)
        with pytest.raises(kvs.UnsupportedError, match="100,000 keys at a time"):
            kvs.commit(handle)
        assert list(kvs.get_dir(handle)) == []


def test_listing_costs_only_its_own_children(server: RedisServer, redis_url: str) -> None:
    with kvs.open(redis_url) as handle:
        for number in range(2000):
            kvs.put(handle, f"d.below.k{number}", number)
            kvs.put(handle, f"beside.k{number}", number)
        kvs.put(handle, "d.a", 1)
        kvs.commit(handle)
        server.cli("CONFIG", "RESETSTAT")
        assert kvs.get_dir(handle, "d").list_all() == (["a"], ["below"])
        ran = commands_run(server)
        assert ran["hgetall"] == 1
        assert ran["hget"] <= 4
        assert set(ran) <= {"hgetall", "hget", "evalsha", "eval", "config", "info", "script"}


def test_nothing_is_left_of_what_was_removed(server: RedisServer, redis_url: str) -> None:
    with kvs.open(redis_url) as handle:
        kvs.namespace_create(handle, "n")
        for namespace in ("primary", "n"):
            for number in range(5):
                kvs.put(handle, f"a.b{number}.c", bytes(40 * MIB if number == 1 else 10_000))
                kvs.put(handle, f"a.b{number}.c", bytes(40 * MIB if number == 2 else 10_000))
            kvs.put(handle, "z", bytes(10_000))
            kvs.put(handle, "z", 1)
            kvs.commit(handle, namespace=namespace)
        # Staged below directories, old and new, that the same commit removes.
        for key in ("a.b3.d.e", "a.new.e", "fresh.d.e"):
            kvs.put(handle, key, bytes(10_000))
        for key in ("a.b3", "a.new", "fresh"):
            kvs.put_unlink(handle, key)
        kvs.commit(handle)
        kvs.compare_and_swap(handle, "z", 1, bytes(10_000))
        kvs.put_unlink(handle, "a")
        kvs.put(handle, "z.y", bytes(10_000))
        kvs.commit(handle)
        with kvs.get_dir(handle) as root:
            root.clear()
        kvs.namespace_remove(handle, "n")
    assert server.cli("DBSIZE") == b":0\r\n"


def test_scripts_that_the_server_forgot(server: RedisServer, redis_url: str) -> None:
    with kvs.open(redis_url) as handle:
        put(handle, "a", bytes(10_000))
        for key in ("b", "c"):
            server.cli("SCRIPT", "FLUSH")
            put(handle, key, bytes(10_000))
            server.cli("SCRIPT", "FLUSH")
            assert len(kvs.get(handle, key, raw=True)) == 10_000


def test_sync_is_promised_only_where_it_is_kept() -> None:
    with redis_server() as server, kvs.open(server.url) as handle:
        kvs.put(handle, "a", 1)
        with pytest.raises(kvs.UnsupportedError, match="appendonly yes"):
            kvs.commit(handle, kvs.FLUX_KVS_SYNC)
        assert not kvs.exists(handle, "a")


def test_writers_that_are_always_late(redis_url: str) -> None:
    """After the timeout that is said, rather than tried for ever."""
    with (
        kvs.open(f"{redis_url}?timeout=0.3") as handle,
        kvs.open(redis_url) as other,
    ):
        put(handle, "a", 0)
        counter = itertools.count(1)

        def always(stored: bytes | None) -> bool:
            put(other, "a", next(counter))
            return True

        with pytest.raises(kvs.KVSError, match="other writers came first"):
            handle.backend.swap("primary", (b"a",), always, values.encode(1))


def test_the_client_needs_no_package(redis_url: str) -> None:
    code = """
import sys
sys.modules["redis"] = None
from proxyflow.storage import kvs
handle = kvs.open(sys.argv[1])
kvs.put(handle, "a", 1)
kvs.commit(handle)
print(kvs.get(handle, "a"), "numpy" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, redis_url],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == "1 False\n", done.stderr
