"""What is particular to maildirs: claims, forged keys, full disks, sessions, sweeping, holding."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import proxystore.store
import pytest

import proxyflow
from proxyflow import Store, extract
from proxyflow.connectors.file import FileConnector
from proxyflow.connectors.maildir import MaildirConnector, MaildirKey
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import (
    ConfigError,
    InvalidKeyError,
    SerializationError,
    StoreClosedError,
    StoreFullError,
    StoreUnreachableError,
)
from proxyflow.storage.maildir import FileStore
from tests.killing import killed_at_each_step
from tests.processes import Running, only_root, run, small_file_system

MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def connector(root: Path) -> Iterator[MaildirConnector]:
    with MaildirConnector(str(root)) as connector:
        yield connector


def path_of(connector: MaildirConnector, key: MaildirKey) -> Path:
    session, name = key.name.split(".")
    return Path(connector.store_dir, session, "new", name)


# -- objects that are messages ---------------------------------------------------------------------


def test_an_object_is_a_message_and_is_read_wherever_it_stands(
    connector: MaildirConnector,
) -> None:
    small, large = connector.put(b"small"), connector.put(bytes(MIB))
    for key, data in ((small, b"small"), (large, bytes(MIB))):
        message = connector.queue.claim()
        assert message is not None
        assert key.name.endswith(message.name)
        assert (connector.get(key), connector.exists(key)) == (data, True)
        assert connector.get_view(key) == data
    assert {stored.key for stored in connector.scan()} == {small, large}


def test_another_process_takes_objects_from_the_queue(connector: MaildirConnector) -> None:
    """A plain FileStore on the session's directory is all it needs."""
    keys = [connector.put(b"%d" % number) for number in range(3)]
    path = Path(connector.store_dir, connector.session)
    with FileStore(path) as queue:
        for number in range(2):
            message = queue.claim()
            assert message is not None
            with message:
                assert message.read() == b"%d" % number
    assert [connector.exists(key) for key in keys] == [False, False, True]


def test_the_queue_leaves_alone_what_streams_carry(root: Path) -> None:
    with Store(f"maildir://{root}") as store, store.stream("frames") as stream:
        connector: Any = store.connector
        stream.append("streamed")
        key = store.put("stored")
        assert connector.queue.counts() == {"tmp": 0, "new": 1, "cur": 0}
        (streamed,) = {stored.key for stored in store.scan()} - {key}
        assert store.get(streamed) == "streamed"
        with pytest.raises(InvalidKeyError, match="only a stream"):
            connector.set(streamed, b"x")
        with Store.from_config(store.config()) as joined:
            assert joined.get(streamed) == "streamed"
            joined.evict(streamed)
        assert not store.exists(streamed)
        item = stream.claim()
        assert item is not None
        item.ack()


def test_a_key_of_a_stream_finds_nothing_where_there_is_none(
    connector: MaildirConnector,
) -> None:
    session, name = connector.new_key().name.split(".")
    key = MaildirKey(f"{session}.s-{name}")
    assert connector.get(key) is None
    assert not connector.exists(key)
    connector.evict(key)


def test_evicting_a_claimed_object_ends_the_claim(connector: MaildirConnector) -> None:
    key = connector.put(b"x")
    message = connector.queue.claim()
    assert message is not None
    connector.evict(key)
    assert connector.get(key) is None
    assert os.listdir(Path(connector.store_dir, connector.session, "cur")) == []
    with pytest.raises(LookupError):
        message.ack()


def test_an_object_that_is_moved_all_the_time_is_found(connector: MaildirConnector) -> None:
    key = connector.put(b"x")
    done = threading.Event()

    def move() -> None:
        while not done.is_set():
            message = connector.queue.claim()
            assert message is not None
            message.release()

    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(move)
        try:
            for _ in range(500):
                assert connector.exists(key)
                assert connector.get(key) == b"x"
        finally:
            done.set()
        moving.result()


def test_an_object_set_again_while_it_is_claimed_is_evicted_whole(
    connector: MaildirConnector,
) -> None:
    """The old value, which is with whoever claimed it, must not come back."""
    key = connector.new_key()
    connector.set(key, b"old")
    assert connector.queue.claim() is not None
    connector.set(key, b"new")
    connector.evict(key)
    assert connector.get(key) is None
    assert list(connector.scan()) == []


