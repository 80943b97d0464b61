"""A message in the hands of the consumer that claimed it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from types import TracebackType

from proxyflow.storage.maildir import files
from proxyflow.storage.maildir.errors import (
    ClaimLostError,
    MaildirError,
    NameTakenError,
    io_error,
)
from proxyflow.storage.maildir.sections import Sections, section_path

__all__ = ["Message", "give_back"]


def give_back(sections: Sections, claim: str, name: str) -> None:
    """Move a claimed file back to the waiting ones; FileNotFoundError if the claim is over.

    Names made by `put` are unique, so nothing can be in the way. Names that callers chose may
    be used again while a message of that name is claimed; the older message then stays claimed
    rather than replace the newer one.
    """
    try:
        os.stat(name, dir_fd=sections.new, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(claim, name, src_dir_fd=sections.cur, dst_dir_fd=sections.new)
        return
    # Unless it is this message itself: recovered, so that the claim is over.
    os.stat(claim, dir_fd=sections.cur, follow_symlinks=False)
    raise NameTakenError(
        "another message of this name is waiting",
        store=sections.path,
        name=name,
        remedy="claim that one first",
        number=errno.EEXIST,
    )


class Message:
    """A claimed message, from `FileStore.claim`.

    Used as a context manager it is acknowledged when the block succeeds and released when it
    raises, unless the block did either itself.

    Attributes
    ----------
    name : str
        The name `FileStore.put` returned.

    Examples
    --------
    >>> import tempfile
    >>> from proxyflow.storage.maildir import FileStore
    >>> with tempfile.TemporaryDirectory() as directory, FileStore(directory) as store:
    ...     store.prepare()
    ...     name = store.put(b"work")
    ...     with store.claim() as message:
    ...         message.read()
    ...     store.counts()
    b'work'
    {'tmp': 0, 'new': 0, 'cur': 0}
    """

    __slots__ = ("_claim", "_let_go", "_sections", "_settled", "name")

    def __init__(
        self, sections: Sections, name: str, claim: str, let_go: Callable[[Message, bool], None]
    ) -> None:
        self._sections = sections
        self._claim = claim
        self._let_go = let_go
        self._settled = False
        self.name = name

    @property
    def path(self) -> str:
        """Where the file is while this claim lasts."""
        return os.path.join(section_path(self._sections.path, "cur"), self._claim)

    @property
    def size(self) -> int:
        """Size in bytes; ClaimLostError if the claim is over."""
        with self._claim_is_ours("find the size of"):
            stat = os.stat(self._claim, dir_fd=self._sections.cur, follow_symlinks=False)
        return stat.st_size

    def read(self) -> bytes:
        """Return the content.

        Raises
        ------
        ClaimLostError
            The claim is over.
        """
        with self._claim_is_ours("read"):
            return files.read(files.open_regular(self._claim, self._sections.cur))

    def view(self) -> memoryview:
        """Return the content as a writable view that is private to this process.

        Large files are mapped (copy-on-write), not read. The view outlives the message.

        Raises
        ------
        ClaimLostError
            The claim is over.
        """
        with self._claim_is_ours("map"):
            return files.view(files.open_regular(self._claim, self._sections.cur))

    def ack(self) -> None:
        """Remove the message: its work is done.

        Raises
        ------
        ClaimLostError
            The message was acknowledged, released or recovered before. In the last case somebody
            else does its work, too, and nothing of that claim is touched.
        """
        with self._claim_is_ours("acknowledge"):
            os.unlink(self._claim, dir_fd=self._sections.cur)
        self._settle(waiting_again=False)

    def release(self) -> None:
        """Put the message back among the waiting ones, to its old place in their order.

        Raises
        ------
        ClaimLostError
            The message was acknowledged, released or recovered before.
        NameTakenError
            Another message of this name is waiting; this one stays claimed.
        """
        with self._claim_is_ours("release"):
            give_back(self._sections, self._claim, self.name)
        self._settle(waiting_again=True)

    def _settle(self, waiting_again: bool) -> None:
        self._settled = True
        self._let_go(self, waiting_again)

    @contextlib.contextmanager
    def _claim_is_ours(self, action: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            self._settle(waiting_again=True)
            raise ClaimLostError(
                f"cannot {action} a message that is not claimed any more",
                store=self._sections.path,
                name=self.name,
                remedy="it was acknowledged or released here, or recovered after its lease",
            ) from error
        except MaildirError:
            raise
        except OSError as error:
            raise io_error(error, action, store=self._sections.path, name=self.name) from error

    def __enter__(self) -> Message:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._settled:
            return
        if kind is None:
            self.ack()
        else:
            # A claim that is over has been given back, which is what the error asks for.
            with contextlib.suppress(ClaimLostError):
                self.release()

    def __repr__(self) -> str:
        return f"<Message {self.name!r} of {self._sections.path!r}>"
