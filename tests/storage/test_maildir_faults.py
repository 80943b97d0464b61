"""What the dead leave behind comes back, once; what the living hold is left alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proxyflow.storage.maildir import FileStore, Message

FORK = multiprocessing.get_context("fork")

# Fields of a claim's file name after `name~`; see proxyflow/storage/maildir/stamp.py.
TIME, HOST, MACHINE, BOOT, NAMESPACE, PID, START = range(7)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    store = FileStore(tmp_path / "store")
    store.prepare()
    return store


def claim(store: FileStore) -> Message:
    message = store.claim()
    assert message is not None
    return message


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(work: Callable[[], object]) -> None:
    """Do the work in a child, and kill it after."""

    def child() -> None:
        work()
        die()

    process = FORK.Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def disguise(store: FileStore, **fields: str) -> None:
    """Let the one claimed file be another process's claim."""
    (path,) = store.list("cur")
    name, _, stamp = os.path.basename(path).rpartition("~")
    values = stamp.split(",")
    for field, value in fields.items():
        values[globals()[field]] = value
    os.rename(path, os.path.join(os.path.dirname(path), f"{name}~{','.join(values)}"))


# -- claims ----------------------------------------------------------------------------------------


def test_messages_of_a_killed_consumer_come_back_to_their_places(store: FileStore) -> None:
    names = [store.put(b"") for _ in range(5)]
    killed(lambda: [claim(store) for _ in range(3)])
    mine = claim(store)
    assert store.recover() == 3
    assert store.recover() == 0
    assert list(store) == names[:3] + names[4:]
    mine.ack()


def test_a_killed_consumer_is_dead_before_its_parent_asks(store: FileStore) -> None:
    """A zombie is still in the table of processes."""
    store.put(b"")
    process = FORK.Process(target=lambda: (claim(store), die()))
    process.start()
    os.waitid(os.P_PID, process.pid or 0, os.WEXITED | os.WNOWAIT)
    assert store.recover() == 1
    process.join(60)


def test_a_living_consumer_keeps_its_messages(store: FileStore) -> None:
    store.put(b"")
    claimed, done = FORK.Event(), FORK.Event()

    def consumer() -> None:
        message = claim(store)
        claimed.set()
        done.wait(60)
        message.ack()

    process = FORK.Process(target=consumer)
    process.start()
    assert claimed.wait(60)
    assert store.recover() == 0
    assert store.recover(lease=3600) == 0
    done.set()
    process.join(60)
    assert process.exitcode == 0
    assert store.counts() == {"tmp": 0, "new": 0, "cur": 0}


def test_a_lease_ends_the_claims_of_the_living(store: FileStore) -> None:
    name = store.put(b"")
    message = claim(store)
    time.sleep(0.01)
    assert store.recover(lease=0.005) == 1
    with pytest.raises(LookupError):
        message.ack()
    assert list(store) == [name]


