"""Settings come from the argument, the environment, a file, the host; in that order."""

from __future__ import annotations

from pathlib import Path

import pytest

import proxyflow
from proxyflow import Store
from proxyflow.config import default_secret, default_threshold
from proxyflow.errors import ConfigError


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STORE", "THRESHOLD", "SECRET", "CONFIG"):
        monkeypatch.delenv(f"PROXYFLOW_{name}", raising=False)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "proxyflow.toml"
    monkeypatch.setenv("PROXYFLOW_CONFIG", str(path))
    return path


def test_the_environment_names_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYFLOW_STORE", "memory://")
    with Store() as store:
        assert store.name.startswith("memory://#")
    assert proxyflow.gc() == []


def test_a_file_names_store_and_threshold(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(f'[proxyflow]\nstore = "file://{tmp_path}/store"\nthreshold = "64 KiB"\n')
    assert default_threshold() == 65536
    with Store() as store:
        assert store.connector.store_dir == f"{tmp_path}/store"
    monkeypatch.setenv("PROXYFLOW_STORE", "memory://")
    monkeypatch.setenv("PROXYFLOW_THRESHOLD", "1 kB")
    assert default_threshold() == 1000
    with Store() as store:
        assert store.name.startswith("memory://")
    with Store(tmp_path / "argument") as store:
        assert store.connector.store_dir == f"{tmp_path}/argument"


def test_without_settings_there_are_defaults(file: Path) -> None:
    file.write_text("")
    assert default_threshold() == 1 << 20
    assert default_secret() is None


def test_an_empty_secret_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYFLOW_SECRET", "")
    assert default_secret() is None
    monkeypatch.setenv("PROXYFLOW_SECRET", "ü")
    assert default_secret() == "ü".encode()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"[proxyflow", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"proxyflow = 3", "no table"),
        (b"store = 'memory://'", r"has no table \[proxyflow\]"),
        (b"[proxyflow]\nstroe = 'x'", "unknown setting 'stroe'.*known: store, threshold"),
        (b"[proxyflow]\nsecret = 'x'", "unknown setting 'secret'"),
        (b"[proxyflow]\nstore = 5", "not a store URL: '5'"),
        (b"[proxyflow]\nstore = '/dev/shm/x'", "not a store URL"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(file: Path, content: bytes, what: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=what):
        Store()


@pytest.mark.parametrize("threshold", ["'much'", "1.5", "-1", "true"])
def test_a_threshold_that_is_no_size_is_refused(file: Path, threshold: str) -> None:
    file.write_text(f"[proxyflow]\nthreshold = {threshold}\n")
    with pytest.raises(ConfigError, match="configured threshold"):
        default_threshold()


def test_a_missing_file_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=f"PROXYFLOW_CONFIG={file}"):
        Store()
