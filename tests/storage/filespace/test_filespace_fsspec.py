"""Filespaces through fsspec: its own abstract suite, and the libraries that stand on it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator
from datetime import UTC
from typing import Any

import fsspec
import pytest
from filespace_support import Bucket
from fsspec.implementations.local import LocalFileSystem, make_path_posix
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from proxyflow.storage.filespace import FsNotFoundError, InvalidArgumentError, Workspace
from proxyflow.storage.filespace.fsspec_filesystem import FilespaceFileSystem

fsspec.register_implementation("filespace", FilespaceFileSystem, clobber=True)


@pytest.fixture
def hub_path(tmp_path: Any) -> str:
    return str(tmp_path / "hub")


@pytest.fixture
def fs(hub_path: str) -> Iterator[FilespaceFileSystem]:
    filesystem = FilespaceFileSystem(hub=hub_path, skip_instance_cache=True)
    yield filesystem
    filesystem.close()


class Fixtures(AbstractFixtures):
    @pytest.fixture
    def fs(self, tmp_path_factory: Any) -> Iterator[FilespaceFileSystem]:
        hub = str(tmp_path_factory.mktemp("fsspec") / "hub")
        filesystem = FilespaceFileSystem(hub=hub, skip_instance_cache=True)
        yield filesystem
        filesystem.close()

    @pytest.fixture
    def fs_path(self) -> str:
        return "hub/data"

    @pytest.fixture
    def fs_join(self) -> Any:
        return lambda *parts: "/".join(parts)

    @pytest.fixture(scope="class")
    @classmethod
    def local_fs(cls) -> LocalFileSystem:
        return LocalFileSystem(auto_mkdir=True)

    @pytest.fixture
    def local_path(self, tmp_path: Any) -> str:
        return str(make_path_posix(str(tmp_path)))


class TestCopy(AbstractCopyTests, Fixtures):
    """fsspec's abstract tests of copying."""


class TestGet(AbstractGetTests, Fixtures):
    """fsspec's abstract tests of downloading."""


class TestPut(AbstractPutTests, Fixtures):
    """fsspec's abstract tests of uploading."""


class TestOpen(AbstractOpenTests, Fixtures):
    """fsspec's abstract tests of opening."""


class TestPipe(AbstractPipeTests, Fixtures):
    """fsspec's abstract tests of piping."""


def test_a_written_file_is_published_when_it_is_closed(
    fs: FilespaceFileSystem, hub_path: str
) -> None:
    other = Workspace(hub_path).link_filespace(name="data")
    with fs.open("filespace://hub/data/d/f.txt", "w") as file:
        file.write("text")
        assert not other.fs.dir_exists("/d")
    assert other.fs.read_file("/d/f.txt") == b"text"
    with fs.open("hub/data/d/f.txt", "ab") as file:
        file.write(b" and more")
    assert other.fs.read_file("/d/f.txt") == b"text and more"
    fs.mv("hub/data/d/f.txt", "hub/data/g.txt")
    assert other.fs.list_dir("/") == ["d", "g.txt"]
    fs.rm("hub/data/d", recursive=True)
    assert other.fs.list_dir("/") == ["g.txt"]
    other.fs.write_file("/theirs", b"x")
    other.sync_all()
    assert fs.cat("hub/data/theirs") == b"x"
    other.unlink()


