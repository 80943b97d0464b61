"""The server's calls of the store: in the event loop where that is quick, and never for long."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from proxyflow.storage.tagblob import DDFS, server_calls
from proxyflow.storage.tagblob.embedded import EmbeddedEngine
from proxyflow.storage.tagblob.locks import FileLock
from proxyflow.storage.tagblob.names import hash_dir
from proxyflow.storage.tagblob.server_calls import SMALL, StoreCalls
from tests.storage.tagblob.serving import run_server


def threads_of(engine: EmbeddedEngine, *sizes: int, pause: float = 0) -> list[bool]:
    """Return for some calls, one after the other, whether the event loop makes them itself."""

    def call(store: EmbeddedEngine) -> bool:
        time.sleep(pause)
        return threading.current_thread() is threading.main_thread()

    async def call_all() -> list[bool]:
        calls = StoreCalls(engine)
        return [await calls(call, size=size) for size in sizes]

    return asyncio.run(call_all())


def test_small_calls_are_made_by_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_calls, "_QUICK", 60)
    assert threads_of(EmbeddedEngine(str(tmp_path)), 0, SMALL - 1, SMALL) == [True, True, False]


def test_slow_calls_go_to_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk, or a tag of very many urls, stops the loop for one call and not for all."""
    monkeypatch.setattr(server_calls, "_PAUSE", 1000)
    assert threads_of(EmbeddedEngine(str(tmp_path)), 0, 0, 0, pause=0.02) == [True, False, False]


def test_what_waits_for_a_disk_goes_to_threads(tmp_path: Path) -> None:
    assert threads_of(EmbeddedEngine(str(tmp_path), durable=True), 0) == [False]


def test_a_tag_that_another_process_holds_stops_nobody_else(tmp_path: Path) -> None:
    """Its lock may be held by a process that is stopped: only this tag waits for it."""
    with run_server(f"file://{tmp_path}/s") as port, DDFS(f"disco://127.0.0.1:{port}") as ddfs:
        ddfs.tag("held", [])
        with FileLock(f"{tmp_path}/s/lock/{hash_dir('tag/held')}"):
            appending = threading.Thread(target=lambda: ddfs.push("held", [(b"x", "blob")]))
            appending.start()
            for number in range(20):
                ddfs.tag(f"other:{number}", [["tag://x"]])
            assert appending.is_alive()
            assert ddfs.urls("held") == []
        appending.join(30)
        assert len(ddfs.urls("held")) == 1
