"""Files left for others to fill, where two come at the same moment."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyflow.storage.handover import Handover

MIB = 1 << 20


@pytest.fixture
def handover(tmp_path: Path) -> Iterator[Handover]:
    directory = os.open(tmp_path, os.O_RDONLY)
    yield Handover(directory, 16 * MIB)
    os.close(directory)


def make(path: Path) -> int:
    path.write_bytes(bytes(MIB))
    return path.stat().st_ino


def first_do(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], act: Callable[[], object]
) -> None:
    """Have something else happen right before a system call, once."""
    acts = [act]

    def replacement(*args: Any, **kwargs: Any) -> Any:
        if acts:
            acts.pop()()
        return function(*args, **kwargs)

    module = fcntl if function is fcntl.flock else os
    monkeypatch.setattr(module, function.__name__, replacement)


def test_two_leave_something_in_the_same_place(
    handover: Handover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there is not replaced, as somebody may be about to claim it."""
    make(tmp_path / "one")
    other = make(tmp_path / "other")
    first_do(monkeypatch, os.link, lambda: handover.leave("other", through="second"))
    assert handover.leave("one", through="first")
    assert os.listdir(tmp_path) == [".left-0"]
    assert (tmp_path / ".left-0").stat().st_ino == other


def test_another_file_gets_the_place_before_it_is_claimed(
    handover: Handover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who locked one file and named another fills neither."""
    make(tmp_path / "one")
    make(tmp_path / "other")
    assert handover.leave("one", through="first")

    def replace() -> None:
        (tmp_path / ".left-0").unlink()
        assert handover.leave("other", through="second")

    first_do(monkeypatch, fcntl.flock, replace)
    assert handover.claim(MIB, MIB, as_name="mine") is None
    assert os.listdir(tmp_path) == []


def test_somebody_removes_the_file_before_it_is_claimed(
    handover: Handover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "one")
    assert handover.leave("one", through="first")
    first_do(monkeypatch, fcntl.flock, handover.clear)
    assert handover.claim(MIB, MIB, as_name="mine") is None


def test_somebody_removes_the_file_before_it_has_a_place(
    handover: Handover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who needed the room took it for what a dead process left."""
    make(tmp_path / "one")
    first_do(monkeypatch, os.link, (tmp_path / "first").unlink)
    assert handover.leave("one", through="first")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no inode"), KeyboardInterrupt()])
def test_a_file_that_cannot_be_given_a_place(
    handover: Handover,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    """It is removed: where a file system is full of files, a link finds no room either."""

    def fail() -> None:
        raise error

    make(tmp_path / "one")
    first_do(monkeypatch, os.link, fail)
    if isinstance(error, OSError):
        assert handover.leave("one", through="first")
    else:
        with pytest.raises(KeyboardInterrupt):
            handover.leave("one", through="first")
    assert os.listdir(tmp_path) == []


def test_somebody_removes_the_file_once_it_has_been_named(
    handover: Handover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who claims it finds none, and keeps no descriptor of it."""
    make(tmp_path / "one")
    assert handover.leave("one", through="first")
    before = os.listdir("/proc/self/fd")
    first_do(monkeypatch, os.stat, lambda: (tmp_path / "mine").unlink())
    assert handover.claim(MIB, MIB, as_name="mine") is None
    assert os.listdir("/proc/self/fd") == before


def test_a_missing_object_is_none(handover: Handover) -> None:
    with pytest.raises(FileNotFoundError):
        handover.leave("missing", through="first")
    assert handover.claim(MIB, MIB, as_name="mine") is None
