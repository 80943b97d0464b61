"""A sweep removes the sessions of the dead, and nothing else whatever it looks like."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

import proxyflow
from proxyflow import Store
from proxyflow.connectors.file import FileConnector
from proxyflow.errors import StoreClosedError, StoreUnreachableError
from tests.processes import Running

LONG_AGO = time.time() - 7 * 86400


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def sessions(root: Path) -> list[str]:
    return sorted(name for name in os.listdir(root) if name != ".made-by-proxyflow")


def dead_session(root: Path) -> Path:
    """Leave a session whose owner was killed."""
    with Running.owner(root.as_uri()) as owner:
        owner.kill()
        return root / owner.line


def age(session: Path) -> None:
    """Make its owner's last sign of life a week old."""
    os.utime(session / ".owner", (LONG_AGO, LONG_AGO))
    os.utime(session, (LONG_AGO, LONG_AGO))


def edit_record(session: Path, **changes: object) -> None:
    """Change the record in place, without a sign of life."""
    path = session / ".owner"
    times = path.stat()
    with path.open("r+") as file:
        record = json.load(file) | changes
        file.seek(0)
        file.write(json.dumps(record))
        file.truncate()
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


# -- the dead, and their neighbours ----------------------------------------------------------------


def test_opening_a_store_sweeps_after_the_dead(root: Path) -> None:
    """Exactly the killed owner's session goes; the live neighbour's objects all stay."""
    with Running.owner(root.as_uri()) as dead, Running.owner(root.as_uri()) as alive:
        dead.kill()
        assert sessions(root) == sorted([dead.line, alive.line])
        with Store(root.as_uri()) as store:
            assert sessions(root) == sorted([alive.line, str(store.session)])
            assert len(list((root / alive.line).iterdir())) == 1 + 3
        alive.finish()
    assert not root.exists()


def test_gc_names_what_it_removed(root: Path) -> None:
    with Running.owner(root.as_uri()) as dead, Running.owner(root.as_uri()) as alive:
        assert proxyflow.gc(root.as_uri()) == []
        dead.kill()
        assert proxyflow.gc(root) == [dead.line]
        assert proxyflow.gc(root.as_uri()) == []
        assert sessions(root) == [alive.line]
    assert proxyflow.gc(root.as_uri()) == [alive.line]
    assert not root.exists()


def test_gc_of_nothing_is_nothing(root: Path) -> None:
    assert proxyflow.gc(root.as_uri()) == []
    assert not root.exists()
    assert proxyflow.gc("memory://") == []


def test_gc_sweeps_the_spill_directory_too(tmp_path: Path, root: Path) -> None:
    spill = tmp_path / "spill"
    url = f"{root.as_uri()}?spill={spill}"
    with Running.owner(url) as dead:
        dead.kill()
        assert (sessions(root), sessions(spill)) == ([dead.line], [dead.line])
        assert proxyflow.gc(url) == [dead.line]
    assert os.listdir(tmp_path) == []


def test_what_was_read_outlives_the_sweep(root: Path) -> None:
    """A worker that still computes when its run is swept keeps the array it has mapped."""
    session = dead_session(root)
    with FileConnector(str(root.parent / "other")):
        worker = FileConnector.from_config(
            {"store_dir": str(root), "session": session.name, "clear": True}
        )
        stored = next(iter(worker.scan()))
        view = worker.get_view(stored.key)
        proxyflow.gc(root.as_uri())
        assert view is not None
        assert len(set(view)) > 1
        assert worker.get(stored.key) is None
        with pytest.raises(StoreClosedError, match="has ended"):
            worker.put(b"x")
        worker.close()


# -- owners that seem dead and are not -------------------------------------------------------------


def test_a_stopped_owner_is_alive(root: Path) -> None:
    """However long ago it gave a sign of life, on this host its lock tells."""
    with Running.owner(root.as_uri()) as owner:
        owner.stop()
        age(root / owner.line)
        assert proxyflow.gc(root.as_uri()) == []
        assert len(sessions(root / owner.line)) == 1 + 3
        owner.finish()