_DIES_WRITING = """
import os, sys
from proxyflow import Store
store = Store(sys.argv[1])
rename = os.rename

def publish(partial, *arguments, **options):
    if "~" in partial:
        print("written", flush=True)
        sys.stdin.read()
    rename(partial, *arguments, **options)

os.rename = publish
if sys.argv[2] == "stream":
    store.stream("s").append("x" * 1000)
else:
    store.put("x" * 1000)
"""


@pytest.mark.parametrize("what", ["object", "stream"])
def test_what_a_dead_worker_was_writing_is_swept_from_a_living_session(
    connector: MaildirConnector, root: Path, what: str
) -> None:
    """What a living one is writing, and what the dead has claimed, stays."""
    connector.put(b"kept")
    claimed = connector.queue.claim()
    assert claimed is not None
    with Running(_DIES_WRITING, connector.url, what) as alive:
        with Running(_DIES_WRITING, connector.url, what) as dead:
            assert (alive.line, dead.line) == ("written", "written")
            dead.kill()
        partial = [*root.glob("*/tmp/*"), *root.glob("*/streamed/tmp/*")]
        assert len(partial) == 2
        assert proxyflow.gc(f"maildir://{root}") == []
        (left,) = [path for path in partial if path.exists()]
        assert f",{alive.process.pid:x}," in left.name
    assert claimed.read() == b"kept"


def test_claims_of_the_dead_come_back(connector: MaildirConnector) -> None:
    connector.put(b"x")
    process = multiprocessing.get_context("fork").Process(target=connector.queue.claim)
    process.start()
    process.join(60)
    assert connector.queue.recover() == 1


def test_nobody_else_may_look(root: Path) -> None:
    before = os.umask(0)
    try:
        with Store(f"maildir://{root}") as store, store.stream("frames", group="a") as stream:
            store.put("private")
            stream.append("private")
            for path in [root, *(root / str(store.session)).rglob("*")]:
                mode = stat.S_IMODE(path.stat().st_mode)
                assert mode == (0o700 if path.is_dir() else 0o600), path
    finally:
        os.umask(before)


def test_durable_reaches_the_disk_before_put_returns(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def record(fd: int) -> None:
        synced.add(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    with MaildirConnector(str(root), durable=True) as connector:
        assert {path.stat().st_ino for path in (root, root / connector.session)} <= synced
        key = connector.put(b"x")
        path = path_of(connector, key)
        assert {path.stat().st_ino, path.parent.stat().st_ino} <= synced
        assert "durable=1" in connector.url


def test_a_batch_is_stored_whole_or_not_at_all(connector: MaildirConnector) -> None:
    for bad in ("no bytes", memoryview(bytes(16))[::2]):
        with pytest.raises(SerializationError):
            connector.put_batch([b"good", bad])  # type: ignore[list-item]
    assert list(connector.scan()) == []


# -- forged keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        "../outside",
        "{session}/../../outside",
        "{session}.../../outside",
        "{session}.{name}/../../../../outside",
        "{session}.new",
        "{session}..owner",
        "{session}",
        "{session}.{name}\0",
        "{session}.{name}\n",
        "{session}.{name}~0",
        "{session}.{NAME}",
    ],
)
def test_no_name_leads_out_of_the_store(
    connector: MaildirConnector, tmp_path: Path, form: str
) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    session, name = connector.put(b"x").name.split(".")
    name = name[:-1] + "a"
    forged = MaildirKey(form.format(session=session, name=name, NAME=name.upper()))
    operations = (connector.get, connector.get_view, connector.exists, connector.evict)
    for operation in (*operations, lambda key: connector.wait(key, 0)):
        with pytest.raises(InvalidKeyError, match="not a key of this store"):
            operation(forged)
    with pytest.raises(InvalidKeyError):
        connector.set(forged, b"planted")
    assert (tmp_path / "outside").read_bytes() == b"secret"


@pytest.mark.parametrize("plant", ["link", "fifo", "directory"])
def test_what_is_planted_under_a_good_name_is_no_object(
    root: Path, tmp_path: Path, plant: str
) -> None:
    """No read follows a link, waits for a pipe's writer, or returns what is not an object."""
    (tmp_path / "outside").write_bytes(b"secret")
    connector = MaildirConnector(str(root))
    key = connector.new_key()
    path = path_of(connector, key)
    if plant == "link":
        path.symlink_to(tmp_path / "outside")
    elif plant == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert not connector.exists(key)
    for read in (connector.get, connector.get_view):
        with pytest.raises(InvalidKeyError, match="not an object"):
            read(key)
    assert list(connector.scan()) == []
    connector.close()
    assert (tmp_path / "outside").read_bytes() == b"secret"
    assert not root.exists()


