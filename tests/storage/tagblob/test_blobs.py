"""Blobs: push, pull and chunk, the same on every engine."""

from __future__ import annotations

import gc
import hashlib
import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyflow.storage.tagblob import (
    DDFS,
    BlobNotFound,
    ConfigError,
    InvalidName,
    NotEnoughVolumes,
    RecordTooLarge,
    TagNotFound,
    TruncatedUpload,
    blobs,
    sources,
    volume,
)


class Stream(io.RawIOBase):
    """A binary stream that cannot go back, like a pipe."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        return self._data.readinto(buffer)


class Reader:
    """The least a file can be: a read method."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)


def contents(ddfs: DDFS, tag: str) -> list[bytes]:
    found = []
    for blob in ddfs.pull(tag):
        with blob:
            found.append(blob.read())
    return found


def test_push_takes_paths_files_and_buffers(ddfs: DDFS, tag: str, tmp_path: Path) -> None:
    path = tmp_path / "some file.txt"
    path.write_bytes(b"by path")
    with path.open("rb") as file:
        tags, pushed = ddfs.push(
            tag,
            [
                str(path),
                path,
                (path, "renamed"),
                (file, "by/file"),
                (Stream(b"stream"), "stream"),
                (Reader(b"reader"), "reader"),
                (b"bytes", "bytes"),
                ([b"two ", memoryview(b"buffers"), b""], "buffers"),
                (b"", "empty"),
            ],
        )
    assert ddfs.urls(tag) == pushed
    assert tags[0].endswith(ddfs.get(tag)["id"])
    names = ["some_file_txt"] * 2 + ["renamed", "by_file", "stream", "reader", "bytes", "buffers"]
    assert [ddfs.blob_name(replicas[0]) for replicas in pushed] == [*names, "empty"]
    assert contents(ddfs, tag) == [b"by path"] * 4 + [
        b"stream",
        b"reader",
        b"bytes",
        b"two buffers",
        b"",
    ]


def test_stored_urls_have_the_documented_form(ddfs: DDFS, tag: str) -> None:
    _, ((url,),) = ddfs.push(tag, [(b"bytes", "blob")])
    scheme, _, host, _ddfs, vol, kind, directory, obj = url.split("/")
    assert (scheme, kind) == ("disco:", "blob")
    assert ":" not in host
    assert vol.startswith("vol")
    assert directory == hashlib.md5(obj.encode()).hexdigest()[:2]
    name, moment = obj.split("$")
    assert name == "blob"
    assert all(part == f"{int(part, 16):x}" for part in moment.split("-"))


def test_long_blob_names_become_their_md5(ddfs: DDFS, tag: str) -> None:
    name = "n" * 201
    _, ((url,),) = ddfs.push(tag, [(b"bytes", name)])
    assert ddfs.blob_name(url) == hashlib.md5(name.encode()).hexdigest()
    _, ((url,),) = ddfs.push(tag, [(b"bytes", name[:200])])
    assert ddfs.blob_name(url) == name[:200]


def test_safe_name_replaces_what_is_not_allowed() -> None:
    assert DDFS.safe_name("a b/c.d:e@f-g_h") == "a_b_c_d:e@f-g_h"


@pytest.mark.parametrize("bad", ["", None, 3])
def test_blobs_need_a_name(local: DDFS, bad: object) -> None:
    with pytest.raises(InvalidName):
        local.push("data", [(b"bytes", bad)])


