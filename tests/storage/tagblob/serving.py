"""Our server as a process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from tests.s3_server import free_port, wait_for_port


@contextlib.contextmanager
def run_server(root: str, *options: str, env: dict[str, str] | None = None) -> Iterator[int]:
    """Run our server as a process and yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "proxyflow.storage.tagblob.server"]
    process = subprocess.Popen(
        [*command, "--root", root, "--port", str(port), *options],
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)
