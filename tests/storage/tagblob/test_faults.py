"""Faults: killed writers, lost and full volumes, damaged data, forged names."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from proxyflow.storage import tagblob
from proxyflow.storage.tagblob import (
    DDFS,
    BlobDamaged,
    BlobExists,
    BlobNotFound,
    ConfigError,
    DDFSError,
    InvalidName,
    StoreFull,
    TagDamaged,
    Unavailable,
    errors,
)
from proxyflow.storage.tagblob.blobs import Digest
from proxyflow.storage.tagblob.embedded import EmbeddedEngine
from proxyflow.storage.tagblob.names import own_blob

PUSH_FOR_EVER = """
import sys
from proxyflow.storage.tagblob import DDFS
ddfs = DDFS(sys.argv[1], storage_options=eval(sys.argv[2]))

class Endless:
    sent = 0
    def read(self, size):
        self.sent += 1
        if self.sent == 20:
            sys.stdout.write("sending\\n")
            sys.stdout.flush()
        return b"x" * size

ddfs.push("data", [(b"done", "done"), (Endless(), "endless")], parallel=1, replicas=2)
"""


def blob_files(root: Path) -> list[Path]:
    return [path for path in root.rglob("blob/*/*") if path.is_file()]


def path_of(ddfs: DDFS, url: str) -> Path:
    blob = own_blob(url)
    assert blob is not None
    assert isinstance(ddfs.engine, EmbeddedEngine)
    path = ddfs.engine.volume(blob.volume).local_path(blob.object)
    assert path is not None
    return Path(path)


def kill_in_push(master: str, options: dict[str, Any] | None = None) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PUSH_FOR_EVER, master, repr(options)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"sending\n"
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


def test_sigkill_in_push_leaves_no_visible_blob_and_gc_cleans_up(
    local: DDFS, tmp_path: Path
) -> None:
    kill_in_push(local.master)
    assert not local.exists("data")
    # The blob that was complete is stored and unreachable; of the other there is nothing.
    assert {path.name.split("$")[0] for path in blob_files(tmp_path)} == {"done"}
    report = local.gc(grace=3600)
    assert report.removed_blobs == 0
    report = local.gc(grace=0)
    assert report.removed_blobs == 2
    assert blob_files(tmp_path) == []
    assert [p for p in tmp_path.rglob("sum/*/*") if p.is_file()] == []


def test_sigkill_without_unnamed_files_leaves_a_partial_one_for_gc(
    local: DDFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def no_tmpfile(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", no_tmpfile)
    pid = os.fork()
    if pid == 0:

        class Deadly:
            def read(self, size: int) -> bytes:
                os.kill(os.getpid(), signal.SIGKILL)
                return b""

        local.push("data", [(b"done", "done"), (Deadly(), "deadly")], parallel=1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    partial = [p for p in tmp_path.rglob("partial/*") if p.is_file()]
    assert len(partial) == 2
    assert not local.exists("data")
    local.push("data", [(b"whole", "whole")])
    assert local.gc(grace=3600).removed_partial == 0
    report = local.gc(grace=0)
    assert report.removed_partial == 2
    assert [p for p in tmp_path.rglob("partial/*") if p.is_file()] == []
    with next(local.pull("data")) as blob:
        assert blob.read() == b"whole"


def test_sigkill_in_an_upload_to_s3_leaves_parts_for_gc(s3: Any) -> None:
    master, options = "s3://store/killed", s3.storage_options
    ddfs = DDFS(master, volumes=2, storage_options={**options, "default_block_size": 5 * 2**20})
    kill_in_push(master, {**options, "default_block_size": 5 * 2**20})
    files = fsspec.filesystem("s3", skip_instance_cache=True, **options)
    uploads = [u for u in files.list_multipart_uploads("store") if u["Key"].startswith("killed/")]
    assert len(uploads) == 2
    assert not ddfs.exists("data")
    report = ddfs.gc(grace=0)
    assert report.removed_partial == 2
    assert report.removed_blobs == 2
    assert not files.list_multipart_uploads("store")


# -- volumes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["vol0", "vol1", "vol2"])
def test_any_volume_may_be_lost_during_a_run(local: DDFS, tmp_path: Path, lost: str) -> None:
    files = [(f"{number}".encode() * 100, f"blob-{number}") for number in range(30)]
    local.push("data", files[:15])
    shutil.rmtree(tmp_path / "store" / lost)
    local.push("data", files[15:])
    expected = {data for data, _ in files}

    def found() -> set[bytes]:
        pieces = set()
        for blob in local.pull("data"):
            with blob:
                pieces.add(blob.read())
        return pieces

    assert found() == expected
    report = local.gc(grace=0)
    assert report.skipped == [lost]
    assert report.restored > 0
    assert report.missing == []
    assert found() == expected
    for replicas in local.urls("data"):
        assert len(replicas) == 2
        assert all(f"/{lost}/" not in url for url in replicas)
        for url in replicas:
            with local.open_blob([url]) as blob:
                assert blob.read()
    assert not (tmp_path / "store" / lost).exists()
    assert local.gc(grace=0).restored == 0


def test_what_cannot_be_restored_is_reported_and_kept_in_the_tag(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ddfs = DDFS(f"file://{tmp_path}/store", volumes=2, replicas=2)
    ddfs.push("data", [(b"bytes", "blob")])
    before = set(ddfs.urls("data")[0])
    os.rename(tmp_path / "store/vol1", tmp_path / "unmounted")
    report = ddfs.gc(grace=0)
    assert len(report.missing) == 1
    assert set(ddfs.urls("data")[0]) == before
    os.rename(tmp_path / "unmounted", tmp_path / "store/vol1")
    assert ddfs.gc(grace=0) == tagblob.GCReport()


def test_a_replica_that_is_missing_on_a_live_volume_is_restored(local: DDFS) -> None:
    local.push("data", [(b"bytes", "blob")])
    first, second = local.urls("data")[0]
    path_of(local, first).unlink()
    assert local.gc(grace=0).restored == 1
    (replicas,) = local.urls("data")
    assert len({url.split("/")[4] for url in replicas}) == 2
    for url in replicas:
        with local.open_blob([url]) as blob:
            assert blob.read() == b"bytes"
    assert second in replicas


def test_the_loss_of_every_replica_is_an_error_that_names_the_blob(local: DDFS) -> None:
    local.push("data", [(b"bytes", "blob")])
    for url in local.urls("data")[0]:
        path_of(local, url).unlink()
    with pytest.raises(BlobNotFound) as caught:
        next(local.pull("data"))
    assert "blob$" in str(caught.value)
    report = local.gc(grace=0)
    assert len(report.missing) == 1
    assert len(local.urls("data")[0]) == 2


def test_a_volume_whose_mount_is_lost_is_not_written_to(local: DDFS, tmp_path: Path) -> None:
    # What remains of a lost mount is its empty mount point.
    for entry in (tmp_path / "store/vol1").iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for _ in range(10):
        local.push("data", [(b"bytes", "blob")])
    assert list((tmp_path / "store/vol1").iterdir()) == []
    with pytest.raises(Unavailable) as caught:
        local.push("data", [(b"bytes", "blob")], replicas=3)
    assert "vol1" in str(caught.value)
    assert caught.value.code == 503
    with pytest.raises(Unavailable):
        local.push("data", [(b"bytes", "blob")], forceon=["vol1"])


def test_a_lost_root_is_unavailable_not_empty(local: DDFS, tmp_path: Path) -> None:
    local.tag("data", [["http://a/1"]])
    os.rename(tmp_path / "store", tmp_path / "unmounted")
    for operation in (
        lambda: local.get("data"),
        lambda: local.tag("data", [["http://a/2"]]),
        lambda: local.delete("data"),
        lambda: local.list(),
        lambda: local.push("data", [(b"bytes", "blob")]),
        lambda: local.gc(),
    ):
        with pytest.raises(Unavailable):
            operation()
    os.rename(tmp_path / "unmounted", tmp_path / "store")
    assert local.urls("data") == [["http://a/1"]]


def test_a_full_volume_is_named_and_nothing_is_lost(local: DDFS, tmp_path: Path) -> None:
    local.push("data", [(b"bytes", "blob")])
    before = local.get("data")
    # A limit on the size of files is a full volume one can have in a test.
    program = """
