"""The progress bar: on terminals, for large transfers."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

PROGRAM = """
import sys
from proxyflow.storage.tagblob import DDFS, progress
progress.LARGE = int(sys.argv[2])
ddfs = DDFS(sys.argv[1])
ddfs.push("data", [(b"x" * 1000, "blob")])
ddfs.push("data", [(b"x" * 1000, "other")], update=True)
ddfs.chunk("lines", [b"a\\n" * 500])
for blob in ddfs.pull("data"):
    blob.close()
"""


def on_terminal(*arguments: str) -> bytes:
    """Run the program with a terminal for its standard error and return what it shows."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break  # how Linux says that the other end is closed
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert process.wait() == 0
    return shown


def test_large_transfers_show_a_bar_on_a_terminal(tmp_path: Path) -> None:
    shown = on_terminal(f"{tmp_path}/store", "1000")
    assert b"push data" in shown
    assert b"100%" in shown
    assert b"chunk lines" in shown
    assert b"pull data" in shown


def test_small_transfers_show_none(tmp_path: Path) -> None:
    assert b"push data" not in on_terminal(f"{tmp_path}/store", "100000")


@pytest.mark.parametrize("missing", [False, True])
def test_without_a_terminal_or_tqdm_there_is_no_bar(tmp_path: Path, missing: bool) -> None:
    program = ("import sys; sys.modules['tqdm'] = None\n" if missing else "") + PROGRAM
    arguments = [sys.executable, "-c", program, f"{tmp_path}/store", "0"]
    if not missing:
        done = subprocess.run(arguments, stderr=subprocess.PIPE, check=True)
        assert done.stderr == b""
        return
    ours, theirs = pty.openpty()
    subprocess.run(arguments, stderr=theirs, check=True)
    os.write(theirs, b"end")
    assert os.read(ours, 65536) == b"end"
    os.close(ours)
    os.close(theirs)
