"""Publishing: what others see and when, conflicts, unlinking, and what a sync costs."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
from filespace_support import Bucket, files_below, tree_of

from proxyflow.storage.filespace import (
    Filespace,
    FilespaceNotFoundError,
    FilespaceNotLinkedError,
    FilespaceSyncError,
    FsContentError,
    FsNotADirectoryError,
    FsNotFoundError,
    HubCorruptError,
    HubUnavailableError,
    SyncMode,
    Workspace,
)

Link = Callable[..., Filespace]


def test_others_see_changes_after_sync_and_not_before(link: Link) -> None:
    one, two = link(), link()
    one.fs.create_dir("/d")
    one.fs.write_file("/d/f", b"1")
    one.fs.create_symlink("/d/f", "/l")
    assert two.fs.list_dir("/") == []
    one.sync_all()
    assert tree_of(two) == {"/d": None, "/d/f": b"1", "/l": b"1"}
    one.fs.write_file("/d/f", b"22")
    one.fs.move("/d", "/e")
    assert tree_of(two)["/d/f"] == b"1"
    one.fs.delete("/l")
    one.sync_all()
    assert tree_of(two) == {"/e": None, "/e/f": b"22"}


def test_a_file_open_for_writing_is_published_when_it_is_closed(link: Link) -> None:
    """No reader ever sees half a file, whoever calls sync_all() meanwhile."""
    one, two = link(), link()
    one.fs.write_file("/f", b"whole")
    one.sync_all()
    with one.fs.open("/f", "wb") as file, one.fs.open("/new", "wb") as fresh:
        file.write(b"ha")
        file.flush()
        fresh.write(b"x")
        one.fs.move("/new", "/renamed")
        one.fs.write_file("/unrelated", b"u")
        one.sync_all()
        assert tree_of(two) == {"/f": b"whole", "/unrelated": b"u"}
        file.write(b"lf")
    one.sync_all()
    assert tree_of(two) == {"/f": b"half", "/renamed": b"x", "/unrelated": b"u"}


def test_an_earlier_version_is_published_while_the_next_is_being_written(link: Link) -> None:
    one, two = link(), link()
    one.fs.write_file("/f", b"first")
    with one.fs.open("/f", "wb") as file:
        file.write(b"second")
        one.sync_all()
        assert two.fs.read_file("/f") == b"first"
    one.sync_all()
    assert two.fs.read_file("/f") == b"second"


def test_unpublished_versions_leave_nothing_in_the_hub(workspace: Workspace, tmp_path: Any) -> None:
    """Written over and over, or written and deleted: published once or not at all."""
    filespace = workspace.link_filespace(name="data")
    before = files_below(str(tmp_path))
    for number in range(50):
        filespace.fs.write_file("/f", b"%d" % number)
        with filespace.fs.open("/log", "ab") as file:
            file.write(b"line\n")
        filespace.fs.write_file("/temporary", b"x")
        filespace.fs.delete("/temporary")
    new = files_below(str(tmp_path)) - before
    assert len([path for path in new if "/content/" in path]) == 2
    filespace.sync_all()
    filespace.fs.delete("/f")
    filespace.fs.delete("/log")
    filespace.sync_all()
    filespace.compact()
    assert not [path for path in files_below(str(tmp_path)) if "/content/" in path]


def test_metadata_is_read_again_only_when_it_is_old_enough(tmp_path: Any) -> None:
    """``max_age`` trades freshness for requests; refresh() and a sync always look."""
    hub = str(tmp_path / "hub")
    writer = Workspace(hub).link_filespace(name="data")
    lazy = Workspace(hub, max_age=3600).link_filespace(name="data")
    writer.fs.write_file("/f", b"1")
    writer.sync_all()
    assert not lazy.fs.file_exists("/f")
    lazy.refresh()
    assert lazy.fs.read_file("/f") == b"1"
    writer.fs.write_file("/f", b"2")
    writer.sync_all()
    writer.unlink()  # which waits until what the sync replaced has been deleted
    # The content of the old version is gone: the reader has to look again, and does.
    assert lazy.fs.read_file("/f") == b"2"
    lazy.unlink()


def test_a_reader_far_behind_finds_its_way(tmp_path: Any) -> None:
    """Metadata nodes that others replaced and deleted are read anew, pending changes kept."""
    hub = str(tmp_path / "hub")
    writer = Workspace(hub).link_filespace(name="data")
    for number in range(300):
        writer.fs.write_file(f"/{number}", b"x")
    writer.compact()
    lazy = Workspace(hub, max_age=3600).link_filespace(name="data")
    lazy.fs.write_file("/mine", b"pending")
    for number in range(0, 300, 3):
        writer.fs.delete(f"/{number}")
    writer.compact()
    writer.compact()
    assert len(lazy.fs.list_dir("/")) in (201, 301)
    assert lazy.fs.file_exists("/1")
    lazy.refresh()
    assert len(lazy.fs.list_dir("/")) == 201
    lazy.sync_all()
    assert writer.fs.read_file("/mine") == b"pending"
    for filespace in (writer, lazy):
        filespace.unlink()


def test_unlink_publishes_by_mode_ends_everything_and_may_be_repeated(link: Link) -> None:
    one, two = link(), link(sync_mode=SyncMode.SYNC_NONE)
    assert (one.sync_mode, two.sync_mode) == (SyncMode.SYNC_ALL, SyncMode.SYNC_NONE)
    one.fs.write_file("/one", b"1")
    two.fs.write_file("/two", b"2")
    fs, connect = one.fs, one.connect
    file = one.fs.open("/open", "w")
    file.write("closed by unlink")
    one.unlink()
    two.unlink()
    one.unlink()
    for call in (
        lambda: fs.read_file("/one"),
        lambda: fs.write_file("/x", b""),
        lambda: fs.open("/one"),
        lambda: fs.statistics(),
        lambda: connect.list_data_stores(),
        lambda: one.connect,
        one.sync_all,
        one.refresh,
    ):
        with pytest.raises(FilespaceNotLinkedError):
            call()
    with pytest.raises(ValueError, match="closed file"):
        file.write("x")
    assert "not linked" in repr(one)
    assert tree_of(link()) == {"/one": b"1", "/open": b"closed by unlink"}


def test_the_context_manager_syncs_and_unlinks(link: Link) -> None:
    with link() as filespace:
        filespace.fs.write_file("/f", b"1")
    assert not filespace.is_linked
    filespace = link()
    filespace.fs.write_file("/g", b"2")
    with pytest.raises(ZeroDivisionError), filespace:
        raise ZeroDivisionError
    assert not filespace.is_linked
    assert tree_of(link()) == {"/f": b"1", "/g": b"2"}


def test_a_failed_sync_keeps_the_changes_and_the_link(workspace: Workspace, tmp_path: Any) -> None:
    filespace = workspace.link_filespace(name="data")
    filespace.fs.write_file("/f", b"kept")
    head = next(path for path in files_below(str(tmp_path)) if path.endswith("/head"))
    aside = str(tmp_path / "aside")
    os.rename(tmp_path / head, aside)
    with pytest.raises((FilespaceSyncError, FilespaceNotFoundError)):
        filespace.sync_all()
    with pytest.raises((FilespaceSyncError, FilespaceNotFoundError)), filespace:
        pass
    assert filespace.is_linked
    with pytest.raises(ZeroDivisionError) as caught, filespace:
        raise ZeroDivisionError
    assert "unlinking data.lab failed too" in caught.value.__notes__[0]
    os.rename(aside, tmp_path / head)
    filespace.sync_all()
    assert workspace.link_filespace(name="data").fs.read_file("/f") == b"kept"


def test_a_sync_that_cannot_get_its_turn_fails_in_time(tmp_path: Any) -> None:
    """Never a hang: a publisher that was stopped in the middle blocks others for a bounded time."""
    import fcntl

    hub = str(tmp_path / "hub")
    filespace = Workspace(hub, sync_timeout=0.2).link_filespace(name="data")
    filespace.fs.write_file("/f", b"x")
    lock = next(path for path in files_below(hub) if path.endswith("head.lock"))
    with open(os.path.join(hub, lock), "rb") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        with pytest.raises(FilespaceSyncError, match="kept and it can be tried again") as caught:
            filespace.sync_all()
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value.__cause__, HubUnavailableError)
    filespace.unlink()


def test_root_path_is_the_whole_world_of_a_link(link: Link) -> None:
    top = link()
    top.fs.create_dir("/sessions/s1")
    top.fs.write_file("/secret", b"x")
    top.fs.write_file("/file", b"x")
    top.sync_all()
    inner = link(root_path="/sessions/s1")
    inner.fs.write_file("/a", b"1")
    inner.fs.create_symlink("/../../secret", "/escape")
    assert not inner.fs.file_exists("/../../secret")
    assert not inner.fs.file_exists("/escape")
    assert inner.fs.statistics().entries_count == 2
    inner.sync_all()
    assert top.fs.read_file("/sessions/s1/a") == b"1"
    with pytest.raises(FsNotFoundError):
        link(root_path="/nope")
    with pytest.raises(FsNotADirectoryError):
        link(root_path="/file")
    top.fs.delete_dir("/sessions", recursive=True)
    top.sync_all()
    with pytest.raises(FsNotFoundError):
        inner.fs.write_file("/b", b"2")


def test_threads_share_a_link(workspace: Workspace) -> None:
    """Threads write, read and sync through one link; nothing is lost or mixed up."""
    filespace = workspace.link_filespace(name="data")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(30):
                name = f"/t{number}-{step}"
                filespace.fs.write_file(name, name.encode())
                if step % 5 == number % 5:
                    filespace.sync_all()
                assert filespace.fs.read_file(name) == name.encode()
                if step % 3 == 0:
                    filespace.fs.delete(name)
        except BaseException as error:  # noqa: BLE001  reported by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    assert not failures
    filespace.sync_all()
    other = workspace.link_filespace(name="data")
    assert len(other.fs.list_dir("/")) == 6 * 20
    assert all(
        other.fs.read_file(f"/{name}") == f"/{name}".encode() for name in other.fs.list_dir("/")
    )


def _in_child(filespace: Filespace, workspace: Workspace, results: Any) -> None:
    try:
        filespace.fs.read_file("/f")
    except FilespaceNotLinkedError as error:
        results.put(str(error))
    filespace.unlink()
    with workspace.link_filespace(name="data") as mine:
        mine.fs.write_file("/child", b"from the child")
        results.put(mine.fs.read_file("/f"))


def test_a_forked_child_links_anew_and_leaves_the_parents_link_alone(
    workspace: Workspace,
) -> None:
    filespace = workspace.link_filespace(name="data")
    filespace.fs.write_file("/f", b"x")
    filespace.sync_all()
    filespace.fs.write_file("/pending", b"the parent's")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_in_child, args=(filespace, workspace, results))
    child.start()
    assert "link it in this one too" in results.get(timeout=60)
    assert results.get(timeout=60) == b"x"
    child.join(timeout=60)
    assert child.exitcode == 0
    assert filespace.fs.read_file("/pending") == b"the parent's"
    assert filespace.fs.read_file("/child") == b"from the child"


def test_a_forked_child_links_a_hub_in_an_object_store_anew(bucket: Bucket) -> None:
    """Connections, event loops and spools are the parent's; the child makes its own."""
    workspace = Workspace(f"s3://{bucket.name}/hub", storage_options=bucket.storage_options)
    filespace = workspace.link_filespace(name="data")
    filespace.fs.write_file("/f", b"x")
    filespace.sync_all()
    filespace.fs.write_file("/pending", b"the parent's")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_in_child, args=(filespace, workspace, results))
    child.start()
    assert "link it in this one too" in results.get(timeout=60)
    assert results.get(timeout=60) == b"x"
    child.join(timeout=60)
    assert child.exitcode == 0
    filespace.sync_all()
    assert tree_of(filespace) == {
        "/child": b"from the child",
        "/f": b"x",
        "/pending": b"the parent's",
    }
    workspace.stop()


