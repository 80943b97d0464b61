"""Every group gets each message of a topic, one consumer of it at a time, whoever is killed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from proxyflow.storage.fileio import Descriptor
from proxyflow.storage.maildir import (
    ClaimLostError,
    Delivery,
    Group,
    InvalidNameError,
    StoreFullError,
    StoreIOError,
    Topic,
    TopicEndedError,
)
from tests.killing import killed_at_each_step

FORK = multiprocessing.get_context("fork")
LONG = 60.0


class Forgotten(list[str]):
    """What a topic has asked to be forgotten."""


@pytest.fixture
def forgotten() -> Forgotten:
    return Forgotten()


@pytest.fixture
def topic(tmp_path: Path, forgotten: Forgotten) -> Iterator[Topic]:
    topic = Topic(tmp_path / "topic", forgotten.append)
    yield topic
    topic.close()


def claim(group: Group) -> Delivery:
    delivery = group.claim()
    assert delivery is not None
    return delivery


def drain(group: Group) -> list[bytes]:
    """Claim and acknowledge all that is waiting."""
    data = []
    while (delivery := group.claim()) is not None:
        data.append(delivery.data)
        delivery.ack()
    return data


def left(topic: Topic) -> list[str]:
    """Return what messages have left in the topic's directory."""
    return [path.name for path in Path(topic.path).rglob("*") if path.is_file()]


# -- groups ----------------------------------------------------------------------------------------


def test_every_group_gets_every_message_in_order(topic: Topic, forgotten: Forgotten) -> None:
    groups = [topic.subscribe(name) for name in ("a", "b", "c")]
    names = [topic.append(b"%d" % number) for number in range(5)]
    for group in groups:
        assert forgotten == []
        assert list(topic) == names
        assert drain(group) == [b"0", b"1", b"2", b"3", b"4"]
    assert forgotten == names
    assert (len(topic), left(topic)) == (0, [])


def test_a_group_gets_what_is_appended_after_it_was_made(topic: Topic) -> None:
    """What was appended before there was any group waits for the first."""
    topic.append(b"before")
    first = topic.subscribe("first")
    topic.append(b"between")
    late = topic.subscribe("late")
    topic.append(b"after")
    assert topic.groups() == ["first", "late"]
    assert drain(late) == [b"after"]
    assert drain(topic.subscribe("first")) == [b"before", b"between", b"after"]
    assert first.counts() == (0, 0)


def test_a_message_is_stored_once(topic: Topic) -> None:
    for name in ("a", "b", "c"):
        topic.subscribe(name)
    topic.append(b"x")
    files = [path for path in Path(topic.path).rglob("*") if path.is_file()]
    assert len(files) == 4
    assert len({path.stat().st_ino for path in files}) == 1


def test_consumers_of_a_group_share_its_messages(topic: Topic) -> None:
    mine, yours = topic.subscribe("a"), topic.subscribe("a")
    names = [topic.append(b"") for _ in range(2)]
    first, second = claim(mine), claim(yours)
    assert [first.name, second.name] == names
    assert mine.claim() is None
    assert yours.counts() == (0, 2)
    first.release()
    assert claim(yours).name == names[0]


def test_a_claim_that_is_over_cannot_be_settled(topic: Topic) -> None:
    group = topic.subscribe("a")
    topic.append(b"x")
    delivery = claim(group)
    delivery.ack()
    for settle in (delivery.ack, delivery.release):
        with pytest.raises(ClaimLostError):
            settle()
    topic.append(b"y")
    delivery = claim(group)
    time.sleep(0.01)
    assert group.recover(lease=0.005) == 1
    with pytest.raises(ClaimLostError):
        delivery.ack()
    assert drain(group) == [b"y"]


