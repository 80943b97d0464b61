"""The embedded engine: a map that grows, a full disk, processes that die, damaged files."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import lmdb
import pytest

from proxyflow.storage import kvs
from proxyflow.storage.kvs.engines import lmdb_environment

MIB = 1024 * 1024


def put(url: str, key: str, size: int) -> None:
    with kvs.open(url) as handle:
        kvs.put(handle, key, content(key, size))
        kvs.commit(handle)


def content(key: str, size: int) -> bytes:
    return (random.Random(key).randbytes(MIB) * (size // MIB + 1))[:size]


def test_the_map_grows_here_and_in_other_processes(lmdb_url: str) -> None:
    """It begins with 256 MiB."""
    with kvs.open(lmdb_url) as handle:
        put(lmdb_url, "small", 10)
        process = multiprocessing.get_context("spawn").Process(
            target=put, args=(lmdb_url, "large", 300 * MIB)
        )
        process.start()
        process.join()
        assert process.exitcode == 0
        assert kvs.size(handle, "large") == 300 * MIB
        put(lmdb_url, "more", 300 * MIB)
        assert kvs.size(handle, "more") == 300 * MIB
        assert kvs.get(handle, "small", raw=True) == content("small", 10)


def test_removed_values_leave_room_for_others(lmdb_url: str, tmp_path: Path) -> None:
    """All that a removed tree held is given back, large values and long names included."""
    with kvs.open(lmdb_url) as handle:
        for number in range(10):
            kvs.put(handle, f"a.{'n' * 600}.{number}", bytes(8 * MIB))
            kvs.put_unlink(handle, "a")
            kvs.put(handle, f"a.{'n' * 600}.{number}", bytes(MIB))
            kvs.commit(handle)
            kvs.put_unlink(handle, "a")
            kvs.commit(handle)
    assert (tmp_path / "kvs" / "data.mdb").stat().st_size < 40 * MIB
    with lmdb.open(str(tmp_path / "kvs"), readonly=True) as environment:
        assert environment.stat()["entries"] == 0


def test_a_reader_that_was_killed_keeps_no_room(
    lmdb_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages it was looking at are used again, instead of the file growing for ever."""
    monkeypatch.setattr(lmdb_environment, "FIRST_MAP_BYTES", 16 * MIB)
    put(lmdb_url, "a", MIB)

    receive, send = multiprocessing.Pipe(duplex=False)

    def read() -> None:
        with lmdb.open(str(tmp_path / "kvs")) as environment, environment.begin():
            send.send("reading")
            signal.pause()

    with kvs.open(lmdb_url) as handle:
        process = multiprocessing.get_context("fork").Process(target=read)
        process.start()
        assert receive.recv() == "reading"
        # Whoever opens the database clears the slots of the dead, so it has to be open before.
        assert kvs.exists(handle, "a")
        process.kill()
        process.join()
        for _ in range(40):
            kvs.put(handle, "a", bytes(MIB))
            kvs.commit(handle)
    assert (tmp_path / "kvs" / "data.mdb").stat().st_size <= 16 * MIB


def in_child(body: Callable[[], None]) -> None:
    """Run `body` in a forked child, whose limits and rights end with it."""
    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_a_full_disk_is_a_specific_error_and_costs_nothing_else(lmdb_url: str) -> None:
    """A limit on the file's size stands for the disk: both make a write stop short."""

    def child() -> None:
        with kvs.open(lmdb_url) as handle:
            kvs.put(handle, "before", 1)
            kvs.commit(handle)
            resource.setrlimit(resource.RLIMIT_FSIZE, (8 * MIB, 8 * MIB))
            kvs.put(handle, "small", 1)
            kvs.put(handle, "large", bytes(16 * MIB))
            with pytest.raises(kvs.StorageFullError, match="free some space") as caught:
                kvs.commit(handle)
            assert caught.value.errno == errno.ENOSPC
            assert caught.value.store == lmdb_url
            assert kvs.get(handle, "before") == 1
            assert not kvs.exists(handle, "small")
            kvs.put(handle, "after", 1)
            kvs.commit(handle)

    in_child(child)
    with kvs.open(lmdb_url) as handle:
        assert list(kvs.get_dir(handle)) == ["after", "before"]


def test_a_map_that_does_not_fit_the_address_space(lmdb_url: str) -> None:
    """The commit fails, and the handle goes on."""

    def child() -> None:
        with kvs.open(lmdb_url) as handle:
            kvs.put(handle, "a", 1)
            kvs.put(handle, "held", bytes(200 * MIB))
            kvs.commit(handle)
            pieces = [bytes(30 * MIB)] * 3
            with open("/proc/self/statm") as statm:
                used = int(statm.read().split()[0]) * resource.getpagesize()
            _, most = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (used + 150 * MIB, most))
            kvs.put_parts(handle, "large", pieces)
            with pytest.raises(kvs.KVSError, match="Cannot allocate memory"):
                kvs.commit(handle)
            assert kvs.get(handle, "a") == 1
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            kvs.put_parts(handle, "large", pieces)
            kvs.commit(handle)
            assert kvs.size(handle, "large") == 90 * MIB

    in_child(child)


def test_a_forked_child_inherits_no_map_of_the_database(lmdb_url: str) -> None:
    """Closing one would free the slots of the parent's readers; LMDB forbids using one."""
    with kvs.open(lmdb_url) as handle:
        kvs.put(handle, "a", 1)
        kvs.commit(handle)

        def child() -> None:
            with open("/proc/self/maps") as maps:
                assert "data.mdb" not in maps.read()
            assert kvs.get(handle, "a") == 1
            handle.close()

        in_child(child)
        assert kvs.get(handle, "a") == 1


