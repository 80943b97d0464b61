"""The ground the store stands on: areas, versioned objects, and packages that are not there."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from proxyflow.storage.tagblob import (
    DDFS,
    BlobDamaged,
    BlobNotFound,
    ConfigError,
    DDFSError,
    MissingDependencyError,
    StoreFull,
    Unavailable,
    versions,
)
from proxyflow.storage.tagblob.area import Area, open_area
from proxyflow.storage.tagblob.area_local import LocalArea
from proxyflow.storage.tagblob.blobs import Digest, FileBlob
from proxyflow.storage.tagblob.embedded import EmbeddedEngine
from proxyflow.storage.tagblob.versions import Version, Versions


@pytest.fixture(params=["directory", "memory", "s3"])
def area(request: pytest.FixtureRequest, tmp_path: Path) -> Area:
    if request.param == "directory":
        return open_area(f"file://{tmp_path}/")
    if request.param == "memory":
        return open_area(f"memory://area-{os.urandom(8).hex()}")
    s3 = request.getfixturevalue("s3")
    return open_area(f"s3://store/area-{os.urandom(8).hex()}", storage_options=s3.storage_options)


def test_files_are_created_once(area: Area) -> None:
    area.create("a/b", b"first")
    with pytest.raises(FileExistsError):
        area.create("a/b", b"second")
    assert area.read("a/b") == b"first"
    assert area.size("a/b") == 5
    with area.open("a/b") as file:
        assert file.read() == b"first"


def test_what_is_not_there_is_told(area: Area) -> None:
    assert area.names("none") == []
    assert list(area.scan("none")) == []
    for read in (area.read, area.size):
        with pytest.raises(FileNotFoundError):
            read("none/file")
    area.remove(["none/file", "none/other"])
    area.remove_directory("none")


def test_files_are_listed_with_size_and_age(area: Area) -> None:
    before = time.time() - 2
    area.create("dir/one", b"1")
    area.create("dir/sub/two", b"22")
    area.create("dirx/three", b"3")
    found = {entry.path: entry for entry in area.scan("dir")}
    assert {path: entry.size for path, entry in found.items()} == {"dir/one": 1, "dir/sub/two": 2}
    assert all(before <= entry.modified <= time.time() + 2 for entry in found.values())
    area.remove(["dir/one"])
    assert [entry.path for entry in area.scan("dir")] == ["dir/sub/two"]
    assert area.child("dir").read("sub/two") == b"22"


def test_a_given_up_file_is_not_there(area: Area) -> None:
    writer = area.writer("dir/file")
    writer.write(b"bytes")
    writer.abort()
    if not area.url.startswith("memory"):  # which shows what is being written
        assert area.names("dir") == []
    writer = area.writer("dir/other")
    writer.write(bytearray(b"by"))
    writer.write(memoryview(b"tes"))
    writer.commit()
    assert area.read("dir/other") == b"bytes"


def test_files_can_be_replaced(area: Area) -> None:
    area.create("dir/file", b"first")
    writer = area.writer("dir/file", replace=True)
    writer.write(b"second")
    writer.commit()
    assert area.read("dir/file") == b"second"


def test_locks_keep_threads_apart(area: Area) -> None:
    inside = []

    def enter() -> None:
        with area.lock("name"):
            inside.append(1)
            assert len(inside) == 1
            time.sleep(0.001)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with area.lock("name"), area.lock("name", wait=False) as again:
        assert not again
    with area.lock("name", wait=False) as held:
        assert held


def test_areas_travel_to_other_processes(area: Area) -> None:
    area.create("a", b"1")
    copy = pickle.loads(pickle.dumps(area))
    assert copy.url == area.url
    if not area.url.startswith("memory"):
        assert copy.read("a") == b"1"


def test_only_directories_know_their_room(area: Area) -> None:
    assert (area.free() is None) == (area.local_path("x") is None)
    assert area.sweep_partial(time.time()) == 0


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    program = """
import resource, signal, sys
from proxyflow.storage.tagblob import DDFS, StoreFull
ddfs = DDFS(sys.argv[1])
ddfs.tag("data", [["http://a/1"]])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    ddfs.tag("data", [["http://a/" + "x" * 2000]])
except StoreFull as error:
    assert error.name == "tag/data", error.name
    assert ddfs.urls("data") == [["http://a/1"]]
    sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", program, f"{tmp_path}/store"], check=False)
    assert done.returncode == 7
    assert len(list((tmp_path / "store/tag/data").iterdir())) == 1


