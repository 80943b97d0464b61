"""Proxies of files that are already there: nothing is copied, and only what is read is moved."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import IO, Any, TypeAlias, cast

from proxyflow import recipe as recipes
from proxyflow.errors import ConfigError, MissingDependencyError
from proxyflow.facts import Facts, describe_class
from proxyflow.proxy import Proxy
from proxyflow.recipe import Recipe

__all__ = ["Loader", "StoreFileFactory", "URLFactory", "facts_of", "proxy_url", "read_all"]

Loader: TypeAlias = Callable[[IO[bytes]], Any]
"""Makes an object of an open binary file: `numpy.load`, `pandas.read_parquet`, `json.load`."""

_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_SECRET = re.compile(
    r"secret|passw|passphrase|^pwd$|token|credential|authorization|connection_string|^key$|_key$",
    re.IGNORECASE,
)
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")


def read_all(file: IO[bytes]) -> bytes:
    """Return all of a file: what is loaded when nobody says how."""
    return file.read()


class URLFactory:
    """Loads what a URL names, in the process that resolves the proxy.

    Parameters
    ----------
    url, loader, storage_options
        See :func:`proxy_url`.
    """

    __slots__ = ("loader", "storage_options", "url")

    def __init__(self, url: str, loader: Loader, storage_options: Mapping[str, Any]) -> None:
        self.url = url
        self.loader = loader
        self.storage_options = dict(storage_options)

    def __call__(self) -> Any:
        """Return the object.

        Raises
        ------
        OSError
            If the file cannot be read.
        MissingDependencyError
            If the file system of the URL needs a package that is not installed.
        """
        with self._open() as file:
            return self.loader(file)

    def _open(self) -> IO[bytes]:
        try:
            import fsspec  # type: ignore[import-untyped]

            options = _resolved(self.storage_options)
            return cast("IO[bytes]", fsspec.open(self.url, "rb", **options).open())
        except ImportError as error:
            # What is missing beyond fsspec, its own message says.
            raise MissingDependencyError(
                f"{self.url} cannot be opened: {error}",
                remedy="pip install 'proxyflow[s3]'" if error.name == "fsspec" else None,
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return (URLFactory, (self.url, self.loader, self.storage_options))

    def __repr__(self) -> str:
        return f"<URLFactory {self.url} by {_name(self.loader)}>"


class StoreFileFactory:
    """Loads a file that lies in a store, in the process that resolves the proxy.

    Parameters
    ----------
    recipe
        How to open the store.
    path, loader
        See :meth:`proxyflow.Store.proxy_file`.
    """

    __slots__ = ("loader", "path", "recipe")

    def __init__(self, recipe: Recipe, path: str, loader: Loader) -> None:
        self.recipe = recipe
        self.path = path
        self.loader = loader

    def __call__(self) -> Any:
        """Return the object.

        Raises
        ------
        OSError
            If the file is not there, or cannot be read.
        """
        with recipes.open_store(self.recipe).open_file(self.path) as file:
            return self.loader(file)

    def __reduce__(self) -> tuple[Any, ...]:
        return (StoreFileFactory, (self.recipe, self.path, self.loader))

    def __repr__(self) -> str:
        return f"<StoreFileFactory {recipes.name_of(self.recipe)} {self.path}>"


def proxy_url(
    url: str | os.PathLike[str],
    loader: Loader = read_all,
    *,
    storage_options: Mapping[str, Any] | None = None,
    kind: type | None = None,
) -> Proxy[Any]:
    """Return a proxy of the object in a file, wherever `fsspec` reaches.

    Nothing is read until somebody resolves the proxy, and then only what the loader reads. The file
    is its owner's: it is never evicted. Passed to a task, the proxy is resolved where the task
    runs, by the same rule as any other.

    Parameters
    ----------
    url
        A path, or a URL such as ``s3://bucket/key``; the file must be there for the process that
        resolves the proxy.
    loader
        Makes the object of the open binary file; picklable. By default its bytes.
    storage_options
        Options of the file system. What is secret is named, not told: ``"$NAME"`` stands for an
        environment variable of the process that resolves the proxy, as the options travel with it.
    kind
        The class of the object, if it is known and the loader's annotation does not tell. The proxy
        then answers for it without being resolved: Dask asks for the class of every argument.

    Raises
    ------
    ConfigError
        If an option, or the URL, holds a secret.

    Examples
    --------
    >>> import json, tempfile
    >>> with tempfile.NamedTemporaryFile("w+", suffix=".json") as file:
    ...     _ = file.write("[1, 2, 3]")
    ...     file.flush()
    ...     proxy = proxy_url(file.name, json.load)
    ...     sum(proxy)
    6
    """
    options = dict(storage_options or {})
    _check_secrets(options)
    text = os.fspath(url)
    if _PASSWORD.search(text):
        # The message does not show it.
        raise ConfigError(
            "the URL has a password in it, which would travel with the proxy",
            remedy='put it into an environment variable and name that in storage_options: "$NAME"',
        )
    if "://" not in text and "::" not in text:
        text = os.path.abspath(text)
    return Proxy(URLFactory(text, loader, options), facts_of(loader, kind))


def facts_of(loader: Loader, kind: type | None) -> Facts | None:
    """Return what is known of an object before it is loaded."""
    if kind is None:
        made = getattr(loader, "__annotations__", {}).get("return")
        kind = bytes if loader is read_all else made if isinstance(made, type) else None
    return None if kind is None else describe_class(kind)


def _check_secrets(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if isinstance(value, Mapping):
            _check_secrets(value)
        elif _SECRET.search(name) and _is_told(value):
            raise ConfigError(
                f"storage option {name!r} is a secret, which would travel with the proxy",
                remedy='put it into an environment variable and name that: "$NAME"',
            )


def _is_told(value: Any) -> bool:
    """Return whether a secret stands here itself, rather than the name of a variable."""
    return isinstance(value, bytes) or (
        isinstance(value, str) and _VARIABLE.fullmatch(value) is None
    )


def _resolved(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with the values of the variables they name."""
    return {name: _value(value) for name, value in options.items()}


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _resolved(value)
    variable = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
    if variable is None:
        return value
    if variable[1] not in os.environ:
        raise ConfigError(
            f"the environment has no {variable[1]}", remedy="set it where the proxy is resolved"
        )
    return os.environ[variable[1]]


def _name(loader: Loader) -> str:
    return getattr(loader, "__qualname__", type(loader).__qualname__)
