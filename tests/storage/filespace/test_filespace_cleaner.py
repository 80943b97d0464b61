"""Deleting what syncs have set free: in the background, but not out of sight."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from filespace_support import files_below, run_python

from proxyflow.storage.filespace import HubUnavailableError, Workspace
from proxyflow.storage.filespace.cleaner import MOST_WAITING, Cleaner
from proxyflow.storage.filespace.directory import DirectoryBlobs


def contents(tmp_path: Path) -> list[str]:
    return [path for path in files_below(str(tmp_path)) if "/content/" in path]


def test_a_sync_does_not_wait_for_what_it_sets_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To delete takes the file system as long as to publish; closing the link waits for it."""
    allowed = threading.Event()
    delete = DirectoryBlobs.delete

    def slow(self: DirectoryBlobs, names: list[str]) -> None:
        assert allowed.wait(60)
        delete(self, names)

    monkeypatch.setattr(DirectoryBlobs, "delete", slow)
    with Workspace(str(tmp_path / "hub")).link_filespace(name="data") as filespace:
        for number in range(3):
            filespace.fs.write_file("/f", b"%d" % number)
            filespace.sync_all()
        assert len(contents(tmp_path)) == 3
        assert filespace.fs.read_file("/f") == b"2"
        allowed.set()
    assert len(contents(tmp_path)) == 1


def test_what_could_not_be_deleted_stays_listed(tmp_path: Path) -> None:
    """The sync has succeeded all the same; whoever tidies up later finds it."""

    def fail(self: DirectoryBlobs, names: list[str]) -> None:
        raise HubUnavailableError("gone")

    hub = str(tmp_path / "hub")
    with pytest.MonkeyPatch.context() as patch:
        with Workspace(hub).link_filespace(name="data") as filespace:
            filespace.fs.write_file("/f", b"1")
            filespace.sync_all()
            patch.setattr(DirectoryBlobs, "delete", fail)
            filespace.fs.write_file("/f", b"2")
            filespace.sync_all()
        assert len(contents(tmp_path)) == 2
    with Workspace(hub).link_filespace(name="data") as filespace:
        filespace.compact()
        assert filespace.fs.read_file("/f") == b"2"
    assert len(contents(tmp_path)) == 1


def test_a_sync_at_the_end_of_the_interpreter_deletes_by_itself(tmp_path: Path) -> None:
    """No thread can be started any more when what nobody has closed is closed."""
    code = """
import atexit, sys
from proxyflow.storage.filespace import Workspace

filespace = Workspace(sys.argv[1]).link_filespace(name="data")
for data in (b"1", b"2"):
    filespace.fs.write_file("/f", data)
    filespace.sync_all()
filespace.fs.delete("/f")
atexit.register(filespace.unlink)
"""
    assert run_python(code, str(tmp_path / "hub")).stderr == ""
    assert contents(tmp_path) == []


def test_who_sets_free_faster_than_can_be_deleted_waits(tmp_path: Path) -> None:
    """Or a disk would be full of what nobody needs."""
    cleaner, allowed = Cleaner(), threading.Event()
    deleted: list[int] = []

    def free(number: int) -> None:
        cleaner.delete(lambda: _wait(allowed), lambda: deleted.append(number))

    for number in range(MOST_WAITING):
        free(number)
    more = threading.Thread(target=free, args=(MOST_WAITING,))
    more.start()
    more.join(0.2)
    assert more.is_alive()
    allowed.set()
    more.join(60)
    cleaner.close()
    assert deleted == list(range(MOST_WAITING + 1))


def _wait(event: Any) -> None:
    assert event.wait(60)
