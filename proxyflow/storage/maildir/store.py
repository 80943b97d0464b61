"""The store: a queue of messages between processes, on files that are moved."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from proxyflow.storage.fileio import Descriptor
from proxyflow.storage.maildir import files
from proxyflow.storage.maildir.areas import FileAreas
from proxyflow.storage.maildir.backlog import Backlog
from proxyflow.storage.maildir.errors import (
    ClaimLostError,
    InvalidDataError,
    InvalidNameError,
    io_error,
    io_errors,
)
from proxyflow.storage.maildir.message import Message
from proxyflow.storage.maildir.names import checked_name, unique_name
from proxyflow.storage.maildir.recovery import recover, remove_partial
from proxyflow.storage.maildir.scan import Stored, scan
from proxyflow.storage.maildir.search import is_anywhere, open_anywhere, remove_anywhere
from proxyflow.storage.maildir.sections import SECTIONS, Sections, section_path
from proxyflow.storage.maildir.stamp import longest_stampable, stamped
from proxyflow.storage.maildir.watches import Watches

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["FileStore"]

T = TypeVar("T")


class FileStore(FileAreas):
    """Files that processes hand to each other through ``tmp``, ``new`` and ``cur``.

    Any number of processes and threads may use a store at once, through handles of their own or
    through a shared one; a handle goes on working in a forked child, and may be pickled.
    Directories are made with mode 0700 and files with 0600.

    Parameters
    ----------
    path
        The directory of the store. Nothing happens to it before `prepare`.
    durable
        Whether `put` makes sure that a message survives a crash of the machine before it returns.
        A message survives the crash of a process in any case.
    directory
        A descriptor of the directory, for who must not be led elsewhere should the path come to
        mean something else. A pickled store goes by the path.

    Raises
    ------
    InvalidNameError
        The path holds a NUL character.

    Notes
    -----
    `prepare`, `create`, `list`, `move`, `copy` and `remove` are those of gocept.filestore 1.0;
    names that lead out of the store are refused here. The sections and what they mean are those
    of `maildir <https://cr.yp.to/proto/maildir.html>`_.

    Consumers on several hosts may share a store on a network file system whose renames are atomic.
    What a dead host had claimed comes back by its lease (see `recover`).

    Examples
    --------
    >>> import tempfile
    >>> directory = tempfile.TemporaryDirectory()
    >>> store = FileStore(directory.name)
    >>> store.prepare()
    >>> first, second = store.put(b"one"), store.put([b"t", b"wo"])
    >>> with store.claim() as message:
    ...     message.read()
    b'one'
    >>> list(store) == [second]
    True
    >>> store.close()
    >>> directory.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durable: bool = False,
        directory: Descriptor | None = None,
    ) -> None:
        super().__init__(path, durable=durable, directory=directory)
        self._watches = Watches(section_path(self._path, "new"))
        self._backlog = Backlog()
        self._held: dict[str, Message] = {}

    # -- producing -------------------------------------------------------------------------------

    def put(
        self,
        data: Buffer | Iterable[Buffer],
        *,
        name: str | None = None,
        durable: bool | None = None,
    ) -> str:
        """Add a message and return its name.

        The message appears complete or not at all, and replaces none. Names sort by the time of
        the call: always within a process, and as far as the clocks agree between processes.

        Parameters
        ----------
        data
            Bytes-like, or several such, which are written one after the other without being
            joined.
        name
            A name for the message, which then replaces one that waits under it; for who has to
            know it beforehand. By default a new one.
        durable
            Whether the message is on the disk, and would be found there after a crash of the
            machine, before the call returns. ``None``: as the store was opened.

        Raises
        ------
        StoreFullError
            There is no room. Nothing is left of the message.
        InvalidDataError
            The data is neither bytes-like nor a sequence of such.
        InvalidNameError
            No message can have the name.
        StoreNotPreparedError
            There is no store yet.
        """
        name = unique_name() if name is None else checked_name(name, self._path)
        try:
            frames = files.as_frames(data)
        except TypeError as error:
            raise InvalidDataError(f"not bytes-like: {error}", store=self._path) from error
        if durable is None:
            durable = self._durable
        self._publish(name, "new", lambda fd: files.write_frames(fd, frames), durable)
        return name

    # -- consuming -------------------------------------------------------------------------------

    def claim(self) -> Message | None:
        """Take the oldest waiting message, or return ``None`` if there is none.

        Exactly one consumer gets a message. It is out of the others' sight until it is
        acknowledged (removed), released, or recovered because its consumer died.

        Messages come in the order of their names, oldest first, of all that were waiting when
        this object last listed the directory. It does so again after twenty times as long as
        listing took: at once for short queues, and after about a second if 100,000 wait. Only
        messages that others release or recover within that time are taken out of turn.

        Raises
        ------
        StoreNotPreparedError
            There is no store.
        InvalidNameError
            All that waits are files whose names are too long to be claimed.
        """
        too_long: list[str] = []

        def claimable() -> Iterator[str]:
            longest = longest_stampable()
            for name in self._waiting():
                # The second look is not needed for the names `put` makes.
                if 4 * len(name) > longest and len(os.fsencode(name)) > longest:
                    too_long.append(name)
                else:
                    yield name

        while (name := self._backlog.take(claimable)) is not None:
            sections = self._open()
            claim = stamped(name)
            try:
                os.rename(name, claim, src_dir_fd=sections.new, dst_dir_fd=sections.cur)
            except FileNotFoundError:
                # Another consumer was faster.
                continue
            except OSError as error:
                raise io_error(error, "claim", store=self._path, name=name) from error
            message = self._held[name] = Message(sections, name, claim, self._let_go)
            return message
        if too_long:
            # Put there by hand; no reason to keep the others waiting, but not to be hidden either.
            raise InvalidNameError(
                "the name of this waiting file is too long to be claimed",
                store=self._path,
                name=too_long[0],
                remedy=f"move it here again under a name of {longest_stampable()} bytes at most",
            )
        return None

    def ack(self, name: str) -> None:
        """Remove a message that was claimed through this object: its work is done.

        Raises
        ------
        ClaimLostError
            The message is not claimed through this object, or was recovered meanwhile. Another
            consumer's claim of it is not touched.
        """
        self._in_hand(name).ack()

    def release(self, name: str) -> None:
        """Put a message that was claimed through this object back to its place in the order.

        Raises
        ------
        ClaimLostError
            The message is not claimed through this object, or was recovered meanwhile.
        NameTakenError
            Another message of this name is waiting; this one stays claimed.
        """
        self._in_hand(name).release()

    def _let_go(self, message: Message, waiting_again: bool) -> None:
        """Forget a message whose claim is over."""
        if waiting_again:
            self._backlog.forget()
        # A later claim of the same message may have taken its place.
        if self._held.get(message.name) is message:
            self._held.pop(message.name, None)

    def _in_hand(self, name: str) -> Message:
        self._open()
        message = self._held.get(name)
        if message is None:
            raise ClaimLostError(
                "no such message was claimed through this object, or its claim is over",
                store=self._path,
                name=name,
            )
        return message

    def remove_partial(self) -> None:
        """Remove what processes were writing when they died; part of `recover`.

        Raises
        ------
        StoreIOError
            A file cannot be removed.
        """
        with io_errors("remove partial files", store=self._path):
            remove_partial(self._current())

    def recover(self, lease: float | None = None) -> int:
        """Return messages of dead consumers to the waiting ones; any process may do so any time.

        A consumer is dead if its process ended on this host, or the host was started anew since.
        Of consumers on other hosts and in other containers that cannot be known from here; for
        them there is the lease. Partial files of dead producers are removed.

        Parameters
        ----------
        lease
            Seconds after which a claim ends though its consumer may be alive; longer than any
            message is worked on, and than clocks of hosts differ. ``None``: claims have no end.

        Returns
        -------
        int
            How many messages this call returned; of several processes that recover at once, each
            message is counted by one.
        """
        returned = recover(self._current(), lease)
        self._backlog.forget()
        return returned

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until a message is waiting.

        Another consumer may be faster to claim it: call `claim`, and wait again if that is
        ``None``.

        Parameters
        ----------
        timeout
            Seconds; ``None`` to wait without limit.

        Returns
        -------
        bool
            ``True`` if a message was waiting, ``False`` if the time is up.

        Raises
        ------
        StoreNotPreparedError
            There is no store, or it was removed meanwhile.
        """
        return self._watches.wait_until(self._is_waiting, timeout)

    def close(self) -> None:
        """Let go of the directories; closing twice is no error.

        Claims outlive it: messages in hand can still be read, acknowledged and released.
        """
        super().close()
        self._watches.close()

    # -- looking ---------------------------------------------------------------------------------

    def _waiting(self) -> Generator[str, None, None]:
        return self._current().files("new")

    def _is_waiting(self) -> bool:
        with contextlib.closing(self._waiting()) as names:
            return any(True for _ in names)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of waiting messages as they are now, oldest first."""
        return iter(sorted(self._waiting()))

    def __len__(self) -> int:
        """Count the waiting messages."""
        return sum(1 for _ in self._waiting())

    def counts(self) -> dict[str, int]:
        """Return how many files are in each section.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory, FileStore(directory) as store:
        ...     store.prepare()
        ...     _ = store.put(b"work")
        ...     store.counts()
        {'tmp': 0, 'new': 1, 'cur': 0}
        """
        sections = self._current()
        return {section: sum(1 for _ in sections.files(section)) for section in SECTIONS}

    def open_view(self, name: str) -> memoryview | None:
        """Return the content of a message, waiting or claimed, or ``None`` if there is none.

        The message is found though it may be moved between sections meanwhile. The view is
        writable and private to this process: of a mapping of the file if it is large, and
        unchanged when the message is removed.

        Raises
        ------
        InvalidNameError
            No message can have this name.
        """
        fd = self._reach("open", name, open_anywhere)
        return None if fd is None else files.view(fd)

    def exists(self, name: str) -> bool:
        """Return whether there is such a message, waiting or claimed.

        Raises
        ------
        InvalidNameError
            No message can have this name.
        """
        return bool(self._reach("look for", name, is_anywhere))

    def discard(self, name: str) -> bool:
        """Remove a message, waiting or claimed; a claim on it is then over.

        Returns
        -------
        bool
            Whether there was such a message.

        Raises
        ------
        InvalidNameError
            No message can have this name.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory, FileStore(directory) as store:
        ...     store.prepare()
        ...     name = store.put(b"never mind")
        ...     store.discard(name), store.discard(name)
        (True, False)
        """
        return bool(self._reach("remove", name, remove_anywhere))

    def scan(self) -> Iterator[Stored]:
        """Yield name, size and age of each message, waiting or claimed, in no order."""
        return scan(self._current())

    def _reach(self, action: str, name: str, reach: Callable[[Sections, str], T]) -> T:
        """Do something with a message in whatever section it is."""
        name = checked_name(name, self._path)
        sections = self._open()
        with io_errors(action, store=self._path, name=name):
            result = reach(sections, name)
            missing = result is None or result is False
            if missing and (current := self._current()) is not sections:
                # The directory was replaced.
                result = reach(current, name)
            return result
