"""Objects of a bucket, read with botocore (which s3fs brings along)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .datastores import S3Credentials
from .errors import (
    DataStoreCredentialsError,
    ExternalObjectChangedError,
    ExternalObjectNotFoundError,
    ExternalStoreError,
    ExternalStoreUnavailableError,
    FsError,
    MissingDependencyError,
)
from .sources import ObjectFacts
from .streams import RangeReader

__all__ = ["S3Source"]

CONNECT_TIMEOUT, READ_TIMEOUT, ATTEMPTS, CONNECTIONS = 10, 60, 3, 32


class S3Source:
    """A `Source` over a bucket.

    The checksum of an object is its ETag. Every read carries it as ``If-Match``, so that the
    server, not a comparison after the fact, keeps the bytes of two versions apart.
    """

    def __init__(self, name: str, record: Mapping[str, Any], credentials: S3Credentials) -> None:
        try:
            import botocore.session  # type: ignore[import-untyped]
            from botocore.config import Config  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingDependencyError(
                f"data store {name!r} is in S3, which needs botocore: pip install 'proxyflow[s3]'"
            ) from error
        self._name, self._bucket = name, str(record["bucket_name"])
        addressing = "virtual" if record["use_virtual_addressing"] else "path"
        self._client: Any = botocore.session.Session().create_client(
            "s3",
            region_name=record["region"] or "us-east-1",
            endpoint_url=record["endpoint"] or None,
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": addressing},
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=READ_TIMEOUT,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                max_pool_connections=CONNECTIONS,
            ),
        )

    def facts(self, object_id: str, path: str) -> ObjectFacts:
        """See `Source.facts`."""
        with self._reaching(object_id, path):
            head = self._client.head_object(Bucket=self._bucket, Key=object_id)
        return ObjectFacts(object_id, int(head["ContentLength"]), head["ETag"].strip('"'))

    def objects(self, prefix: str) -> Iterator[ObjectFacts]:
        """See `Source.objects`."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        with self._reaching(prefix, f"s3://{self._bucket}/{prefix}"):
            for page in pages:
                for item in page.get("Contents", ()):
                    yield ObjectFacts(item["Key"], int(item["Size"]), item["ETag"].strip('"'))

    def open(
        self, facts: ObjectFacts, path: str, on_close: Callable[[], None] | None
    ) -> RangeReader:
        """See `Source.open`."""
        return RangeReader(
            lambda start, end: self._fetch(facts, path, start, end), facts.size, path, on_close
        )

    def _fetch(self, facts: ObjectFacts, path: str, start: int, end: int) -> bytes:
        with self._reaching(facts.object_id, path):
            answer = self._client.get_object(
                Bucket=self._bucket,
                Key=facts.object_id,
                Range=f"bytes={start}-{end - 1}",
                IfMatch=f'"{facts.checksum}"',
            )
            with contextlib.closing(answer["Body"]) as body:
                data: bytes = body.read()
        total = answer["ContentRange"].rpartition("/")[2]
        if total != str(facts.size):
            raise ExternalObjectChangedError.at(
                path, f"The object has {total} bytes, {facts.size} were linked"
            )
        return data

    @contextlib.contextmanager
    def _reaching(self, object_id: str, path: str) -> Iterator[None]:
        """Turn what botocore raises into errors that name path, data store and object."""
        from botocore.exceptions import (  # type: ignore[import-untyped]
            BotoCoreError,
            ClientError,
        )

        where = f"data store {self._name!r}, object {object_id!r}"
        try:
            yield
        except ClientError as error:
            status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
            if status in (401, 403):
                raise DataStoreCredentialsError(
                    f"{where}: S3 rejects the credentials ({_code(error)}); rekey the data store"
                ) from error
            kind = _STATUS.get(status, ExternalStoreError)
            if status >= 500:
                kind = ExternalStoreUnavailableError
            raise kind.at(path, f"{kind.default_message} ({where}: {_code(error)})") from error
        except BotoCoreError as error:
            kind = ExternalStoreUnavailableError
            raise kind.at(path, f"{kind.default_message} ({where}: {error})") from error


_STATUS: dict[int, type[FsError]] = {
    404: ExternalObjectNotFoundError,
    412: ExternalObjectChangedError,
    416: ExternalObjectChangedError,
    429: ExternalStoreUnavailableError,
}


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
