"""A wait ends when the directory changed, however the system tells, and only then or when due."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxyflow.storage.watch import DirectoryWatch

FORK = multiprocessing.get_context("fork")


def open_descriptors() -> int:
    gc.collect()  # what other tests left must not be closed while we count
    targets = []
    for fd in os.listdir("/proc/self/fd"):
        # Threads of other fixtures open and close files of their own.
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum("inotify" in target for target in targets)


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Inside, the process may open nothing more, inotify included: EMFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.dup(0)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def settle(watch: DirectoryWatch) -> None:
    """Wait until the time stamp of the last change is one that polling relies on."""
    time.sleep(0.03)
    watch.wait(0)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "watched"
    directory.mkdir()
    return directory


@pytest.fixture(params=["events", "polling"])
def watch(request: pytest.FixtureRequest, directory: Path) -> Iterator[DirectoryWatch]:
    """Watch in either way: polling is what is left where no descriptor is."""
    limits = no_descriptor_left() if request.param == "polling" else contextlib.nullcontext()
    with limits:
        watch = DirectoryWatch(directory)
        settle(watch)
        yield watch
        watch.close()


def changes(directory: Path) -> dict[str, Callable[[], object]]:
    return {
        "mkdir": lambda: os.mkdir(directory / "a"),
        "symlink": lambda: os.symlink("nowhere", directory / "b"),
        "rename": lambda: os.rename(directory / "a", directory / "c"),
        "link": lambda: os.link(directory / "b", directory / "d", follow_symlinks=False),
        "remove": lambda: os.unlink(directory / "d"),
        "move away": lambda: os.rename(directory / "b", directory / "c" / "b"),
    }


def test_every_kind_of_change_of_names_ends_the_wait(
    watch: DirectoryWatch, directory: Path
) -> None:
    for name, change in changes(directory).items():
        change()
        assert watch.wait(0), name


def test_a_directory_at_rest_makes_the_wait_time_out(watch: DirectoryWatch) -> None:
    began = time.monotonic()
    assert watch.wait(0.05) is False
    assert time.monotonic() - began >= 0.05
    assert watch.wait(0) is False


def test_a_change_during_the_wait_ends_it(watch: DirectoryWatch, directory: Path) -> None:
    timer = threading.Timer(0.05, os.mkdir, [directory / "late"])
    timer.start()
    deadline = time.monotonic() + 30
    while not (directory / "late").exists():
        assert watch.wait(deadline - time.monotonic())
    timer.join()


@pytest.mark.parametrize("way", ["events", "polling"])
def test_a_change_in_any_of_several_directories_ends_the_wait(
    directory: Path, tmp_path: Path, way: str
) -> None:
    """And each of them may be replaced, as one alone may."""
    other = tmp_path / "other"
    other.mkdir()
    with (
        no_descriptor_left() if way == "polling" else contextlib.nullcontext(),
        DirectoryWatch(directory, other) as watch,
    ):
        settle(watch)
        assert watch.wait(0) is False
        for each in (directory, other, directory):
            os.mkdir(each / str(time.monotonic_ns()))
            assert watch.wait(0), each
            settle(watch)
        os.rename(other, tmp_path / "gone")
        other.mkdir()
        assert watch.wait(0)
        settle(watch)
        assert watch.wait(0) is False
        os.mkdir(other / "new")
        assert watch.wait(0), "the new directory is watched"


def test_a_passed_deadline_ends_a_loop_though_the_directory_never_rests(
    watch: DirectoryWatch, directory: Path
) -> None:
    os.mkdir(directory / "restless")
    assert watch.wait(-1e-9) is False
    assert watch.wait(0)


def test_changes_that_raise_no_event_are_looked_for_within_a_second(watch: DirectoryWatch) -> None:
    """Another host's change on a network file system is one; an unlimited wait returns for it."""
    assert watch.wait()
    assert watch.wait(60)


