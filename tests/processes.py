"""Other processes for tests: scripts, owners of sessions that can be stopped and killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import TracebackType

import pytest

__all__ = ["Running", "only_root", "run", "small_file_system"]

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
"""For tests that use `small_file_system`."""

# A deadline that only a hang reaches.
LONG = 60.0

_OWNER = """
import sys
from proxyflow import Store
store = Store(sys.argv[1])
for n in range(3):
    store.put(bytes([n]) * 100_000)
print(store.session, flush=True)
sys.stdin.read()
"""


def run(script: str, *args: object, **environment: str) -> str:
    """Run a script in a Python of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Running:
    """A script that has said its first line and goes on; ends with the ``with`` block."""

    def __init__(self, script: str, *args: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().strip()

    @classmethod
    def owner(cls, url: object) -> Running:
        """Start a process that owns a session with three objects; its line is the session."""
        return cls(_OWNER, url)

    def kill(self) -> None:
        """End it without giving it a chance to tidy up."""
        self.process.kill()
        self.process.wait(LONG)

    def stop(self) -> None:
        """Freeze it."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def proceed(self) -> None:
        """Let it go on after :meth:`stop`."""
        self.process.send_signal(signal.SIGCONT)

    def finish(self) -> str:
        """Let it come to its end; return the rest of what it said."""
        self.proceed()
        rest, _ = self.process.communicate("", LONG)
        return rest.strip()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            # What a killed process did not read cannot be delivered.
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()


@contextlib.contextmanager
def small_file_system(path: os.PathLike[str], megabytes: int) -> Iterator[None]:
    """Mount a file system in memory that is soon full; only root may."""
    os.makedirs(path)
    options = f"size={megabytes}m,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