def test_push_refuses_text_and_other_things(local: DDFS, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="binary"):
        local.push("data", [(io.StringIO("text"), "text")])
    with pytest.raises(TypeError, match="int"):
        local.push("data", [(3, "three")])
    with pytest.raises(FileNotFoundError):
        local.push("data", [(b"x", "x"), tmp_path / "missing"])
    assert not local.exists("data")


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 3 * 2**20 + 7])
def test_blobs_come_back_as_they_were(ddfs: DDFS, tag: str, size: int) -> None:
    data = random.Random(size).randbytes(size)
    ddfs.push(tag, [(data, "data")])
    (blob,) = ddfs.pull(tag)
    with blob:
        assert len(blob) == blob.size == size
        assert blob.url == ddfs.urls(tag)[0][0]
        assert blob.digest is not None
        assert blob.digest.size == size
        assert blob.read() == data
        assert blob.read() == b""
        blob.seek(size // 2)
        assert blob.read() == data[size // 2 :]
        assert bytes(blob.map()) == data


def test_blobs_are_files_of_lines(ddfs: DDFS, tag: str) -> None:
    ddfs.push(tag, [(b"a\nbb\n", "lines")])
    for blob in ddfs.pull(tag):
        with blob:
            assert list(blob) == [b"a\n", b"bb\n"]


def test_mapped_bytes_can_be_changed_without_changing_the_blob(ddfs: DDFS, tag: str) -> None:
    ddfs.push(tag, [(b"abc", "blob"), (b"", "empty")])
    first, second = ddfs.pull(tag)
    with first, second:
        view = first.map(writable=True)
        view[0] = ord("x")
        assert bytes(view) == b"xbc"
        assert second.map(writable=True).nbytes == 0
    assert contents(ddfs, tag) == [b"abc", b""]


def test_blobs_on_local_volumes_have_a_path(local: DDFS) -> None:
    replicas = local.store_blob("blob", [b"by", b"tes"])
    with local.open_blob(replicas) as blob:
        assert blob.path is not None
        assert Path(blob.path).read_bytes() == b"bytes"


def test_pull_filters_by_name_and_skips_linked_tags(ddfs: DDFS, tag: str) -> None:
    ddfs.push(tag, [(b"1", "keep-1"), (b"2", "drop-2"), (b"3", "keep-3")])
    ddfs.tag(tag, [["tag://other"]])
    pulled = ddfs.pull(tag, blobfilter=lambda name: name.startswith("keep"))
    assert [(blob.read(), blob.close()) for blob in pulled] == [(b"1", None), (b"3", None)]


def test_pull_of_a_missing_tag_or_blob(ddfs: DDFS, tag: str) -> None:
    with pytest.raises(TagNotFound):
        next(ddfs.pull(tag))
    _, (replicas,) = ddfs.push(tag, [(b"1", "blob")])
    head, _, obj = replicas[0].rpartition("/")
    other = f"another${obj.split('$')[1]}"
    forged = f"{head}/{other}"
    gone = f"{head[:-2]}{hashlib.md5(other.encode()).hexdigest()[:2]}/{other}"
    for url in (gone, forged):
        ddfs.put(tag, [[url]])
        with pytest.raises(BlobNotFound):
            next(ddfs.pull(tag))


def test_replicas_lie_on_different_volumes(ddfs: DDFS, tag: str) -> None:
    _, (replicas,) = ddfs.push(tag, [(b"bytes", "blob")], replicas=3)
    assert len({url.split("/")[4] for url in replicas}) == 3
    for url in replicas:
        with ddfs.open_blob([url]) as blob:
            assert blob.read() == b"bytes"


def test_forced_volumes_get_a_replica(ddfs: DDFS, tag: str) -> None:
    for number in range(6):
        wanted = f"vol{number % 3}"
        _, (replicas,) = ddfs.push(tag, [(b"x", "blob")], replicas=2, forceon=[wanted])
        assert any(f"/{wanted}/" in url for url in replicas)


@pytest.mark.parametrize(
    ("replicas", "forceon"), [(4, []), (0, []), (1, ["vol9"]), (1, ["vol0", "vol1"])]
)
def test_more_replicas_than_volumes_are_refused(
    ddfs: DDFS, tag: str, replicas: int, forceon: list[str]
) -> None:
    with pytest.raises(NotEnoughVolumes) as caught:
        ddfs.push(tag, [(b"x", "blob")], replicas=replicas, forceon=forceon)
    assert caught.value.code == 403
    assert not ddfs.exists(tag)


def test_a_failed_push_tags_nothing(ddfs: DDFS, tag: str) -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            raise ValueError("broken source")

    for parallel in (1, 4):
        with pytest.raises(ValueError, match="broken source"):
            ddfs.push(tag, [(b"x", "x"), (Broken(), "y")], parallel=parallel)
    assert not ddfs.exists(tag)


class Changing(io.FileIO):
    """A file that somebody changes as soon as it is read."""

    change: Callable[[str], object]

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        self.change(str(self.name))
        return count


def test_what_is_appended_while_a_file_is_sent_is_no_request(
    ddfs: DDFS, name: Callable[[], str], tmp_path: Path
) -> None:
    """Bytes after the announced length would be taken for the next request of the connection."""
    tag, victim = name(), name()
    ddfs.tag(victim, [])
    path = tmp_path / "growing.log"
    path.write_bytes(b"x" * (5 * 2**20))
    request = f"DELETE /ddfs/tag/{victim} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    def append(path: str) -> None:
        if os.path.getsize(path) == 5 * 2**20:
            with open(path, "ab") as file:
                file.write(request)

    with Changing(path) as file:
        file.change = append
        ddfs.push(tag, [(file, "log")])
    (stored,) = contents(ddfs, tag)
    assert stored[: 5 * 2**20] == b"x" * (5 * 2**20)
    assert stored[5 * 2**20 :] in (b"", request)
    assert ddfs.exists(victim)


@pytest.mark.parametrize("server", ["server_port", "plain_port"])
def test_a_file_cut_short_while_it_is_sent_is_told_at_once(
    server: str, request: pytest.FixtureRequest, tag: str, tmp_path: Path
) -> None:
    """By the client, which has announced more, and not by a server that waits for the rest."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * (5 * 2**20))
    ddfs = DDFS(f"disco://127.0.0.1:{request.getfixturevalue(server)}")
    with ddfs, Changing(path) as file:
        file.change = lambda path: os.truncate(path, 2**20)
        with pytest.raises(TruncatedUpload, match="ended 4194304 bytes before"):
            ddfs.push(tag, [(file, "cut")])
        assert not ddfs.exists(tag)
        ddfs.push(tag, [path])
        assert len(contents(ddfs, tag)[0]) == 2**20


def test_a_repeated_push_sends_only_what_is_missing(ddfs: DDFS, tag: str) -> None:
    files = [(f"{number}".encode(), f"blob-{number}") for number in range(150)]
    ddfs.push(tag, files[::2], update=True, parallel=8)
    before = {tuple(replicas) for replicas in ddfs.urls(tag)}
    _, pushed = ddfs.push(tag, [*files, files[0]], update=True, parallel=8)
    after = ddfs.urls(tag)
    assert len(after) == 150
    assert before <= {tuple(replicas) for replicas in after}
    assert len(pushed) == 151
    assert [ddfs.blob_name(replicas[0]) for replicas in pushed[:150]] == [n for _, n in files]
    tags, _ = ddfs.push(tag, files, update=True)
    assert ddfs.urls(tag) == after
    assert tags[0].endswith(ddfs.get(tag)["id"])


def test_a_push_with_update_keeps_the_order_of_the_files(ddfs: DDFS, tag: str) -> None:
    files = [(f"{number}".encode(), f"blob-{number}") for number in range(140)]
    _, pushed = ddfs.push(tag, files, update=True, parallel=8)
    assert ddfs.urls(tag) == pushed


def test_an_interrupted_push_goes_on_where_it_stopped(local: DDFS) -> None:
    class Interrupted(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            raise KeyboardInterrupt

    files: list[tuple[object, str]] = [(b"x", f"blob-{number}") for number in range(200)]
    with pytest.raises(KeyboardInterrupt):
        local.push("data", [(Interrupted(), "first"), *files], update=True)
    kept = local.urls("data")
    assert 0 < len(kept) < 200
    local.push("data", [(b"x", "first"), *files], update=True)
    assert local.urls("data")[-len(kept) :] == kept
    assert len(local.urls("data")) == 201


def test_blobs_larger_than_memory_checks_are_checked_as_they_are_read(
    ddfs: DDFS, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random.Random(1).randbytes(300_000)
    ddfs.push(tag, [(data, "large")])
    monkeypatch.setattr(volume, "CHECK_FIRST", 1000)
    monkeypatch.setattr("proxyflow.storage.tagblob.http_client.CHECK_FIRST", 1000)
    (blob,) = ddfs.pull(tag)
    with blob:
        assert isinstance(blob, blobs.StreamBlob)
        assert blob.read() == data
        assert len(blob) == len(data)
        assert blob.digest is not None
    (blob,) = ddfs.pull(tag)
    with blob:
        assert blob.read(10) == data[:10]
        assert bytes(blob.map())[-10:] == data[-10:] if blob.seekable() else True


def test_a_digest_is_told_for_whole_blobs(ddfs: DDFS, tag: str) -> None:
    ddfs.push(tag, [(b"bytes", "one"), ([b"by", b"tes"], "two")])
    one, two = ddfs.pull(tag)
    one.close()
    two.close()
    assert one.digest == two.digest
    assert one.digest is not None
    assert blobs.Digest.parse(one.digest.encode()) == one.digest


def test_sources_know_their_size_when_it_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with path.open("rb") as file:
        file.read(1)
        source = sources.make_source((file, "rest"))
        assert source.known_size() == 2
        assert b"".join(map(bytes, source.chunks())) == b"bc"
    stream = sources.make_source((Stream(b"abc"), "stream"))
    assert stream.known_size() is None
    assert not stream.rewindable
    with sources.sized(stream) as (spooled, size):
        assert size == 3
        assert spooled.rewindable
        assert b"".join(map(bytes, spooled.chunks())) == b"abc"


# -- chunk ------------------------------------------------------------------------------------


LINES = [b"%d %s\n" % (number, b"x" * (number % 50)) for number in range(5000)]


@pytest.mark.parametrize("chunk_size", [1, 60, 1000, 50_000, 10**9])
def test_lines_are_cut_at_their_ends(ddfs: DDFS, tag: str, tmp_path: Path, chunk_size: int) -> None:
    lines = LINES[: 20 if chunk_size < 60 else 60 if chunk_size < 1000 else 1500]
    path = tmp_path / "lines.txt"
    path.write_bytes(b"".join(lines)[:-1])
    ddfs.chunk(tag, [str(path)], chunk_size=chunk_size)
    pieces = contents(ddfs, tag)
    assert b"".join(pieces) == b"".join(lines)[:-1]
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])
    longest = max(map(len, lines))
    assert all(len(piece) <= max(chunk_size, longest) for piece in pieces)
    names = [ddfs.blob_name(replicas[0]) for replicas in ddfs.urls(tag)]
    assert names == [f"lines_txt-{number}" for number in range(len(pieces))]


def test_chunk_takes_every_kind_of_input(ddfs: DDFS, tag: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"path\n")
    stored = ddfs.store_blob("stored", b"blob\n")
    with path.open("rb") as file:
        inputs = [
            path,
            f"file://{path}",
            [str(path), "unused replica"],
            stored,
            stored[0],
            file,
            b"bytes\n",
            bytearray(b"array\n"),
            iter([b"record 1\n", "record 2\n"]),
            [b"one\n", b"two\n"],
            Reader(b"reader\n"),
        ]
        _, pushed = ddfs.chunk(tag, inputs)
        assert not file.closed
    assert contents(ddfs, tag) == [
        *[b"path\n"] * 3,
        *[b"blob\n"] * 2,
        b"path\n",
        b"bytes\n",
        b"array\n",
        b"record 1\nrecord 2\n",
        b"one\ntwo\n",
        b"reader\n",
    ]
    assert ddfs.urls(tag) == pushed


def test_a_single_input_needs_no_list(local: DDFS, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\nb\n")
    local.chunk("data", path)
    local.chunk("data", b"c\n")
    assert contents(local, "data") == [b"c\n", b"a\nb\n"]


def test_records_of_a_fixed_size_are_not_split(ddfs: DDFS, tag: str) -> None:
    data = random.Random(2).randbytes(1000)
    ddfs.chunk(tag, [data, Stream(data)], record_size=30, chunk_size=100)
    sizes = [len(piece) for piece in contents(ddfs, tag)]
    assert sizes == ([90] * 10 + [100]) * 2
    assert b"".join(contents(ddfs, tag)) == data * 2


def test_a_reader_of_ones_own_makes_the_records(local: DDFS) -> None:
    def reader(file: io.BufferedIOBase, size: int | None, url: str) -> list[bytes]:
        assert size == 11
        return [part + b";" for part in file.read().split(b";")]

    local.chunk("data", [b"aaa;bbb;ccc"], reader=reader, chunk_size=8)
    assert contents(local, "data") == [b"aaa;bbb;", b"ccc;"]


@pytest.mark.parametrize(
    "data",
    [b"short\n" + b"x" * 101 + b"\n", b"x" * 3_000_000, b"x" * 101, [b"ok", b"x" * 101]],
    ids=["line", "endless", "last", "record"],
)
def test_a_record_above_the_limit_is_a_value_error_and_no_tag(
    ddfs: DDFS, tag: str, data: object
) -> None:
    with pytest.raises(ValueError, match="limit of 100") as caught:
        ddfs.chunk(tag, [data], max_record_size=100)
    assert isinstance(caught.value, RecordTooLarge)
    assert not ddfs.exists(tag)


def test_a_record_of_just_the_limit_is_kept(local: DDFS) -> None:
    local.chunk("data", [b"x" * 99 + b"\n" + b"y" * 100], max_record_size=100, chunk_size=50)
    assert contents(local, "data") == [b"x" * 99 + b"\n", b"y" * 100]


def test_large_files_are_cut_by_lines_in_blocks(local: DDFS, tmp_path: Path) -> None:
    path = tmp_path / "large"
    line = b"y" * 99 + b"\n"
    path.write_bytes(line * 50_000)
    local.chunk("data", [path], chunk_size=2 * 2**20)
    pieces = contents(local, "data")
    assert len(pieces) == 3
    assert all(len(piece) % 100 == 0 for piece in pieces)
    assert b"".join(pieces) == path.read_bytes()


def test_chunking_again_with_update_adds_nothing(local: DDFS) -> None:
    local.chunk("data", [b"a\nb\nc\n"], chunk_size=2, update=True)
    before = local.urls("data")
    _, pushed = local.chunk("data", [b"a\nb\nc\n"], chunk_size=2, update=True)
    assert local.urls("data") == before == pushed


def test_chunking_nothing_makes_an_empty_tag(local: DDFS) -> None:
    local.chunk("data", [b""])
    assert local.urls("data") == []


@pytest.mark.parametrize("option", ["chunk_size", "max_record_size", "record_size"])
def test_sizes_must_be_positive(local: DDFS, option: str) -> None:
    with pytest.raises(ConfigError, match="positive"):
        local.chunk("data", [b"x"], **{option: 0})


def test_a_missing_input_is_the_operating_systems_error(local: DDFS) -> None:
    with pytest.raises(FileNotFoundError):
        local.chunk("data", ["/nonexistent/input"])
    with pytest.raises(FileNotFoundError):
        local.chunk("data", [os.fspath("/nonexistent/input")])


def test_a_blob_whose_file_is_gone_is_one_error(tmp_path: Path, capfd: Any) -> None:
    """Nothing is printed besides when what could not be opened is let go of."""
    with pytest.raises(FileNotFoundError):
        blobs.FileBlob(str(tmp_path / "gone"), "url", blobs.Digest(0, ""))
    gc.collect()
    assert capfd.readouterr().err == ""
