"""A connection to a Redis or Valkey server: RESP2, written so that large values are not copied.

redis-py copies a large reply several times (its parser reads 64 KiB at a time into a buffer, and
slices that), joins a value given in pieces, and repeats commands after a lost connection, whether
or not the server has carried them out. Here a value goes out piece by piece, comes in straight
where it is wanted, and a command is sent once.

Protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

__all__ = ["Command", "Connection", "Reply", "ReplyError"]

# An argument of several buffers is sent as their concatenation.
Argument = bytes | int | Sequence[memoryview]
Command = Sequence[Argument]
Reply: TypeAlias = "bytes | int | list[Reply] | ReplyError | None"

# Smaller pieces are gathered into one; larger ones are handed to the kernel where they are.
GATHER_BYTES = 16 * 1024
# How many pieces one system call takes (IOV_MAX).
MAX_PIECES = 512
READ_BYTES = 64 * 1024
_BULK = ord("$")


class ReplyError(Exception):
    """The server's answer to one command was an error; its first word tells which."""

    @property
    def word(self) -> str:
        """The kind of error, as in ``OOM command not allowed``."""
        return str(self).partition(" ")[0]


class Connection:
    """One socket, with commands going out and replies coming in, in the same order.

    After any exception but `ReplyError` the connection is of no use: replies may be under way.

    Parameters
    ----------
    connected
        The socket, with the timeout that bounds each wait for the server.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        # Over TLS there is no scattered send, and what has come in may sit above the socket.
        self._tls: Any = None if type(connected) is socket.socket else connected
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)

    def wait(self, seconds: float | None) -> bool:
        """Wait until something has come in, or the server has closed the connection."""
        if self._start < self._end or (self._tls is not None and self._tls.pending()):
            return True
        return bool(self._poll.poll(None if seconds is None else seconds * 1000))

    def close(self) -> None:
        """Close the socket; in a forked child that leaves the parent's alone."""
        self._socket.close()

    def __del__(self) -> None:
        # A store that nobody uses any more goes without being closed, and so do its connections.
        self._socket.close()

    # -- sending ----------------------------------------------------------------------------

    def send(self, commands: Iterable[Command]) -> None:
        """Send commands; the replies are to be received one by one."""
        gathered = bytearray()
        pieces: list[memoryview | bytearray] = []
        for command in commands:
            gathered += b"*%d\r\n" % len(command)
            small = [
                b"$%d\r\n%b\r\n" % (len(argument), argument)
                for argument in command
                if type(argument) is bytes and len(argument) < GATHER_BYTES
            ]
            if len(small) == len(command):
                gathered += b"".join(small)
                continue
            for argument in command:
                if isinstance(argument, int):
                    argument = b"%d" % argument
                if type(argument) is bytes and len(argument) < GATHER_BYTES:
                    gathered += b"$%d\r\n%b\r\n" % (len(argument), argument)
                    continue
                for piece in _framed(argument):
                    if len(piece) < GATHER_BYTES:
                        gathered += piece
                        continue
                    pieces += [gathered, memoryview(piece)]
                    gathered = bytearray()
        if not pieces:
            self._socket.sendall(gathered)
            return
        pieces.append(gathered)
        self._send_all([memoryview(piece) for piece in pieces if piece])

    def _send_all(self, pieces: list[memoryview]) -> None:
        if self._tls is not None:
            for piece in pieces:
                self._socket.sendall(piece)
            return
        first = 0
        while first < len(pieces):
            sent = self._socket.sendmsg(pieces[first : first + MAX_PIECES])
            while first < len(pieces) and sent >= pieces[first].nbytes:
                sent -= pieces[first].nbytes
                first += 1
            if sent:
                pieces[first] = pieces[first][sent:]

    # -- receiving --------------------------------------------------------------------------

    def receive(self) -> Reply:
        """Return the next reply; an error among several is returned in its place."""
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return self._bulk(int(rest))
        if kind == b"*":
            return None if rest == b"-1" else [self.receive() for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        if kind == b"-":
            return ReplyError(rest.decode("utf-8", "replace"))
        raise ConnectionError(f"this is no Redis server: it answered {line[:40]!r}")

    def receive_buffer(self) -> bytearray | Reply:
        """Return the next reply; bytes as a bytearray, which spares a copy."""
        if self._end == self._start:
            self._more()
        if self._view[self._start] != _BULK:
            return self.receive()
        size = int(self._line()[1:])
        if size < 0:
            return None
        data = bytearray(size)
        self._fill(memoryview(data))
        self._expect_line_end()
        return data

    def receive_into(self, target: memoryview) -> Reply:
        """Receive a reply of bytes into `target`, and return how many there were.

        Any other reply, and bytes of another length than `target`'s, are returned as by `receive`.
        """
        if not self._is_bulk_of(target.nbytes):
            return self.receive()
        self._line()
        self._fill(target)
        self._expect_line_end()
        return target.nbytes

    def _is_bulk_of(self, size: int) -> bool:
        line = b"$%d\r\n" % size
        while self._end - self._start < len(line):
            # A shorter reply that is complete does not end in the middle of this comparison.
            if self._view[self._start : self._end] != line[: self._end - self._start]:
                return False
            self._more()
        return self._view[self._start : self._start + len(line)] == line

    def _line(self) -> bytes:
        searched = self._start
        while True:
            at = self._buffer.find(b"\r\n", searched, self._end)
            if at >= 0:
                line = bytes(self._view[self._start : at])
                self._start = at + 2
                return line
            pending = self._end - self._start
            self._more()
            searched = self._start + max(0, pending - 1)

    def _more(self) -> None:
        """Read what has come into the buffer."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start:
            rest = self._end - self._start
            self._view[:rest] = self._view[self._start : self._end]
            self._start, self._end = 0, rest
        if self._end == len(self._buffer):
            raise ConnectionError("this is no Redis server: it sends a line without an end")
        self._end += self._read_into(self._view[self._end :])

    def _read_into(self, target: memoryview) -> int:
        count = self._socket.recv_into(target)
        if not count:
            raise ConnectionResetError("the server closed the connection")
        return count

    def _bulk(self, size: int) -> bytes | None:
        if size < 0:
            return None
        stop = self._start + size
        if stop + 2 <= self._end:
            found = bytes(self._view[self._start : stop])
            self._start = stop
        else:
            data = bytearray(size)
            self._fill(memoryview(data))
            found = bytes(data)
        self._expect_line_end()
        return found

    def _fill(self, target: memoryview) -> None:
        count = min(target.nbytes, self._end - self._start)
        target[:count] = self._view[self._start : self._start + count]
        self._start += count
        while count < target.nbytes:
            count += self._read_into(target[count:])

    def _expect_line_end(self) -> None:
        if self._buffer.startswith(b"\r\n", self._start, self._end):
            self._start += 2
        elif self._line():
            raise ConnectionError("this is no Redis server: a value is longer than announced")


def _framed(argument: bytes | Sequence[memoryview]) -> list[bytes | memoryview]:
    if isinstance(argument, bytes):
        return [b"$%d\r\n" % len(argument), argument, b"\r\n"]
    size = sum(piece.nbytes for piece in argument)
    return [b"$%d\r\n" % size, *argument, b"\r\n"]
