"""What is particular to files: names, modes, links, full disks, sessions of one directory."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyflow.connectors import open_url
from proxyflow.connectors.file import FileConnector, FileKey
from proxyflow.connectors.shm import SharedMemoryConnector
from proxyflow.errors import (
    ConfigError,
    InvalidKeyError,
    StoreClosedError,
    StoreFullError,
    StoreUnreachableError,
)
from tests.processes import LONG, only_root, run, small_file_system

ROOT = os.geteuid() == 0
MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def connector(store: Path) -> Iterator[FileConnector]:
    with FileConnector(str(store)) as connector:
        yield connector


def path_of(connector: FileConnector, key: FileKey) -> Path:
    return Path(connector.store_dir, *key.filename.split("."))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- what is on the disk ---------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_nobody_else_may_look(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with FileConnector(str(tmp_path / "store")) as connector:
            key = connector.put(b"private")
            assert mode_of(tmp_path / "store") == 0o700
            assert mode_of(tmp_path / "store" / connector.session) == 0o700
            for path in (tmp_path / "store" / connector.session).iterdir():
                assert mode_of(path) == 0o600
            assert path_of(connector, key).exists()
    finally:
        os.umask(before)


def test_an_object_is_one_file_and_nothing_else(connector: FileConnector, store: Path) -> None:
    key = connector.put(b"some bytes")
    name = key.filename.split(".")[1]
    assert sorted(os.listdir(store / connector.session)) == [".owner", name]
    assert path_of(connector, key).read_bytes() == b"some bytes"


def test_a_failed_write_leaves_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where files have a temporary name until they are complete."""
    for flag in (os.O_TMPFILE, os.O_DIRECTORY):
        monkeypatch.setattr(os, "O_TMPFILE", flag)
        with FileConnector(str(store)) as connector:
            with pytest.raises(TypeError):
                connector.put_frames([b"head", "no bytes"])  # type: ignore[list-item]
            assert os.listdir(store / connector.session) == [".owner"]


def test_a_batch_is_stored_whole_or_not_at_all(connector: FileConnector) -> None:
    with pytest.raises(TypeError):
        connector.put_batch([b"good", "no bytes"])  # type: ignore[list-item]
    assert list(connector.scan()) == []


