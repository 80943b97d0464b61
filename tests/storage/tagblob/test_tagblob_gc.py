"""Garbage collection: what goes, what stays, and when."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from proxyflow.storage.tagblob import DDFS, Unavailable
from proxyflow.storage.tagblob.embedded import EmbeddedEngine

DAY = 24 * 3600


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> DDFS:
    if request.param == "directory":
        return DDFS(f"file://{tmp_path}/store", volumes=2)
    s3 = request.getfixturevalue("s3")
    options = s3.storage_options
    return DDFS(f"s3://store/gc-{os.urandom(8).hex()}", volumes=2, storage_options=options)


def age(root: Path, seconds: float) -> None:
    """Make everything stored so far older."""
    for path in root.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))


def blobs(ddfs: DDFS) -> int:
    assert isinstance(ddfs.engine, EmbeddedEngine)
    return sum(len(volume.stored()) for volume in ddfs.engine.volumes.values())


def test_reachable_things_stay(store: DDFS) -> None:
    store.push("data", [(b"one", "one"), (b"two", "two")], replicas=2)
    report = store.gc(grace=0)
    assert report.removed_blobs == 0
    assert report.missing == []
    assert blobs(store) == 4


def test_unreachable_blobs_go(store: DDFS) -> None:
    store.push("data", [(b"one", "one"), (b"twotwo", "two")])
    _, kept = store.push("kept", [(b"three", "three")])
    store.put("data", store.urls("data")[:1])
    report = store.gc(grace=0)
    assert (report.removed_blobs, report.removed_bytes) == (1, 6)
    store.delete("data")
    assert store.gc(grace=0).removed_blobs == 1
    assert blobs(store) == 1
    assert store.urls("kept") == kept


def test_a_run_without_garbage_changes_nothing(store: DDFS) -> None:
    store.push("data", [(b"one", "one")])
    store.gc(grace=0)
    before = store.get("data")
    report = store.gc(grace=0)
    assert (report.removed_blobs, report.restored, report.removed_partial) == (0, 0, 0)
    assert store.get("data") == before


def test_young_garbage_stays(store: DDFS) -> None:
    store.store_blob("untagged", b"bytes")
    store.push("data", [(b"one", "one")])
    store.delete("data")
    report = store.gc(grace=DAY)
    assert (report.removed_blobs, report.removed_versions) == (0, 0)
    assert blobs(store) == 2


def test_the_grace_begins_when_a_blob_becomes_unreachable(local: DDFS, tmp_path: Path) -> None:
    local.push("deleted", [(b"one", "one")], replicas=1)
    local.push("replaced", [(b"two", "two")], replicas=1)
    age(tmp_path, 2 * DAY)
    moved = local.urls("deleted")
    local.delete("deleted")
    local.put("replaced", [])
    assert local.gc(grace=DAY).removed_blobs == 0
    # Whoever takes a blob from one tag to another in two steps finds it there.
    local.put("moved", moved)
    age(tmp_path, 2 * DAY)
    assert local.gc(grace=DAY).removed_blobs == 1
    with next(local.pull("moved")) as blob:
        assert blob.read() == b"one"


def test_old_versions_and_tombstones_go(local: DDFS, tmp_path: Path) -> None:
    for number in range(7):
        local.tag("data", [[f"http://a/{number}"]])
    local.tag("gone", [])
    local.delete("gone")
    directory = tmp_path / "store/tag"
    assert 2 <= len(list((directory / "data").iterdir())) <= 8
    report = local.gc(grace=0)
    assert report.removed_versions > 0
    assert len(list((directory / "data").iterdir())) == 1
    assert not (directory / "gone").exists()
    assert len(local.urls("data")) == 7
    local.tag("gone", [["http://a/1"]])
    assert local.urls("gone") == [["http://a/1"]]


def test_directories_of_versions_stay_small_without_gc(local: DDFS, tmp_path: Path) -> None:
    for number in range(50):
        local.setattr("data", "number", str(number))
    assert len(list((tmp_path / "store/tag/data").iterdir())) <= 8


def test_checksums_without_a_blob_go(local: DDFS, tmp_path: Path) -> None:
    local.push("data", [(b"bytes", "blob")])
    stray = tmp_path / "store/vol0/sum/ff/stray$1-2-3"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"xxh3_128 00 0\n")
    assert local.gc(grace=DAY).removed_partial == 0
    assert local.gc(grace=0).removed_partial == 1
    assert not stray.exists()
    with next(local.pull("data")) as blob:
        assert blob.read() == b"bytes"


def test_one_collector_at_a_time(local: DDFS) -> None:
    assert isinstance(local.engine, EmbeddedEngine)
    with local.engine._area.lock("gc"), pytest.raises(Unavailable, match="running"):
        local.gc()
    local.gc()


def test_blobs_pushed_during_a_run_stay(local: DDFS) -> None:
    program = """
import sys
from proxyflow.storage.tagblob import DDFS
ddfs = DDFS(sys.argv[1], replicas=2)
sys.stdout.write("ready\\n"); sys.stdout.flush()
for number in range(300):
    ddfs.push("data", [(b"x" * 100, f"blob-{number}")])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, local.master], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    runs = 0
    while process.poll() is None:
        # Long enough for a push, short enough to collect while the pushes go on.
        local.gc(grace=30)
        runs += 1
        time.sleep(0.001)
    process.stdout.close()
    assert process.returncode == 0
    assert runs > 0
    assert len(local.urls("data")) == 300
    for blob in local.pull("data"):
        with blob:
            assert blob.read() == b"x" * 100


def test_foreign_urls_are_left_alone(local: DDFS) -> None:
    urls: list[list[str]] = [
        ["http://a/1"],
        ["disco://other/ddfs/vol0/blob/7f/part$584-e8d2f-3a0"],
        ["tag://other"],
    ]
    local.put("data", urls)
    assert local.gc(grace=0, verify=True).missing == []
    assert local.urls("data") == urls


def test_tags_changed_during_a_restore_keep_the_change(
    local: DDFS, tmp_path: Path, monkeypatch: Any
) -> None:
    from proxyflow.storage.tagblob import gc

    local.push("data", [(b"one", "one"), (b"two", "two")])
    gone, stays = local.urls("data")
    for path in tmp_path.rglob("blob/*/one$*"):
        path.unlink()
        break
    real = gc.copy_blob

    def copy_and_change(*args: Any, **options: Any) -> str:
        local.put("data", [["http://new"], gone])
        return real(*args, **options)

    monkeypatch.setattr(gc, "copy_blob", copy_and_change)
    assert local.gc(grace=DAY).restored == 1
    new, restored = local.urls("data")
    assert new == ["http://new"]
    assert len(set(restored)) == 2
    assert stays not in local.urls("data")