def test_a_transaction_is_published_as_one_or_not_at_all(
    fs: FilespaceFileSystem, hub_path: str
) -> None:
    other = Workspace(hub_path).link_filespace(name="data")
    fs.pipe_file("hub/data/old", b"old")
    with fs.transaction:
        for name in ("a", "b", "old"):
            with fs.open(f"hub/data/{name}", "wb") as file:
                file.write(b"new")
        fs.mkdir("hub/data/dir")
        assert other.fs.list_dir("/") == ["old"]
    assert other.fs.list_dir("/") == ["a", "b", "dir", "old"]
    assert other.fs.read_file("/old") == b"new"

    def fail_in_the_middle() -> None:
        with fs.transaction:
            with fs.open("hub/data/c", "wb") as file:
                file.write(b"x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert other.fs.list_dir("/") == fs.filespace("hub/data").fs.list_dir("/")
    assert not fs.exists("hub/data/c")
    other.unlink()


def test_entries_have_fsspec_s_facts(fs: FilespaceFileSystem) -> None:
    fs.pipe_file("hub/data/d/f", b"12345")
    native = fs.filespace("hub/data").fs
    native.create_symlink("/d/f", "/link")
    native.create_symlink("/d", "/dirlink")
    native.create_symlink("/nowhere", "/dangling")
    assert fs.info("hub/data/d/f")["size"] == 5
    assert fs.info("hub/data/link") | {"islink": True, "size": 5} == fs.info("hub/data/link")
    assert fs.isdir("hub/data/dirlink")
    assert fs.info("hub/data/dangling")["type"] == "link"
    assert fs.ls("hub", detail=False) == ["hub/data"]
    assert fs.info("hub")["type"] == fs.info("hub/data")["type"] == "directory"
    assert fs.ls("hub/data/d/f")[0]["name"] == "hub/data/d/f"
    assert fs.created("hub/data/d/f") <= fs.modified("hub/data/d/f")
    assert fs.modified("hub/data/d/f").tzinfo is UTC
    key = fs.ukey("hub/data/d/f")
    fs.pipe_file("hub/data/d/f", b"54321")
    assert fs.ukey("hub/data/d/f") != key
    assert fs.unstrip_protocol("hub/data/d") == "filespace://hub/data/d"
    assert sorted(fs.find("filespace://hub/data")) == [
        "hub/data/d/f",
        "hub/data/dangling",
        "hub/data/dirlink/f",
        "hub/data/link",
    ]


def test_directories(fs: FilespaceFileSystem) -> None:
    fs.mkdir("hub/data")
    fs.mkdir("hub/data/a/b")
    with pytest.raises(FileExistsError):
        fs.mkdir("hub/data/a/b")
    with pytest.raises(FileNotFoundError):
        fs.mkdir("hub/data/x/y", create_parents=False)
    fs.makedirs("hub/data/a/b", exist_ok=True)
    with pytest.raises(FileExistsError):
        fs.makedirs("hub/data/a/b")
    fs.rmdir("hub/data/a/b")
    with pytest.raises(FileNotFoundError):
        fs.rmdir("hub/data/a/b")
    fs.touch("hub/data/t")
    fs.rm_file("hub/data/t")
    assert fs.ls("hub/data/a") == []
    fs.pipe_file("hub/data/f", b"f")
    fs.mkdir("hub/data/into")
    fs.mv("hub/data/f", "hub/data/into")
    fs.pipe_file("hub/data/g", b"g")
    fs.mv("hub/data/g", "hub/data/into/f")
    fs.mv("hub/data/into", "hub/data/into")
    assert fs.cat("hub/data/into/f") == b"g"
    fs.pipe_file("hub/more/x", b"x")
    fs.mv("hub/more/x", "hub/data/x")
    assert fs.cat("hub/data/x") == b"x"


def test_a_move_that_fails_costs_the_target_nothing(fs: FilespaceFileSystem) -> None:
    """Nothing to move, or a file onto itself by way of a link: what has the name keeps it."""
    fs.pipe("hub/data/d/kept", b"precious")
    with pytest.raises(FileNotFoundError):
        fs.mv("hub/data/missing", "hub/data/d/kept")
    with pytest.raises(FileNotFoundError):
        fs.mv("hub/data/missing", "hub/data/new/folder/f")
    fs.filespace("hub/data").fs.create_symlink("/d", "/link")
    fs.mv("hub/data/link/kept", "hub/data/d/kept")
    fs.sync_all()
    assert fs.cat("hub/data/d/kept") == b"precious"
    assert not fs.exists("hub/data/new")


def test_what_is_not_there_is_not_made_by_looking(fs: FilespaceFileSystem) -> None:
    assert not fs.exists("hub/none/x")
    with pytest.raises(FsNotFoundError):
        fs.cat("hub/none/x")
    assert fs.ls("hub") == []
    with pytest.raises(IsADirectoryError):
        fs.filespace("hub")


def test_where_a_workspace_is(hub_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgumentError, match="FILESPACE_HUB_MY_LAB"):
        FilespaceFileSystem(skip_instance_cache=True).ls("my-lab/data")
    with pytest.raises(InvalidArgumentError, match="of the form"):
        FilespaceFileSystem(skip_instance_cache=True).ls("")
    monkeypatch.setenv("FILESPACE_HUB_MY_LAB", hub_path)
    with fsspec.open("filespace://my-lab/data/x", "wb") as file:
        file.write(b"x")
    wrong = FilespaceFileSystem(hub=hub_path, skip_instance_cache=True)
    with pytest.raises(InvalidArgumentError, match="is workspace 'my-lab', not 'other'"):
        wrong.ls("other/data")
    fsspec.filesystem("filespace").close()


def _child(fs: FilespaceFileSystem, results: Any) -> None:
    fs.pipe_file("hub/data/from-child", b"c")
    results.put(fs.cat("hub/data/f"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_works_in_child_processes(fs: FilespaceFileSystem, method: Any) -> None:
    """Dask and others pickle file systems, or inherit them."""
    fs.pipe_file("hub/data/f", b"x")
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=_child, args=(fs, results))
    child.start()
    assert results.get(timeout=60) == b"x"
    child.join(timeout=60)
    assert fs.cat("hub/data/from-child") == b"c"
    again = pickle.loads(pickle.dumps(fs))
    assert again.cat("hub/data/f") == b"x"
    again.close()


def test_pandas_and_arrow_read_and_write(fs: FilespaceFileSystem, hub_path: str) -> None:
    import pandas as pd
    import pyarrow.dataset as ds
    import pyarrow.fs
    import pyarrow.parquet as pq

    frame = pd.DataFrame({"a": range(1000), "b": [str(number) for number in range(1000)]})
    options = {"hub": hub_path}
    frame.to_parquet("filespace://hub/data/t/part.parquet", storage_options=options)
    again = pd.read_parquet("filespace://hub/data/t/part.parquet", storage_options=options)
    pd.testing.assert_frame_equal(frame, again)
    frame.to_csv("filespace://hub/data/t.csv", index=False, storage_options=options)
    again = pd.read_csv("filespace://hub/data/t.csv", storage_options=options)
    assert again["a"].sum() == frame["a"].sum()
    arrow = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))
    table = ds.dataset("hub/data/t", filesystem=arrow).to_table(columns=["a"])
    assert table.num_rows == 1000
    pq.write_table(table, "hub/data/u.parquet", filesystem=arrow)
    assert pq.read_table("hub/data/u.parquet", filesystem=arrow).num_rows == 1000
    fsspec.filesystem("filespace", **options).close()


