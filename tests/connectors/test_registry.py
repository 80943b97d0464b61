"""Connectors are found by name, imported when asked for, and say what is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxyflow
from proxyflow import Store, known_connectors, register_connector
from proxyflow.connectors import connector_class, open_url
from proxyflow.connectors.file import FileConnector
from proxyflow.errors import (
    ConfigError,
    MissingDependencyError,
    StoreUnreachableError,
    UnsupportedError,
)
from tests.processes import run

_MODULE = """
from proxyflow.connectors.memory import MemoryConnector

class Connectors:
    class Shelf(MemoryConnector):
        @classmethod
        def from_url(cls, url):
            return cls()
        sweep_url = None
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave a package of somebody else on the path, as pip would."""
    (tmp_path / "shelfware.py").write_text(_MODULE)
    info = tmp_path / "shelfware-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelfware\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[proxyflow.connectors]\n"
        "shelf = shelfware:Connectors.Shelf\n"
        "broken = shelfware_that_is_missing:Broken\n"
        "nowhere = shelfware:Nowhere\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("shelfware", None)


@pytest.mark.usefixtures("installed")
def test_an_installed_package_brings_its_connector() -> None:
    assert {"file", "memory", "shelf", "broken"} <= set(known_connectors())
    assert "shelfware" not in sys.modules
    with Store("shelf://") as store:
        assert type(store.connector).__qualname__ == "Connectors.Shelf"
        assert store.get(store.put("text")) == "text"
    assert "shelfware" in sys.modules


@pytest.mark.usefixtures("installed")
def test_a_missing_package_is_named_with_what_to_install() -> None:
    with pytest.raises(MissingDependencyError, match=r"'broken'.*pip install 'shelfware'"):
        Store("broken://")
    with pytest.raises(ConfigError, match="'nowhere' is not at shelfware:Nowhere"):
        Store("nowhere://")


@pytest.mark.usefixtures("installed")
def test_sweeping_is_optional() -> None:
    with pytest.raises(UnsupportedError, match="dead owners"):
        proxyflow.gc("shelf://")


def test_registering_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyflow.connectors._registry", {})
    register_connector("mine", "package_that_is_missing.module:Mine", install="mypackage[extra]")
    assert "mine" in known_connectors()
    with pytest.raises(MissingDependencyError, match=r"install 'mypackage\[extra\]'"):
        open_url("mine://")
    register_connector("mine", "proxyflow.connectors.file:FileConnector")
    assert connector_class("mine") is FileConnector


def test_an_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no connector 'flie'; known: .*file, .*memory"):
        Store("flie:///dev/shm/run1")


@pytest.mark.parametrize("path", ["a:", ":b", "os:no.such", "not_a_module:C"])
def test_an_import_path_that_leads_nowhere_is_refused(path: str) -> None:
    with pytest.raises((ConfigError, MissingDependencyError)):
        connector_class(path)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("/dev/shm/run1", "not a store URL"),
        ("file:run1", "not a store URL"),
        ("", "not a store URL"),
        ("file://host/path", "three slashes"),
        ("file://relative", "three slashes"),
        ("file://", "three slashes"),
        ("file:///tmp/x?durabel=1", "unknown option 'durabel'"),
        ("file:///tmp/x?durable=perhaps", "neither yes nor no"),
        ("file:///tmp/x?durable=1&durable=0", "twice"),
        ("file:///tmp/x?durable", "make no sense"),
        ("file:///tmp/x?spill=", "not the name of a directory"),
        ("file:///tmp/a%00b", "not the name of a directory"),
        ("file:///tmp/x?cache=much", "cache='much'"),
        ("memory://?verify=perhaps", "neither yes nor no"),
        ("disco://host:1?volumes=3", "unknown option 'volumes'"),
        ("disco://host:1?endpoint=http://x", "unknown option 'endpoint'"),
        ("ddfs+file:///tmp/x?endpoint=http://x", "unknown option 'endpoint'"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Store(url)


@pytest.mark.parametrize(
    "url", ["file://host/path", "file:///tmp/x?durabel=1", "file:///etc/passwd"]
)
def test_sweeping_refuses_the_same_urls(url: str) -> None:
    with pytest.raises((ConfigError, StoreUnreachableError)):
        proxyflow.gc(url)


def test_importing_is_light() -> None:
    """No connector, and nothing optional, is imported before it is asked for."""
    said = run(
        """
import sys, proxyflow
proxyflow.known_connectors()
heavy = {"numpy", "redis", "lmdb", "ctypes", "asyncio", "pytest", "proxyflow.testing",
         "proxyflow.connectors.file", "proxyflow.connectors.memory"}
print(sorted(heavy & set(sys.modules)))
"""
    )
    assert said == "[]"