import resource, signal, sys
from proxyflow.storage.tagblob import DDFS, StoreFull
ddfs = DDFS(sys.argv[1], replicas=2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
try:
    ddfs.push("data", [(b"x" * 2**21, "large")])
except StoreFull as error:
    assert error.code == 507 and "vol" in str(error), error
    assert ddfs.push("data", [(b"small", "small")])
    sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", program, local.master], check=False)
    assert done.returncode == 7
    names = {path.name.split("$")[0] for path in blob_files(tmp_path)}
    assert names == {"blob", "small"}
    assert before["urls"][0] in local.urls("data")


class CappedFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """A file system in memory with no room for a blob of 1 MiB below a ``full`` directory."""

    protocol = "capped"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    dead: ClassVar[set[str]] = set()

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if any(name in path for name in self.dead):
            raise ConnectionResetError(errno.ECONNRESET, "no answer")
        return super().cat_file(path, *args, **kwargs)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        file = super()._open(path, mode, **kwargs)
        if "full" in path and "/blob/" in path and "r" not in mode:
            file.write = _no_room
        return file


def _no_room(data: bytes) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


fsspec.register_implementation("capped", CappedFileSystem, clobber=True)


@pytest.fixture
def capped() -> DDFS:
    CappedFileSystem.store.clear()
    CappedFileSystem.pseudo_dirs[:] = [""]
    CappedFileSystem.dead.clear()
    return DDFS(
        "capped://root",
        volumes=["capped://root/full0", "capped://root/room0", "capped://root/room1"],
        replicas=2,
    )


def test_a_volume_that_fails_in_a_write_is_replaced(capped: DDFS) -> None:
    for number in range(10):
        capped.push("data", [(b"bytes", f"blob-{number}")])
    for replicas in capped.urls("data"):
        assert {url.split("/")[4] for url in replicas} == {"vol1", "vol2"}


def test_streams_that_cannot_go_back_survive_a_failing_volume(capped: DDFS) -> None:
    class Once:
        def __init__(self) -> None:
            self.left = 3

        def read(self, size: int) -> bytes:
            self.left -= 1
            return b"x" * 1000 if self.left >= 0 else b""

    for number in range(6):
        capped.push("data", [(Once(), f"blob-{number}")])
    assert len(capped.urls("data")) == 6
    for blob in capped.pull("data"):
        with blob:
            assert blob.read() == b"x" * 3000


def test_when_no_volume_is_left_its_error_is_raised(capped: DDFS) -> None:
    with pytest.raises(StoreFull) as caught:
        capped.push("data", [(b"bytes", "blob")], replicas=3)
    assert caught.value.errno == errno.ENOSPC
    assert "full0" in str(caught.value)
    with pytest.raises(StoreFull):
        capped.push("data", [(b"bytes", "blob")], retries=0, replicas=3)
    assert not capped.exists("data")


def test_a_remote_volume_that_does_not_answer_is_skipped(capped: DDFS) -> None:
    capped.push("data", [(b"bytes", "blob")])
    CappedFileSystem.dead.add("room0")
    for _ in range(6):
        with next(capped.pull("data")) as blob:
            assert blob.read() == b"bytes"
    CappedFileSystem.dead.add("room1")
    with pytest.raises(Unavailable):
        next(capped.pull("data"))


# -- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip", "shorten", "lengthen", "checksum", "no checksum"])
def test_a_damaged_replica_is_skipped_reported_and_repaired(
    local: DDFS, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = os.urandom(10_000)
    local.push("data", [(data, "blob")])
    url = local.urls("data")[0][0]
    path = path_of(local, url)
    if damage in ("flip", "shorten", "lengthen"):
        changed = {"flip": b"x" * 10_000, "shorten": data[:-1], "lengthen": data + b"x"}[damage]
        path.write_bytes(changed)
    else:
        sums = Path(str(path).replace("/blob/", "/sum/"))
        sums.unlink() if damage == "no checksum" else sums.write_bytes(b"nonsense")
    with pytest.raises(DDFSError), local.open_blob([url]):
        pass
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            with next(local.pull("data")) as blob:
                assert blob.read() == data
    if damage == "no checksum":
        assert local.gc(grace=0).restored == 1
        (replicas,) = local.urls("data")
    else:
        assert "repaired" in caplog.text
        replicas = [url]
    for restored in replicas:
        with local.open_blob([restored]) as blob:
            assert blob.read() == data


def test_damage_of_every_replica_is_an_error_not_a_wrong_value(local: DDFS) -> None:
    local.push("data", [(b"bytes", "blob")])
    for url in local.urls("data")[0]:
        path_of(local, url).write_bytes(b"BYTES")
    with pytest.raises(BlobDamaged) as caught:
        next(local.pull("data"))
    assert caught.value.code == 500
    assert "blob$" in str(caught.value)


def test_gc_finds_damage_that_a_listing_does_not_show(local: DDFS) -> None:
    local.push("data", [(b"bytes", "blob")])
    url = local.urls("data")[0][1]
    path_of(local, url).write_bytes(b"BYTES")
    assert local.gc(grace=0).restored == 0
    assert local.gc(grace=0, verify=True).restored == 1
    assert local.gc(grace=0, verify=True).restored == 0


def test_large_blobs_are_checked_at_their_end(local: DDFS, monkeypatch: pytest.MonkeyPatch) -> None:
    local.push("data", [(b"x" * 5000, "blob")], replicas=1)
    path_of(local, local.urls("data")[0][0]).write_bytes(b"y" * 5000)
    monkeypatch.setattr("proxyflow.storage.tagblob.volume.CHECK_FIRST", 100)
    with next(local.pull("data")) as blob, pytest.raises(BlobDamaged):
        blob.read()
    with next(local.pull("data")) as blob, pytest.raises(BlobDamaged):
        blob.read(len(blob))  # and no further
    report = local.gc(grace=0, verify=True)
    assert len(report.missing) == 1


def test_a_damaged_tag_is_an_error_and_stops_gc(local: DDFS, tmp_path: Path) -> None:
    local.push("data", [(b"bytes", "blob")])
    local.push("other", [(b"bytes", "blob")])
    local.delete("other")
    local.setattr("data", "version", "2")
    last = max((tmp_path / "store/tag/data").iterdir())
    for damaged in (
        b"",
        b"nonsense",
        last.read_bytes()[:-1],
        last.read_bytes().replace(b"2", b"3"),
    ):
        last.write_bytes(damaged)
        for operation in (
            lambda: local.get("data"),
            lambda: local.tag("data", [["http://a/1"]]),
            lambda: local.delete("data"),
            lambda: local.gc(grace=0),
        ):
            with pytest.raises(TagDamaged) as caught:
                operation()
            assert caught.value.code == 500
            assert caught.value.name == "data"
    assert len(blob_files(tmp_path)) == 4
    # The remedy the error names.
    last.unlink()
    assert len(local.urls("data")) == 1


def test_a_damaged_layout_is_an_error(local: DDFS, tmp_path: Path) -> None:
    (layout,) = (tmp_path / "store/layout").iterdir()
    for content in (b"", b"[]", b'{"version": 1}', b'{"version": 9, "store": "x"}'):
        layout.write_bytes(content)
        with pytest.raises(ConfigError):
            DDFS(local.master)


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "disco://localhost/ddfs/vol0/blob/00/../../../../etc/passwd",
        "disco://localhost/ddfs/vol0/blob/../../layout/000000000001",
        "disco://localhost/ddfs/../vol0/blob/ff/x$1-2-3",
        "disco://localhost/ddfs/vol9/blob/88/x$1-2-3",
        "disco://localhost/ddfs/vol0/tag/88/x$1-2-3",
        "disco://localhost/ddfs/vol0/blob/ff/x$1-2-3",
        "file:///etc/passwd",
        "/etc/passwd",
        "raw://x",
    ],
)
def test_forged_urls_lead_nowhere(local: DDFS, url: str) -> None:
    local.tag("data", [[url, url]])
    with pytest.raises(DDFSError) as caught:
        local.open_blob([url])
    assert caught.value.code in (404, 503)
    assert local.gc(grace=0).removed_blobs == 0