def test_dask_workers_read_and_write(hub_path: str) -> None:
    """Partitions written by other processes are there when the job is done."""
    import dask.dataframe as dd
    import pandas as pd

    options = {"hub": hub_path}
    frame = pd.DataFrame({"a": range(1000), "b": 1.5})
    target = "filespace://hub/data/parts"
    parts = dd.from_pandas(frame, npartitions=4)
    parts.to_parquet(target, storage_options=options, compute_kwargs={"scheduler": "threads"})
    found = dd.read_parquet(target, storage_options=options)
    assert found["a"].sum().compute(scheduler="threads") == frame["a"].sum()
    fsspec.filesystem("filespace", **options).close()


def test_pandas_reads_a_linked_object_and_only_what_it_needs(
    fs: FilespaceFileSystem, bucket: Bucket
) -> None:
    import io

    import pandas as pd

    frame = pd.DataFrame({name: range(200_000) for name in "abcdefgh"})
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    bucket.put("t.parquet", buffer.getvalue())
    fs.mkdir("hub/data")
    filespace = fs.filespace("hub/data")
    filespace.connect.add_data_store("s3", bucket.config())
    filespace.connect.link_file("/t.parquet", "s3", "t.parquet")
    with fs.open("hub/data/t.parquet") as file:
        read = pd.read_parquet(file, columns=["c"])
    assert read["c"].tolist() == list(range(200_000))


def test_a_hub_in_s3(bucket: Bucket) -> None:
    """The whole chain: fsspec over a filespace over fsspec."""
    options = {"hub": f"s3://{bucket.name}/hub", "hub_options": bucket.storage_options}
    fs = FilespaceFileSystem(**options, skip_instance_cache=True)
    data = os.urandom(3_000_000)
    fs.pipe_file("hub/data/f", data)
    other = FilespaceFileSystem(**options, skip_instance_cache=True)
    assert other.cat_file("hub/data/f", start=1_000_000, end=1_000_010) == data[10**6 : 10**6 + 10]
    assert other.cat("hub/data/f") == data
    started = time.time()
    assert other.info("hub/data/f")["mtime"] <= started
    for filesystem in (fs, other):
        filesystem.close()
