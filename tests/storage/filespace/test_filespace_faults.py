"""A hub that fails: answers that get lost, others who publish in between, disks that are full."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from filespace_proxy import Proxy, proxied
from filespace_support import Bucket, files_below

from proxyflow.storage.filespace import (
    Filespace,
    FilespaceSyncError,
    FsContentError,
    HubUnavailableError,
    Workspace,
)


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[Proxy]:
    with proxied(s3_endpoint) as running:
        yield running


@pytest.fixture
def clients(bucket: Bucket, proxy: Proxy) -> Iterator[tuple[Filespace, Filespace]]:
    """Link a client that goes through the proxy and one that does not."""
    hub = f"s3://{bucket.name}/hub"
    quick = {"retries": {"max_attempts": 0}}
    through = {**bucket.storage_options, "endpoint_url": proxy.endpoint, "config_kwargs": quick}
    workspaces = [
        Workspace(hub, storage_options=options) for options in (through, bucket.storage_options)
    ]
    shaky, steady = (workspace.link_filespace(name="data") for workspace in workspaces)
    yield shaky, steady
    proxy.hook = None
    for workspace in workspaces:
        workspace.stop()


def is_head(method: str, path: str) -> bool:
    return method == "PUT" and path.endswith("/head")


def test_a_commit_whose_answer_is_lost_is_made_once(
    clients: tuple[Filespace, Filespace], proxy: Proxy
) -> None:
    """The server published it, the client never heard: a retry must not conflict with itself."""
    shaky, steady = clients
    lost: list[str] = []

    def lose_the_first_answer(method: str, path: str, forward: Callable[[], None]) -> bool:
        if is_head(method, path) and not lost:
            forward()
            lost.append(path)
            return False
        return True

    shaky.fs.write_file("/f", b"once")
    proxy.hook = lose_the_first_answer
    shaky.sync_all()
    assert lost
    for client in clients:
        assert client.fs.list_dir("/") == ["f"]
        assert client.conflicts() == []
    assert steady.fs.read_file("/f") == b"once"


def test_a_commit_in_doubt_is_settled_by_the_head(
    clients: tuple[Filespace, Filespace], proxy: Proxy
) -> None:
    """The hub goes away right after publishing: the sync fails, and its retry knows better."""
    shaky, steady = clients
    gone: list[str] = []

    def go_away(method: str, path: str, forward: Callable[[], None]) -> bool:
        if is_head(method, path) and not gone:
            forward()
            gone.append(path)
        return not gone

    shaky.fs.write_file("/f", b"1")
    shaky.fs.create_dir("/d")
    proxy.hook = go_away
    with pytest.raises(FilespaceSyncError):
        shaky.sync_all()
    with pytest.raises(HubUnavailableError):
        shaky.fs.read_file("/f")
    proxy.hook = None
    assert steady.fs.read_file("/f") == b"1"
    steady.fs.move("/f", "/moved")
    steady.sync_all()
    shaky.fs.write_file("/later", b"2")
    shaky.sync_all()
    for client in clients:
        assert client.fs.list_dir("/") == ["d", "later", "moved"]
        assert client.conflicts() == []
        assert client.fs.read_file("/moved") == b"1"


def test_changes_that_did_not_get_there_are_published_by_the_next_sync(
    clients: tuple[Filespace, Filespace], proxy: Proxy
) -> None:
    shaky, steady = clients
    shaky.fs.write_file("/f", b"x" * 100_000)
    for blocked in ("/content/", "/head"):
        proxy.hook = lambda method, path, forward, part=blocked: (
            not (method == "PUT" and part in path)
        )
        with pytest.raises(FilespaceSyncError, match="kept"):
            shaky.sync_all()
        assert steady.fs.list_dir("/") == []
    proxy.hook = None
    shaky.fs.write_file("/g", b"y")
    shaky.sync_all()
    assert steady.fs.read_file("/f") == b"x" * 100_000
    assert steady.fs.list_dir("/") == ["f", "g"]


def test_who_publishes_at_the_same_time_loses_nothing(
    clients: tuple[Filespace, Filespace], proxy: Proxy
) -> None:
    """Others publish between this client's look at the head and its own commit, twice."""
    shaky, steady = clients
    rounds = iter(range(2))

    def publish_in_between(method: str, path: str, forward: Callable[[], None]) -> bool:
        if is_head(method, path) and (number := next(rounds, None)) is not None:
            steady.fs.write_file("/f", b"steady %d" % number)
            steady.fs.write_file(f"/s{number}", b"s")
            steady.compact() if number else steady.sync_all()
        return True

    shaky.fs.write_file("/f", b"shaky")
    shaky.fs.write_file("/mine", b"m")
    proxy.hook = publish_in_between
    shaky.compact()
    for client in clients:
        assert client.fs.list_dir("/") == ["f", "f_conflicted", "mine", "s0", "s1"]
        assert client.fs.read_file("/f") == b"steady 1"
        assert client.fs.read_file("/f_conflicted") == b"shaky"


