"""Who claimed or is writing a file, and since when: kept in the file's own name.

A stamped name is ``name~time,host,machine,boot,namespace,pid,start``. The name is all there is: no
lock and no second file, so a rename moves a file and says who holds it in one step that either
happens or does not.
"""

from __future__ import annotations

import functools
import os
import re
import time
from typing import NamedTuple

__all__ = ["SEPARATOR", "Stamp", "longest_stampable", "stamped", "unstamped"]

SEPARATOR = "~"

# linux/limits.h
_NAME_MAX = 255

# At most 6 digits on Linux (PID_MAX_LIMIT is 2**22); 7 always fit the C type as well.
_STAMPED = re.compile(
    rf"(?P<name>.+){SEPARATOR}(?P<time>[0-9a-f]{{16}}),(?P<host>[\w.-]*),(?P<machine>[0-9a-f]{{8}}),"
    r"(?P<boot>[0-9a-f]*),(?P<namespace>[0-9]*),(?P<pid>[0-9a-f]{1,7}),(?P<start>[0-9a-f]+)",
    re.ASCII | re.DOTALL,
)


class Stamp(NamedTuple):
    """One process, and when it took the file."""

    time_ns: int
    host: str  # for people; two hosts may have one name
    machine: str  # digest of what tells hosts apart
    boot: str  # identifier of this run of the kernel
    namespace: str  # of process numbers: containers on one kernel count for themselves
    pid: int
    start: int  # when the process began, in ticks since boot: numbers are used again

    @property
    def age(self) -> float:
        """Seconds since the stamp, by the clock of this host."""
        return (time.time_ns() - self.time_ns) / 1e9

    @property
    def is_ours(self) -> bool:
        """Whether it is of the process that asks."""
        return self._replace(time_ns=0) == _this_process(os.getpid())

    def is_dead(self) -> bool:
        """Whether the process is known to have ended; never a guess.

        Processes of other hosts and of other containers cannot be seen from here: ``False``.
        """
        here = _this_process(os.getpid())
        if self.boot != here.boot:
            # Another host, unless it is this one before it was started anew.
            return self.machine == here.machine and bool(self.boot and here.boot)
        if self.namespace != here.namespace or not here.namespace:
            return False
        return not _is_running(self.pid, self.start)


def stamped(name: str) -> str:
    """Return the name with the stamp of this process and moment.

    Examples
    --------
    >>> name, stamp = unstamped(stamped("a-file"))
    >>> name, stamp.pid == os.getpid(), stamp.is_dead()
    ('a-file', True, False)
    """
    return f"{name}{SEPARATOR}{time.time_ns():016x},{_suffix(os.getpid())}"


def longest_stampable() -> int:
    """Return how many bytes of a name leave room for the stamp."""
    return _NAME_MAX - len(stamped(""))


def unstamped(filename: str) -> tuple[str, Stamp] | None:
    """Return the name and its stamp, or ``None`` if the name bears none."""
    match = _STAMPED.fullmatch(filename)
    if match is None:
        return None
    stamp = Stamp(
        int(match["time"], 16),
        match["host"],
        match["machine"],
        match["boot"],
        match["namespace"],
        int(match["pid"], 16),
        int(match["start"], 16),
    )
    return match["name"], stamp


# Both are asked with the current number: the answer of a parent is not that of its forked child.
@functools.lru_cache(maxsize=1)
def _suffix(pid: int) -> str:
    process = _this_process(pid)
    return (
        f"{process.host},{process.machine},{process.boot},{process.namespace},"
        f"{process.pid:x},{process.start:x}"
    )


@functools.lru_cache(maxsize=1)
def _this_process(pid: int) -> Stamp:
    import hashlib

    host = os.uname().nodename
    boot = _line("/proc/sys/kernel/random/boot_id")
    # Images of containers have no identifier, and containers of one name run on several hosts: what
    # was before this run of the kernel is then unknown.
    machine = hashlib.blake2b(f"{host}\n{_line('/etc/machine-id') or boot}".encode(), digest_size=4)
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        namespace = ""  # no /proc: nobody will be declared dead
    fields = _stat_fields(pid)
    return Stamp(
        time_ns=0,
        # Short, and of letters that neither a file system nor the separator minds.
        host=re.sub(r"[^\w.-]", "_", host, flags=re.ASCII)[:16],
        machine=machine.hexdigest(),
        boot=boot.replace("-", "")[:12],
        namespace=namespace,
        pid=pid,
        start=int(fields[_START]) if fields else 0,
    )


def _line(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.readline().strip()
    except OSError:
        return ""


# proc_pid_stat(5), counted from the state, which follows the closing parenthesis.
_STATE, _THREADS, _START = 0, 17, 19


def _stat_fields(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command in parentheses may hold spaces and parentheses itself.
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def _is_running(pid: int, start: int) -> bool:
    fields = _stat_fields(pid)
    if fields:
        # A killed process that its parent has not asked for yet does nothing any more; one whose
        # first thread ended looks the same but for its other threads.
        ended = fields[_STATE] in (b"Z", b"X") and int(fields[_THREADS]) <= 1
        return int(fields[_START]) == start and not ended
    try:
        # /proc may hide the processes of other users (hidepid).
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