def test_a_forgotten_open_file_is_finished_when_the_operation_at_hand_is_over(
    filespace: Filespace,
) -> None:
    """The collector may close a file in the middle of a sync: no deadlock, nothing half done."""
    fs = filespace.fs
    fs.write_file("/seen", b"x")
    client = fs.client  # type: ignore[attr-defined]
    with client._syncing, client.lock:
        fs.open("/locked", "wb", buffering=0, lock_type="exclusive").close()
        fs.open("/plain", "wb", buffering=0).close()
        assert client.contents.being_written(fs.lookup("/plain")[1].content)  # type: ignore[attr-defined]
    assert not client.contents.being_written(fs.lookup("/plain")[1].content)  # type: ignore[attr-defined]
    with fs.open("/locked", "rb", lock_type="exclusive", lock_timeout=0):
        pass
    filespace.sync_all()
    assert fs.list_dir("/") == ["locked", "plain", "seen"]


def test_links_and_workspaces_are_not_pickled(filespace: Filespace, workspace: Workspace) -> None:
    for one in (filespace, workspace):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(one)


def test_damaged_or_foreign_metadata_is_named(workspace: Workspace, tmp_path: Any) -> None:
    filespace = workspace.link_filespace(name="data")
    for number in range(100):
        filespace.fs.write_file(f"/{number}", b"x")
    filespace.compact()
    head = tmp_path / next(path for path in files_below(str(tmp_path)) if path.endswith("/head"))
    good = head.read_bytes()
    for bad in (b"", good[:-1], good.replace(b'"format":1', b'"format":9'), b"x" + good[1:]):
        head.write_bytes(bad)
        with pytest.raises(HubCorruptError, match=r"data\.lab"):
            workspace.link_filespace(name="data")
    head.write_bytes(good)
    nodes = [tmp_path / path for path in files_below(str(tmp_path)) if "/nodes/" in path]
    contents = {path: path.read_bytes() for path in nodes}
    for path in nodes:
        path.write_bytes(b"[]")
    with pytest.raises(HubCorruptError, match="digest"):
        workspace.link_filespace(name="data")
    for path in nodes:
        path.unlink()
    with pytest.raises(HubCorruptError, match="missing"):
        workspace.link_filespace(name="data")
    for path, data in contents.items():
        path.write_bytes(data)
    assert len(workspace.link_filespace(name="data").fs.list_dir("/")) == 100


def test_a_content_replaced_while_it_is_read_by_ranges_is_an_error_not_a_mixture(
    link: Link,
) -> None:
    one, two = link(), link()
    one.fs.write_file("/f", b"a" * 4_000_000)
    one.sync_all()
    with two.fs.open("/f", "rb") as file:
        start = file.read(10)
        one.fs.write_file("/f", b"b" * 4_000_000)
        one.compact()
        try:
            rest = file.read()
        except FsContentError as error:
            assert "open it again" in str(error)  # noqa: PT017  either outcome is right
        else:
            assert set(start + rest) == {ord("a")}
    assert two.fs.read_file("/f") == b"b" * 4_000_000
