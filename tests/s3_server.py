"""A real S3-protocol server for tests: moto as a process of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["S3Server", "free_port", "run_s3_server", "wait_for_port"]

_DEADLINE = 60.0

# What `python -m moto.server` runs, with one difference. S3 decides a conditional write atomically;
# moto checks and stores in two steps, between which another of its threads may run. Threads that
# are switched only when they wait make the two steps one.
_PROGRAM = "import sys; sys.setswitchinterval(60); from moto.server import main; main(sys.argv[1:])"


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when somebody listens; raise when the process ended instead."""
    deadline = time.monotonic() + _DEADLINE
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


@dataclass(frozen=True)
class S3Server:
    """Where the server listens."""

    port: int

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage_options(self) -> dict[str, Any]:
        """Options for fsspec's ``s3`` file system."""
        return {
            "endpoint_url": self.endpoint_url,
            "key": "testing",
            "secret": "testing",
        }

    def make_bucket(self, name: str) -> str:
        """Create a bucket and return its name."""
        import fsspec

        fsspec.filesystem("s3", skip_instance_cache=True, **self.storage_options).mkdir(name)
        return name


@contextlib.contextmanager
def run_s3_server() -> Iterator[S3Server]:
    """Run a server on a free port of the loopback interface."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, process)
        yield S3Server(port)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