def test_a_link_in_place_of_the_session_is_not_followed(tmp_path: Path) -> None:
    with MaildirConnector(str(tmp_path / "elsewhere")) as elsewhere:
        key = elsewhere.put(b"secret")
        with MaildirConnector(str(tmp_path / "store")) as connector:
            link = tmp_path / "store" / elsewhere.session
            link.symlink_to(tmp_path / "elsewhere" / elsewhere.session)
            with pytest.raises(StoreUnreachableError):
                connector.get(key)
            link.unlink()


def test_a_session_put_in_the_place_of_another_is_not_read(tmp_path: Path) -> None:
    """A connector keeps to the directory that it has looked at, and removes no other."""
    connector = MaildirConnector(str(tmp_path / "store"))
    key = connector.put(b"right")
    session = tmp_path / "store" / connector.session
    session.rename(tmp_path / "moved")
    (session / "new").mkdir(parents=True)
    for section in ("tmp", "cur"):
        (session / section).mkdir()
    path_of(connector, key).write_bytes(b"wrong")
    assert connector.get(key) == b"right"
    connector.open_topic("frames").append([b"x"], b"")
    assert not {"streams", "streamed"} & set(os.listdir(session))
    with pytest.raises(StoreUnreachableError, match="cannot end session"):
        connector.close()
    (other,) = tmp_path.rglob(path_of(connector, key).name)
    assert other.read_bytes() == b"wrong"


# -- full disks ------------------------------------------------------------------------------------


@only_root
def test_a_full_store_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    with (
        small_file_system(tmp_path / "shm", 8),
        MaildirConnector(str(tmp_path / "shm" / "run")) as connector,
    ):
        keys = [connector.put(bytes(2 * MIB)) for _ in range(3)]
        with pytest.raises(StoreFullError, match="evict") as caught:
            connector.put(bytes(2 * MIB))
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.key is not None
        assert {stored.key for stored in connector.scan()} == set(keys)
        connector.evict(keys[0])
        connector.put(bytes(2 * MIB))


def test_no_room_for_a_session_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = os.mkdir

    def full(path: str, *arguments: Any, **options: Any) -> None:
        if path == "cur":
            raise OSError(errno.ENOSPC, "No space left on device")
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(StoreFullError):
        MaildirConnector(str(root))
    assert not root.exists()


def test_out_of_descriptors_names_the_limit(root: Path) -> None:
    said = run(
        """
import os, resource, sys
from proxyflow.connectors.maildir import MaildirConnector
from proxyflow.errors import StoreUnreachableError
with MaildirConnector(sys.argv[1]) as connector:
    key = connector.put(b"x")
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, 4096))
    try:
        connector.get(key)
    except StoreUnreachableError as error:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))
        assert "ulimit" in str(error), error
        views = [connector.get_view(connector.put(bytes(100_000))) for _ in range(100)]
        print(len(views))
""",
        root,
    )
    assert said == "100"


# -- sessions --------------------------------------------------------------------------------------


def test_a_killed_owners_session_is_swept_with_all_that_is_in_it(root: Path) -> None:
    url = f"maildir://{root}"
    with (
        Running.owner(url) as owner,
        Store(f"{url}#{owner.line}") as joined,
        joined.stream("frames") as stream,
    ):
        stream.append("text")
        assert proxyflow.gc(url) == []
        owner.kill()
        assert proxyflow.gc(url) == [owner.line]
        for store in (stream.append, joined.put):
            with pytest.raises(StoreClosedError, match="has ended"):
                store("too late")
    assert not root.exists()


def test_opening_a_store_sweeps(root: Path, connector: MaildirConnector) -> None:
    with Running.owner(f"maildir://{root}") as owner:
        owner.kill()
        assert connector.sweep() == [owner.line]
    with Running.owner(f"maildir://{root}") as owner:
        owner.kill()
        MaildirConnector(str(root)).close()
    assert not (root / owner.line).exists()


def test_who_starts_a_session_may_be_killed_at_any_step(tmp_path: Path) -> None:
    """What is left is swept: at once, or when it is certain that nobody is about to use it."""
    numbers = iter(range(1000))
    root = tmp_path

    def prepare() -> Any:
        nonlocal root
        root = tmp_path / str(next(numbers))
        return lambda: MaildirConnector(str(root))

    for _ in killed_at_each_step(prepare):
        proxyflow.gc(f"maildir://{root}")
        left = [path for path in root.rglob("*") if path.name != ".made-by-proxyflow"]
        assert not [path for path in left if ".new-" not in str(path)]