def test_the_same_process_sees_its_own_sessions_alive(root: Path) -> None:
    """Locks belong to the open file, not to the process."""
    with Store(root) as first:
        age(root / str(first.session))
        with Store(root) as second:
            assert first.sweep() == second.sweep() == proxyflow.gc(root) == []
            assert first.get(first.put("text")) == "text"


def test_an_owner_on_another_host_lives_while_it_says_so(root: Path) -> None:
    """A lock taken there may not be seen here: a session of another boot has a lease."""
    session = dead_session(root)
    edit_record(session, boot="of-another-host", host="elsewhere")
    assert proxyflow.gc(root.as_uri()) == []
    assert sessions(root) == [session.name]
    age(session)
    assert proxyflow.gc(root.as_uri()) == [session.name]


def test_a_reboot_ends_every_lock_but_not_the_lease(root: Path) -> None:
    session = dead_session(root)
    edit_record(session, boot="of-this-host-before")
    assert proxyflow.gc(root.as_uri()) == []
    age(session)
    with Store(root) as store:
        assert sessions(root) == [store.session]


def test_a_reused_pid_saves_nobody(root: Path) -> None:
    session = dead_session(root)
    edit_record(session, pid=os.getpid())
    assert proxyflow.gc(root.as_uri()) == [session.name]


