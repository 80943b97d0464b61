"""Giving back what the dead have left: claimed messages and partial files."""

from __future__ import annotations

import contextlib
import os

from proxyflow.storage.maildir.errors import NameTakenError
from proxyflow.storage.maildir.message import give_back
from proxyflow.storage.maildir.sections import Sections
from proxyflow.storage.maildir.stamp import Stamp, unstamped

__all__ = ["recover", "remove_partial"]


def recover(sections: Sections, lease: float | None) -> int:
    """Return abandoned messages to the waiting ones; remove abandoned partial files."""
    verdicts = Verdicts()
    returned = 0
    for claim in sections.files("cur"):
        split = unstamped(claim)
        if split is None:
            # Moved here by hand; nobody's claim.
            continue
        name, stamp = split
        if verdicts.is_dead(stamp) or (lease is not None and stamp.age >= lease):
            returned += _return(sections, claim, name)
    remove_partial(sections, verdicts)
    return returned


def remove_partial(sections: Sections, verdicts: Verdicts | None = None) -> None:
    """Remove what dead processes were writing."""
    verdicts = verdicts or Verdicts()
    for partial in sections.files("tmp"):
        split = unstamped(partial)
        if split is not None and verdicts.is_dead(split[1]):
            # Gone already if another process recovers at the same time.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial, dir_fd=sections.tmp)


def _return(sections: Sections, claim: str, name: str) -> bool:
    try:
        give_back(sections, claim, name)
    except FileNotFoundError:
        # Acknowledged, released, or recovered by another process since it was listed.
        return False
    except NameTakenError:
        # Not lost: it goes back when the message in its place has been claimed.
        return False
    return True


class Verdicts:
    """One look per process, not one per message: thousands may be claimed by the same."""

    def __init__(self) -> None:
        self._dead: dict[tuple[str, str, str, int, int], bool] = {}

    def is_dead(self, stamp: Stamp) -> bool:
        process = (stamp.machine, stamp.boot, stamp.namespace, stamp.pid, stamp.start)
        if process not in self._dead:
            self._dead[process] = stamp.is_dead()
        return self._dead[process]
