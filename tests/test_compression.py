"""What a store compresses: what its link would take longer for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proxystore.connectors.file import FileConnector

from proxyflow import Store
from proxyflow.compression import Compression
from proxyflow.rate import Rate
from proxyflow.serialize import codec

MIB = 1 << 20


@pytest.fixture(autouse=True)
def known_codec(monkeypatch: pytest.MonkeyPatch) -> Rate:
    """Have the codec take a second for 500 MiB."""
    rate = Rate()
    rate.value = 500.0 * MIB
    monkeypatch.setattr(codec, "RATE", rate)
    return rate


@pytest.mark.parametrize(("seconds", "wanted"), [(0.1, False), (10.0, True)])
def test_the_slower_one_decides(seconds: float, wanted: bool) -> None:
    """A link faster than the codec would wait for it."""
    compression = Compression(None, moves=True)
    compression.link.add(500 * MIB, seconds)
    assert compression.wanted is wanted


def test_a_link_that_changes_is_followed() -> None:
    compression = Compression(None, moves=True)
    compression.link.add(100 * MIB, 0.01)
    assert not compression.wanted
    for _ in range(30):
        compression.link.add(MIB, 1.0)
    assert compression.wanted


def test_small_objects_say_nothing() -> None:
    """They measure a round trip."""
    compression = Compression(None, moves=True)
    compression.link.add(1000, 1e-6)
    assert compression.link.value is None


class NotingConnector(FileConnector):
    """Notes how much it was given."""

    stored: list[int]

    def put(self, obj: bytes) -> Any:
        self.stored.append(len(obj))
        return super().put(obj)


def test_a_store_learns_from_what_it_puts(tmp_path: Path, known_codec: Rate) -> None:
    """The first large object is compressed, as nothing is known; then the measured rates decide."""
    connector = NotingConnector(str(tmp_path / "peer"))
    connector.stored = []
    array = np.arange(2 * MIB, dtype=np.int64)
    with Store(connector=connector) as store:
        store.put(array)
        known_codec.value = 1.0  # a byte per second: any link is faster
        store.put(array)
    first, second = connector.stored
    assert first < 0.9 * array.nbytes <= second