def test_a_session_ends_with_its_last_holder(root: Path) -> None:
    store = Store(f"maildir://{root}")
    key = store.put("text")
    url = StoreURL.parse(store.config()["url"])
    hold = MaildirConnector.hold_url(url)
    joined = Store.from_config(store.config())
    store.close()
    assert proxyflow.gc(f"maildir://{root}") == []
    assert joined.get(key) == "text"
    with joined.stream("frames") as stream:
        stream.append("after its owner")
    hold.close()
    assert not root.exists()
    joined.close()
    with pytest.raises(ConfigError, match="names no session"):
        MaildirConnector.hold_url(url.replace(session=None))


def test_a_key_of_another_session_finds_its_object(root: Path) -> None:
    with MaildirConnector(str(root)) as one, MaildirConnector(str(root)) as other:
        key = other.put(b"there")
        assert one.get(key) == b"there"
        assert list(one.scan()) == []
        one.evict(key)
        assert not other.exists(key)
        other.close()
        assert one.get(key) is None
        with pytest.raises(StoreClosedError, match="has ended"):
            one.set(key, b"too late")


def test_a_session_of_another_kind_is_no_maildir(root: Path) -> None:
    with FileConnector(str(root)) as files:
        joined = MaildirConnector(str(root), session=files.session)
        with pytest.raises(StoreUnreachableError, match=r"no maildir.*scheme"):
            joined.put(b"x")
        joined.close()


def test_what_is_to_be_kept_stays(root: Path) -> None:
    with MaildirConnector(str(root), clear=False) as connector:
        key = connector.put(b"kept")
    assert proxyflow.gc(f"maildir://{root}") == []
    with MaildirConnector(str(root), session=connector.session) as joined:
        assert joined.get(key) == b"kept"


def test_a_session_is_removed_while_workers_fill_it(root: Path) -> None:
    """Objects, streams, and the directories that they make meanwhile."""
    store = Store(f"maildir://{root}")
    started = threading.Barrier(3)

    def fill(number: int) -> None:
        with Store.from_config(store.config()) as joined:
            started.wait(60)
            count = 0
            while True:
                count += 1
                joined.put(bytes(1000))
                joined.stream(f"stream{number}-{count}", group="a").append("text")

    with ThreadPoolExecutor(2) as pool:
        filling = [pool.submit(fill, number) for number in range(2)]
        started.wait(60)
        while len(list(store.scan())) < 20:
            pass
        store.close()
        for each in filling:
            assert isinstance(each.exception(60), StoreClosedError)
    assert not root.exists()


def test_the_state_is_shown(connector: MaildirConnector) -> None:
    joined = MaildirConnector.from_config(connector.config())
    assert repr(connector).endswith("(owner)>")
    assert repr(joined).endswith("(joined)>")
    joined.close()
    with pytest.raises(StoreClosedError):
        _ = joined.queue
    with pytest.raises(StoreClosedError):
        joined.open_topic("frames")


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("maildir://host/path", "maildir:///directory"),
        ("maildir://relative", "maildir:///directory"),
        ("maildir:///tmp/x?spill=/tmp/y", "unknown option 'spill'"),
        ("maildir:///tmp/a%00b", "not the name of a directory"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Store(url)


# -- in ProxyStore ---------------------------------------------------------------------------------


def test_ours_does_all_that_a_peer_store_asks(root: Path) -> None:
    connector = MaildirConnector(str(root))
    with proxystore.store.Store(f"maildir-{root}", connector) as store:
        key = store.put({"text": "x" * 100_000})
        assert store.get(key) == {"text": "x" * 100_000}
        assert [store.get(each) for each in store.put_batch([1, 2])] == [1, 2]
        assert store.exists(key)
        store.evict(key)
        assert store.get(key, default="gone") == "gone"
        future = store.future()
        future.set_result("later")
        assert future.result() == "later"
        proxy = store.proxy([1, 2, 3])
        assert sum(proxy) == 6
    assert not root.exists()


def test_a_proxy_of_a_claimed_object_is_resolved(root: Path) -> None:
    with Store(f"maildir://{root}") as store:
        proxy = store.proxy([1, 2, 3])
        connector: Any = store.connector
        message = connector.queue.claim()
        assert extract(proxy) == [1, 2, 3]
        message.ack()