def test_the_second_writer_of_a_blob_name_is_told(local: DDFS, tmp_path: Path) -> None:
    assert isinstance(local.engine, EmbeddedEngine)
    volume = local.engine.volume("vol0")
    first, second = volume.writer("blob$1-2-3"), volume.writer("blob$1-2-3")
    first.write(b"first")
    second.write(b"second")
    digest = Digest(5, "ab" * 16)
    first.commit(digest)
    with pytest.raises(BlobExists) as caught:
        second.commit(Digest(6, "cd" * 16))
    assert caught.value.code == 500
    assert volume.digest("blob$1-2-3") == digest
    assert blob_files(tmp_path)[0].read_bytes() == b"first"


def test_two_pushes_in_the_same_microsecond_get_two_names(
    local: DDFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    import itertools

    from proxyflow.storage.tagblob import replicas

    moments = itertools.chain([1, 1, 1], itertools.count(2))
    real = replicas.object_name
    monkeypatch.setattr(replicas, "object_name", lambda name: real(name, next(moments)))
    local.push("data", [(b"one", "blob"), (b"two", "blob")], parallel=1, replicas=3)
    found = []
    for blob in local.pull("data"):
        with blob:
            found.append(blob.read())
    assert found == [b"one", b"two"]
    monkeypatch.setattr(replicas, "object_name", lambda name: real(name, 1))
    with pytest.raises(BlobExists):
        local.push("data", [(b"three", "blob")], replicas=3)


# -- configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("relative/path", {}),
        ("file://host/path", {}),
        ("file:relative", {}),
        ("nosuchscheme://x", {}),
        ("disco://user:secret@host", {}),
        ("disco://host:port", {}),
        ("disco://host/path", {}),
        ("FILE", {"volumes": 0}),
        ("FILE", {"volumes": "/one"}),
        ("FILE", {"volumes": ["relative"]}),
        ("FILE", {"settings": {"DDFS_BLOB_REPLICAS": "many"}}),
    ],
)
def test_masters_that_make_no_sense_are_config_errors(
    tmp_path: Path, address: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        DDFS(address.replace("FILE", f"file://{tmp_path}/s"), **options)
    assert isinstance(caught.value, ValueError)
    assert "secret" not in str(caught.value)


def test_volumes_are_added_and_found_by_everybody(tmp_path: Path) -> None:
    first = DDFS(f"{tmp_path}/store")
    assert isinstance(first.engine, EmbeddedEngine)
    assert list(first.engine.volumes) == ["vol0"]
    second = DDFS(f"{tmp_path}/store", volumes=[f"{tmp_path}/disk1", f"file://{tmp_path}/disk2/"])
    assert isinstance(second.engine, EmbeddedEngine)
    assert list(second.engine.volumes) == ["vol0", "vol1", "vol2"]
    second.push("data", [(b"bytes", "blob")], forceon=["vol2"])
    with next(first.pull("data")) as blob:
        assert blob.path is not None
        assert blob.path.startswith(f"{tmp_path}/disk2/")
    again = DDFS(f"{tmp_path}/store", volumes=[f"{tmp_path}/disk2"])
    assert isinstance(again.engine, EmbeddedEngine)
    assert len(again.engine.volumes) == 3
    assert "disk1" in repr(again.engine.volumes["vol1"])


def test_a_volume_belongs_to_one_store(tmp_path: Path) -> None:
    DDFS(f"{tmp_path}/one", volumes=[f"{tmp_path}/disk"])
    with pytest.raises(ConfigError, match="another volume"):
        DDFS(f"{tmp_path}/two", volumes=[f"{tmp_path}/disk"])


def test_a_root_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable):
        DDFS(f"{tmp_path}/file/store")
    with pytest.raises(Unavailable):
        DDFS(f"{tmp_path}/store", volumes=[f"{tmp_path}/file/volume"])