@pytest.mark.parametrize(
    ("fields", "dead"),
    [
        ({}, False),
        # The number was given to another process since.
        ({"START": "1"}, True),
        # No process has this number (it is above PID_MAX_LIMIT).
        ({"PID": "fffffff"}, True),
        # This host, before it was started anew.
        ({"BOOT": "0123456789ab"}, True),
        # Another host: nothing is known about its processes, though the numbers may look dead.
        ({"BOOT": "0123456789ab", "MACHINE": "01234567", "PID": "fffffff"}, False),
        # A container on this kernel that counts its processes for itself.
        ({"NAMESPACE": "1", "PID": "fffffff"}, False),
        # A claimer without /proc could not say who it was.
        ({"BOOT": "", "NAMESPACE": "", "START": "0"}, False),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_only_who_is_known_to_be_dead_is(
    store: FileStore, fields: dict[str, str], dead: bool
) -> None:
    store.put(b"")
    message = claim(store)
    disguise(store, **fields)
    assert store.recover() == dead
    assert store.recover(lease=3600) == 0
    assert store.recover(lease=0) == (not dead)
    assert list(store) == [message.name]


def test_nobody_is_declared_dead_where_processes_cannot_be_seen(
    store: FileStore, tmp_path: Path
) -> None:
    """With another /proc hidden over ours, if mounts are permitted; with ours, if not."""
    store.put(b"")
    claim(store)
    program = f"""
import subprocess
from proxyflow.storage.maildir import FileStore

store = FileStore({store.path!r})
assert store.recover() == 0
hidden = subprocess.run(["mount", "-t", "tmpfs", "none", "/proc"]).returncode == 0
assert store.recover() == 0, "it is there, though /proc does not show it"
store.put(b"")
store.claim().ack()
"""
    command = [sys.executable, "-c", program]
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode == 0:
        command = ["unshare", "-rm", *command]
    subprocess.run(command, check=True, timeout=60)


def test_hosts_of_one_name_are_not_taken_for_one_another(store: FileStore, tmp_path: Path) -> None:
    """As containers of one image, which has no machine-id, that run on two hosts."""
    another = tmp_path / "boot_id"
    another.write_text("01234567-89ab-cdef-0123-456789abcdef\n")

    def on(boot: str, *command: str) -> subprocess.CompletedProcess[bytes]:
        mounts = (
            "mount --bind /dev/null /etc/machine-id"
            f" && mount --bind {boot} /proc/sys/kernel/random/boot_id"
        )
        call = ["unshare", "-rm", "sh", "-c", f'{mounts} && exec "$@"', "sh", *command]
        return subprocess.run(call, check=False, timeout=60)

    def run(boot: str, what: str) -> None:
        opened = f"from proxyflow.storage.maildir import FileStore; s = FileStore({store.path!r})"
        assert on(boot, sys.executable, "-c", f"{opened}; {what}").returncode == 0

    ours = "/proc/sys/kernel/random/boot_id"
    if on(ours, "true").returncode != 0:
        pytest.skip("mounts are not permitted")
    store.put(b"")
    run(str(another), "s.claim()")
    run(ours, "assert s.recover() == 0")
    run(ours, "assert s.recover(lease=0) == 1")


def test_files_that_nobody_claimed_are_left_alone(store: FileStore) -> None:
    for name in ("a-file", "a~b", "a~0,1,2"):
        with store.create(name):
            pass
        store.move(name, "tmp", "cur")
    assert store.recover(lease=0) == 0
    assert store.counts() == {"tmp": 0, "new": 0, "cur": 3}


def test_a_name_that_looks_like_a_claim_is_a_name(store: FileStore) -> None:
    """Claims are recognised by the last stamp of a name, the claimer's own."""
    store.put(b"x")
    name = os.path.basename(claim(store).path)
    store.move(name, "cur", "new")
    assert claim(store).name == name
    assert store.recover(lease=0) == 1
    assert list(store) == [name]


def test_each_message_is_returned_by_one_of_many_recoverers(store: FileStore) -> None:
    for _ in range(500):
        store.put(b"")
    killed(lambda: [claim(store) for _ in range(500)])
    start = FORK.Barrier(4)
    counts = FORK.Queue()

    def recoverer() -> None:
        mine = FileStore(store.path)
        start.wait(60)
        counts.put(mine.recover())

    processes = [FORK.Process(target=recoverer) for _ in range(4)]
    for process in processes:
        process.start()
    assert sum(counts.get(timeout=60) for _ in processes) == 500
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert store.counts() == {"tmp": 0, "new": 500, "cur": 0}


# -- partial files ---------------------------------------------------------------------------------


def test_a_message_whose_producer_died_before_the_rename_never_was(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed with the file complete in tmp: `put` had not returned, so nobody was promised it."""

    def produce() -> None:
        monkeypatch.setattr(os, "rename", lambda *args, **options: die())
        store.put(b"x")

    killed(produce)
    assert store.counts() == {"tmp": 1, "new": 0, "cur": 0}
    assert store.claim() is None
    assert store.recover() == 0
    assert store.counts() == {"tmp": 0, "new": 0, "cur": 0}


def test_a_message_whose_producer_died_after_the_rename_is_there(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def last_rename(*args: object, **options: int) -> None:
        rename(*args, **options)
        die()

    def produce() -> None:
        monkeypatch.setattr(os, "rename", last_rename)
        store.put(b"x")

    killed(produce)
    assert store.recover() == 0
    assert claim(store).read() == b"x"


def test_partial_files_of_the_living_are_left_alone(store: FileStore) -> None:
    """A slow producer must not lose its file to somebody who tidies up, nor `create` its own."""
    going_on = FORK.Event()

    def frames() -> list[bytes]:
        return [b"x"]

    with store.create("a-file"):
        pass

    def produce() -> None:
        write = os.pwritev

        def slow_write(fd: int, buffers: list[bytes], offset: int) -> int:
            going_on.set()
            assert finish.wait(60)
            return write(fd, buffers, offset)

        os.pwritev = slow_write
        store.put(frames())

    finish = FORK.Event()
    process = FORK.Process(target=produce)
    process.start()
    assert going_on.wait(60)
    store.recover(lease=0)
    assert store.counts() == {"tmp": 2, "new": 0, "cur": 0}
    finish.set()
    process.join(60)
    assert process.exitcode == 0
    assert claim(store).read() == b"x"


def test_a_put_that_is_interrupted_leaves_nothing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "pwritev", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.put(b"x")
    assert store.counts() == {"tmp": 0, "new": 0, "cur": 0}