def test_an_owner_renews_its_lease(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For those who cannot see its lock."""
    from proxyflow.connectors import session as module

    monkeypatch.setattr(module, "_owned", module._OwnedSessions(interval=0.01))
    with Store(root) as store:
        age(root / str(store.session))
        record = root / str(store.session) / ".owner"
        deadline = time.monotonic() + 60
        while record.stat().st_mtime < time.time() - 3600:
            assert time.monotonic() < deadline
            time.sleep(0.01)


# -- owners that seem alive and are not ------------------------------------------------------------

_PARENT = """
import os, subprocess, sys
from proxyflow import Store
store = Store(sys.argv[1])
store.put(b"x" * 100_000)
how = sys.argv[2]
if how == "fork":
    ready, say = os.pipe()
    if os.fork() == 0:
        os.write(say, b".")
        os.read(0, 1)  # lives until the test closes this pipe
        os._exit(0)
    os.read(ready, 1)
elif how == "exec":
    subprocess.Popen([sys.executable, "-c", "import os; os.read(0, 1)"], close_fds=False)
print(store.session, flush=True)
os.read(0, 1)
"""


@pytest.mark.parametrize("how", ["fork", "exec"])
def test_a_child_that_outlives_the_owner_keeps_nothing_alive(root: Path, how: str) -> None:
    """It inherits the owner's descriptors, and must not inherit its lock."""
    with Running(_PARENT, root.as_uri(), how) as owner:
        owner.kill()
        assert proxyflow.gc(root.as_uri()) == [owner.line]
    assert not root.exists()


_FORKING = """
import os, sys, threading
from proxyflow import Store
root = sys.argv[1]
done = threading.Event()

def open_and_close():
    while not done.is_set():
        Store(root).close()

threads = [threading.Thread(target=open_and_close) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(40):
    ready, say = os.pipe()
    if os.fork() == 0:
        os.write(say, b".")
        os.read(0, 1)  # lives until the test closes this pipe
        os._exit(0)
    os.read(ready, 1)
kept = [Store(root) for _ in range(3)]
done.set()
for thread in threads:
    thread.join()
print("forked", flush=True)
os.read(0, 1)
"""


def test_a_fork_in_the_midst_of_opening_keeps_no_lock(root: Path) -> None:
    with Running(_FORKING, root.as_uri()) as owner:
        assert owner.line == "forked"
        left = sessions(root)
        owner.kill()
        assert proxyflow.gc(root.as_uri()) == left
    assert not root.exists()


def test_a_child_owns_what_it_opens_itself(root: Path) -> None:
    """And closes it at its end, although it leaves past the interpreter's own exit."""
    with Store(root) as store:
        for context in ("fork", "spawn"):
            with ProcessPoolExecutor(1, multiprocessing.get_context(context)) as pool:
                theirs = pool.submit(_open, root).result()
                assert theirs != store.session
            assert sessions(root) == [store.session]


def _open(root: Path) -> str | None:
    store = Store(root)
    store.put("x")
    assert store.owner
    return store.session


# -- halves ----------------------------------------------------------------------------------------


def test_what_a_killed_remover_left_is_finished(root: Path) -> None:
    session = dead_session(root)
    half = root / f".old-{session.name}"
    session.rename(half)
    next(path for path in half.iterdir() if path.name != ".owner").unlink()
    assert proxyflow.gc(root.as_uri()) == [session.name]
    assert not root.exists()


def test_what_is_left_before_the_very_last_step_is_finished(root: Path) -> None:
    root.mkdir()
    (root / ".old-abcdefghij").mkdir()
    assert proxyflow.gc(root.as_uri()) == []
    assert sessions(root) == []


def test_a_session_being_removed_is_left_to_its_remover(root: Path) -> None:
    with Running.owner(root.as_uri()) as owner:
        half = root / f".old-{owner.line}"
        (root / owner.line).rename(half)
        assert proxyflow.gc(root.as_uri()) == []
        assert len(sessions(half)) == 1 + 3


def test_a_session_being_made_is_left_alone_until_it_is_old(root: Path) -> None:
    """Its owner may not have come to lock it yet."""
    session = dead_session(root)
    unfinished = root / f".new-{session.name}"
    session.rename(unfinished)
    assert proxyflow.gc(root.as_uri()) == []
    age(unfinished)
    assert proxyflow.gc(root.as_uri()) == [session.name]


def test_a_session_that_did_not_come_to_its_record_goes_when_it_is_old(root: Path) -> None:
    unfinished = root / ".new-abcdefghij"
    unfinished.mkdir(parents=True)
    assert proxyflow.gc(root.as_uri()) == []
    assert unfinished.exists()
    os.utime(unfinished, (LONG_AGO, LONG_AGO))
    assert proxyflow.gc(root.as_uri()) == []
    assert not unfinished.exists()


def test_a_record_that_a_power_failure_emptied_counts_by_its_age(root: Path) -> None:
    session = dead_session(root)
    (session / ".owner").write_bytes(b"")
    assert proxyflow.gc(root.as_uri()) == []
    age(session)
    assert proxyflow.gc(root.as_uri()) == [session.name]


_RESTLESS = """
import sys
from proxyflow import Store
print("started", flush=True)
while True:
    with Store(sys.argv[1]) as store:
        keys = [store.put(b"x" * 10_000) for _ in range(3)]
        store.evict(keys[0])
"""


def test_a_kill_at_any_instant_leaves_nothing_that_stays(root: Path) -> None:
    with Store(root) as neighbour:
        key = neighbour.put("text")
        for n in range(12):
            with Running(_RESTLESS, root.as_uri()) as owner:
                time.sleep(0.007 * n)
                owner.kill()
        for unfinished in root.glob(".new-*"):
            os.utime(unfinished, (LONG_AGO, LONG_AGO))
            for record in unfinished.glob(".owner"):
                os.utime(record, (LONG_AGO, LONG_AGO))
        proxyflow.gc(root.as_uri())
        assert sessions(root) == [neighbour.session]
        assert neighbour.get(key) == "text"
    assert not root.exists()


# -- what only looks like a session ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["benchmarks", "experiment", ".old-experiment", ".new-benchmarks"])
def test_a_directory_of_the_user_is_left_alone(root: Path, name: str) -> None:
    """Ten letters make the name of a session, but not a session."""
    mine = root / name
    mine.mkdir(parents=True)
    (mine / "results.csv").write_text("years of work")
    os.utime(mine, (LONG_AGO, LONG_AGO))
    with Store(root):
        assert proxyflow.gc(root.as_uri()) == []
    assert (mine / "results.csv").read_text() == "years of work"


@pytest.mark.parametrize("record", ["Alice", '{"name": "Alice"}', "[]"])
def test_a_record_of_something_else_is_none(root: Path, record: str) -> None:
    mine = root / "benchmarks"
    mine.mkdir(parents=True)
    (mine / ".owner").write_text(record)
    age(mine)
    assert proxyflow.gc(root.as_uri()) == []
    assert (mine / ".owner").read_text() == record


def test_files_and_links_are_no_sessions(root: Path, tmp_path: Path) -> None:
    elsewhere = dead_session(tmp_path / "elsewhere")
    root.mkdir()
    (root / "abcdefghij").write_text("a file")
    (root / elsewhere.name).symlink_to(elsewhere)
    assert proxyflow.gc(root.as_uri()) == []
    assert len(list(elsewhere.iterdir())) == 1 + 3


def test_what_links_in_a_session_point_to_stays(root: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    session = dead_session(root)
    (session / "link").symlink_to(precious)
    (session / "subdirectory").mkdir()
    (session / "subdirectory" / "link").symlink_to(precious / "file")
    assert proxyflow.gc(root.as_uri()) == [session.name]
    assert (precious / "file").read_text() == "precious"
    assert not root.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory away")
def test_the_session_of_another_user_is_left_alone(root: Path) -> None:
    session = dead_session(root)
    os.chown(session, 65534, 65534)
    assert proxyflow.gc(root.as_uri()) == []
    assert len(list(session.iterdir())) == 1 + 3


def _join_as_nobody(root: Path, session: str) -> None:
    if os.geteuid() == 0:
        os.setuid(65534)
    with pytest.raises(StoreUnreachableError, match="belongs to another user"):
        FileConnector(str(root), session=session)
    # At once: what runs at exit (measuring coverage) may not write as nobody.
    os._exit(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_session_of_another_user_is_not_joined(root: Path) -> None:
    """What is in it gets unpickled: it must not be one that somebody put in its place."""
    import tempfile

    # A place that another user can reach at all.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        with Store(Path(directory)) as store:
            os.chmod(os.path.join(directory, str(store.session)), 0o755)
            child = multiprocessing.get_context("fork").Process(
                target=_join_as_nobody, args=(Path(directory), store.session)
            )
            child.start()
            child.join()
        assert child.exitcode == 0


# -- several at once -------------------------------------------------------------------------------


def _sweep(root: Path) -> list[str]:
    return proxyflow.gc(root)


def test_sweepers_that_race_share_the_work(root: Path) -> None:
    """Each dead session is removed by exactly one of them; a live one by none."""
    template = dead_session(root)
    names = [template.name]
    for n in range(40):
        names.append("abcdefgh" + "abcdefgh"[n // 8] + "abcdefgh"[n % 8])
        shutil.copytree(template, root / names[-1])
    with Store(root.parent / "other"), Running.owner((root.parent / "live").as_uri()) as alive:
        # Moved in under its lock, so that no open of its own has swept first.
        (root.parent / "live" / alive.line).rename(root / alive.line)
        with ProcessPoolExecutor(4, multiprocessing.get_context("fork")) as pool:
            swept = [name for found in pool.map(_sweep, [root] * 8) for name in found]
        assert sorted(swept) == sorted(names)
        assert sessions(root) == [alive.line]
        assert len(list((root / alive.line).iterdir())) == 1 + 3


def test_one_that_cannot_be_removed_does_not_hold_up_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc() says which it was; a new run starts all the same."""
    stuck = dead_session(root)
    # Moved here, because a process that opens a store sweeps it.
    other = dead_session(root.parent / "other")
    other = other.rename(root / other.name)
    rmdir = os.rmdir

    def refuse(path: str, *args: object, **kwargs: object) -> None:
        if stuck.name in str(path):
            raise PermissionError(1, "Operation not permitted", path)
        rmdir(path)

    monkeypatch.setattr(os, "rmdir", refuse)
    with pytest.raises(StoreUnreachableError, match=f"remove session {stuck.name}"):
        proxyflow.gc(root)
    assert not other.exists()
    with Store(root) as store:
        assert store.get(store.put("text")) == "text"
    monkeypatch.undo()
    proxyflow.gc(root)
    assert not root.exists()


@pytest.mark.parametrize("folder", ["", "new"])
def test_what_nfs_holds_on_to_is_left_for_the_next_sweep(root: Path, folder: str) -> None:
    """A removed file that somebody has open stays there under a name of NFS's own."""
    session = dead_session(root)
    (session / folder).mkdir(exist_ok=True)
    remnant = Path(folder, ".nfs000000000000000100000001")
    (session / remnant).write_bytes(b"open elsewhere")
    for _ in range(2):
        assert proxyflow.gc(root) == [session.name]
        assert sessions(root) == [f".old-{session.name}"]
    left = [path for path in (root / f".old-{session.name}").rglob("*") if path.is_file()]
    assert sorted(path.name for path in left) == [remnant.name, ".owner"]
    (root / f".old-{session.name}" / remnant).unlink()
    assert proxyflow.gc(root) == [session.name]
    assert not root.exists()


def test_a_session_goes_with_the_directories_in_it_though_they_are_being_filled(
    root: Path,
) -> None:
    """A worker that has one open may put one more file there at any time."""
    store = Store(root)
    inner = root / str(store.session) / "queue" / "new"
    inner.mkdir(parents=True)
    (inner / "link").symlink_to(root.parent)
    directory = os.open(inner, os.O_RDONLY)
    done = threading.Event()

    def fill() -> None:
        with contextlib.suppress(FileNotFoundError):
            while not done.is_set():
                os.close(os.open(os.urandom(8).hex(), os.O_CREAT | os.O_WRONLY, dir_fd=directory))

    with ThreadPoolExecutor(1) as pool:
        filling = pool.submit(fill)
        try:
            store.close()
        finally:
            done.set()
        filling.result()
    os.close(directory)
    assert not root.exists()
    assert root.parent.exists()


# -- the root --------------------------------------------------------------------------------------


def test_the_root_goes_with_its_last_session_if_we_made_it(root: Path) -> None:
    first, second = Store(root), Store(root)
    first.close()
    assert sessions(root) == [second.session]
    third = Store(root)
    second.close()
    third.close()
    assert not root.exists()


def test_a_root_of_the_user_stays(root: Path) -> None:
    root.mkdir()
    Store(root).close()
    dead_session(root)
    proxyflow.gc(root)
    assert sessions(root) == []


def test_a_root_with_something_else_in_it_stays(root: Path) -> None:
    with Store(root):
        (root / "notes.txt").touch()
    assert sessions(root) == ["notes.txt"]


def test_a_root_that_vanishes_is_reported_where_it_matters(root: Path) -> None:
    with Store(root) as store:
        key = store.put("text")
        shutil.rmtree(root)
        assert store.get(key) is None
        assert not store.exists(key)
        store.evict(key)
        with pytest.raises(StoreClosedError, match="its directory is gone"):
            store.put("text")
        assert list(store.scan()) == []
        assert store.sweep() == []
    assert not root.exists()


def test_opening_and_closing_do_not_trip_each_other(root: Path) -> None:
    """The root vanishes and comes back all the time."""
    with ProcessPoolExecutor(4, multiprocessing.get_context("fork")) as pool:
        list(pool.map(_open_and_close, [root] * 4))
    assert not root.exists()


def _open_and_close(root: Path) -> None:
    for n in range(50):
        with Store(root) as store:
            assert store.get(store.put(n)) == n
