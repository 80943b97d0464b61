"""The parts of the report, each measured in a process of its own.

Run with ``python -m benchmarks.sections NAME FILE``: what the section found is pickled into the
file. What a section leaves behind in memory, in caches or running thus meets no other one.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.options import Options, parser, read
from benchmarks.result import Result

__all__ = ["SECTIONS", "Failure", "run"]

ROOT = Path(__file__).parents[1]

SECTIONS = {
    "limits": "The limits of the machine",
    "throughput": "Put and get over the size of the object",
    "store": "Stores in shared memory",
    "connectors": "Every connector",
    "proxy": "Operations on a resolved proxy",
    "executor": "Arguments of tasks in process pools",
    "dask": "Arguments of tasks in Dask",
    "taskrate": "Task rate over the size of the argument",
    "memory": "Memory of scheduler, writer and reader",
    "stream": "Streams",
    "maildir": "Queues on files",
    "kvs": "Key-value stores",
    "tagblob": "Tags and blobs",
    "filespace": "Filespaces",
}
"""Headings by the module in this package."""

# A section that takes longer hangs.
_LIMIT_SECONDS = 1200
_ERROR_LINES = 12


@dataclass(frozen=True)
class Failure:
    """A section that ended in an error."""

    error: str


def run(name: str, options: Options) -> Result | Failure:
    """Run a section in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        found, log = Path(directory, "result"), Path(directory, "log")
        command = [sys.executable, "-m", "benchmarks.sections", name, str(found)]
        command += ["--effort", str(options.effort)]
        command += ["--quick"] if options.quick else []
        command += ["--directory", options.directory] if options.directory else []
        error = _run(command, log)
        if error:
            return Failure(error)
        result: Result = pickle.loads(found.read_bytes())
        return result


def _run(command: Sequence[str], log: Path) -> str:
    """Run a command; return what is wrong, or nothing."""
    # Servers and workers that a section starts import from here too.
    paths = [str(ROOT), str(ROOT / "integrations"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            return f"not done within {_LIMIT_SECONDS} seconds"
        finally:
            # Whatever it started goes with it, and everything when we are interrupted.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not status:
        return ""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join([*lines[-_ERROR_LINES:], f"exit status {status}"])


def main() -> None:
    """Run one section in this process."""
    command = parser(__doc__)
    command.add_argument("name", choices=SECTIONS)
    command.add_argument("file", type=Path)
    arguments = command.parse_args()
    module = importlib.import_module(f"benchmarks.{arguments.name}")
    result: Result = module.collect(read(arguments))
    arguments.file.write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    main()
