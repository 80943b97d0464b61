"""The scheduler's side of eviction: reports forgotten tasks, takes over from dead owners.

The scheduler opens no store while the client that owns it is connected. It only holds the session
(a lock, for a directory), so that the objects outlive a client that is gone as long as others want
results that need them.
"""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

from distributed import Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

from proxyflow.recipe import Recipe
from proxyflow_dask.orphan import Orphan, hold
from proxyflow_dask.owner import topic_of
from proxyflow_dask.packed import Packed, packed_in
from proxyflow_dask.private import (
    check_scheduler,
    dismiss_workers,
    forget_events,
    forget_topic,
    release_done_forgets,
)

__all__ = ["NAME", "SchedulerPart", "close_session", "open_session"]

NAME = "proxyflow"
"""Name of the plugin on the scheduler."""


class _Session:
    """What the scheduler knows of one client's objects: which tasks need any."""

    def __init__(self, client: str, recipe: Recipe, lent: bool) -> None:
        self.client = client
        self.recipe = recipe
        self.lent = lent
        self.hold = None if lent else hold(recipe)
        self.tasks: dict[int, Any] = {}
        self.forgotten: dict[int, bytes] = {}
        self.orphan: Orphan | None = None

    def close(self) -> None:
        if self.orphan is not None:
            self.orphan.close()
        if self.hold is not None:
            self.hold.close()


class SchedulerPart(SchedulerPlugin):
    """Tells the owners of stored objects which of their tasks have been forgotten."""

    name = NAME
    idempotent = True

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}
        self._dismissals: set[asyncio.Task[None]] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return (SchedulerPart, ())

    async def start(self, scheduler: Scheduler) -> None:
        """Begin to listen for submissions."""
        check_scheduler(scheduler)
        self._scheduler = scheduler
        scheduler.stream_handlers["proxyflow-submitted"] = self._submitted
        release_done_forgets(scheduler, lambda key: self._packed(key) is not None)

    def open(self, session: str, client: str, recipe: Recipe, *, lent: bool) -> bool:
        """Know a session from now on; return whether it can outlive its owner.

        Parameters
        ----------
        session, client, recipe
            The session, its owner and its store.
        lent
            Whether the store is somebody else's, and does not end with the owner.
        """
        if session not in self._sessions:
            self._sessions[session] = _Session(client, recipe, lent)
        return self._sessions[session].hold is not None

    # -- tasks ---------------------------------------------------------------------------------

    def _submitted(self, client: str, session: str, tickets: dict[int, Any]) -> None:
        """Note which tasks of a graph are there; report the others as forgotten.

        The client says this right after it sent the graph, and the scheduler has dealt with that
        when it hears this. A task is not there if its key was known already (the scheduler keeps
        what it has), or if the graph was refused.
        """
        known = self._sessions.get(session)
        if known is None:
            return
        for ticket, key in tickets.items():
            packed = self._packed(key)
            if packed is not None and (packed.session, packed.ticket) == (session, ticket):
                known.tasks[ticket] = key
            else:
                # What it would need, if anything, its owner alone knows.
                self._report(session, known, ticket, b"")

    def _packed(self, key: Any) -> Packed | None:
        task = self._scheduler.tasks.get(key)
        return None if task is None else packed_in(task.run_spec)

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Report a task that is forgotten."""
        if finish != "forgotten":
            return
        packed = self._packed(key)
        session = None if packed is None else self._sessions.get(packed.session)
        if packed is not None and session is not None:
            session.tasks.pop(packed.ticket, None)
            self._report(packed.session, session, packed.ticket, packed.objects)

    def restart(self, scheduler: Scheduler) -> None:
        """Report every task: the scheduler has dropped them all without a transition."""
        for name, session in self._sessions.items():
            tickets, session.tasks = list(session.tasks), {}
            for ticket in tickets:
                self._report(name, session, ticket, b"")

    def _report(self, name: str, session: _Session, ticket: int, objects: bytes) -> None:
        if session.orphan is not None:
            session.orphan.forget(ticket)
            if not session.tasks:
                self.end(name)
            return
        if not session.forgotten:
            # One report for all that are forgotten in this turn of the event loop.
            asyncio.get_running_loop().call_soon(self._flush, name, session)
        session.forgotten[ticket] = objects

    def _flush(self, name: str, session: _Session) -> None:
        forgotten, session.forgotten = session.forgotten, {}
        if name not in self._sessions:
            return
        self._scheduler.log_event(topic_of(name), {"forgotten": list(forgotten)})

    def log_event(self, topic: str, msg: Any) -> None:
        """Keep nothing of what has just been sent to an owner."""
        if topic.startswith(topic_of("")):
            forget_events(self._scheduler, topic)

    # -- owners --------------------------------------------------------------------------------

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Take over from an owner that is gone: what others still want keeps its objects."""
        for name, session in list(self._sessions.items()):
            if session.client != client or session.orphan is not None:
                continue
            # Those that went with their client were not reported yet, and will not be heard.
            unheard = {t: objects for t, objects in session.forgotten.items() if objects}
            if session.tasks or (session.lent and unheard):
                needs = {**self._needs(session), **unheard}
                session.orphan = Orphan(session.recipe, needs, lent=session.lent)
                for ticket in unheard:
                    session.orphan.forget(ticket)
            if not session.tasks:
                self.end(name)

    def _needs(self, session: _Session) -> dict[int, bytes]:
        packed = {ticket: self._packed(key) for ticket, key in session.tasks.items()}
        return {ticket: each.objects for ticket, each in packed.items() if each is not None}

    def end(self, name: str) -> None:
        """End a session that nobody can need any more; one that is not known is no error."""
        session = self._sessions.pop(name, None)
        if session is None:
            return
        forget_topic(self._scheduler, topic_of(name))
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, session.close)
        task = loop.create_task(dismiss_workers(self._scheduler, topic_of(name)))
        self._dismissals.add(task)
        task.add_done_callback(self._dismissals.discard)

    async def close(self) -> None:
        """Let go of all sessions; those whose owner lives are its own to end."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()


def open_session(
    session: str,
    client: str,
    recipe: bytes,
    lent: bool,
    *,
    dask_scheduler: Scheduler | None = None,
) -> bool:
    """Make a session known to the scheduler; run there by a client that registers the plugin.

    Returns
    -------
    bool
        Whether its objects can outlive the client.
    """
    assert dask_scheduler is not None
    part = dask_scheduler.plugins[NAME]
    assert isinstance(part, SchedulerPart)
    return part.open(session, client, pickle.loads(recipe), lent=lent)


def close_session(session: str, *, dask_scheduler: Scheduler | None = None) -> None:
    """Have the scheduler let go of a session; run there by a client that could not register."""
    assert dask_scheduler is not None
    part = dask_scheduler.plugins.get(NAME)
    if isinstance(part, SchedulerPart):
        part.end(session)
