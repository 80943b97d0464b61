"""Connections to a Redis server, and what its refusals and silences mean."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TypeVar

from proxyflow.storage.kvs import fork
from proxyflow.storage.kvs.engines.redis_address import Address
from proxyflow.storage.kvs.engines.redis_scripts import APPLY, LIST, LOOK
from proxyflow.storage.kvs.engines.resp import Command, Connection, Reply, ReplyError
from proxyflow.storage.kvs.errors import (
    AccessDeniedError,
    ClosedError,
    DamagedError,
    KVSError,
    StorageFullError,
    UnreachableError,
    UnsupportedError,
)

__all__ = ["UNDER_WAY", "Client", "Subscription"]

T = TypeVar("T")

# Connections kept for the next call; more are made when more threads call at once.
MAX_IDLE = 16

# How many large replies are asked for before the first has come.
UNDER_WAY = 4

# A server that is sent more for one command closes the connection.
MAX_ARGUMENTS = 1024 * 1024


class _Reported:
    """Failures of a connection, as a ``with`` statement that raises UnreachableError for them."""

    # A class: entering a generator takes several times as long, and this is part of every call.
    __slots__ = ("_address",)

    def __init__(self, address: Address) -> None:
        self._address = address

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, OSError) or isinstance(error, KVSError):
            return
        if isinstance(error, TimeoutError):
            text = f"the server did not answer within {self._address.timeout:g} s"
        else:
            text = f"the connection failed: {error}"
        where = "host and port" if self._address.path is None else "the path of its socket"
        raise UnreachableError(
            text, store=self._address.url, remedy=f"check that the server runs, and {where}"
        ) from error


class Client:
    """A server, as commands and their replies.

    Parameters
    ----------
    address
        Where it is.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.url = address.url
        self.reported = _Reported(address)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False
        fork.track(self)

    def exchange(
        self,
        commands: Sequence[Command],
        targets: Sequence[memoryview] = (),
        *,
        repeatable: bool = True,
    ) -> list[Reply]:
        """Send commands in one go and return their replies.

        Parameters
        ----------
        commands
            What to send.
        targets
            Where the bytes of the first replies go; the reply is then their number.
        repeatable
            Whether it does no harm if the server carries them out twice. Only then a connection
            that turns out to be dead is replaced by a new one.

        Raises
        ------
        UnreachableError
            There is no server, it went away, or it stayed silent.
        UnsupportedError
            A command has more arguments than a server takes.
        KVSError
            The server refused a command; which error depends on why.
        """
        if max(map(len, commands)) > MAX_ARGUMENTS:
            raise UnsupportedError(
                "this is more than the server takes at once",
                store=self.url,
                remedy="commit, or get, some 100,000 keys at a time",
            )
        return self._talk(
            lambda connection: self._converse(connection, commands, targets), repeatable
        )

    def fetch(
        self,
        commands: Sequence[Command],
        targets: Sequence[memoryview] | None = None,
        *,
        under_way: int = UNDER_WAY,
    ) -> list[bytearray | Reply]:
        """Send commands that read, a few at a time, and return their replies.

        A server that is asked for everything at once puts everything together before it sends any:
        100 MiB in one reply take 126 ms, in replies of 1 MiB of which four are under way 14 ms.

        Parameters
        ----------
        commands
            What to send; each is harmless to repeat.
        targets
            Where the bytes of each reply go; the reply is then their number. Without, they are
            returned in new memory.
        under_way
            How many to ask for before the first has come.

        Raises
        ------
        UnreachableError
            There is no server, it went away, or it stayed silent.
        KVSError
            The server refused a command; which error depends on why.
        """
        return self._talk(
            lambda connection: self._fetch(connection, commands, targets, under_way), True
        )

    def _fetch(
        self,
        connection: Connection,
        commands: Sequence[Command],
        targets: Sequence[memoryview] | None,
        under_way: int,
    ) -> list[bytearray | Reply]:
        connection.send(commands[:under_way])
        replies: list[bytearray | Reply] = []
        for at in range(len(commands)):
            replies.append(
                connection.receive_buffer()
                if targets is None
                else connection.receive_into(targets[at])
            )
            connection.send(commands[at + under_way : at + under_way + 1])
        self._check(replies)
        return replies

    def _converse(
        self, connection: Connection, commands: Sequence[Command], targets: Sequence[memoryview]
    ) -> list[Reply]:
        connection.send(commands)
        replies: list[Reply] = [connection.receive_into(target) for target in targets]
        replies += [connection.receive() for _ in commands[len(targets) :]]
        if ReplyError in map(type, replies):
            self._load_scripts(connection, commands, replies)
            self._check(replies)
        return replies

    def _load_scripts(
        self, connection: Connection, commands: Sequence[Command], replies: list[Reply]
    ) -> None:
        """Send again, with the scripts, what the server refused as it did not know them."""
        unknown = [at for at, reply in enumerate(replies) if _is_unknown_script(reply)]
        if not unknown:
            return
        connection.send([b"SCRIPT", b"LOAD", script.source] for script in (APPLY, LIST, LOOK))
        connection.send([commands[at] for at in unknown])
        for _ in (APPLY, LIST, LOOK):
            connection.receive()
        for at in unknown:
            replies[at] = connection.receive()

    def _check(self, replies: Iterable[object]) -> None:
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise self.refused(reply)

    # -- connections ------------------------------------------------------------------------

    def _talk(self, talk: Callable[[Connection], T], repeatable: bool) -> T:
        """Talk over an idle connection, else, or if that is dead and it does no harm, a new one."""
        idle = self._take_idle()
        if idle is not None:
            try:
                return self._talk_over(idle, talk)
            except UnreachableError:
                if not repeatable:
                    raise
        return self._talk_over(self.connect(), talk)

    def _talk_over(self, connection: Connection, talk: Callable[[Connection], T]) -> T:
        try:
            with self.reported:
                result = talk(connection)
        except UnreachableError:
            connection.close()
            raise
        except KVSError:
            self._give_back(connection)
            raise
        except BaseException:
            # Interrupted halfway: replies are still to come.
            connection.close()
            raise
        self._give_back(connection)
        return result

    def _take_idle(self) -> Connection | None:
        while True:
            with self._lock:
                if self._closed:
                    raise ClosedError("the handle was closed", store=self.url)
                if not self._idle:
                    return None
                connection = self._idle.pop()
            # Nothing is due on an idle connection, unless the server has closed it.
            if not connection.wait(0):
                return connection
            connection.close()

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def connect(self) -> Connection:
        """Return a new connection, logged in."""
        greeting = list(self.address.greeting())
        with self.reported:
            connection = Connection(self.address.connect())
        try:
            with self.reported:
                connection.send(greeting)
                for _ in greeting:
                    reply = connection.receive()
                    if isinstance(reply, ReplyError):
                        raise self.refused(reply)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    # -- forking ----------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Nothing has to come to rest."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent: two processes on one would mix up replies."""
        self._lock = threading.Lock()
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    # -- errors -----------------------------------------------------------------------------

    def refused(self, reply: ReplyError) -> KVSError:
        """Return the error that stands for a server's refusal."""
        text = str(reply)
        for pattern, kind, remedy in _REFUSALS:
            if pattern.search(text):
                return kind(f"the server answered: {text}", store=self.url, remedy=remedy)
        return KVSError(f"the server answered: {text}", store=self.url)


