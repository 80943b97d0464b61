"""What a store is told besides where it is: compression, verification, secret, cache."""

from __future__ import annotations

from dataclasses import dataclass

from proxyflow.config import default_secret
from proxyflow.connectors.url import OF_EVERY_STORE, StoreURL
from proxyflow.errors import ConfigError
from proxyflow.sizes import parse_size

__all__ = ["CACHE", "NAMES", "StoreOptions"]

CACHE = 256 << 20
"""How many bytes of payloads a store caches unless told otherwise."""

NAMES = OF_EVERY_STORE
"""The options that may stand in a URL. A secret may not: URLs travel."""


@dataclass(frozen=True)
class StoreOptions:
    """A store's own options, read and checked; None stands for what suits its connector.

    Examples
    --------
    >>> options = StoreOptions.read(StoreURL.parse("file:///x?cache=1 MiB"), verify=True)
    >>> options.cache, options.verify, options.compress
    (1048576, True, None)
    """

    compress: bool | None = None
    verify: bool = False
    secret: bytes | None = None
    cache: int = CACHE

    @classmethod
    def read(
        cls,
        url: StoreURL | None = None,
        *,
        compress: bool | None = None,
        verify: bool | None = None,
        secret: str | bytes | None = None,
        cache: int | str | None = None,
    ) -> StoreOptions:
        """Return the options of a store: what an argument says, else what the URL says.

        Raises
        ------
        ConfigError
            If one of them makes no sense.
        """
        if url is not None:
            if compress is None and "compress" in url.options:
                compress = url.flag("compress")
            verify = url.flag("verify") if verify is None else verify
            cache = url.options.get("cache") if cache is None else cache
        try:
            size = CACHE if cache is None else parse_size(cache)
        except ValueError as error:
            raise ConfigError(f"cache={cache!r}: {error}") from error
        return cls(compress, bool(verify), _as_secret(secret), size)


def _as_secret(secret: str | bytes | None) -> bytes | None:
    if secret is None:
        return default_secret()
    if not isinstance(secret, str | bytes | bytearray) or not secret:
        raise ConfigError(
            "the secret is not text or bytes, or is empty",
            remedy="give a random one, such as secrets.token_bytes(32)",
        )
    return secret.encode() if isinstance(secret, str) else bytes(secret)