def test_groups_that_are_made_meanwhile_miss_nothing(topic: Topic, tmp_path: Path) -> None:
    """The first of them gets all, whatever was on its way when it was made."""
    total = 4 * 200

    def produce(number: int) -> None:
        mine = Topic(topic.path)
        for count in range(200):
            mine.append(b"%d.%d" % (number, count))
        mine.close()

    with ThreadPoolExecutor(4) as pool:
        producing = [pool.submit(produce, number) for number in range(4)]
        while len(topic) < 10:
            time.sleep(0)
        first = topic.subscribe("first")
        second = topic.subscribe("second")
        marker = topic.append(b"marker")
        for each in producing:
            each.result()
    everything = Counter(drain(first))
    assert len(everything) == total + 1
    assert set(everything.values()) == {1}
    late = Counter(drain(second))
    assert late[b"marker"] == 1
    assert set(late.values()) == {1}
    assert marker not in list(topic)
    assert left(topic) == []


def test_many_make_one_group_and_one_topic(tmp_path: Path) -> None:
    """Nothing is lost between them, and no unfinished directory is left."""
    start = threading.Barrier(8)

    def open_and_append(number: int) -> None:
        start.wait(LONG)
        topic = Topic(tmp_path / "topic")
        topic.append(b"%d" % number)
        topic.subscribe("a")
        topic.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_and_append, range(8)))
    topic = Topic(tmp_path / "topic")
    assert sorted(drain(topic.subscribe("a"))) == [b"%d" % number for number in range(8)]
    assert os.listdir(tmp_path) == ["topic"]
    assert os.listdir(tmp_path / "topic" / "groups") == ["a"]


@pytest.mark.parametrize("name", ["", ".", "..", ".first", ".x", "a/b", "../a", "a\0b", 7])
def test_no_name_leads_elsewhere(topic: Topic, name: Any) -> None:
    with pytest.raises(InvalidNameError):
        topic.subscribe(name)