def test_others_who_never_stop_publishing_are_given_up_on(bucket: Bucket, proxy: Proxy) -> None:
    """Never a hang: after the timeout the sync fails and keeps its changes."""
    hub = f"s3://{bucket.name}/hub"
    through = {**bucket.storage_options, "endpoint_url": proxy.endpoint}
    eager = Workspace(hub, storage_options=bucket.storage_options)
    patient = Workspace(hub, storage_options=through, sync_timeout=0.3)
    winner, loser = (one.link_filespace(name="data") for one in (eager, patient))
    numbers = iter(range(10_000))

    def always_first(method: str, path: str, forward: Callable[[], None]) -> bool:
        if is_head(method, path):
            winner.fs.write_file("/w", b"%d" % next(numbers))
            winner.sync_all()
        return True

    loser.fs.write_file("/l", b"l")
    proxy.hook = always_first
    with pytest.raises(FilespaceSyncError, match="kept publishing"):
        loser.sync_all()
    proxy.hook = None
    loser.sync_all()
    assert winner.fs.read_file("/l") == b"l"
    for workspace in (eager, patient):
        workspace.stop()


def test_a_content_deleted_while_it_is_streamed_from_an_object_store(
    clients: tuple[Filespace, Filespace],
) -> None:
    shaky, steady = clients
    steady.fs.write_file("/f", b"a" * 3_000_000)
    steady.sync_all()
    with shaky.fs.open("/f", "rb") as file:
        assert file.read(10) == b"a" * 10
        steady.fs.delete("/f")
        steady.compact()
        file.seek(2_000_000)
        with pytest.raises(FsContentError, match="open it again"):
            file.read(10)
    assert not shaky.fs.file_exists("/f")


def test_an_object_truncated_in_the_hub_is_not_a_value(
    clients: tuple[Filespace, Filespace], bucket: Bucket
) -> None:
    shaky, _ = clients
    shaky.fs.write_file("/f", b"0123456789")
    shaky.sync_all()
    listing = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="hub/filespaces")
    key = next(item["Key"] for item in listing["Contents"] if "/content/" in item["Key"])
    bucket.put(key, b"0123")
    with pytest.raises(FsContentError, match="4 bytes instead of 10"):
        shaky.fs.read_file("/f")
    bucket.put(key, b"X123456789")
    with pytest.raises(FsContentError, match="digest"):
        shaky.fs.read_file("/f")
    bucket.delete(key)
    with pytest.raises(FsContentError, match="missing"):
        shaky.fs.read_file("/f")


def test_a_full_disk_fails_the_sync_and_nothing_else(filespace: Filespace) -> None:
    """The head cannot be written (here: a file size limit); later it can."""
    filespace.fs.write_file("/kept", b"k")
    filespace.sync_all()
    for number in range(60):
        filespace.fs.write_file(f"/{number}", b"x")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        with pytest.raises(FilespaceSyncError) as caught:
            filespace.sync_all()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert isinstance(caught.value.__cause__, OSError)
    assert filespace.fs.read_file("/kept") == b"k"
    filespace.sync_all()
    assert len(filespace.fs.list_dir("/")) == 61


