"""What is particular to memory: it is one process's."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest

from proxyflow.connectors import open_url
from proxyflow.connectors.memory import MemoryConnector, MemoryKey
from proxyflow.errors import ConfigError, StoreClosedError

FORK = multiprocessing.get_context("fork")


def outcome(call: Callable[..., Any], *args: Any) -> str:
    try:
        return repr(call(*args))
    except StoreClosedError as error:
        return str(error)


def in_child(connector: MemoryConnector, old: MemoryKey, new: MemoryKey, pipe: Connection) -> None:
    pipe.send("forked")
    pipe.recv()
    pipe.send(
        [
            outcome(connector.get, old),
            outcome(connector.get, new),
            outcome(connector.exists, new),
            outcome(connector.wait, new, 60),
            outcome(connector.put, b"from the child"),
        ]
    )


def test_a_forked_child_says_what_it_cannot_see() -> None:
    """It has the objects from before the fork; None for a later one would be a wrong answer."""
    ours, theirs = multiprocessing.Pipe()
    with MemoryConnector() as connector:
        old, new = connector.put(b"before"), connector.new_key()
        child = FORK.Process(target=in_child, args=(connector, old, new, theirs))
        child.start()
        assert ours.recv() == "forked"
        connector.set(new, b"after")
        ours.send("go on")
        before, *others = ours.recv()
        child.join()
        assert before == "b'before'"
        for other in others:
            assert "in the memory of another process" in other
            assert "file:///dev/shm" in other
        assert [stored.key for stored in connector.scan()] == [old, new]
    ours.close()
    theirs.close()


def test_a_session_of_another_process_cannot_be_joined() -> None:
    with pytest.raises(StoreClosedError, match="file:///dev/shm"):
        open_url("memory://#1-abcdefghij")


@pytest.mark.parametrize("url", ["memory://host", "memory:///path", "memory://?size=1"])
def test_memory_has_no_place_and_no_options(url: str) -> None:
    with pytest.raises(ConfigError):
        open_url(url)


def test_the_state_is_shown() -> None:
    with MemoryConnector() as connector:
        connector.put(b"x")
        assert repr(connector) == f"<MemoryConnector session {connector.session} (1 objects)>"
    assert repr(connector).endswith("(closed)>")