def test_nobody_else_may_look(topic: Topic) -> None:
    topic.append(b"private")
    topic.finish()
    for path in [Path(topic.path), *Path(topic.path).rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_topic_without_messages_is_a_topic(topic: Topic) -> None:
    assert topic
    assert list(topic) == []
    group = topic.subscribe("a")
    assert group.claim() is None
    assert not group.wait(0)
    assert "'a'" in repr(group)


# -- failures --------------------------------------------------------------------------------------


def test_what_fails_within_the_block_is_not_appended(topic: Topic, forgotten: Forgotten) -> None:
    group = topic.subscribe("a")
    with pytest.raises(RuntimeError), topic.appending(b"x") as name:
        raise RuntimeError
    assert forgotten == [name]
    assert (group.claim(), left(topic)) == (None, [])


@pytest.mark.parametrize("reached", [0, 1, 2])
def test_a_message_reaches_all_groups_or_none(
    topic: Topic, forgotten: Forgotten, monkeypatch: pytest.MonkeyPatch, reached: int
) -> None:
    """There may be room in one directory and not in the next."""
    groups = [topic.subscribe(name) for name in ("a", "b", "c")]
    link, calls = os.link, []

    def full(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if len(calls) > reached:
            raise OSError(errno.ENOSPC, "No space left on device")
        link(*arguments, **options)

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StoreFullError):
        topic.append(b"x")
    assert [group.claim() for group in groups] == [None] * 3
    assert len(forgotten) == 1
    assert left(topic) == []


def test_what_was_delivered_before_the_failure_stays_until_it_is_done(
    topic: Topic, forgotten: Forgotten, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer may be faster than the news that there is no room for the next group."""
    a, b = topic.subscribe("a"), topic.subscribe("b")
    link, taken = os.link, []

    def full(*arguments: Any, **options: Any) -> None:
        if taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        link(*arguments, **options)
        taken.append(claim(a))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StoreFullError):
        topic.append(b"x")
    assert (b.claim(), forgotten, len(topic)) == (None, [], 1)
    taken[0].ack()
    assert (len(forgotten), left(topic)) == (1, [])


def test_a_failed_write_leaves_nothing(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(StoreFullError, match="append"):
        topic.append(b"x")
    assert left(topic) == []


def test_no_room_for_a_topic_or_a_group_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def full(path: str, *arguments: Any, **options: Any) -> None:
        if path.endswith("cur"):
            raise OSError(errno.ENOSPC, "No space left on device")
        mkdir(path, *arguments, **options)

    topic = Topic(tmp_path / "first")
    topic.subscribe("a")
    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(StoreFullError):
        Topic(tmp_path / "second")
    with pytest.raises(StoreFullError):
        topic.subscribe("b")
    assert os.listdir(tmp_path) == ["first"]
    assert os.listdir(tmp_path / "first" / "groups") == ["a"]


def test_a_topic_that_is_gone_says_so(topic: Topic) -> None:
    group = topic.subscribe("a")
    topic.append(b"x")
    delivery = claim(group)
    shutil.rmtree(topic.path)
    with pytest.raises(StoreIOError):
        topic.append(b"x")
    with pytest.raises(StoreIOError):
        topic.subscribe("b")
    with pytest.raises(StoreIOError):
        group.wait(LONG)
    with pytest.raises(ClaimLostError):
        delivery.ack()


def test_a_file_in_place_of_a_topic_is_named(tmp_path: Path) -> None:
    (tmp_path / "topic").write_bytes(b"")
    with pytest.raises(StoreIOError, match="topic"):
        Topic(tmp_path / "topic")


def test_a_link_in_place_of_a_group_is_not_followed(topic: Topic, tmp_path: Path) -> None:
    for name in ("tmp", "new", "cur"):
        (tmp_path / "elsewhere" / name).mkdir(parents=True)
    topic.subscribe("a")
    Path(topic.path, "groups", "b").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreIOError):
        topic.subscribe("b")
    with pytest.raises(StoreIOError):
        topic.append(b"x")
    assert os.listdir(tmp_path / "elsewhere" / "new") == []


def test_a_topic_stays_where_its_descriptor_says(tmp_path: Path) -> None:
    """Somebody who may rename things could put another directory under the path."""
    real, fake = tmp_path / "real", tmp_path / "fake"
    for path in (real, fake):
        path.mkdir()
    parent = Descriptor(os.open(real, os.O_RDONLY | os.O_DIRECTORY))
    topic = Topic(real / "topic", parent=parent)
    real.rename(tmp_path / "moved")
    fake.rename(real)
    group = topic.subscribe("a")
    topic.append(b"x")
    assert os.listdir(real) == []
    assert drain(group) == [b"x"]


def test_durable_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = Topic(tmp_path / "topic", durable=True)
    topic.subscribe("a")
    synced: set[int] = set()
    fsync = os.fsync

    def spy(fd: int) -> None:
        synced.add(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", spy)
    name = topic.append(b"x")
    root = Path(topic.path)
    needed = [root / "log", root / "log" / name, root / "groups" / "a" / "new"]
    assert {path.stat().st_ino for path in needed} <= synced
    topic.finish()
    assert root.stat().st_ino in synced
    topic.subscribe("b")
    assert (root / "groups").stat().st_ino in synced


# -- the end ---------------------------------------------------------------------------------------


def test_nothing_is_appended_after_the_end(topic: Topic, forgotten: Forgotten) -> None:
    group = topic.subscribe("a")
    topic.append(b"x")
    topic.finish()
    topic.finish()
    with pytest.raises(TopicEndedError):
        topic.append(b"y")
    assert not group.is_finished()
    assert drain(group) == [b"x"]
    assert group.is_finished()
    assert (len(forgotten), left(topic)) == (2, ["end"])


def test_the_end_comes_where_there_is_no_room_to_wake_anybody(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = topic.subscribe("a")
    topic.append(b"x")

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "mkdir", full)
    topic.finish()
    claim(group).ack()
    assert group.wait(LONG)
    assert group.is_finished()


@pytest.mark.parametrize("group", [None, "a"])
def test_the_end_wakes_who_waits(topic: Topic, group: str | None) -> None:
    if group:
        topic.subscribe(group)
    other = Topic(topic.path)
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(topic.subscribe("a").wait, LONG)]
        waits.append(pool.submit(topic.wait_for_room, 0, LONG))
        other.finish()
        assert [waiting.result() for waiting in waits] == [True, True]


def test_a_consumer_waits_for_what_others_are_at_work_on(topic: Topic) -> None:
    """Should one of them die, somebody has to be there to do its work."""
    topic.append(b"x")
    topic.finish()
    group = topic.subscribe("a")
    ours, theirs = FORK.Pipe()

    def consume() -> None:
        delivery = claim(topic.subscribe("a"))
        theirs.send("claimed")
        theirs.recv()
        delivery.ack()
        os._exit(0)

    process = FORK.Process(target=consume)
    process.start()
    assert ours.recv() == "claimed"
    assert not group.is_finished()
    assert not group.wait(0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(group.wait, LONG)
        ours.send("go on")
        assert waiting.result()
    process.join(LONG)
    assert process.exitcode == 0
    assert group.is_finished()


def test_who_is_at_work_itself_waits_for_nobody(topic: Topic) -> None:
    """Two that acknowledge all at the end would otherwise wait for each other."""
    for _ in range(2):
        topic.append(b"x")
    topic.finish()
    group = topic.subscribe("a")
    ours, theirs = FORK.Pipe()

    def consume() -> None:
        group = topic.subscribe("a")
        delivery = claim(group)
        theirs.send("claimed")
        theirs.recv()
        assert group.is_finished()
        delivery.ack()
        os._exit(0)

    process = FORK.Process(target=consume)
    process.start()
    assert ours.recv() == "claimed"
    mine = claim(group)
    assert group.is_finished()
    ours.send("go on")
    process.join(LONG)
    assert process.exitcode == 0
    mine.ack()
    assert group.is_finished()


def test_a_consumer_waits_for_what_is_on_its_way(topic: Topic) -> None:
    """A producer that came before the end may be slow to reach the groups."""
    group = topic.subscribe("a")
    with topic.appending(b"x"):
        Topic(topic.path).finish()
        assert topic.is_on_its_way()
        assert not group.is_finished()
    assert not topic.is_on_its_way()
    assert drain(group) == [b"x"]
    assert group.is_finished()


def test_there_is_room_when_something_is_done(topic: Topic) -> None:
    group = topic.subscribe("a")
    topic.append(b"x")
    assert topic.wait_for_room(2, 0)
    assert not topic.wait_for_room(1, 0)
    assert not topic.wait_for_room(1, 0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(topic.wait_for_room, 1, LONG)
        drain(group)
        assert waiting.result()


# -- the dead --------------------------------------------------------------------------------------


def test_a_producer_may_be_killed_at_any_step(tmp_path: Path) -> None:
    """Nothing is left of what it appended, or those groups have it that it has reached."""
    directories = iter(range(1000))
    topic = Topic(tmp_path / "unused")
    groups: list[Group] = []
    forgotten: list[str] = []

    def prepare() -> Any:
        nonlocal topic, groups
        forgotten.clear()
        topic = Topic(tmp_path / str(next(directories)), forgotten.append)
        groups = [topic.subscribe(name) for name in ("a", "b")]
        return lambda: topic.append(b"x")

    outcomes = Counter[int]()
    for _ in killed_at_each_step(prepare):
        topic.recover()
        assert not topic.is_on_its_way()
        received = [drain(group) for group in groups]
        outcomes[sum(map(len, received))] += 1
        assert all(data in ([], [b"x"]) for data in received)
        assert left(topic) == []
        # Not once for what had not even begun.
        assert len(forgotten) <= 1
        assert forgotten or not any(received)
    assert set(outcomes) == {0, 1, 2}


def test_a_consumer_may_be_killed_at_any_step(tmp_path: Path) -> None:
    """Each group gets the message until it has acknowledged it, and nothing is left then."""
    directories = iter(range(1000))
    topic = Topic(tmp_path / "unused")
    groups: list[Group] = []
    forgotten = tmp_path / "forgotten"

    def forget(name: str) -> None:
        # As an eviction: a change like any other, that may be tried again.
        os.close(os.open(forgotten / name, os.O_CREAT | os.O_WRONLY))

    def prepare() -> Any:
        nonlocal topic, groups
        shutil.rmtree(forgotten, ignore_errors=True)
        forgotten.mkdir()
        topic = Topic(tmp_path / str(next(directories)), forget)
        groups = [topic.subscribe(name) for name in ("a", "b")]
        topic.append(b"x")
        claim(groups[0]).ack()
        return lambda: drain(groups[1])

    outcomes = Counter[int]()
    for _ in killed_at_each_step(prepare):
        topic.recover()
        groups[1].recover()
        again = drain(groups[1])
        outcomes[len(again)] += 1
        assert groups[0].claim() is None
        assert len(os.listdir(forgotten)) == 1
        assert left(topic) == []
    assert set(outcomes) == {0, 1}


def test_who_makes_a_topic_a_group_or_the_end_may_be_killed_at_any_step(tmp_path: Path) -> None:
    directories = iter(range(1000))
    path = tmp_path

    def prepare() -> Any:
        nonlocal path
        path = tmp_path / str(next(directories)) / "topic"

        def work() -> None:
            topic = Topic(path)
            topic.subscribe("a")
            topic.subscribe("b")
            topic.finish()

        return work

    for _ in killed_at_each_step(prepare):
        topic = Topic(path)
        ended = topic.ended
        if not ended:
            topic.append(b"x")
        assert drain(topic.subscribe("a")) == ([] if ended else [b"x"])
        drain(topic.subscribe("b"))
        topic.finish()
        assert topic.subscribe("b").is_finished()
        assert left(topic) == ["end"]


def test_what_the_living_are_appending_is_left_alone(topic: Topic, forgotten: Forgotten) -> None:
    group = topic.subscribe("a")
    with topic.appending(b"x"):
        Topic(topic.path, forgotten.append).recover()
    assert forgotten == []
    assert drain(group) == [b"x"]


def test_a_lease_ends_what_is_on_its_way(topic: Topic, forgotten: Forgotten) -> None:
    """Of a producer on another host nobody here can know whether it is alive."""
    group = topic.subscribe("a")

    def append_slowly() -> None:
        with topic.appending(b"x"):
            topic.recover(lease=3600)
            assert topic.is_on_its_way()
            topic.recover(lease=0)
            assert not topic.is_on_its_way()

    with pytest.raises(StoreIOError):
        append_slowly()
    assert (group.claim(), left(topic), len(set(forgotten))) == (None, [], 1)


def test_what_comes_after_the_lease_is_forgotten_as_well(tmp_path: Path) -> None:
    """A producer that was stopped while it stored what the message stands for leaves nothing."""
    objects = {}
    topic = Topic(tmp_path / "topic", lambda name: objects.pop(name, None))

    def append_slowly() -> None:
        with topic.appending(b"x") as name:
            topic.recover(lease=0)
            objects[name] = "an object"

    with pytest.raises(StoreIOError):
        append_slowly()
    assert objects == {}
    topic.close()


def test_a_killed_consumers_messages_come_back(topic: Topic) -> None:
    names = [topic.append(b"") for _ in range(3)]
    group = topic.subscribe("a")

    def die() -> None:
        claim(group)
        claim(group)
        os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=die)
    process.start()
    process.join(LONG)
    assert group.counts() == (1, 2)
    assert group.recover() == 2
    assert [claim(group).name for _ in names] == names
