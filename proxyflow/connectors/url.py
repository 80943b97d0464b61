"""Store URLs: ``scheme://authority/path?option=value#session``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from proxyflow.errors import ConfigError
from proxyflow.sizes import parse_size

__all__ = ["OF_EVERY_STORE", "StoreURL"]

OF_EVERY_STORE = frozenset({"compress", "verify", "cache"})
"""The options that a store reads itself, whatever its connector."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})

# A file's name need not be UTF-8; see os.fsdecode.
_ANY_BYTES = "surrogateescape"

# What stands between a colon and an @ may be a password, perhaps one that was not quoted and ends
# the authority early; after a $ it is the name of a variable.
_PASSWORD = re.compile(r":(?!//|\$).*@", re.DOTALL)


@dataclass(frozen=True)
class StoreURL:
    """One store, and within it one session, as a line of text.

    Parameters
    ----------
    scheme
        Which connector: ``file``, ``memory``, ``redis``, ...
    authority
        Host, port and user, where the connector has them.
    path
        Where in the system the store lies.
    options
        What follows the question mark.
    session
        What follows the hash: the run to join. Without one, opening the URL starts a new session.

    Examples
    --------
    >>> url = StoreURL.parse("file:///dev/shm/run1?durable=1#k3v5")
    >>> url.path, url.flag("durable"), url.session
    ('/dev/shm/run1', True, 'k3v5')
    >>> str(url)
    'file:///dev/shm/run1?durable=1#k3v5'
    """

    scheme: str
    authority: str = ""
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    session: str | None = None

    @classmethod
    def parse(cls, text: str) -> StoreURL:
        """Return the URL that `text` spells.

        Raises
        ------
        ConfigError
            If `text` has no scheme, repeats an option or gives one without a value.
        """
        parts = urlsplit(text)
        if not parts.scheme or "://" not in text:
            raise ConfigError(
                f"not a store URL: {_shown(text)!r}", remedy="write it like 'file:///dev/shm/run1'"
            )
        try:
            pairs = parse_qsl(
                parts.query,
                keep_blank_values=True,
                strict_parsing=bool(parts.query),
                errors=_ANY_BYTES,
            )
        except ValueError:
            raise ConfigError(f"the options of store URL {_shown(text)!r} make no sense") from None
        options = dict(pairs)
        if len(options) != len(pairs):
            raise ConfigError(f"store URL {_shown(text)!r} gives an option twice")
        return cls(
            parts.scheme,
            parts.netloc,
            unquote(parts.path, errors=_ANY_BYTES),
            options,
            parts.fragment or None,
        )

    def __str__(self) -> str:
        path = quote(self.path, errors=_ANY_BYTES)
        options = urlencode(self.options, safe="/:$", errors=_ANY_BYTES)
        query = f"?{options}" if options else ""
        session = f"#{self.session}" if self.session else ""
        return f"{self.scheme}://{self.authority}{path}{query}{session}"

    @property
    def shown(self) -> str:
        """The URL as errors show it: with no password."""
        return _shown(str(self))

    def __hash__(self) -> int:
        return hash(str(self))

    def replace(self, **changes: Any) -> StoreURL:
        """Return a copy with some parts changed; an option of ``None`` is dropped."""
        fields = {
            "scheme": self.scheme,
            "authority": self.authority,
            "path": self.path,
            "options": self.options,
            "session": self.session,
        } | changes
        fields["options"] = {k: v for k, v in fields["options"].items() if v is not None}
        return StoreURL(**fields)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a yes-or-no option.

        Raises
        ------
        ConfigError
            If it is neither.
        """
        value = self.options.get(name)
        if value is None:
            return default
        if value.lower() in _TRUE:
            return True
        if value.lower() in _FALSE:
            return False
        raise ConfigError(
            f"option {name}={value} of store URL {self.shown} is neither yes nor no",
            remedy="write 1, true, yes or on, or 0, false, no or off",
        )

    def size(self, name: str) -> int | None:
        """Return an option that is a size, in bytes; None if it is not given.

        Raises
        ------
        ConfigError
            If it is no size.

        Examples
        --------
        >>> StoreURL.parse("file:///dev/shm/run1?capacity=2MiB").size("capacity")
        2097152
        """
        text = self.options.get(name)
        try:
            return None if text is None else parse_size(text)
        except ValueError as error:
            raise ConfigError(f"option {name} of store URL {self.shown}: {error}") from error

    def check_options(self, known: frozenset[str]) -> None:
        """Refuse options that nobody reads: a misspelt one would be ignored silently.

        Raises
        ------
        ConfigError
            Naming the unknown option and the known ones.
        """
        unknown = sorted(set(self.options) - known)
        if unknown:
            names = ", ".join(sorted(known)) or "none"
            everywhere = ", ".join(sorted(OF_EVERY_STORE))
            # Without their values: elsewhere a password is an option.
            url = self.replace(options={**self.options, **dict.fromkeys(unknown)})
            raise ConfigError(
                f"store URL {url.shown} has an unknown option {unknown[0]!r}",
                remedy=f"known here: {names}; with every store: {everywhere}",
            )


def _shown(text: str) -> str:
    return _PASSWORD.sub(":***@", text)
