"""Finding LucidLink's SDK, and its errors as ours."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from . import errors
from .errors import FilespaceError, FsError, HubUnavailableError, MissingDependencyError

__all__ = ["sdk", "sdk_connect", "translated"]


def sdk() -> Any:
    """Return the SDK's package; raise `MissingDependencyError` if it is not installed."""
    try:
        return importlib.import_module("lucidlink")
    except ImportError as error:
        raise MissingDependencyError(
            "LucidLink's service needs its SDK: pip install 'proxyflow[lucidlink]'"
        ) from error


def sdk_connect() -> Any:
    """Return the SDK's package of data stores."""
    return importlib.import_module("lucidlink.connect")


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn the SDK's errors into those of the same name here."""
    sdk_errors = importlib.import_module("lucidlink.exceptions")
    try:
        yield
    except sdk_errors.ServiceUnavailableError as error:
        raise HubUnavailableError(str(error)) from error
    except sdk_errors.LucidLinkError as error:
        raise _ours(error) from error


def _ours(error: Exception) -> FilespaceError:
    for kind in type(error).__mro__:
        ours = getattr(errors, kind.__name__, None)
        if not (isinstance(ours, type) and issubclass(ours, FilespaceError)):
            continue
        if issubclass(ours, FsError) and isinstance(error, OSError):
            code = error.errno or ours.default_errno
            text = error.strerror or str(error)
            return ours(code, text, error.filename, None, error.filename2)
        return ours(str(error))
    return FilespaceError(f"{type(error).__name__}: {error}")
