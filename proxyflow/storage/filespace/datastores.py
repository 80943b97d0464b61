"""Data stores as users describe them, and as the hub keeps them: without any secret.

How credentials are kept: a key given as ``"env:NAME"`` stays a reference, in the hub too, and
each process looks the variable up when it reads. A key given literally stays in the memory of the
process that gave it; other processes need their own (`ConnectManager.use_credentials`). Neither
is ever part of a ``repr``, a pickle, a log record or the hub.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias
from urllib.parse import urlsplit

from .entry import Entry
from .errors import DataStoreCredentialsError, HubCorruptError, InvalidArgumentError
from .models import DataStoreInfo

__all__ = [
    "DataStoreConfig",
    "LocalDataStoreConfig",
    "S3Credentials",
    "S3DataStoreConfig",
    "check_store_name",
    "credentials_of",
    "info_of",
    "record_of",
]

REFERENCE = "env:"
# The hub says which variable is sent to which endpoint, and others may write to the hub. These
# forms keep it from having any other variable sent, or a secret in the place of a key's name.
_ACCESS_NAME = re.compile(r"[A-Z0-9_]*ACCESS_KEY_ID\Z")
_SECRET_NAME = re.compile(r"[A-Z0-9_]*SECRET_ACCESS_KEY\Z")

MAX_STORE_NAME = 64


@dataclass(frozen=True, slots=True, repr=False)
class S3Credentials:
    """An access key and its secret, each literal or as ``"env:NAME"``.

    The variable of an access key must be called ``...ACCESS_KEY_ID``, that of a secret
    ``...SECRET_ACCESS_KEY``.

    Raises
    ------
    InvalidArgumentError
        If one is empty, or a reference has another form.

    Examples
    --------
    >>> S3Credentials("AKIA123", "very secret")
    S3Credentials(access_key='...', secret_key='...')
    >>> S3Credentials("env:LAB_ACCESS_KEY_ID", "env:LAB_SECRET_ACCESS_KEY")
    S3Credentials(access_key='env:LAB_ACCESS_KEY_ID', secret_key='env:LAB_SECRET_ACCESS_KEY')
    """

    access_key: str
    secret_key: str

    def __post_init__(self) -> None:
        for text, form, what in (
            (self.access_key, _ACCESS_NAME, "access_key"),
            (self.secret_key, _SECRET_NAME, "secret_key"),
        ):
            if not text.strip() or "\0" in text:
                raise InvalidArgumentError(f"{what} is empty or has a NUL in it")
            if text.startswith(REFERENCE) and not form.match(text[len(REFERENCE) :]):
                raise InvalidArgumentError(
                    f"{what} {text!r}: the variable must be called like {form.pattern[:-2]}"
                )

    @property
    def is_reference(self) -> bool:
        """Whether both are names of environment variables."""
        return self.access_key.startswith(REFERENCE) and self.secret_key.startswith(REFERENCE)

    def resolved(self, store: str) -> S3Credentials:
        """Return the keys themselves.

        Raises
        ------
        DataStoreCredentialsError
            If a variable is not set in this process.
        """
        return S3Credentials(_value(self.access_key, store), _value(self.secret_key, store))

    def __repr__(self) -> str:
        return f"S3Credentials({redacted(self.access_key, self.secret_key)})"

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.is_reference:
            refuse_pickling(self)
        return (S3Credentials, (self.access_key, self.secret_key))


@dataclass(frozen=True, slots=True, repr=False)
class S3DataStoreConfig:
    """A bucket whose objects can be linked as files.

    Parameters
    ----------
    access_key, secret_key
        Literal, or ``"env:NAME"``; see `S3Credentials`.
    bucket_name
        The bucket.
    region
        Its region; may be empty if there is an endpoint.
    endpoint
        ``http(s)://host:port`` of an S3-compatible service; empty: AWS.
    url_expiration_minutes
        Kept for the LucidLink service, which reads through presigned URLs; this client signs
        each request.
    use_virtual_addressing
        Whether the bucket goes into the host name instead of the path.

    Raises
    ------
    InvalidArgumentError
        If a value makes no sense.
    """

    access_key: str
    secret_key: str
    bucket_name: str
    region: str
    endpoint: str = ""
    url_expiration_minutes: int = 10080
    use_virtual_addressing: bool = False

    def __post_init__(self) -> None:
        self.credentials  # noqa: B018  checks both keys
        if not 3 <= len(self.bucket_name) <= 63 or "/" in self.bucket_name:
            raise InvalidArgumentError(f"{self.bucket_name!r} is no name of a bucket")
        if not (self.region or self.endpoint):
            raise InvalidArgumentError("either a region or an endpoint is needed")
        if self.url_expiration_minutes <= 0:
            raise InvalidArgumentError("url_expiration_minutes must be positive")
        if self.endpoint:
            url = urlsplit(self.endpoint)
            if url.scheme not in ("http", "https") or not url.hostname:
                raise InvalidArgumentError(f"endpoint {url.hostname!r} is no http(s) URL")
            if url.username is not None or url.password is not None:
                raise InvalidArgumentError("an endpoint URL must not have credentials in it")

    @property
    def credentials(self) -> S3Credentials:
        """The two keys."""
        return S3Credentials(self.access_key, self.secret_key)

    def __repr__(self) -> str:
        return (
            f"S3DataStoreConfig({redacted(self.access_key, self.secret_key)}, "
            f"bucket_name={self.bucket_name!r}, region={self.region!r}, "
            f"endpoint={self.endpoint!r})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.credentials.is_reference:
            refuse_pickling(self)
        values = tuple(getattr(self, name) for name in self.__dataclass_fields__)
        return (S3DataStoreConfig, values)


@dataclass(frozen=True, slots=True)
class LocalDataStoreConfig:
    """A directory of this host (or of a shared mount) whose files can be linked.

    Parameters
    ----------
    root
        The directory. Object ids are paths below it; none leads outside, symbolic links included.
    """

    root: str

    def __post_init__(self) -> None:
        if not os.path.isabs(self.root):
            raise InvalidArgumentError(f"root {self.root!r} must be absolute")


DataStoreConfig: TypeAlias = S3DataStoreConfig | LocalDataStoreConfig


@dataclass(slots=True)
class Keyring:
    """The literal credentials this process was given, by data store identifier."""

    held: dict[str, S3Credentials] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        refuse_pickling(self)


def check_store_name(name: str) -> str:
    """Return `name` trimmed; raise `InvalidArgumentError` unless it can name a data store."""
    name = unicodedata.normalize("NFC", name.strip())
    if not 0 < len(name) <= MAX_STORE_NAME:
        raise InvalidArgumentError(f"data store name {name!r}: 1 to {MAX_STORE_NAME} characters")
    if not all(letter.isalnum() or letter in " _-" for letter in name):
        raise InvalidArgumentError(
            f"data store name {name!r}: letters, digits, spaces, underscores and hyphens only"
        )
    return name


def record_of(config: DataStoreConfig) -> dict[str, Any]:
    """Return what the hub keeps of `config`."""
    if isinstance(config, LocalDataStoreConfig):
        return {"kind": "local", "root": config.root}
    record: dict[str, Any] = {
        "kind": "s3",
        "bucket_name": config.bucket_name,
        "region": config.region,
        "endpoint": config.endpoint,
        "url_expiration_minutes": config.url_expiration_minutes,
        "use_virtual_addressing": config.use_virtual_addressing,
    }
    return record | reference_of(config.credentials)


def reference_of(credentials: S3Credentials) -> dict[str, str]:
    """Return the part of a record that says where the credentials are."""
    if not credentials.is_reference:
        return {}
    return {"access_key": credentials.access_key, "secret_key": credentials.secret_key}


def info_of(name: str, entry: Entry) -> DataStoreInfo:
    """Return what users see of a data store."""
    record = dict(entry.config)
    kind = str(record.pop("kind", ""))
    access, secret = record.pop("access_key", ""), record.pop("secret_key", "")
    if kind == "local":
        return DataStoreInfo(name, kind, record)
    where = f"{access}, {secret}" if access else "the process that gave them"
    return DataStoreInfo(name, kind, record, where)


def credentials_of(name: str, entry: Entry, keyring: Keyring) -> S3Credentials:
    """Return the keys of a data store, as this process can know them.

    Raises
    ------
    DataStoreCredentialsError
        If it cannot.
    """
    held = keyring.held.get(entry.id)
    if held is not None:
        return held.resolved(name)
    record: Mapping[str, Any] = entry.config
    if not record.get("access_key"):
        raise DataStoreCredentialsError(
            f"this process has no credentials for data store {name!r}: they were given to another "
            f"one; call connect.use_credentials({name!r}, S3Credentials(...)), or rekey the data "
            'store with references such as "env:AWS_ACCESS_KEY_ID"'
        )
    try:
        reference = S3Credentials(str(record["access_key"]), str(record["secret_key"]))
    except (InvalidArgumentError, KeyError) as error:
        raise HubCorruptError(f"data store {name!r} has a forged reference to credentials") from (
            error
        )
    if not reference.is_reference:
        raise HubCorruptError(f"data store {name!r} has credentials in clear in the hub")
    return reference.resolved(name)


def redacted(access_key: str, secret_key: str) -> str:
    """Return both keys for a ``repr``: references as they are, anything else as dots."""
    shown = [text if text.startswith(REFERENCE) else "..." for text in (access_key, secret_key)]
    return f"access_key={shown[0]!r}, secret_key={shown[1]!r}"


def refuse_pickling(what: object) -> NoReturn:
    """Raise the `TypeError` that keeps secrets out of pickles."""
    raise TypeError(
        f"{type(what).__name__} holds secrets and cannot be pickled; use references such as "
        '"env:AWS_ACCESS_KEY_ID" instead of keys'
    )


def _value(text: str, store: str) -> str:
    if not text.startswith(REFERENCE):
        return text
    name = text[len(REFERENCE) :]
    value = os.environ.get(name, "")
    if not value:
        raise DataStoreCredentialsError(
            f"data store {store!r} takes its credentials from the environment variable {name}, "
            "which is not set in this process"
        )
    return value