def test_durable_reaches_the_disk_before_put_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file before its name is published, the directory after, and the session's own name."""
    synced: list[str] = []
    fsync = os.fsync

    def record(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    with FileConnector(str(tmp_path / "store"), durable=True) as connector:
        session = str(tmp_path / "store" / connector.session)
        assert synced[-1] == str(tmp_path / "store")
        synced.clear()
        key = connector.put(b"x")
        assert len(synced) == 2
        assert not synced[0].endswith(path_of(connector, key).name)
        assert synced[1] == session


def test_setting_again_replaces_the_object_for_new_readers_only(connector: FileConnector) -> None:
    key = connector.put(bytes(MIB))
    view = connector.get_view(key)
    connector.set(key, b"new")
    assert connector.get(key) == b"new"
    assert view == bytes(MIB)


# -- forged keys -----------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.write_bytes(b"secret")
    return path


@pytest.mark.parametrize(
    "form",
    [
        "../outside",
        "{session}/../../outside",
        "{session}.../../outside",
        "{tmp_path}/outside",
        "{session}.{name}/../../../outside",
        "{session}.owner",
        "{session}..owner",
        ".owner",
        "{session}",
        "{session}.{name}\0",
        "{session}.{name}\n",
        "{SESSION}.{name}",
    ],
)
def test_no_name_leads_out_of_the_store(
    connector: FileConnector, tmp_path: Path, outside: Path, form: str
) -> None:
    session, name = connector.put(b"x").filename.split(".")
    forged = FileKey(
        form.format(session=session, SESSION=session.upper(), name=name, tmp_path=tmp_path)
    )
    operations = (connector.get, connector.get_view, connector.exists, connector.evict)
    for operation in operations:
        with pytest.raises(InvalidKeyError, match="not a key of this store"):
            operation(forged)
    with pytest.raises(InvalidKeyError):
        connector.set(forged, b"planted")
    with pytest.raises(InvalidKeyError):
        connector.wait(forged, 0)
    assert outside.read_bytes() == b"secret"
    assert (tmp_path / "store" / session / ".owner").exists()


def plant_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def plant_fifo(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def plant_directory(path: Path, outside: Path) -> None:
    path.mkdir()


def plant_socket(path: Path, outside: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("plant", [plant_link, plant_fifo, plant_directory, plant_socket])
def test_what_is_planted_under_a_good_name_is_no_object(
    store: Path, outside: Path, plant: object
) -> None:
    """No read follows a link, waits for a pipe's writer, or returns what is not an object."""
    connector = FileConnector(str(store))
    key = connector.new_key()
    plant(path_of(connector, key), outside)  # type: ignore[operator]
    assert not connector.exists(key)
    for read in (connector.get, connector.get_view):
        with pytest.raises(InvalidKeyError, match="not an object"):
            read(key)
    assert list(connector.scan()) == []
    connector.close()
    assert outside.read_bytes() == b"secret"
    assert not store.exists()


def test_a_link_in_place_of_the_session_is_not_followed(tmp_path: Path) -> None:
    with FileConnector(str(tmp_path / "elsewhere")) as elsewhere:
        key = elsewhere.put(b"secret")
        with FileConnector(str(tmp_path / "store")) as connector:
            link = tmp_path / "store" / elsewhere.session
            link.symlink_to(tmp_path / "elsewhere" / elsewhere.session)
            with pytest.raises(StoreUnreachableError):
                connector.get(key)
            link.unlink()


# -- full disks ------------------------------------------------------------------------------------


def test_a_file_size_limit_counts_as_full(store: Path) -> None:
    """The route to a full store that any user can take: EFBIG instead of ENOSPC."""
    said = run(
        """
import errno, resource, sys
from proxyflow.connectors.file import FileConnector
from proxyflow.errors import StoreFullError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with FileConnector(sys.argv[1]) as connector:
    small = connector.put(bytes(1000))
    try:
        connector.put(bytes(200_000))
    except StoreFullError as error:
        assert error.errno == errno.ENOSPC
        assert "200,000 bytes" in str(error) and "spill" in str(error)
    else:
        raise SystemExit("not full")
    assert [stored.key for stored in connector.scan()] == [small]
    print("full")
""",
        store,
    )
    assert said == "full"
    assert not store.exists()


@only_root
def test_a_full_store_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    """Sixty-four megabytes of shared memory, as in a container."""
    with (
        small_file_system(tmp_path / "shm", 64),
        FileConnector(str(tmp_path / "shm" / "run")) as connector,
    ):
        keys = [connector.put(bytes(10 * MIB)) for _ in range(6)]
        with pytest.raises(StoreFullError) as caught:
            connector.put(bytes(10 * MIB))
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.key is not None
        assert len(list(connector.scan())) == 6
        # Private pages of a view come out of the process's memory, not out of the full store.
        views = [connector.get_view(key) for key in keys]
        for view in views:
            assert view is not None
            view[:] = b"\xff" * len(view)
        assert connector.get(keys[0]) == bytes(10 * MIB)
        # An evicted object's room is free once nobody has it mapped.
        connector.evict(keys[0])
        del view, views
        connector.put(bytes(10 * MIB))


@only_root
def test_what_does_not_fit_spills(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "shm", 8):
        with FileConnector(
            str(tmp_path / "shm" / "run"), spill=str(tmp_path / "disk")
        ) as connector:
            keys = connector.put_batch([bytes([n]) * 3 * MIB for n in range(4)])
            spilled = list((tmp_path / "disk" / connector.session).glob("[a-z2-7]*"))
            assert len(spilled) == 2
            with FileConnector.from_config(connector.config()) as worker:
                for n, key in enumerate(keys):
                    assert worker.get(key) == bytes([n]) * 3 * MIB
                    assert worker.get_view(key)[0] == n  # type: ignore[index]
            assert {stored.key for stored in connector.scan()} == set(keys)
            for key in keys:
                connector.evict(key)
            assert list(connector.scan()) == []
        assert os.listdir(tmp_path) == ["shm"]


@only_root
def test_who_waits_is_woken_by_what_spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first directory does not change then."""
    monkeypatch.setattr("proxyflow.storage.watch.RECHECK_SECONDS", 10 * LONG)
    with (
        small_file_system(tmp_path / "shm", 4),
        FileConnector(
            str(tmp_path / "shm/run"), spill=str(tmp_path / "disk"), capacity=0
        ) as connector,
    ):
        key = connector.new_key()
        waiting = threading.Thread(target=connector.wait, args=(key,), daemon=True)
        waiting.start()
        time.sleep(0.2)
        connector.set(key, bytes(8 * MIB))
        waiting.join(LONG)
        assert not waiting.is_alive()


@only_root
@pytest.mark.parametrize("kind", [FileConnector, SharedMemoryConnector])
def test_what_is_replaced_may_move_to_the_spill_directory_and_back(
    kind: type[FileConnector], tmp_path: Path
) -> None:
    """Whoever reads finds the latest, wherever that had room, and nothing else once it is gone."""
    with (
        small_file_system(tmp_path / "shm", 8),
        kind(str(tmp_path / "shm" / "run"), spill=str(tmp_path / "disk")) as connector,
    ):
        new = connector.new_key()
        connector.set(new, b"small" * MIB)
        for key in (new, connector.put(b"small" * MIB)):
            for content in (b"too large" * MIB, b"small again" * 1000, b"too large" * MIB):
                connector.set(key, content)
                assert connector.get(key) == content
                assert [stored.key for stored in connector.scan()].count(key) == 1
            connector.evict(key)
            assert connector.get(key) is None
            assert not connector.exists(key)


@only_root
@pytest.mark.parametrize("back", [True, False])
def test_an_object_that_moves_while_all_are_listed(tmp_path: Path, back: bool) -> None:
    """It is there all the time, and listed once, in whichever directory it has been meanwhile."""
    contents = [b"too large" * MIB, b"small" * MIB]
    with (
        small_file_system(tmp_path / "shm", 8),
        FileConnector(str(tmp_path / "shm" / "run"), spill=str(tmp_path / "disk")) as connector,
    ):
        other, moving = connector.put(b"x"), connector.put(contents[not back])
        listed = connector.scan()
        first = next(listed)
        connector.set(moving, contents[back])
        assert sorted(stored.key for stored in (first, *listed)) == sorted([other, moving])


@only_root
def test_a_writer_killed_before_it_has_removed_what_it_replaces(tmp_path: Path) -> None:
    """The object is then in both directories, and who evicts it, having put it, removes both."""

    def be_killed() -> None:
        with SharedMemoryConnector.from_config(connector.config()) as worker:
            worker._remove = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
            worker.set(key, b"too large" * MIB)

    with (
        small_file_system(tmp_path / "shm", 8),
        SharedMemoryConnector(
            str(tmp_path / "shm" / "run"), spill=str(tmp_path / "disk")
        ) as connector,
    ):
        key = connector.put(b"small" * MIB)
        process = multiprocessing.get_context("fork").Process(target=be_killed)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert connector.get(key) == b"small" * MIB
        connector.evict(key)
        assert connector.get(key) is None
        assert list(connector.scan()) == []


@only_root
def test_no_room_for_a_session_leaves_nothing(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "shm", 1):
        filler = tmp_path / "shm" / "filler"
        with filler.open("wb", buffering=0) as file:
            assert file.write(bytes(2 * MIB)) < 2 * MIB
        with pytest.raises(StoreFullError, match="no room to start a session"):
            FileConnector(str(tmp_path / "shm" / "run"))
        assert os.listdir(tmp_path / "shm") == ["filler"]


def test_the_spill_directory_is_another_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="own"):
        FileConnector(str(tmp_path), spill=f"{tmp_path}/")
    assert os.listdir(tmp_path) == []


# -- directories that do not do --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "nul\0byte"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not the name of a directory"):
        FileConnector(name)


def test_a_file_in_place_of_the_directory_is_named(outside: Path) -> None:
    with pytest.raises(StoreUnreachableError, match="Not a directory"):
        FileConnector(str(outside))
    with pytest.raises(StoreUnreachableError, match="File name too long"):
        FileConnector(str(outside.parent / ("n" * 300)))


@pytest.mark.parametrize("scheme", ["file", "maildir"])
def test_a_link_to_nothing_is_an_error_and_not_waited_for(tmp_path: Path, scheme: str) -> None:
    """A directory that is "there" when it is made and missing when it is used is given up."""
    link = tmp_path / "scratch"
    link.symlink_to(tmp_path / "not mounted")
    with pytest.raises(StoreUnreachableError, match="link to nothing"):
        open_url(f"{scheme}://{link}")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
@pytest.mark.parametrize("directory", ["/proc", "/proc/nowhere"])
def test_where_no_directory_can_be_made_the_store_says_so(directory: str) -> None:
    """The kernel calls what cannot be made in /proc missing, which is no reason to try forever."""
    with pytest.raises(StoreUnreachableError, match=f"cannot start a session: .*{directory}"):
        FileConnector(directory)


def _open_as_nobody(directory: str) -> None:
    if ROOT:
        os.setuid(65534)
    with pytest.raises(StoreUnreachableError, match="Permission denied"):
        FileConnector(directory)
    # At once: what runs at exit (measuring coverage) may not write as nobody.
    os._exit(0)


def test_a_directory_of_somebody_else_is_unreachable(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o000)
    child = multiprocessing.get_context("fork").Process(
        target=_open_as_nobody, args=(str(locked / "store"),)
    )
    child.start()
    child.join()
    locked.chmod(0o700)
    assert child.exitcode == 0


# -- several sessions ------------------------------------------------------------------------------


def test_a_key_of_another_session_finds_its_object(store: Path) -> None:
    """A process that has joined one run may be handed a proxy of the next."""
    with FileConnector(str(store)) as connector:
        others = [FileConnector(str(store)) for _ in range(20)]
        keys = [other.put(bytes([n])) for n, other in enumerate(others)]
        for _ in range(2):
            assert [connector.get(key) for key in keys] == [bytes([n]) for n in range(20)]
        connector.evict(keys[0])
        assert others[0].get(keys[0]) is None
        for other in others:
            other.close()
        assert connector.get(keys[1]) is None
        assert not connector.exists(keys[1])
        connector.evict(keys[1])
        for late in (connector.set, connector.wait):
            with pytest.raises(StoreClosedError):
                late(keys[1], b"")  # type: ignore[operator]


def test_sessions_in_one_directory_do_not_see_each_other(store: Path) -> None:
    with FileConnector(str(store)) as first, FileConnector(str(store)) as second:
        key = first.put(b"x")
        assert list(second.scan()) == []
        second.close()
        assert first.get(key) == b"x"


def test_what_is_to_be_kept_stays(store: Path) -> None:
    """``clear=False`` as with ProxyStore's connector; nobody sweeps it either."""
    first = FileConnector(str(store), clear=False)
    second = FileConnector(str(store))
    keys = [first.put(b"first"), second.put(b"second")]
    first.close()
    second.close(clear=False)
    with FileConnector(str(store)) as connector:
        assert connector.sweep() == []
        assert [connector.get(key) for key in keys] == [b"first", b"second"]


def test_closing_with_clear_removes_what_was_to_be_kept(store: Path) -> None:
    connector = FileConnector(str(store), clear=False)
    connector.put(b"x")
    connector.close(clear=True)
    assert not store.exists()


def test_the_state_is_shown(store: Path) -> None:
    with FileConnector(str(store)) as connector:
        with FileConnector.from_config(connector.config()) as joined:
            assert repr(joined).endswith("(joined)>")
        assert repr(connector).endswith("(owner)>")
        assert str(store) in repr(connector)
    assert repr(connector).endswith("(closed)>")


def test_out_of_descriptors_names_the_limit(connector: FileConnector) -> None:
    key = connector.put(b"x")
    spare = os.dup(0)
    os.close(spare)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    errors = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    try:
        for operation in (lambda: connector.get(key), lambda: connector.put(b"y")):
            try:
                operation()
            except StoreUnreachableError as error:
                errors.append(str(error))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(errors) == 2
    assert all("ulimit" in error for error in errors)
