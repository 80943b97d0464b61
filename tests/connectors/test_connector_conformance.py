"""Every connector does what the protocol says, ProxyStore's included."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxystore.connectors.file import FileConnector as PeerFileConnector
from proxystore.connectors.local import LocalConnector

from proxyflow.connectors import open_url
from proxyflow.connectors.file import FileConnector
from proxyflow.connectors.filespace import FilespaceConnector, LocalFilespaceConnector
from proxyflow.connectors.flux import FluxConnector
from proxyflow.connectors.lmdb import LMDBConnector
from proxyflow.connectors.maildir import MaildirConnector
from proxyflow.connectors.memory import MemoryConnector
from proxyflow.connectors.redis import RedisConnector
from proxyflow.connectors.session import new_name
from proxyflow.connectors.shm import SharedMemoryConnector
from proxyflow.connectors.tagblob import TagBlobConnector
from proxyflow.connectors.tagbloblocal import LocalTagBlobConnector
from proxyflow.testing import ConnectorConformance
from tests.redis_server import RedisServer
from tests.s3_server import S3Server
from tests.storage.kvs.flux_double import FluxDouble


class TestFileConnector(ConnectorConformance):
    connector_type = FileConnector

    @pytest.fixture
    def connector(self, tmp_path: Path) -> Iterator[FileConnector]:
        with FileConnector(str(tmp_path / "store")) as connector:
            yield connector


class TestFileConnectorWithSpill(ConnectorConformance):
    connector_type = FileConnector

    @pytest.fixture
    def connector(self, tmp_path: Path) -> Iterator[FileConnector]:
        with FileConnector(str(tmp_path / "a"), spill=str(tmp_path / "b")) as connector:
            yield connector


class TestDurableFileConnector(ConnectorConformance):
    connector_type = FileConnector

    @pytest.fixture
    def connector(self, tmp_path: Path) -> Iterator[FileConnector]:
        with FileConnector(str(tmp_path / "store"), durable=True) as connector:
            yield connector


class TestFileConnectorWithoutUnnamedFiles(ConnectorConformance):
    """As on NFS: files have a temporary name until they are complete."""

    connector_type = FileConnector

    @pytest.fixture
    def connector(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileConnector]:
        # What is left of the flag is an attempt to write to a directory, which the kernel refuses
        # just as it does where it does not know the flag.
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
        with FileConnector(str(tmp_path / "store")) as connector:
            yield connector


class TestMaildirConnector(ConnectorConformance):
    connector_type = MaildirConnector

    @pytest.fixture
    def connector(self, tmp_path: Path) -> Iterator[MaildirConnector]:
        with MaildirConnector(str(tmp_path / "store")) as connector:
            yield connector


class TestDurableMaildirConnector(ConnectorConformance):
    connector_type = MaildirConnector

    @pytest.fixture
    def connector(self, tmp_path: Path) -> Iterator[MaildirConnector]:
        with MaildirConnector(str(tmp_path / "store"), durable=True) as connector:
            yield connector


class TestSharedMemoryConnector(ConnectorConformance):
    connector_type = SharedMemoryConnector

    @pytest.fixture
    def connector(self) -> Iterator[FileConnector]:
        with (
            tempfile.TemporaryDirectory(dir="/dev/shm") as directory,
            SharedMemoryConnector(f"{directory}/store") as connector,
        ):
            yield connector


class TestLMDBConnector(ConnectorConformance):
    connector_type = LMDBConnector

    @pytest.fixture
    def connector(self, tmp_path: Path) -> Iterator[LMDBConnector]:
        with LMDBConnector(str(tmp_path / "store")) as connector:
            yield connector


class TestFluxConnector(ConnectorConformance):
    """With what stands in for the library in the KVS's own tests; it lives in one process."""

    connector_type = FluxConnector
    across_processes = False

    @pytest.fixture
    def connector(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[FluxConnector]:
        double = FluxDouble()
        for name, module in double.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
        with FluxConnector() as connector:
            yield connector
        assert double.misuse == []
        double.store.close()


class TestLocalTagBlobConnector(ConnectorConformance):
    connector_type = LocalTagBlobConnector

    @pytest.fixture
    def connector(self, tmp_path: Path) -> Iterator[LocalTagBlobConnector]:
        url = f"ddfs+file://{tmp_path}/store"
        with LocalTagBlobConnector(url, volumes=3, replicas=2) as connector:
            yield connector


class TestTagBlobConnectorOverHTTP(ConnectorConformance):
    connector_type = TagBlobConnector

    @pytest.fixture
    def connector(self, disco_url: str) -> Iterator[TagBlobConnector]:
        with TagBlobConnector(disco_url) as connector:
            yield connector


class TestTagBlobConnectorInS3(ConnectorConformance):
    connector_type = TagBlobConnector

    @pytest.fixture
    def connector(self, s3_url: str) -> Iterator[TagBlobConnector]:
        with open_url(s3_url) as connector:
            yield connector


class TestFilespaceConnector(ConnectorConformance):
    connector_type = LocalFilespaceConnector

    @pytest.fixture
    def connector(self, tmp_path: Path) -> Iterator[FilespaceConnector]:
        with LocalFilespaceConnector(str(tmp_path / "hub"), "lab", "data") as connector:
            yield connector


class TestFilespaceConnectorInS3(ConnectorConformance):
    connector_type = FilespaceConnector

    @pytest.fixture
    def connector(self, s3: S3Server) -> Iterator[FilespaceConnector]:
        hub = f"s3://store/{new_name(10)}"
        with FilespaceConnector(hub, "lab", "data", endpoint=s3.endpoint_url) as connector:
            yield connector


class TestRedisConnector(ConnectorConformance):
    connector_type = RedisConnector

    @pytest.fixture
    def connector(self, server: RedisServer) -> Iterator[RedisConnector]:
        with RedisConnector(server.url) as connector:
            yield connector


class TestMemoryConnector(ConnectorConformance):
    connector_type = MemoryConnector
    across_processes = False

    @pytest.fixture
    def connector(self) -> Iterator[MemoryConnector]:
        with MemoryConnector() as connector:
            yield connector


class TestPeerLocalConnector(ConnectorConformance):
    connector_type = LocalConnector
    shared = False
    across_processes = False
    checks_keys = False
    copies = False

    @pytest.fixture
    def connector(self) -> Iterator[LocalConnector]:
        with LocalConnector() as connector:
            yield connector


class TestPeerFileConnector(ConnectorConformance):
    connector_type = PeerFileConnector
    checks_keys = False

    @pytest.fixture
    def connector(self, tmp_path: Path) -> Iterator[PeerFileConnector]:
        with PeerFileConnector(str(tmp_path / "store")) as connector:
            yield connector
