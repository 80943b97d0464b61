"""The file system of a filespace: what every call promises, over every kind of hub."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from typing import Any

import pytest

from proxyflow.storage.filespace import (
    Filespace,
    Filesystem,
    FsContentError,
    FsDirectoryNotEmptyError,
    FsError,
    FsExistsError,
    FsIsADirectoryError,
    FsNotADirectoryError,
    FsNotFoundError,
    InvalidArgumentError,
)


@pytest.fixture
def fs(link: Callable[..., Filespace]) -> Filesystem:
    return link().fs


@pytest.fixture
def local(filespace: Filespace) -> Filesystem:
    """Return the file system over a directory hub, for what does not depend on the hub."""
    return filespace.fs


def test_a_client_reads_its_own_writes_at_once(fs: Filesystem) -> None:
    fs.write_file("/a.bin", b"\x00\x01")
    assert fs.read_file("/a.bin") == b"\x00\x01"
    fs.write_file("/a.bin", bytearray(b"longer than before"))
    assert fs.read_file("a.bin") == b"longer than before"
    assert fs.get_entry("/a.bin").size == 18
    assert fs.file_exists("/a.bin")
    assert not fs.dir_exists("/a.bin")


def test_directories_are_made_with_parents_listed_sorted_and_deleted_when_empty(
    fs: Filesystem,
) -> None:
    fs.create_dir("/a/b/c")
    fs.write_file("/a/z", b"1")
    fs.write_file("/a/b/y", b"22")
    assert fs.list_dir("/a") == ["b", "z"]
    entries = {entry.name: entry for entry in fs.read_dir("/a")}
    assert entries["b"].is_dir()
    assert entries["z"].is_file()
    assert entries["z"].size == 1
    with pytest.raises(FsDirectoryNotEmptyError) as caught:
        fs.delete_dir("/a")
    assert caught.value.errno == errno.ENOTEMPTY
    fs.delete_dir("/a/b/c")
    fs.delete_dir("/a", recursive=True)
    assert fs.list_dir("/") == []
    assert fs.statistics().entries_count == 0


def test_move_renames_files_and_trees_and_never_overwrites(fs: Filesystem) -> None:
    fs.create_dir("/src/deep")
    fs.write_file("/src/deep/file", b"content")
    fs.move("/src", "/dst")
    assert fs.read_file("/dst/deep/file") == b"content"
    assert not fs.dir_exists("/src")
    fs.write_file("/other", b"other")
    identity = fs.get_entry("/other").entry_id
    with pytest.raises(FsExistsError):
        fs.move("/other", "/dst/deep/file")
    with pytest.raises(FsExistsError):
        fs.move("/other", "/other")
    fs.move("/other", "/dst/other")
    assert fs.get_entry("/dst/other").entry_id == identity
    with pytest.raises(FsError) as caught:
        fs.move("/dst", "/dst/deep/inside")
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename2 == "/dst/deep/inside"


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        (lambda fs: fs.read_file("/nope"), FsNotFoundError, errno.ENOENT),
        (lambda fs: fs.read_file("/dir"), FsIsADirectoryError, errno.EISDIR),
        (lambda fs: fs.read_file("/file/x"), FsNotADirectoryError, errno.ENOTDIR),
        (lambda fs: fs.read_dir("/file"), FsNotADirectoryError, errno.ENOTDIR),
        (lambda fs: fs.read_dir("/nope"), FsNotFoundError, errno.ENOENT),
        (lambda fs: fs.write_file("/nope/x", b""), FsNotFoundError, errno.ENOENT),
        (lambda fs: fs.write_file("/dir", b""), FsIsADirectoryError, errno.EISDIR),
        (lambda fs: fs.write_file("/", b""), FsIsADirectoryError, errno.EISDIR),
        (lambda fs: fs.create_dir("/dir"), FsExistsError, errno.EEXIST),
        (lambda fs: fs.create_dir("/file/x/y"), FsNotADirectoryError, errno.ENOTDIR),
        (lambda fs: fs.create_dir("/"), FsExistsError, errno.EEXIST),
        (lambda fs: fs.delete("/dir"), FsIsADirectoryError, errno.EISDIR),
        (lambda fs: fs.delete("/nope"), FsNotFoundError, errno.ENOENT),
        (lambda fs: fs.delete_dir("/file"), FsNotADirectoryError, errno.ENOTDIR),
        (lambda fs: fs.delete_dir("/nope"), FsNotFoundError, errno.ENOENT),
        (lambda fs: fs.delete_dir("/", recursive=True), FsError, errno.EBUSY),
        (lambda fs: fs.move("/", "/x"), FsError, errno.EBUSY),
        (lambda fs: fs.move("/nope", "/x"), FsNotFoundError, errno.ENOENT),
        (lambda fs: fs.move("/file", "/nope/x"), FsNotFoundError, errno.ENOENT),
        (lambda fs: fs.get_entry("/nope"), FsNotFoundError, errno.ENOENT),
        (lambda fs: fs.truncate("/nope", 0), FsNotFoundError, errno.ENOENT),
        (lambda fs: fs.open("/nope", "r+b"), FsNotFoundError, errno.ENOENT),
        (lambda fs: fs.open("/dir", "ab"), FsIsADirectoryError, errno.EISDIR),
        (lambda fs: fs.read_symlink("/file"), FsError, errno.EINVAL),
        (lambda fs: fs.read_symlink("/nope"), FsNotFoundError, errno.ENOENT),
        (lambda fs: fs.create_symlink("/x", "/file"), FsExistsError, errno.EEXIST),
        (lambda fs: fs.write_file("/" + "n" * 256, b""), FsError, errno.ENAMETOOLONG),
    ],
)
def test_errors_are_specific_and_carry_errno_and_path(
    local: Filesystem, call: Callable[[Filesystem], Any], error: type[FsError], code: int
) -> None:
    local.create_dir("/dir")
    local.write_file("/file", b"x")
    with pytest.raises(error) as caught:
        call(local)
    assert caught.value.errno == code
    assert caught.value.filename is not None
    assert isinstance(caught.value, OSError)
    assert local.list_dir("/") == ["dir", "file"]


@pytest.mark.parametrize(
    "call",
    [
        lambda fs: fs.open("/file", "x"),
        lambda fs: fs.open("/file", "rw"),
        lambda fs: fs.open("/file", ""),
        lambda fs: fs.open("/file", "rbt"),
        lambda fs: fs.open("/file", "w", buffering=0),
        lambda fs: fs.open("/file", "w", newline="x"),
        lambda fs: fs.open("/file", "wb", encoding="utf-8"),
        lambda fs: fs.open("/file", "rb", lock_type="advisory"),
        lambda fs: fs.truncate("/file", -1),
        lambda fs: fs.create_symlink("", "/l"),
        lambda fs: fs.read_file("/a\0b"),
        lambda fs: fs.read_file("/\udcff"),
    ],
)
def test_arguments_that_make_no_sense_are_value_errors_and_change_nothing(
    local: Filesystem, call: Callable[[Filesystem], Any]
) -> None:
    local.write_file("/file", b"kept")
    with pytest.raises(InvalidArgumentError):
        call(local)
    assert local.read_file("/file") == b"kept"


def test_a_path_must_be_text(local: Filesystem) -> None:
    with pytest.raises(TypeError):
        local.read_file(b"/bytes")  # type: ignore[arg-type]
    with pytest.raises(LookupError):
        local.open("/x", "w", encoding="no-such-codec")
    assert not local.file_exists("/x")


@pytest.mark.parametrize("mode", ["wb", "w+b", "ab", "a+b"])
def test_writing_modes_create_and_behave_as_the_builtin_open(
    fs: Filesystem, tmp_path: Any, mode: str
) -> None:
    def work(opener: Callable[[str, str], Any], path: str) -> list[Any]:
        seen: list[Any] = []
        for text in (b"first\n", b"second\n"):
            with opener(path, mode) as file:
                seen += [file.readable(), file.writable(), file.seekable(), file.write(text)]
                if "+" in mode:
                    file.seek(0)
                    seen.append(file.read())
                seen.append(file.tell())
        with opener(path, "rb") as file:
            seen.append(file.read())
        return seen

    assert work(fs.open, "/file") == work(open, str(tmp_path / "file"))


def test_update_mode_changes_a_published_file_in_place_for_this_client(
    link: Callable[..., Filespace],
) -> None:
    one, two = link(), link()
    one.fs.write_file("/file", b"0123456789")
    one.sync_all()
    with two.fs.open("/file", "r+b") as file:
        file.seek(4)
        file.write(b"XX")
    assert two.fs.read_file("/file") == b"0123XX6789"
    assert one.fs.read_file("/file") == b"0123456789"
    two.fs.truncate("/file", 3)
    two.fs.truncate("/file", 5)
    two.sync_all()
    assert one.fs.read_file("/file") == b"012\0\0"


def test_text_layers(fs: Filesystem) -> None:
    with fs.open("/text", "w", encoding="latin-1", newline="\r\n") as file:
        assert isinstance(file, io.TextIOWrapper)
        file.write("grün\n")
    assert fs.read_file("/text") == b"gr\xfcn\r\n"
    with fs.open("/text", "r", encoding="latin-1") as file:
        assert file.read() == "grün\n"
    with fs.open("/text", "r", encoding="ascii", errors="replace") as file:
        assert file.readline() == "gr�n\n"
    with fs.open("/text", "rt+", encoding="latin-1") as file:
        file.write("G")
    assert fs.read_file("/text")[:1] == b"G"


def test_binary_line_buffering_warns_as_the_builtin_does(local: Filesystem) -> None:
    with pytest.warns(RuntimeWarning), local.open("/x", "wb", buffering=1) as file:
        file.write(b"x")
    with local.open("/x", "rb", buffering=0) as raw:
        assert isinstance(raw, io.RawIOBase)
    with local.open("/x", "w", buffering=1) as text:
        assert text.line_buffering


def test_this_client_sees_a_file_grow_that_it_writes(fs: Filesystem) -> None:
    """As on any file system: the name is there from open on, and the bytes once flushed."""
    with fs.open("/log", "wb") as file:
        assert fs.get_entry("/log").size == 0
        file.write(b"x" * 1000)
        file.flush()
        assert fs.get_entry("/log").size == 1000
        assert fs.read_file("/log") == b"x" * 1000
        assert fs.content("/log").size == 1000
        assert bytes(fs.view("/log")) == b"x" * 1000
        with fs.open("/log", "ab") as other:
            other.write(b"y")
        assert fs.statistics().data_size == 1001
    assert fs.read_file("/log") == b"x" * 1000 + b"y"


def test_a_file_being_written_can_be_moved_deleted_and_replaced(fs: Filesystem) -> None:
    with fs.open("/a", "wb") as file:
        fs.create_dir("/d")
        fs.move("/a", "/d/b")
        file.write(b"moved")
    assert fs.read_file("/d/b") == b"moved"
    with fs.open("/gone", "wb") as file:
        file.write(b"gone")
        fs.delete("/gone")
    assert not fs.file_exists("/gone")
    with fs.open("/twice", "wb") as first:
        first.write(b"first")
        with fs.open("/twice", "wb") as second:
            second.write(b"second")
    assert fs.read_file("/twice") == b"second"


def test_an_open_reader_keeps_what_it_opened(local: Filesystem) -> None:
    local.write_file("/f", b"old")
    with local.open("/f", "rb", buffering=0) as file:
        local.write_file("/f", b"new")
        local.delete("/f")
        assert file.read() == b"old"


def test_symlinks_are_followed_and_handled_themselves(fs: Filesystem) -> None:
    fs.create_dir("/real/sub")
    fs.write_file("/real/sub/file", b"target")
    fs.create_symlink("/real", "/abs")
    fs.create_symlink("../sub/file", "/real/sub/rel")
    fs.create_symlink("/abs/sub/rel", "/chain")
    assert fs.read_file("/chain") == b"target"
    assert fs.list_dir("/abs") == ["sub"]
    assert fs.read_symlink("/chain") == "/abs/sub/rel"
    assert fs.get_entry("/chain").is_link()
    assert fs.file_exists("/chain")
    assert fs.dir_exists("/abs")
    with fs.open("/chain", "wb") as file:
        file.write(b"through the link")
    assert fs.read_file("/real/sub/file") == b"through the link"
    fs.move("/chain", "/moved")
    fs.delete("/moved")
    assert fs.file_exists("/real/sub/file")
    with pytest.raises(FsNotADirectoryError):
        fs.delete_dir("/abs")
    assert fs.statistics().symlink_count == 2


def test_a_loop_of_symlinks_is_an_error_and_a_dangling_one_is_not_found(
    local: Filesystem,
) -> None:
    local.create_symlink("/b", "/a")
    local.create_symlink("/a", "/b")
    with pytest.raises(FsError) as caught:
        local.read_file("/a")
    assert caught.value.errno == errno.ELOOP
    local.create_symlink("/nowhere", "/dangling")
    assert not local.file_exists("/dangling")
    local.write_file("/dangling", b"made through the link")
    assert local.read_file("/nowhere") == b"made through the link"


def test_dots_do_not_leave_the_filespace(local: Filesystem) -> None:
    local.write_file("/../../x", b"inside")
    assert local.list_dir("/") == ["x"]
    local.create_dir("/a/b")
    assert local.list_dir("/a/b/../..//.") == ["a", "x"]


def test_views_are_mapped_immutable_and_survive_the_file(local: Filesystem) -> None:
    """Zero copy: a view is the stored file itself, not bytes that were read."""
    local.write_file("/v", b"abc")
    view = local.view("/v")
    assert view.readonly
    assert view.obj.__class__.__module__ == "mmap"
    private = local.view("/v", writable=True)
    private[0] = ord("X")
    assert bytes(local.view("/v")) == b"abc"
    local.delete("/v")
    assert bytes(view) == b"abc"
    local.write_file("/empty", b"")
    assert bytes(local.view("/empty")) == b""
    assert local.view("/empty", writable=True).nbytes == 0


def test_content_says_length_digest_and_place(link: Callable[..., Filespace]) -> None:
    import xxhash

    filespace = link()
    fs = filespace.fs
    fs.write_buffers("/c", [b"ab", memoryview(b"cd"), bytearray(b"e")])
    with fs.open("/d", "wb") as file:
        file.write(b"abcde")
    filespace.sync_all()
    assert fs.content("/c").digest == xxhash.xxh3_128_hexdigest(b"abcde")
    assert fs.content("/c").digest == fs.content("/d").digest == fs.get_entry("/d").digest
    local_path = fs.content("/c").local_path
    if local_path is not None:
        with open(local_path, "rb") as stored:
            assert stored.read() == b"abcde"
    assert bytes(fs.view("/c", writable=True)) == b"abcde"


def test_damaged_content_is_never_taken_for_a_value(filespace: Filespace) -> None:
    fs = filespace.fs
    for name in ("/short", "/flipped", "/gone"):
        fs.write_file(name, b"0123456789")
    filespace.sync_all()
    paths = {name: fs.content(name).local_path or "" for name in ("/short", "/flipped", "/gone")}
    os.truncate(paths["/short"], 4)
    with open(paths["/flipped"], "r+b") as stored:
        stored.write(b"X")
    os.unlink(paths["/gone"])
    for name in paths:
        with pytest.raises(FsContentError) as caught:
            fs.read_file(name)
        assert caught.value.errno == errno.EIO
        assert caught.value.filename == name
    with pytest.raises(FsContentError):
        fs.view("/short")


def test_entries_know_times_kind_and_identity(local: Filesystem) -> None:
    local.write_file("/f", b"1")
    first = local.get_entry("/f")
    local.write_file("/f", b"22")
    second = local.get_entry("/f")
    assert first.entry_id == second.entry_id
    assert first.ctime == second.ctime <= first.mtime <= second.mtime
    assert not second.is_external()
    assert local.get_entry("/").is_dir()
    assert local.get_entry("/").name == ""


def test_statistics_count_what_is_there(local: Filesystem) -> None:
    local.create_dir("/a/b")
    for number in range(70):  # more than one metadata node holds
        local.write_file(f"/a/b/{number}", b"x" * number)
    found = local.statistics()
    assert (found.file_count, found.directory_count) == (70, 2)
    assert found.data_size == sum(range(70))
    for number in range(70):
        local.delete(f"/a/b/{number}")
    assert local.statistics().data_size == 0


def test_a_failed_write_leaves_the_file_as_it_was(local: Filesystem) -> None:
    """A disk that takes no more (here: a file size limit) costs the new version, not the old."""
    import resource
    import signal

    local.write_file("/f", b"old version")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            local.write_file("/f", b"x" * 100_000)
        with (
            pytest.raises(OSError, match="File too large"),
            local.open("/f", "wb", buffering=1024) as file,
        ):
            file.write(b"y" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert local.read_file("/f") == b"old version"
    assert local.list_dir("/") == ["f"]


def test_a_file_that_cannot_be_copied_to_be_changed_takes_no_room(
    local: Filesystem, tmp_path: Any
) -> None:
    """A full disk (here: a file size limit) must not be filled further by each attempt."""
    import resource
    import signal

    local.write_file("/f", b"x" * 100_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            local.open("/f", "ab")
        with pytest.raises(OSError, match="File too large"):
            local.truncate("/f", 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    contents = [path for path in tmp_path.rglob("content/*/*") if path.is_file()]
    assert [path.stat().st_size for path in contents] == [100_000]
    assert local.read_file("/f") == b"x" * 100_000


def test_path_like_objects_are_paths(local: Filesystem) -> None:
    from pathlib import PurePosixPath

    local.write_file(PurePosixPath("/p"), b"x")
    assert local.read_file(PurePosixPath("/p")) == b"x"
