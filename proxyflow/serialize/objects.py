"""Objects to payloads and back.

>>> payload = serialize({"weights": [1.5, 2.5]})
>>> deserialize(b"".join(payload.frames))
{'weights': [1.5, 2.5]}

The bytes of `bytes`, `bytearray` and `str` objects are the stream of their payload as they are;
everything else is pickled (protocol 5), its large buffers in frames of their own.
"""

from __future__ import annotations

from typing import Any

from proxyflow.errors import CorruptObjectError
from proxyflow.serialize import pickling
from proxyflow.serialize.chunks import Piece
from proxyflow.serialize.payload import Payload, pack
from proxyflow.serialize.reducers import register_serializer, unregister_serializer
from proxyflow.serialize.unpacking import Buffer, unpack

__all__ = [
    "Payload",
    "deserialize",
    "register_serializer",
    "serialize",
    "unregister_serializer",
]

_PICKLE, _BYTES, _BYTEARRAY, _STR = range(4)


def serialize(obj: object, *, compress: bool = False, secret: bytes | None = None) -> Payload:
    """Turn an object into a payload without copying its large buffers.

    What plain pickle cannot send to another process by name (lambdas, local classes, functions
    and classes of ``__main__``) is sent by value with cloudpickle.

    Parameters
    ----------
    obj
        Anything that can be pickled.
    compress
        Compress, with lz4, every part that gets a tenth smaller by it.
    secret
        Make the payload readable only with this secret, and nobody without it able to forge one.
        It is authenticated, not encrypted.

    Returns
    -------
    Payload
        Pieces to write. Large ones are the object's own memory: write them before it changes.

    Raises
    ------
    SerializationError
        The object, or the part of it the message names, can be pickled by no means.
    ConfigError
        The secret is empty.

    Examples
    --------
    >>> data = bytes(1_000_000)
    >>> payload = serialize(data)
    >>> payload.frames[-1] is data, payload.nbytes - len(data)
    (True, 69)
    >>> serialize(data, compress=True).nbytes < 5_000
    True
    """
    kind, stream, buffers = _dump(obj)
    return pack(kind, stream, buffers, compress=compress, secret=secret)


def _dump(obj: Any) -> tuple[int, list[Piece], list[memoryview]]:
    cls = type(obj)
    if cls is bytes:
        return _BYTES, [obj], []
    if cls is bytearray:
        return _BYTEARRAY, [obj], []
    if cls is str:
        return _STR, [obj.encode("utf-8", "surrogatepass")], []
    return _PICKLE, *pickling.dump(obj)


def deserialize(data: Buffer, *, verify: bool = True, secret: bytes | None = None) -> Any:
    """Turn a payload into the object it was made from.

    Large buffers of the object (arrays, Arrow columns) are views into `data`, writable if it is;
    they keep it alive. Those that were compressed or are small have memory of their own.

    Parameters
    ----------
    data
        The whole payload. Unpickling executes what it says: without a secret, read only what
        comes from those you trust.
    verify
        Check large buffers against their digests, too. Without it (sensible for memory mapped
        from the same host) opening a payload takes the same time whatever its size; everything
        that is interpreted or copied is checked all the same.
    secret
        Accept only payloads made with this secret, and check all of them.

    Raises
    ------
    CorruptObjectError
        The payload is short, long, damaged or of an unknown version. Nothing was unpickled.
    AuthenticationError
        The payload was not made with the secret, or needs one. Nothing was unpickled.
    SerializationError
        The payload is intact and yet does not become an object here, say for want of a module.

    Examples
    --------
    >>> deserialize(b"".join(serialize("text", secret=b"s").frames), secret=b"s")
    'text'
    >>> deserialize(b"".join(serialize("text").frames), secret=b"s")
    Traceback (most recent call last):
        ...
    proxyflow.errors.AuthenticationError: the payload is not authenticated, so anybody ...
    """
    kind, stream, buffers = unpack(data, verify=verify, secret=secret)
    if kind == _PICKLE:
        return pickling.load(stream, buffers)
    if kind > _STR:
        raise CorruptObjectError(f"the payload has unknown kind {kind}")
    if buffers:
        raise CorruptObjectError(f"the payload has {len(buffers)} buffers instead of none")
    if kind == _BYTES:
        return bytes(stream)
    if kind == _BYTEARRAY:
        return bytearray(stream)
    try:
        return str(stream, "utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise CorruptObjectError(f"the payload is no UTF-8 text: {error}") from error
