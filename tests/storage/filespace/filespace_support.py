"""What several test modules of filespaces share: servers, buckets, child processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from proxyflow.storage.filespace import Filespace, S3DataStoreConfig
from proxyflow.storage.filespace.blobs import open_blobs

ACCESS, SECRET = "AKIATESTKEY0000000", "a-secret-that-must-not-show"
REGION = "us-east-1"


@dataclass
class Bucket:
    """A bucket of its own on a server that speaks S3."""

    endpoint: str
    name: str
    client: Any

    def put(self, key: str, data: bytes) -> str:
        """Store an object; return its ETag."""
        etag: str = self.client.put_object(Bucket=self.name, Key=key, Body=data)["ETag"]
        return etag.strip('"')

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def config(self, **changes: Any) -> S3DataStoreConfig:
        facts: dict[str, Any] = {
            "access_key": ACCESS,
            "secret_key": SECRET,
            "bucket_name": self.name,
            "region": REGION,
            "endpoint": self.endpoint,
        }
        return S3DataStoreConfig(**facts | changes)

    @property
    def storage_options(self) -> dict[str, Any]:
        return {"key": ACCESS, "secret": SECRET, "endpoint_url": self.endpoint}


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Run a server that speaks S3 as a process of its own; yield its endpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _wait_for(endpoint, process)
        yield endpoint
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _wait_for(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(endpoint + "/moto-api/", timeout=5):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def new_bucket(endpoint: str) -> Bucket:
    import botocore.session

    client = botocore.session.Session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=ACCESS,
        aws_secret_access_key=SECRET,
    )
    name = f"b{uuid.uuid4().hex[:20]}"
    client.create_bucket(Bucket=name)
    return Bucket(endpoint, name, client)


def run_python(code: str, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `code` in a Python process of its own."""
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        check=check,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def files_below(root: str) -> set[str]:
    """Return the paths of all files below a directory."""
    return {
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(root)
        for name in names
    }


def head_of(root: str) -> bytes:
    """Return the head of the only filespace below a directory."""
    (path,) = (path for path in files_below(root) if path.endswith("/head"))
    data = open_blobs(root, {}).read(path)
    assert data is not None
    return data


def tree_of(filespace: Filespace, path: str = "") -> dict[str, bytes | None]:
    """Return every path of a filespace with its content, directories with ``None``."""
    found: dict[str, bytes | None] = {}
    for entry in filespace.fs.read_dir(path or "/"):
        below = f"{path}/{entry.name}"
        if entry.is_dir():
            found |= {below: None, **tree_of(filespace, below)}
        else:
            found[below] = filespace.fs.read_file(below)
    return found