def test_a_file_written_in_place_ends_the_wait(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with DirectoryWatch(tmp_path) as watch:
        path.write_bytes(b"x")
        assert watch.wait(0)
        assert not watch.wait(0)


def test_changes_faster_than_the_time_stamps_are_not_missed_by_polling(directory: Path) -> None:
    """Two changes within one tick of the kernel leave the directory one and the same mtime."""
    with no_descriptor_left(), DirectoryWatch(directory) as watch:
        settle(watch)
        for number in range(50):
            os.symlink("nowhere", directory / f"{number}a")
            assert watch.wait(60)
            os.symlink("nowhere", directory / f"{number}b")
            assert watch.wait(0.9), "within the wait, not by the look of each second"


def test_a_burst_is_no_backlog(tmp_path: Path) -> None:
    """Events that are old news do not make later waits return again and again."""
    with DirectoryWatch(tmp_path) as watch:
        for number in range(1000):
            os.mkdir(tmp_path / str(number))
        assert watch.wait(0)
        assert not watch.wait(0)


def test_a_missing_directory_ends_every_wait_until_it_is_there(
    watch: DirectoryWatch, directory: Path
) -> None:
    os.rmdir(directory)
    for _ in range(3):
        assert watch.wait(60)
    assert watch.wait(0) is False, "no news, and no time"
    directory.mkdir()
    assert watch.wait(60)
    settle(watch)
    assert watch.wait(0) is False
    os.mkdir(directory / "new")
    assert watch.wait(0), "the new directory is watched"


def test_a_watch_may_be_made_before_its_directory(tmp_path: Path) -> None:
    with DirectoryWatch(tmp_path / "later") as watch:
        assert watch.wait(60)
        (tmp_path / "later").mkdir()
        assert watch.wait(60)
        os.mkdir(tmp_path / "later" / "entry")
        assert watch.wait(60)


def test_a_replaced_directory_is_followed(watch: DirectoryWatch, directory: Path) -> None:
    os.rename(directory, directory.with_name("aside"))
    directory.mkdir()
    assert watch.wait(0)
    settle(watch)
    os.mkdir(directory.with_name("aside") / "elsewhere")
    assert watch.wait(0) is False
    os.mkdir(directory / "here")
    assert watch.wait(0)


def test_a_directory_replaced_with_its_parent_is_followed_within_a_second(tmp_path: Path) -> None:
    """Renaming the parent raises no event in the directory itself."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    with DirectoryWatch(inner) as watch:
        os.rename(inner.parent, tmp_path / "aside")
        inner.mkdir(parents=True)
        assert watch.wait()
        os.mkdir(inner / "entry")
        assert watch.wait(0)


def test_a_relative_path_stays_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "box").mkdir()
    monkeypatch.chdir(tmp_path)
    with DirectoryWatch("box") as watch:
        monkeypatch.chdir("/")
        assert watch.wait(60)  # the tick of a second, on which the path is looked up again
        os.mkdir(tmp_path / "box" / "entry")
        assert watch.wait(0)
        assert str(tmp_path / "box") in repr(watch)


def test_a_forked_child_takes_no_event_from_its_parent(tmp_path: Path) -> None:
    def child(inherited: DirectoryWatch) -> None:
        first = inherited.wait(0)  # from here on it is a watch of the child's own
        os.mkdir(tmp_path / "child")
        os._exit(0 if first and inherited.wait(0) and not inherited.wait(0) else 1)

    with DirectoryWatch(tmp_path) as watch:
        process = FORK.Process(target=child, args=(watch,))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        assert watch.wait(0), "the child's change is the parent's to see as well"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = open_descriptors()
    for number in range(20):
        directory = tmp_path / str(number)
        with DirectoryWatch(directory) as watch:
            watch.wait(0)
            directory.mkdir()
            watch.wait(5)
            directory.rmdir()
            watch.wait(5)
        watch.close()
    assert open_descriptors() == before


def test_polling_goes_over_to_events_when_a_descriptor_is_free(tmp_path: Path) -> None:
    before = open_descriptors()
    with no_descriptor_left():
        watch = DirectoryWatch(tmp_path)
    assert open_descriptors() == before
    assert watch.wait()
    assert open_descriptors() == before + 1
    watch.close()


def test_a_forgotten_watch_says_so_and_is_closed(tmp_path: Path) -> None:
    before = open_descriptors()
    watch = DirectoryWatch(tmp_path)
    with pytest.warns(ResourceWarning, match="unclosed <DirectoryWatch"):
        del watch
    assert open_descriptors() == before


def test_wrong_use_is_an_error(tmp_path: Path) -> None:
    watch = DirectoryWatch(tmp_path)
    watch.close()
    with pytest.raises(ValueError, match="closed watch"):
        watch.wait(0)
    with pytest.raises(ValueError, match="NUL"):
        DirectoryWatch("a\0b")


def test_a_system_without_inotify_is_polled(tmp_path: Path) -> None:
    """The C library of another system has no such call; ours is asked for a name it lacks."""
    program = f"""
import ctypes, os
from proxyflow.storage.watch import DirectoryWatch

class OtherLibrary(ctypes.CDLL):
    def __getattr__(self, name):
        return super().__getattr__("other_" + name)

ctypes.CDLL = OtherLibrary
watch = DirectoryWatch({str(tmp_path)!r})
os.mkdir({str(tmp_path / "entry")!r})
assert watch.wait(30)
watch.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_importing_is_light() -> None:
    program = "import sys, proxyflow.storage.watch; assert 'ctypes' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
