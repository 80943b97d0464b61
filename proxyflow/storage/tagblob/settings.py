"""Settings: what is not said in a call comes from a mapping, by default the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .errors import ConfigError

__all__ = ["DEFAULT_PORT", "Settings"]

DEFAULT_PORT = 8989


class Settings:
    """Disco's settings that matter here: names and meanings are those of its documentation.

    ``DISCO_MASTER``, ``DISCO_PROXY``, ``DISCO_PORT``, ``DDFS_BLOB_REPLICAS``, ``DDFS_READ_TOKEN``
    and ``DDFS_WRITE_TOKEN``.

    Examples
    --------
    >>> Settings({"DDFS_READ_TOKEN": "secret", "DISCO_PORT": "9000"}).port
    9000
    """

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values = os.environ if values is None else values

    def __repr__(self) -> str:
        return "Settings(...)"  # tokens are among them

    def _get(self, name: str) -> str | None:
        value = self._values.get(name)
        return str(value) if value else None

    def _number(self, name: str, default: int) -> int:
        value = self._get(name)
        try:
            return default if value is None else int(value)
        except ValueError as error:
            raise ConfigError(
                f"{name}={value} is not a number", remedy=f"set it to one, such as {default}"
            ) from error

    @property
    def master(self) -> str | None:
        """The address of the master."""
        return self._get("DISCO_MASTER")

    @property
    def proxy(self) -> str | None:
        """The address of the proxy."""
        return self._get("DISCO_PROXY")

    @property
    def port(self) -> int:
        """The port of masters and nodes."""
        return self._number("DISCO_PORT", DEFAULT_PORT)

    @property
    def replicas(self) -> int:
        """How many replicas a blob gets."""
        return self._number("DDFS_BLOB_REPLICAS", 1)

    def token(self, given: str | None, *, write: bool) -> str | None:
        """Return the token of a call: the one given, else the one set for reading or writing.

        Without one for reading that for writing is taken: a tag's write token reads, too.
        """
        if given is not None:
            return given
        read = None if write else self._get("DDFS_READ_TOKEN")
        return self._get("DDFS_WRITE_TOKEN") if read is None else read