def take_all_slots(path: str, ready: Connection) -> None:
    transactions = []
    with lmdb.open(path) as environment:
        with contextlib.suppress(lmdb.ReadersFullError):
            while True:
                transactions.append(environment.begin())
        ready.send(len(transactions))
        signal.pause()


def test_slots_of_readers_run_out_and_are_given_back_by_the_dead(
    lmdb_url: str, tmp_path: Path
) -> None:
    with kvs.open(lmdb_url) as handle:
        receive, send = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=take_all_slots, args=(str(tmp_path / "kvs"), send)
        )
        process.start()
        assert receive.recv() > 1000
        with pytest.raises(kvs.KVSError, match="too many transactions are reading"):
            kvs.exists(handle, "a")
        process.kill()
        process.join()
        assert not kvs.exists(handle, "a")
        receive.close()
        send.close()


def test_files_that_are_no_database(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"nothing of LMDB" * 1000)
    with pytest.raises(kvs.DamagedError, match="damaged or none at all") as caught:
        kvs.open(f"lmdb://{tmp_path}")
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize(
    "record",
    [b"", b"?", b"d", b"d" + bytes(15), b"b" + bytes(17), b"b" + bytes(16)],
)
def test_records_that_make_no_sense(lmdb_url: str, tmp_path: Path, record: bytes) -> None:
    put(lmdb_url, "a", 10)
    with lmdb.open(str(tmp_path / "kvs")) as environment, environment.begin(write=True) as writer:
        (key,) = [key for key, _ in writer.cursor()]
        writer.put(key, record)
    with kvs.open(lmdb_url) as handle:
        with pytest.raises(kvs.DamagedError, match="entry of the tree"):
            kvs.get(handle, "a")
        kvs.put(handle, "a", 1)
        with pytest.raises(kvs.DamagedError):
            kvs.commit(handle)


def test_a_long_name_cut_short(lmdb_url: str, tmp_path: Path) -> None:
    put(lmdb_url, "n" * 600, 10)
    with lmdb.open(str(tmp_path / "kvs")) as environment, environment.begin(write=True) as writer:
        (key,) = [key for key, _ in writer.cursor()]
        writer.put(key, b"abc")
    with kvs.open(lmdb_url) as handle, pytest.raises(kvs.DamagedError, match="cut short"):
        kvs.get(handle, "n" * 600)


@pytest.mark.parametrize("part", [None, b"short"])
def test_parts_that_are_missing_or_short(lmdb_url: str, tmp_path: Path, part: bytes | None) -> None:
    put(lmdb_url, "a", 10_000)
    with lmdb.open(str(tmp_path / "kvs")) as environment, environment.begin(write=True) as writer:
        (key,) = [key for key, _ in writer.cursor() if key.startswith(b"p")]
        if part is None:
            writer.delete(key)
        else:
            writer.put(key, part)
    with kvs.open(lmdb_url) as handle:
        with pytest.raises(kvs.DamagedError, match="a part of the value"):
            kvs.get(handle, "a")
        with pytest.raises(kvs.DamagedError):
            kvs.readinto(handle, "a", bytearray(10))


def test_paths(tmp_path: Path) -> None:
    with kvs.open(f"lmdb://{tmp_path}/made/on/the/way") as handle:
        assert handle.url == f"lmdb://{tmp_path}/made/on/the/way"
    (tmp_path / "file").write_text("")
    with pytest.raises(kvs.UnreachableError, match="no directory can be made"):
        kvs.open(f"lmdb://{tmp_path}/file/below")
    for url in ("lmdb://relative/path", "lmdb:relative", f"lmdb://{tmp_path}?size=1"):
        with pytest.raises(kvs.InvalidURLError):
            kvs.open(url)


def test_one_directory_by_two_names(tmp_path: Path) -> None:
    """LMDB would lose its locks if it opened it twice."""
    (tmp_path / "link").symlink_to(tmp_path / "kvs")
    with kvs.open(f"lmdb://{tmp_path}/kvs") as one, kvs.open(f"lmdb://{tmp_path}/link") as other:
        kvs.put(one, "a", 1)
        kvs.commit(one)
        assert kvs.get(other, "a") == 1


def test_files_without_permission() -> None:
    """Tried without the rights of root, to whom everything is allowed."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        url = f"lmdb://{directory}/kvs"
        put(url, "a", 1)
        os.chmod(f"{directory}/kvs", 0o755)
        os.chmod(f"{directory}/kvs/data.mdb", 0)

        def child() -> None:
            if os.getuid() == 0:
                os.setuid(65534)
            for denied in (url, f"{url}/below"):
                with pytest.raises(kvs.AccessDeniedError, match="Permission denied"):
                    kvs.open(denied)

        pid = os.fork()
        if pid == 0:
            # Without rights, coverage could not be written down at a regular end.
            status = 1
            try:
                child()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0


def test_listing_and_reading_do_not_depend_on_what_else_there_is(lmdb_url: str) -> None:
    """Fewer pages are touched than the values beside it have."""
    with kvs.open(lmdb_url) as handle:
        kvs.put(handle, "small.a", 1)
        for number in range(200):
            kvs.put(handle, f"small.d.{number}", bytes(50_000))
        kvs.commit(handle)
    with kvs.open(lmdb_url) as handle:
        assert kvs.exists(handle, "small")
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        assert kvs.get_dir(handle, "small").list_all() == (["a"], ["d"])
        faults = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
        assert faults < 200 * 50_000 / 4096 / 2


def test_without_the_package(lmdb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(kvs.MissingLibraryError, match=r"pip install 'proxyflow\[lmdb\]'"):
        kvs.open(lmdb_url)
