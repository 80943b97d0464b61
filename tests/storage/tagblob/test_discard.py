"""Tags that go without a tombstone: gone at once, and nobody sees an older version."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from proxyflow.storage.tagblob import DDFS, TagNotFound, Unauthorized
from proxyflow.storage.tagblob.area_local import LocalArea
from proxyflow.storage.tagblob.catalogue import Catalogue
from proxyflow.storage.tagblob.tagobject import TagObject

ROUNDS = 150
context = multiprocessing.get_context("forkserver")


def test_a_discarded_tag_is_gone_on_every_engine(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [["http://node/1"]])
    ddfs.setattr(tag, "old", "1")
    ddfs.discard_tag(tag)
    ddfs.discard_tag(tag)
    assert not ddfs.exists(tag)
    assert tag not in ddfs.list(tag)
    ddfs.tag(tag, [["http://node/2"]])
    assert ddfs.urls(tag) == [["http://node/2"]]
    assert ddfs.attrs(tag) == {}


def test_the_token_is_asked_for(ddfs: DDFS, tag: str) -> None:
    ddfs.tag(tag, [["http://node/1"]], token="secret")
    with pytest.raises(Unauthorized):
        ddfs.discard_tag(tag)
    assert ddfs.urls(tag, token="secret") == [["http://node/1"]]
    ddfs.discard_tag(tag, token="secret")
    assert not ddfs.exists(tag)


def test_nothing_is_left_in_a_directory(local: DDFS, tmp_path: Path) -> None:
    local.push("data", [(b"x", "blob")])
    local.discard_tag("data")
    assert list(tmp_path.glob("store/tag/*")) == []
    assert local.gc(grace=0).removed_blobs == 2


def test_a_power_cut_does_not_bring_it_back(tmp_path: Path) -> None:
    """A durable store writes a tombstone: a removal is on the disk nobody knows when."""
    durable = DDFS(f"file://{tmp_path}/store", durable=True)
    durable.tag("data", [])
    durable.discard_tag("data")
    assert not durable.exists("data")
    assert len(list(tmp_path.glob("store/tag/data/*"))) == 2


def test_a_collector_takes_nothing_of_a_tag_made_anew(tmp_path: Path) -> None:
    """Its versions have the numbers of those that the collector found out of date."""
    area = LocalArea(str(tmp_path))
    catalogue = Catalogue(area)
    for _ in range(3):
        catalogue.change("tag", lambda _: TagObject.new("tag"))
    history = catalogue.history("tag")
    assert history is not None
    catalogue.discard("tag", lambda tag: None)
    catalogue.change("tag", lambda _: TagObject.new("tag").append([["http://node/new"]]))
    catalogue.forget(history, time.time() + 1)
    found = catalogue.load("tag")
    assert found is not None
    assert found.urls == [["http://node/new"]]


def _come_and_go(master: str, tag: str) -> None:
    ddfs = DDFS(master)
    for number in range(ROUNDS):
        ddfs.put(tag, [[f"http://node/{2 * number}"]])
        ddfs.put(tag, [[f"http://node/{2 * number + 1}"]])
        ddfs.discard_tag(tag)
    ddfs.put(tag, [[f"http://node/{2 * ROUNDS}"]])


def test_readers_never_go_back(local: DDFS) -> None:
    """While versions are removed one by one, the newest is what there is until it goes too."""
    process = context.Process(target=_come_and_go, args=(local.master, "data"))
    process.start()
    seen = [-1]
    while seen[-1] < 2 * ROUNDS:
        try:
            ((url,),) = local.urls("data")
        except TagNotFound:
            continue
        seen.append(int(url.rsplit("/", 1)[1]))
    process.join(60)
    assert process.exitcode == 0
    assert seen == sorted(seen)


def _append(master: str, tag: str, worker: int) -> None:
    ddfs = DDFS(master)
    for number in range(50):
        ddfs.tag(tag, [[f"http://node/{worker}-{number}"]])


def test_discards_racing_appends_end_in_a_legal_state(local: DDFS) -> None:
    """Of every process, what it appended after the last discard is there, and nothing else."""
    processes = [context.Process(target=_append, args=(local.master, "data", n)) for n in range(3)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        local.discard_tag("data")
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    _append(local.master, "data", 9)
    urls: list[Any] = [url for (url,) in local.urls("data")]
    for worker in (0, 1, 2, 9):
        kept = [int(url.rsplit("-", 1)[1]) for url in urls if f"/{worker}-" in url]
        assert kept == sorted(range(50), reverse=True)[: len(kept)]
    assert len([url for url in urls if "/9-" in url]) == 50
