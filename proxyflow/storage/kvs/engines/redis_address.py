"""Where a Redis server is, and who we are there; what may be shown of that."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from proxyflow.storage.kvs.engines.resp import Command
from proxyflow.storage.kvs.errors import InvalidURLError

__all__ = ["LOCAL", "Address"]

DEFAULT_PORT = 6379
DEFAULT_TIMEOUT = 10.0
# The system takes no wait of more than some weeks.
MAX_TIMEOUT = 86400.0

# Over a socket of this host; redis-py knows the short one.
LOCAL = frozenset({"redis+unix", "unix"})

_OPTIONS = frozenset({"db", "timeout"})

_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class Address:
    """A parsed URL; see `proxyflow.storage.kvs.open` for its form.

    Attributes
    ----------
    url
        The URL with ``***`` in place of a password; the name of a variable is shown.
    timeout
        Seconds that the server may stay silent.
    """

    url: str
    host: str
    port: int
    path: str | None
    tls: bool
    user: str
    database: int
    timeout: float
    # As in the URL, still quoted: `$` begins the name of a variable, `%24` a password.
    _password: str = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Return what a URL means; InvalidURLError if it means nothing."""
        scheme = url.partition(":")[0]
        try:
            parts = urlsplit(url)
            options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
            local = scheme in LOCAL
            database = options.pop("db", "0") if local else parts.path.strip("/") or "0"
            address = cls(
                url=_shown(parts),
                host=parts.hostname or "localhost",
                port=parts.port or DEFAULT_PORT,
                path=unquote(parts.path) if local else None,
                tls=scheme == "rediss",
                user=unquote(parts.username or ""),
                database=int(database),
                timeout=float(options.pop("timeout", DEFAULT_TIMEOUT)),
                _password=parts.password or "",
            )
        except ValueError:
            # Its message may hold a part of a password that was not quoted.
            raise InvalidURLError(
                f"this {scheme} URL does not parse",
                remedy="see kvs.open for its form; in a password, quote characters such as / and #",
            ) from None
        address._check(options, parts)
        return address

    def _check(self, unknown: dict[str, str], parts: SplitResult) -> None:
        problem = None
        if unknown or parts.fragment:
            problem = f"unknown options {sorted(unknown) or ['#']}; there is timeout"
        elif not 0 < self.timeout <= MAX_TIMEOUT:
            problem = f"the timeout is more than 0 and at most {MAX_TIMEOUT:g} seconds"
        elif self.database < 0:
            problem = "a database has a number from 0"
        elif self.user and not self._password:
            problem = "a user needs a password"
        if problem is not None:
            raise InvalidURLError(problem, store=self.url)

    def password(self) -> str:
        """Return the password, from the environment if the URL names a variable."""
        variable = _VARIABLE.fullmatch(self._password)
        if variable is None:
            return unquote(self._password)
        found = os.environ.get(variable[1])
        if found is None:
            raise InvalidURLError(
                f"the environment has no {variable[1]}",
                store=self.url,
                remedy="set it to the server's password",
            )
        return found

    def connect(self) -> socket.socket:
        """Return a connected socket; OSError if there is no server."""
        if self.path is not None:
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connected.settimeout(self.timeout)
            try:
                connected.connect(self.path)
            except OSError:
                connected.close()
                raise
            return connected
        connected = socket.create_connection((self.host, self.port), self.timeout)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if not self.tls:
            return connected
        # Closes the socket if the handshake fails.
        return ssl.create_default_context().wrap_socket(connected, server_hostname=self.host)

    def greeting(self) -> Iterator[Command]:
        """Yield the commands that a new connection begins with."""
        if self._password:
            user = [self.user.encode()] if self.user else []
            yield [b"AUTH", *user, self.password().encode()]
        if self.database:
            yield [b"SELECT", self.database]


def _shown(parts: SplitResult) -> str:
    where = parts.netloc.rpartition("@")[2]
    password = parts.password or ""
    if password:
        secret = password if _VARIABLE.fullmatch(password) else "***"
        where = f"{parts.username or ''}:{secret}@{where}"
    # Elsewhere a password is an option.
    options = [(name, value) for name, value in parse_qsl(parts.query) if name in _OPTIONS]
    query = f"?{urlencode(options)}" if options else ""
    # Not geturl(): without a host that leaves out the slashes.
    return f"{parts.scheme}://{where}{parts.path}{query}"