# Errors of a script are wrapped in a sentence, so the word is looked for anywhere.
_REFUSALS: list[tuple[re.Pattern[str], type[KVSError], str | None]] = [
    (
        re.compile(r"\bOOM\b"),
        StorageFullError,
        "raise maxmemory, or remove what is not needed",
    ),
    (
        re.compile(r"\bMISCONF\b"),
        StorageFullError,
        "the server cannot save; see its log and its disk",
    ),
    (
        re.compile(r"\b(WRONGPASS|NOAUTH)\b|invalid password|AUTH <password> called"),
        AccessDeniedError,
        "check the user and password in the URL, or in the variable it names",
    ),
    (
        # Within a script older servers say it in a sentence.
        re.compile(r"\bNOPERM\b|ACL failure in script|The user executing the script can't"),
        AccessDeniedError,
        "allow this user the keys, channels and commands it needs (ACL SETUSER)",
    ),
    (
        re.compile(r"^(LOADING|BUSY|MASTERDOWN|CLUSTERDOWN)\b|max number of clients"),
        UnreachableError,
        "try again in a while",
    ),
    (
        re.compile(r"\b(READONLY|MOVED|CROSSSLOT)\b"),
        UnsupportedError,
        "use the URL of a primary that is not part of a cluster",
    ),
    (
        re.compile(r"\bWRONGTYPE\b"),
        DamagedError,
        "something else writes keys that begin with kvs: to this database",
    ),
]


def _is_unknown_script(reply: Reply) -> bool:
    return isinstance(reply, ReplyError) and reply.word == "NOSCRIPT"


class Subscription:
    """A connection on which the server tells of messages in a channel."""

    def __init__(self, client: Client, channel: bytes) -> None:
        self._client = client
        self._pid = os.getpid()
        self._connection = client.connect()
        try:
            with client.reported:
                self._connection.send([[b"SUBSCRIBE", channel]])
                reply = self._connection.receive()
            if isinstance(reply, ReplyError):
                raise client.refused(reply)
        except BaseException:
            self._connection.close()
            raise

    def wait(self, seconds: float) -> bool:
        """Wait for a message; take all that have come.

        Raises
        ------
        UnreachableError
            The server went away, or gives no sign of life.
        """
        if self._pid != os.getpid():
            raise ClosedError(
                "a watch does not go on in a forked child",
                store=self._client.url,
                remedy="call watch again there",
            )
        with self._client.reported:
            if not self._connection.wait(seconds):
                return False
            told = False
            while self._connection.wait(0):
                reply = self._connection.receive()
                told |= isinstance(reply, list) and reply[0] == b"message"
            return told

    def ping(self) -> None:
        """Make sure that the server is there; its answer is no message."""
        with self._client.reported:
            self._connection.send([[b"PING"]])
            if not self._connection.wait(self._client.address.timeout):
                raise TimeoutError

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
