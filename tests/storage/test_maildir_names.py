"""Messages reached by name, wherever they stand, and by descriptors of their directories."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from proxyflow.storage.fileio import Descriptor
from proxyflow.storage.maildir import FileStore, InvalidNameError


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    store = FileStore(tmp_path / "store")
    store.prepare()
    return store


def test_a_message_may_have_a_name_of_the_callers(store: FileStore) -> None:
    assert store.put(b"first", name="a") == "a"
    assert store.put(b"second", name="a") == "a"
    assert list(store) == ["a"]
    assert store.open_view("a") == b"second"
    with pytest.raises(InvalidNameError):
        store.put(b"x", name="../a")


def test_a_message_is_found_and_discarded_wherever_it_is(store: FileStore) -> None:
    waiting, claimed = store.put(b""), store.put(b"")
    store.move(claimed, "new", "cur")
    held = store.put(b"")
    store.move(waiting, "new", "tmp")
    message = store.claim()
    store.move(waiting, "tmp", "new")
    assert message is not None
    assert message.name == held
    for name in (waiting, claimed, held):
        assert store.exists(name)
        assert store.discard(name)
        assert not store.exists(name)
        assert not store.discard(name)
    assert store.counts() == {"tmp": 0, "new": 0, "cur": 0}
    with pytest.raises(LookupError):
        message.ack()
    for call in (store.exists, store.discard):
        with pytest.raises(InvalidNameError):
            call("../a")


def test_a_scan_tells_of_waiting_and_claimed_messages(store: FileStore) -> None:
    names = {store.put(b"x" * size): size for size in range(3)}
    assert store.claim() is not None
    assert {stored.name: stored.nbytes for stored in store.scan()} == names
    for stored in store.scan():
        assert abs(stored.modified - time.time()) < 86400


def test_a_replaced_directory_is_looked_into(store: FileStore) -> None:
    """Whoever removes a store and makes it anew is followed, as everywhere."""
    name = store.put(b"x")
    shutil.rmtree(store.path)
    store.prepare()
    assert not store.exists(name)
    other = FileStore(store.path)
    shutil.rmtree(store.path)
    other.prepare()
    name = other.put(b"y")
    assert store.exists(name)


def test_a_store_stays_where_its_descriptor_says(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    directory = Descriptor(os.open(real, os.O_RDONLY | os.O_DIRECTORY))
    real.rename(tmp_path / "moved")
    with FileStore(real, directory=directory) as store:
        store.prepare()
        store.put(b"x", durable=True)
        assert len(store) == 1
    assert os.listdir(tmp_path) == ["moved"]
    assert len(os.listdir(tmp_path / "moved" / "new")) == 1