def test_other_failures_of_a_directory_are_raised(tmp_path: Path) -> None:
    area = LocalArea(str(tmp_path))
    area.create("file", b"")
    with pytest.raises(NotADirectoryError):
        area.remove_directory("file")
    with pytest.raises(NotADirectoryError):
        area.writer("file/below")
    with pytest.raises(NotADirectoryError):
        area.names("file")


def test_directories_without_unnamed_files_still_write_whole_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def no_tmpfile(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", no_tmpfile)
    area = LocalArea(str(tmp_path), durable=True)
    area.create("dir/one", b"1")
    with pytest.raises(FileExistsError):
        area.create("dir/one", b"2")
    writer = area.writer("dir/one", replace=True)
    writer.write(b"3")
    writer.commit()
    assert area.read("dir/one") == b"3"
    assert area.names("partial") == []


def test_errors_of_the_unnamed_file_are_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    area = LocalArea(str(tmp_path))
    area.create("dir/one", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(OSError, match="too many"):
            area.writer("dir/two")


# -- versioned objects ------------------------------------------------------------------------


def test_versions_count_up(area: Area) -> None:
    counter = Versions(area)
    assert counter.load("n") == Version(0, None)
    for number in range(1, 12):
        done = counter.change("n", lambda data: b"%d" % (int(data or b"0") + 1))
        assert done == Version(number, b"%d" % number) == counter.load("n")
    assert counter.change("n", lambda data: None) == Version(11, b"11")
    assert counter.all("n")[-1] == 11
    assert counter.read("n", 11) == b"11"


def test_a_writer_that_was_too_slow_starts_again(area: Area) -> None:
    mine, other = Versions(area), Versions(area)
    calls = []

    def change(data: bytes | None) -> bytes:
        calls.append(data)
        if len(calls) == 1 and not area.locks:
            other.area.create("n/000000000001", b"other")
        return b"mine"

    assert mine.change("n", change).data == b"mine"
    assert calls == ([None] if area.locks else [None, b"other"])


def test_patience_with_other_writers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    area = open_area(f"memory://area-{os.urandom(8).hex()}")
    monkeypatch.setattr(versions, "_PATIENCE", 0.0)
    monkeypatch.setattr(versions, "_FIRST_PAUSE", 0.0)
    number = iter(range(1, 100))

    def overtaken(data: bytes | None) -> bytes:
        area.create(f"n/{next(number):012x}", b"other")
        return b"mine"

    with pytest.raises(Unavailable, match="too many writers"):
        Versions(area).change("n", overtaken)


def test_a_reader_that_versions_run_away_from_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    area = open_area(f"memory://area-{os.urandom(8).hex()}")
    area.create("n/000000000001", b"1")
    monkeypatch.setattr(versions, "_PATIENCE", 0.0)

    def gone(path: str) -> bytes:
        raise FileNotFoundError(path)

    monkeypatch.setattr(area, "read", gone)
    with pytest.raises(Unavailable, match="too many writers"):
        Versions(area).load("n")


def test_without_locks_superseded_versions_stay_for_slow_writers() -> None:
    url = f"memory://area-{os.urandom(8).hex()}"
    counter = Versions(open_area(url))
    for _ in range(8):
        counter.change("n", lambda data: b"x")
    assert counter.all("n") == list(range(1, 9))
    assert not counter.is_settled(time.time())
    assert counter.is_settled(time.time() - versions.SETTLED - 1)


# -- file systems -----------------------------------------------------------------------------


class Careless(MemoryFileSystem):  # type: ignore[misc]
    """A file system that overwrites although it was told to create."""

    protocol = "careless"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value, mode="overwrite")


class Dated(MemoryFileSystem):  # type: ignore[misc]
    """A file system that tells its dates in a form of its own."""

    protocol = "dated"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    when: ClassVar[Any] = "2001-02-03T04:05:06+00:00"

    def find(self, path: str, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = super().find(path, **options)
        for info in found.values():
            del info["created"]
            if self.when is not None:
                info["updated"] = self.when
        return found


class Failing(MemoryFileSystem):  # type: ignore[misc]
    """A file system whose client library has errors of its own."""

    protocol = "failing"

    def find(self, path: str, **options: Any) -> dict[str, Any]:
        raise LookupError("client library says no")


for kind in (Careless, Dated, Failing):
    fsspec.register_implementation(kind.protocol, kind, clobber=True)


def test_a_file_system_that_overwrites_is_no_root() -> None:
    with pytest.raises(ConfigError, match="exclusively"):
        DDFS("careless://store")
    assert not [path for path in Careless.store if "layout" in path]


def test_dates_come_in_many_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    area = open_area("dated://area")
    area.create("dir/file", b"1")
    (entry,) = area.scan("dir")
    assert entry.modified == 981173106
    monkeypatch.setattr(Dated, "when", 5.0)
    (entry,) = area.scan("dir")
    assert entry.modified == 5.0
    monkeypatch.setattr(Dated, "when", None)
    (entry,) = area.scan("dir")
    assert time.time() - entry.modified < 60  # too young to collect, if nobody knows


def test_errors_of_client_libraries_are_unavailable() -> None:
    with pytest.raises(Unavailable, match="LookupError: client library says no"):
        DDFS("failing://store")


@pytest.mark.parametrize(
    ("missing", "statement", "package"),
    [
        ("urllib3", "DDFS('disco://localhost').list()", "urllib3"),
        ("fsspec", "DDFS('memory://x')", "fsspec"),
        ("s3fs", "DDFS('s3://bucket/x')", "s3fs"),
        (
            "aiohttp",
            "from proxyflow.storage.tagblob.server import main; main(['--root', root])",
            "",
        ),
        ("aiohttp", "server.make_app(DDFS(root).engine)", "aiohttp"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path: Path, missing: str, statement: str, package: str
) -> None:
    program = f"""
import sys
sys.modules[{missing!r}] = None
root = sys.argv[1]
from proxyflow.storage.tagblob import DDFS, MissingDependencyError
from proxyflow.storage.tagblob import server
try:
    {statement}
except MissingDependencyError as error:
    assert {package!r} in str(error), error
    sys.exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, f"{tmp_path}/s"], stderr=subprocess.PIPE, check=False
    )
    if package:
        assert done.returncode == 7, done.stderr
    else:
        assert b"pip install 'proxyflow[ddfs]'" in done.stderr


def test_a_package_that_fsspec_lacks_is_named_with_the_store() -> None:
    """The message of fsspec itself says neither for what, nor which of several stores."""
    with pytest.raises(
        MissingDependencyError, match=r"dropbox:// volumes: .*dropboxdrivefs"
    ) as told:
        DDFS("dropbox://folder")
    assert "store dropbox://folder" in str(told.value)


@pytest.mark.parametrize("place", ["link", "link/below"])
def test_a_link_to_nothing_is_no_place_for_a_store(tmp_path: Path, place: str) -> None:
    """It is reported as a store that cannot be reached, not as a blob that is missing."""
    (tmp_path / "link").symlink_to(tmp_path / "not mounted")
    with pytest.raises(Unavailable, match="directory"):
        DDFS(f"file://{tmp_path}/{place}")


# -- blobs and volumes ------------------------------------------------------------------------


def test_a_checksum_of_another_kind_is_no_digest() -> None:
    for text in (b"md5 00 3", b"xxh3_128 00 3", b"xxh3_128", b"\xff"):
        with pytest.raises(ValueError):  # noqa: PT011 - whichever way it is wrong
            Digest.parse(text)


def test_an_open_blob_is_mapped_after_its_file_is_gone(local: DDFS) -> None:
    with local.open_blob(local.store_blob("blob", b"bytes")) as blob:
        assert isinstance(blob, FileBlob)
        assert blob.path is not None
        os.unlink(blob.path)
        assert bytes(blob.map()) == b"bytes"


def test_a_large_local_blob_is_mapped_by_its_path(
    local: DDFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas = local.store_blob("blob", b"x" * 5000)
    monkeypatch.setattr("proxyflow.storage.tagblob.volume.CHECK_FIRST", 1000)
    with local.open_blob(replicas) as blob:
        assert blob.path is not None
        view = blob.map(writable=True)
        view[0] = 0
        assert bytes(blob.map()) == b"x" * 5000
        assert blob.seek(10) == blob.tell() == 10
        assert blob.read() == b"x" * 4990


def engine_of(ddfs: DDFS) -> EmbeddedEngine:
    assert isinstance(ddfs.engine, EmbeddedEngine)
    return ddfs.engine


def test_a_volume_too_small_for_a_blob_is_full(
    local: DDFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalArea, "free", lambda self: 2**20 + 100)
    with pytest.raises(StoreFull, match="101 bytes wanted"):
        local.push("data", [(b"x" * 101, "blob")])
    local.push("data", [(b"x" * 100, "blob")])


def test_a_volume_lost_between_choosing_and_writing_is_replaced(
    local: DDFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proxyflow.storage.tagblob.volume import Volume

    real = Volume.check_room

    def then_lose(self: Volume, size: int | None) -> None:
        real(self, size)
        if self.name == "vol1":
            shutil.rmtree(tmp_path / "store/vol1", ignore_errors=True)

    kept = shutil.copytree(tmp_path / "store/vol1", tmp_path / "copy")
    monkeypatch.setattr(Volume, "check_room", then_lose)
    with pytest.raises(Unavailable, match="vol1"):
        local.push("data", [(b"bytes", "blob")], forceon=["vol1"])
    for _ in range(10):
        shutil.copytree(kept, tmp_path / "store/vol1", dirs_exist_ok=True)
        _, (replicas,) = local.push("data", [(b"bytes", "blob")])
        assert {url.split("/")[4] for url in replicas} == {"vol0", "vol2"}


def test_what_was_written_goes_when_the_rest_cannot_be(
    local: DDFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proxyflow.storage.tagblob.volume import BlobWriter

    def fail_commit(self: BlobWriter, digest: Digest) -> str:
        if self.volume.name != "vol0":
            self.abort()
            raise StoreFull("full", store=self.volume.area.url)
        return real_commit(self, digest)

    real_commit = BlobWriter.commit
    monkeypatch.setattr(BlobWriter, "commit", fail_commit)
    with pytest.raises(StoreFull):
        local.push("data", [(b"bytes", "blob")], forceon=["vol0"])
    with pytest.raises(StoreFull):
        local.push("data", [(b"bytes", "blob")], forceon=["vol0"], retries=0)
    assert all(not volume.stored() for volume in engine_of(local).volumes.values())


def test_a_replica_that_cannot_be_repaired_does_not_stop_the_reader(
    local: DDFS, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from proxyflow.storage.tagblob import replicas

    urls = local.store_blob("blob", b"bytes")
    with local.open_blob(urls[:1]) as blob:
        assert blob.path is not None
        Path(blob.path).write_bytes(b"BYTES")

    def refuse(*args: Any, **options: Any) -> str:
        raise StoreFull("no room")

    monkeypatch.setattr(replicas, "copy_blob", refuse)
    for _ in range(20):
        with local.open_blob(urls) as blob:
            assert blob.read() == b"bytes"
    assert "cannot repair" in caplog.text


def test_a_copy_of_a_damaged_large_blob_does_not_become_visible(
    local: DDFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proxyflow.storage.tagblob.names import own_blob
    from proxyflow.storage.tagblob.replicas import copy_blob

    (url,) = local.store_blob("blob", b"x" * 5000, replicas=1)
    blob = own_blob(url)
    assert blob is not None
    volumes = engine_of(local).volumes
    source = volumes.pop(blob.volume)
    target = next(iter(volumes.values()))
    path = source.local_path(blob.object)
    assert path is not None
    Path(path).write_bytes(b"y" * 5000)
    monkeypatch.setattr("proxyflow.storage.tagblob.volume.CHECK_FIRST", 1000)
    with pytest.raises(BlobDamaged):
        copy_blob(source, target, blob.object)
    with pytest.raises(BlobNotFound):
        target.open(blob.object)


# -- gc on a failing ground -------------------------------------------------------------------


def test_gc_goes_on_when_a_volume_is_lost_meanwhile(
    local: DDFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proxyflow.storage.tagblob import gc

    local.push("data", [(b"bytes", "blob")], replicas=3)
    real = gc.Collector._mark

    def lose_and_mark(self: gc.Collector, before: float) -> Any:
        marked = real(self, before)
        shutil.rmtree(tmp_path / "store/vol2")
        return marked

    monkeypatch.setattr(gc.Collector, "_mark", lose_and_mark)
    report = local.gc(grace=0)
    assert "vol2" in report.skipped
    assert len(report.missing) == 1
    with next(local.pull("data")) as blob:
        assert blob.read() == b"bytes"


def test_gc_tells_what_it_cannot_copy(
    local: DDFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proxyflow.storage.tagblob import gc

    local.push("data", [(b"bytes", "blob")], replicas=2)
    with next(local.pull("data")) as blob:
        assert blob.path is not None
        os.unlink(blob.path)
    failures: list[DDFSError] = [
        StoreFull("full"),
        Unavailable("gone"),
        BlobDamaged("damaged"),
        BlobNotFound("gone"),
    ]
    for failure in failures:

        def fail(*args: Any, error: DDFSError = failure, **options: Any) -> str:
            raise error

        monkeypatch.setattr(gc, "copy_blob", fail)
        report = local.gc(grace=0)
        assert (report.restored, len(report.missing)) == (0, 1)
    monkeypatch.undo()
    assert local.gc(grace=0).restored == 1


def test_a_tag_with_a_long_name_that_is_damaged_is_left_out_of_the_list(
    local: DDFS, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    local.tag("x" * 300, [])
    local.tag("y", [])
    (path,) = (tmp_path / "store/tag").glob("x*~*/*")
    path.write_bytes(b"damage")
    assert local.list() == ["y"]
    assert "missing in the list" in caplog.text


def test_a_damaged_old_version_does_not_stop_gc(local: DDFS, tmp_path: Path) -> None:
    local.push("data", [(b"bytes", "blob")])
    local.setattr("data", "a", "1")
    min((tmp_path / "store/tag/data").iterdir()).write_bytes(b"damage")
    assert local.gc(grace=3600).removed_blobs == 0
    assert local.gc(grace=0).removed_versions == 1


def test_a_lost_layout_is_told(local: DDFS, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "store/layout")
    with pytest.raises(Unavailable, match="layout"):
        local.gc()


def test_a_master_without_a_scheme_is_told_how_it_is_written() -> None:
    with pytest.raises(ConfigError, match="write http://localhost:1 for a server"):
        DDFS(settings={"DISCO_MASTER": "localhost:1"})


def test_options_in_a_local_url_are_not_ignored(tmp_path: Path) -> None:
    """Who writes ``?volumes=3`` would have one copy of everything and not know it."""
    with pytest.raises(ConfigError, match="as parameters"):
        DDFS(f"file://{tmp_path}?volumes=3")