def test_a_hub_directory_that_is_taken_away_is_an_error_that_names_it(
    workspace: Workspace, filespace: Filespace, tmp_path: Any
) -> None:
    filespace.fs.write_file("/f", b"x")
    os.rename(tmp_path / "hub", tmp_path / "elsewhere")
    (tmp_path / "hub").touch()
    with pytest.raises(HubUnavailableError, match=str(tmp_path)):
        filespace.fs.list_dir("/")
    with pytest.raises(FilespaceSyncError):
        filespace.sync_all()
    os.unlink(tmp_path / "hub")
    os.rename(tmp_path / "elsewhere", tmp_path / "hub")
    filespace.sync_all()
    assert workspace.link_filespace(name="data").fs.read_file("/f") == b"x"


def test_what_a_failed_sync_may_have_left_is_swept_after_the_client(tmp_path: Any) -> None:
    hub = str(tmp_path / "hub")
    with Workspace(hub).link_filespace(name="data") as filespace:
        filespace.fs.write_file("/f", b"x")
        head = next(path for path in files_below(hub) if path.endswith("/head"))
        os.mkdir(os.path.join(hub, head + ".next"))
        with pytest.raises(FilespaceSyncError):
            filespace.compact()
        assert [path for path in files_below(hub) if "/nodes/" in path]
        filespace.unlink(discard=True)
    os.rmdir(os.path.join(hub, head + ".next"))
    with Workspace(hub).link_filespace(name="data") as filespace:
        assert filespace.fs.list_dir("/") == []
    assert not [path for path in files_below(hub) if "/nodes/" in path or "/content/" in path]


def test_a_file_deleted_while_another_thread_publishes_it(filespace: Filespace) -> None:
    """Deleting and replacing go on during the slow part of a sync; nothing is left behind."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def sync_all_the_time() -> None:
        try:
            while not stop.is_set():
                filespace.sync_all()
        except BaseException as error:  # noqa: BLE001  reported by the main thread
            failures.append(error)

    syncing = threading.Thread(target=sync_all_the_time)
    syncing.start()
    for number in range(300):
        filespace.fs.write_file("/f", b"%d" % number)
        if number % 3 == 0:
            filespace.fs.delete("/f")
    stop.set()
    syncing.join(timeout=60)
    assert not failures
    filespace.sync_all()
    assert filespace.fs.read_file("/f") == b"299"
    filespace.compact()
    hub = filespace.fs.content("/f").local_path or ""
    assert os.listdir(os.path.dirname(hub)) == [os.path.basename(hub)]


def test_a_file_that_cannot_be_opened_is_as_if_nobody_had_tried(filespace: Filespace) -> None:
    """No descriptors left: the old version stays, and later syncs are not held up."""
    filespace.fs.write_file("/f", b"old")
    filespace.sync_all()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hoard = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:

        def open_too_many() -> None:
            for number in range(300):
                hoard.append(filespace.fs.open(f"/{number}", "wb", buffering=0))

        with pytest.raises(OSError, match="Too many open files"):
            open_too_many()
        opened = len(hoard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for file in hoard:
            file.close()
    filespace.sync_all()
    assert len(filespace.fs.list_dir("/")) == opened + 1
    assert filespace.fs.read_file("/f") == b"old"


def test_a_second_writer_that_cannot_be_opened_leaves_the_first_alone(tmp_path: Any) -> None:
    filespace = Workspace(str(tmp_path / "hub"), max_age=3600).link_filespace(name="data")
    first = filespace.fs.open("/f", "wb", buffering=0)
    first.write(b"first")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first.fileno() + 1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            filespace.fs.open("/f", "ab", buffering=0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    first.close()
    filespace.refresh()
    filespace.sync_all()
    assert filespace.fs.read_file("/f") == b"first"
    filespace.unlink()
