"""What a sync costs and what a hub keeps: what changed, not what is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from filespace_support import files_below, head_of, tree_of

from proxyflow.storage.filespace import LocalDataStoreConfig, Workspace


@pytest.mark.parametrize("size", [10_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_a_sync_costs_what_changed_not_the_size_of_the_filespace(
    workspace: Workspace, tmp_path: Any, size: int
) -> None:
    """Whatever the number of files, one change writes some kilobytes, and so does folding."""
    filespace = workspace.link_filespace(name="data")
    filespace.connect.add_data_store("here", LocalDataStoreConfig(str(tmp_path)))
    filespace.fs.create_dir("/many")
    for number in range(size):
        filespace.connect.link_file(f"/many/{number}", "here", "x", size=1, checksum="c")
    filespace.sync_all()

    def written_by(change: Callable[[], None]) -> int:
        before = files_below(str(tmp_path))
        change()
        filespace.sync_all()
        new = files_below(str(tmp_path)) - before
        sizes = [os.path.getsize(tmp_path / path) for path in new]
        return sum(sizes) + len(head_of(str(tmp_path)))

    assert written_by(lambda: filespace.fs.write_file("/many/one", b"x")) < 50_000
    assert written_by(lambda: filespace.fs.move("/many", "/moved")) < 50_000
    assert written_by(lambda: filespace.fs.delete("/moved/77")) < 50_000
    assert written_by(filespace.compact) < 200_000
    fresh = workspace.link_filespace(name="data")
    assert fresh.fs.statistics().external_files_count == size - 1
    assert fresh.connect.count("here") == size - 1
    assert fresh.fs.read_file("/moved/one") == b"x"


def test_many_small_syncs_keep_the_head_small_and_the_hub_tidy(
    workspace: Workspace, tmp_path: Any
) -> None:
    """The tail is folded into nodes when it has grown, and replaced nodes are deleted."""
    filespace = workspace.link_filespace(name="data")
    for number in range(400):
        filespace.fs.write_file(f"/{number % 40}", b"%d" % number)
        filespace.sync_all()
        assert len(head_of(str(tmp_path))) < 64_000
    other = workspace.link_filespace(name="data")
    assert tree_of(other) == {f"/{number % 40}": b"%d" % number for number in range(360, 400)}
    filespace.compact()
    kept = files_below(str(tmp_path))
    assert len([path for path in kept if "/content/" in path]) == 40
    assert len([path for path in kept if "/nodes/" in path]) < 10


def test_deleting_a_large_tree_frees_it(workspace: Workspace, tmp_path: Any) -> None:
    """More than a head can list is set free through a list of its own."""
    filespace = workspace.link_filespace(name="data")
    filespace.fs.create_dir("/d")
    for number in range(600):
        filespace.fs.write_file(f"/d/{number}", b"x")
    filespace.sync_all()
    filespace.fs.delete_dir("/d", recursive=True)
    filespace.sync_all()
    filespace.compact()
    left = files_below(str(tmp_path))
    assert not [path for path in left if "/content/" in path]
    assert len([path for path in left if "/nodes/" in path]) <= 4
