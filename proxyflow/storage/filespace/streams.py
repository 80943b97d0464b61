"""Open files: raw streams of contents, and the buffered and text layers ``open()`` puts on them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

from .errors import FsContentError, InvalidArgumentError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Binary", "Mode", "RangeReader", "StoredFile", "check_layers", "wrap"]

Binary: TypeAlias = io.RawIOBase | io.BufferedIOBase
"""A binary stream: raw, or one that has a buffer of its own."""

BUFFER_BYTES = 128 * 1024
FIRST_AHEAD, MOST_AHEAD = 256 * 1024, 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Mode:
    """What a mode string of ``open()`` asks for."""

    base: str
    update: bool
    text: bool

    @classmethod
    def parse(cls, mode: str) -> Mode:
        """Return the mode in `mode`: r, w or a, with +, b or t; there is no x.

        Raises
        ------
        InvalidArgumentError
            For anything else.

        Examples
        --------
        >>> Mode.parse("r+b")
        Mode(base='r', update=True, text=False)
        """
        base = [letter for letter in mode if letter in "rwa"]
        rest = sorted(letter for letter in mode if letter not in "rwa")
        if len(base) != 1 or rest not in ([], ["b"], ["t"], ["+"], ["+", "b"], ["+", "t"]):
            raise InvalidArgumentError(f"invalid mode {mode!r}: r, w or a, with +, and b or t")
        return cls(base[0], "+" in rest, "b" not in rest)

    @property
    def writes(self) -> bool:
        """Whether a file opened so can be written."""
        return self.base != "r" or self.update

    @property
    def raw(self) -> str:
        """The mode of the raw file; ``w`` was taken care of by making the file anew."""
        if self.base == "a":
            return "ab+" if self.update else "ab"
        if self.base == "w":
            return "rb+" if self.update else "wb"
        return "rb+" if self.update else "rb"


class StoredFile(io.FileIO):
    """A content on this host, opened as the file it is.

    Parameters
    ----------
    path
        The file of the content.
    mode
        As for `io.FileIO`.
    name
        What the stream calls itself: its path in the filespace.
    on_close
        Called once after closing, with whether every write succeeded.
    """

    def __init__(
        self,
        path: str,
        mode: str,
        name: str | None = None,
        on_close: Callable[[bool], None] | None = None,
    ) -> None:
        super().__init__(path, mode)
        self.name = name or path
        self._on_close = on_close
        self._whole = True

    def write(self, data: ReadableBuffer, /) -> int:
        """As `io` has it."""
        try:
            return super().write(data)
        except OSError:
            # The buffer above loses what it could not write: this content must not be published.
            self._whole = False
            raise

    def close(self) -> None:
        """As `io` has it."""
        if self.closed:
            return
        super().close()
        callback, self._on_close = self._on_close, None
        if callback is not None:
            callback(self._whole)


class RangeReader(io.BufferedIOBase):
    """A reader of something that is fetched by ranges, such as an object in S3.

    Fetches no more than is asked for plus a read-ahead that starts small, doubles while the
    reading is sequential and falls back after a seek: a footer costs little, a scan few requests.

    Parameters
    ----------
    fetch
        Returns the bytes from a start up to, not including, an end.
    size
        How many bytes there are.
    name
        What the stream calls itself.
    on_close
        Called once after closing.

    Examples
    --------
    >>> data = bytes(range(100))
    >>> with RangeReader(lambda start, end: data[start:end], len(data), "/x") as reader:
    ...     reader.seek(-3, 2), reader.read()
    (97, b'abc')
    """

    def __init__(
        self,
        fetch: Callable[[int, int], bytes],
        size: int,
        name: str,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.mode = "rb"
        self._fetch, self._size, self._on_close = fetch, size, on_close
        self._position = 0
        self._start, self._block = 0, b""
        self._ahead = FIRST_AHEAD

    def readable(self) -> bool:
        """As `io` has it."""
        return True

    def seekable(self) -> bool:
        """As `io` has it."""
        return True

    def tell(self) -> int:
        """As `io` has it."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """As `io` has it."""
        self._check_open()
        origin = {0: 0, 1: self._position, 2: self._size}.get(whence)
        if origin is None:
            raise InvalidArgumentError(f"invalid whence {whence!r}")
        if origin + offset < 0:
            raise InvalidArgumentError(f"negative seek position {origin + offset}")
        self._position = origin + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """As `io` has it."""
        self._check_open()
        left = max(0, self._size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        inside = self._position - self._start
        held = self._block[inside : inside + wanted] if 0 <= inside < len(self._block) else b""
        if len(held) < wanted:
            held += self._load(self._position + len(held), wanted - len(held))
        self._position += wanted
        return held

    def read1(self, size: int = -1, /) -> bytes:
        """As `io` has it."""
        return self.read(FIRST_AHEAD if size < 0 else size)

    def close(self) -> None:
        """As `io` has it."""
        if self.closed:
            return
        super().close()
        self._block = b""
        callback, self._on_close = self._on_close, None
        if callback is not None:
            callback()

    def _load(self, start: int, wanted: int) -> bytes:
        sequential = bool(self._block) and start == self._start + len(self._block)
        self._ahead = min(2 * self._ahead, MOST_AHEAD) if sequential else FIRST_AHEAD
        end = min(self._size, start + max(wanted, self._ahead))
        self._start, self._block = start, self._fetch(start, end)
        if len(self._block) != end - start:
            raise FsContentError.at(
                self.name, f"Short read: {len(self._block)} of {end - start} bytes at {start}"
            )
        return self._block[:wanted]

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")


def wrap(
    raw: Binary,
    mode: Mode,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> IO[Any]:
    """Return `raw` with the buffer and the text layer the arguments ask for, as ``open()`` does."""
    stream: Any = raw
    if isinstance(raw, io.RawIOBase) and buffering != 0:
        size = buffering if buffering > 1 else BUFFER_BYTES
        if mode.update:
            stream = io.BufferedRandom(raw, size)
        elif mode.writes:
            stream = io.BufferedWriter(raw, size)
        else:
            stream = io.BufferedReader(raw, size)
    if mode.text:
        stream = io.TextIOWrapper(
            stream, encoding or "utf-8", errors, newline, line_buffering=buffering == 1
        )
    return cast(IO[Any], stream)


def check_layers(
    mode: Mode, buffering: int, encoding: str | None, errors: str | None, newline: str | None
) -> None:
    """Raise for arguments ``open()`` would refuse, before a file is truncated for nothing."""
    if not mode.text:
        if encoding is not None or errors is not None or newline is not None:
            raise InvalidArgumentError("binary mode takes no encoding, errors or newline")
        if buffering == 1:
            warnings.warn(
                "line buffering is for text mode; the default buffer is used",
                RuntimeWarning,
                stacklevel=4,
            )
        return
    if buffering == 0:
        raise InvalidArgumentError("text cannot be unbuffered")
    if newline not in (None, "", "\n", "\r", "\r\n"):
        raise InvalidArgumentError(f"invalid newline {newline!r}")
    io.TextIOWrapper(io.BytesIO(), encoding or "utf-8", errors).close()
