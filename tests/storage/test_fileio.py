"""Bytes get into files and out of them whole, in as many calls as it takes."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxyflow.storage import fileio


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture(params=["unnamed", "named"])
def naming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both where files can be without a name and where they cannot."""
    if request.param == "named":
        # Opening a directory to write to it is refused just as an unknown flag is.
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
    return str(request.param)


def test_a_file_has_its_name_when_it_is_published(
    tmp_path: Path, directory: int, naming: str
) -> None:
    fd = fileio.open_unnamed(directory)
    fileio.write_frames(fd, [b"some ", b"bytes"])
    assert len(os.listdir(tmp_path)) == (naming == "named")
    assert all(name.startswith(".tmp-") for name in os.listdir(tmp_path))
    fileio.publish(fd, directory, "name")
    os.close(fd)
    assert os.listdir(tmp_path) == ["name"]
    assert (tmp_path / "name").read_bytes() == b"some bytes"
    assert (tmp_path / "name").stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("naming")
def test_publishing_replaces_what_has_the_name(tmp_path: Path, directory: int) -> None:
    for content in (b"old", b"new"):
        fd = fileio.open_unnamed(directory)
        fileio.write_frames(fd, [content])
        fileio.publish(fd, directory, "name")
        os.close(fd)
    assert os.listdir(tmp_path) == ["name"]
    assert (tmp_path / "name").read_bytes() == b"new"


@pytest.mark.usefixtures("naming")
def test_what_is_discarded_leaves_no_name(tmp_path: Path, directory: int) -> None:
    fd = fileio.open_unnamed(directory)
    fileio.discard(fd, directory)
    fileio.discard(fd, directory)
    os.close(fd)
    assert os.listdir(tmp_path) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 25))
def test_short_writes_and_reads_go_on_where_they_stopped(
    tmp_path: Path, sizes: list[int], one_call: int
) -> None:
    """As with objects of more than two gigabytes, of which the kernel moves a part at a time."""
    frames = [random.Random(size).randbytes(size) for size in sizes]
    whole = b"".join(frames)
    pwritev = os.pwritev

    def write_some(fd: int, buffers: list[memoryview], offset: int) -> int:
        return pwritev(fd, [b"".join(buffers)[:one_call]], offset)

    with pytest.MonkeyPatch.context() as patch, (tmp_path / "file").open("w+b") as file:
        file.truncate(0)
        patch.setattr(os, "pwritev", write_some)
        patch.setattr(fileio, "_ONE_CALL", one_call)
        patch.setattr(fileio, "_IOV_MAX", 3)
        assert fileio.write_frames(file.fileno(), frames) == len(whole)
        assert fileio.read(file.fileno()) == whole
        buffer = bytearray(len(whole))
        fileio.read_into(file.fileno(), memoryview(buffer))
        assert buffer == whole


def test_a_file_that_is_too_short_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"short")
    with (
        (tmp_path / "file").open("rb") as file,
        pytest.raises(EOFError, match="after 5 of 6 bytes"),
    ):
        fileio.read_into(file.fileno(), memoryview(bytearray(6)))


def test_names_are_complete_whoever_else_lists(tmp_path: Path, directory: int) -> None:
    """A shared descriptor has one position: half-way through for one is a start for another."""
    for n in range(20):
        (tmp_path / str(n)).touch()
    with os.scandir(directory) as another:
        next(another)
        assert len(fileio.names(directory)) == 20
        assert len(list(another)) == 19


def test_mappings_are_counted_while_they_live(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mapped" * 1000)
    mappings = fileio.Mappings(limit=2)
    with (tmp_path / "file").open("rb") as file:
        views = [mappings.map(file.fileno(), 6000) for _ in range(3)]
        held = [view for view in views if view is not None]
        assert all(view == b"mapped" * 1000 for view in held)
        # From Python 3.13 on a mapping holds no descriptor, and there is nothing to bound.
        assert len(held) == (3 if views[2] is not None else 2)
        held[0][:6] = b"MAPPED"
        assert held[1][:6] == b"mapped"
        views.clear()
        held.clear()
        assert mappings.map(file.fileno(), 6000) is not None


def test_without_a_descriptor_left_a_copy_will_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mapped")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (tmp_path / "file").open("rb") as file:
        resource.setrlimit(resource.RLIMIT_NOFILE, (file.fileno() + 1, hard))
        try:
            view = fileio.Mappings(limit=10).map(file.fileno(), 6)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert view is None or view == b"mapped"


def test_a_file_that_cannot_be_mapped_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mapped")
    with (tmp_path / "file").open("ab") as file, pytest.raises(OSError, match="denied"):
        fileio.Mappings().map(file.fileno(), 6)


def test_a_descriptor_lives_as_long_as_its_holder(tmp_path: Path) -> None:
    descriptor = fileio.Descriptor(os.open(tmp_path, os.O_RDONLY))
    fd = descriptor.fd
    assert os.path.samestat(os.fstat(fd), tmp_path.stat())
    del descriptor
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_the_bound_is_half_of_what_the_process_may_open() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert fileio.mappings.limit == max(16, soft // 2)
    assert fileio.Mappings(limit=5).limit == 5
