"""Two slots of a file: whatever happens to one of them, the right version is read."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyflow.storage.filespace import HubCorruptError, Workspace
from proxyflow.storage.filespace.blobs import Blobs, open_blobs
from proxyflow.storage.filespace.slots import Version, new_file, overwrite, read_last

ROOM = 8192
FIRST, SECOND = b"first" * 1000, b"second" * 1000


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """A file that holds the versions 1 and 2, in slots 0 and 1."""
    path = tmp_path / "slots"
    path.write_bytes(new_file(Version.of(1, FIRST)).ljust(2 * ROOM, b"\0"))
    fd = os.open(path, os.O_RDWR)
    assert os.fstat(fd).st_size == 4 * ROOM
    last = read_last(fd)
    assert last is not None
    assert overwrite(fd, last, SECOND) is not None
    yield fd
    os.close(fd)


def data_of(fd: int) -> bytes | None:
    last = read_last(fd)
    return None if last is None else last.data


def slot(fd: int, number: int) -> bytes:
    room = os.fstat(fd).st_size // 2
    return os.pread(fd, room, number * room)


def set_slot(fd: int, number: int, data: bytes) -> None:
    os.pwrite(fd, data, number * os.fstat(fd).st_size // 2)


def test_versions_take_turns(fd: int) -> None:
    for number in range(3, 20):
        last = read_last(fd)
        assert last is not None
        data = b"%d" % number * number
        assert overwrite(fd, last, data) == read_last(fd) == Version.of(number, data)


@pytest.mark.parametrize("written", [0, 64, 512, 4096, 6000])
def test_a_version_that_was_not_written_whole_does_not_count(fd: int, written: int) -> None:
    """Its writer was killed: the one before stands, and the next is written over what is left."""
    before = slot(fd, 0)
    last = read_last(fd)
    assert last is not None
    third = b"third" * 1200
    assert overwrite(fd, last, third) is not None
    after = slot(fd, 0)
    sealed_at = slot(fd, 0).index(struct.pack("<Q", 0x5EA1ED5EA1ED5EA1))
    unsealed = after[:sealed_at] + bytes(8) + after[sealed_at + 8 :]
    set_slot(fd, 0, unsealed[:written] + before[written:])
    assert data_of(fd) == SECOND
    last = read_last(fd)
    assert last is not None
    assert overwrite(fd, last, third) is not None
    assert data_of(fd) == third


def test_what_was_damaged_later_does_not_bring_back_the_version_before(fd: int) -> None:
    """Contents that only the last version names are there; those of the one before are not."""
    good = slot(fd, 1)
    at = good.index(b"second")
    set_slot(fd, 1, good[:at] + b"X" + good[at + 1 :])
    assert data_of(fd) == b"X" + SECOND[1:]
    set_slot(fd, 1, b"X" + good[1:])
    assert data_of(fd) is None
    set_slot(fd, 1, good)
    assert data_of(fd) == SECOND


def test_what_is_not_two_slots_is_no_file_of_slots(tmp_path: Path) -> None:
    """Such as a blob that was written once; or a length that somebody made up."""
    for data in (b"", b"x", b"{}" * 5000, new_file(Version.of(1, b"x"))[:-1]):
        (tmp_path / "f").write_bytes(data)
        with open(tmp_path / "f", "rb") as file:
            assert read_last(file.fileno()) is None


def test_there_may_be_no_room(fd: int) -> None:
    last = read_last(fd)
    assert last is not None
    assert overwrite(fd, last, bytes(os.fstat(fd).st_size // 2)) is None
    assert data_of(fd) == SECOND


def test_a_blob_may_grow_and_shrink(tmp_path: Path) -> None:
    blobs: Blobs = open_blobs(str(tmp_path), {})
    tag = blobs.swap("head", None, b"0")
    for size in (1, 10_000, 100_000, 5, 1_000_000, 0):
        data = os.urandom(size)
        tag = blobs.swap("head", tag, data)
        assert tag is not None
        assert blobs.read_tagged("head") == (data, tag)
        assert blobs.swap("head", (99, b""), b"other") is None


def test_a_damaged_head_is_an_error_in_whichever_slot_it_is(tmp_path: Path) -> None:
    hub = str(tmp_path / "hub")
    with Workspace(hub).link_filespace(name="data") as filespace:
        for number in range(2):
            filespace.fs.write_file("/f", b"%d" % number)
            filespace.sync_all()
            (head,) = tmp_path.rglob("head")
            good = head.read_bytes()
            head.write_bytes(good.replace(b'"format":1', b'"format":2'))
            with pytest.raises(HubCorruptError, match="damaged"):
                Workspace(hub).link_filespace(name="data")
            head.write_bytes(good)
    with Workspace(hub).link_filespace(name="data") as filespace:
        assert filespace.fs.read_file("/f") == b"1"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks /proc for names")
def test_a_sync_waits_for_the_disk_three_times_and_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data before names, also when the power fails: content, its name, and only then the head."""
    steps: list[tuple[str, str]] = []

    def watched(name: str) -> None:
        call: Any = getattr(os, name)

        def run(fd: int, *args: Any) -> Any:
            path = os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path)
            steps.append((name, re.sub(r"[0-9a-f]{32}", "ID", path)))
            return call(fd, *args)

        monkeypatch.setattr(os, name, run)

    with Workspace(str(tmp_path)).link_filespace(name="data") as filespace:
        filespace.fs.write_file("/f", b"1")
        filespace.sync_all()
        for name in ("fsync", "fdatasync", "pwrite"):
            watched(name)
        filespace.fs.write_file("/f", b"2" * 100_000)
        filespace.sync_all()
    below = "filespaces/ID"
    assert steps[:4] == [
        ("fsync", f"{below}/content/ID/2"),
        ("fsync", f"{below}/content/ID"),
        ("pwrite", f"{below}/head"),
        ("fdatasync", f"{below}/head"),
    ]
    # The seal; nobody waits for that.
    assert steps[4:] == [("pwrite", f"{below}/head")]