def test_an_unreachable_s3_is_unavailable(s3: Any) -> None:
    with pytest.raises(Unavailable):
        DDFS("s3://nosuchbucket/store", storage_options=s3.storage_options)


def test_durable_stores_work_the_same(tmp_path: Path) -> None:
    ddfs = DDFS(f"file://{tmp_path}/store", durable=True)
    ddfs.push("data", [(b"bytes", "blob")])
    with next(ddfs.pull("data")) as blob:
        assert blob.read() == b"bytes"


# -- errors -----------------------------------------------------------------------------------


def test_the_tree_of_errors_keeps_the_codes() -> None:
    codes = {name: getattr(errors, name).code for name in errors.__all__ if name[0].isupper()}
    assert codes == {
        "AttributeNotFound": 404,
        "BlobDamaged": 500,
        "BlobExists": 500,
        "BlobNotFound": 404,
        "CommError": None,
        "ConfigError": None,
        "DDFSError": None,
        "Forbidden": 403,
        "InvalidAttribute": 403,
        "InvalidName": 403,
        "InvalidTag": 403,
        "InvalidToken": 403,
        "InvalidUrls": 403,
        "MissingDependencyError": None,
        "NotEnoughVolumes": 403,
        "NotFound": 404,
        "RecordTooLarge": None,
        "ServerError": 500,
        "StoreFull": 507,
        "TagDamaged": 500,
        "TagNotFound": 404,
        "TooLarge": 413,
        "TruncatedUpload": 400,
        "Unauthorized": 401,
        "Unavailable": 503,
        "Unsupported": 501,
    }
    assert all(issubclass(getattr(errors, name), DDFSError) for name in codes)
    assert errors.CommError is DDFSError


@pytest.mark.parametrize(
    "error",
    [
        errors.TagNotFound("no such tag", store="disco://n", name="data"),
        errors.StoreFull("full", store="file:///x", remedy="free space"),
        errors.Unavailable("gone"),
    ],
)
def test_errors_survive_pickling(error: DDFSError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
    assert copy.url == error.store


def test_the_exported_names_are_sorted_and_there() -> None:
    names = tagblob.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(tagblob, name) for name in names)


def test_names_of_other_tags_in_messages_are_short() -> None:
    with pytest.raises(InvalidName) as caught:
        DDFS.safe_name("ok") and tagblob.ddfs.tag_name("x" * 10_000)
    assert len(str(caught.value)) < 300


def test_importing_the_store_loads_no_optional_package() -> None:
    program = (
        "import sys, proxyflow.storage.tagblob;"
        "heavy = {'urllib3', 'aiohttp', 'fsspec', 's3fs', 'tqdm', 'asyncio', 'numpy'};"
        "sys.exit(bool(heavy & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
