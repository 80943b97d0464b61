"""The worker's side: opens the store, reads ahead, tells of results nobody waits for any more."""

from __future__ import annotations

import logging
import pickle
from typing import Any

from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin

from proxyflow import recipe as recipes
from proxyflow.connectors.protocol import Key
from proxyflow.errors import ProxyflowError
from proxyflow.recipe import Recipe
from proxyflow_dask.owner import topic_of
from proxyflow_dask.packed import Packed, packed_in, restoring
from proxyflow_dask.private import after_gather
from proxyflow_dask.results import ResultPlace, StoredResult, load_results, pass_on

__all__ = ["WorkerPart", "reach"]

logger = logging.getLogger("proxyflow.dask")

_AHEAD = 2
"""Tasks whose arguments are read ahead, for each thread: enough to hide the latency of a store,
few enough not to fill the memory with what runs last."""

# What a run of a task ends with, whatever has become of the task in the meantime.
_ENDS = ("memory", "error", "rescheduled")


class WorkerPart(WorkerPlugin):
    """What a session needs in each worker.

    Parameters
    ----------
    session
        Name of the session.
    recipe
        Its store.
    """

    idempotent = True

    def __init__(self, session: str, recipe: Recipe) -> None:
        self.name = topic_of(session)
        self._session = session
        self._recipe = recipe
        self._ahead: set[Any] = set()
        self._running: dict[Any, Packed] = {}
        self._kept: dict[Any, Key] = {}
        self._stragglers: list[Key] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return (WorkerPart, (self._session, self._recipe))

    def setup(self, worker: Worker) -> None:
        """Open the store; a worker that cannot is reported, and still runs what needs no store."""
        self._worker = worker
        pass_on()
        after_gather(load_results)
        problem = reach(self._recipe)
        self._moves = problem is None and not recipes.open_store(self._recipe).maps
        if problem is not None:
            worker.log_event(self.name, {"warning": f"worker {worker.address}: {problem}"})

    def teardown(self, worker: Worker) -> None:
        """Close the store, and sweep up after owners that died with their scheduler."""
        try:
            store = recipes.open_store(self._recipe)
            # In a cluster of threads the owner's own store is the one in use.
            if not store.owner:
                store.sweep()
                store.close()
        except (ProxyflowError, OSError) as error:
            logger.debug("the store was not there any more: %s", error)

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Read ahead for a task that waits to run; tell of results nobody may wait for."""
        if finish == "executing":
            self._restore_results_for(key)
            self._note_run(key)
        elif finish in _ENDS and key in self._running:
            self._end_run(key, wanted=start not in ("cancelled", "resumed"))
        elif start == "memory" and key in self._kept:
            self._tell_of_straggler(self._kept.pop(key))
        if finish == "ready":
            if self._moves:
                self._read_ahead(key)
        elif start in ("ready", "executing"):
            self._ahead.discard(key)

    def _packed(self, key: Any) -> Packed | None:
        task = self._worker.state.tasks.get(key)
        packed = None if task is None else packed_in(task.run_spec)
        return packed if packed is not None and packed.session == self._session else None

    def _restore_results_for(self, key: Any) -> None:
        """Have a task that no plugin has packed receive objects, not stand-ins for results."""
        task = self._worker.state.tasks.get(key)
        if task is not None and task.run_spec is not None and task.dependencies:
            task.run_spec = restoring(task.run_spec)

    def _read_ahead(self, key: Any) -> None:
        packed = self._packed(key)
        if packed is not None and len(self._ahead) < _AHEAD * self._worker.state.nthreads:
            self._ahead.add(key)
            packed.prefetch()

    def _note_run(self, key: Any) -> None:
        packed = self._packed(key)
        if packed is not None and packed.place is not None:
            self._running[key] = packed

    def _end_run(self, key: Any, *, wanted: bool) -> None:
        """Tell the owner of a result that belongs to no task any more.

        A key that is submitted again while its forgotten task still runs has another task, of
        which this worker knows; the result of the first is in nobody's books.
        """
        run = self._running.pop(key)
        assert run.place is not None
        place: ResultPlace = pickle.loads(run.place)
        if not wanted or self._packed(key) is not run:
            self._tell_of_straggler(place.key)
        elif self._worker.state.tasks[key].type is StoredResult:
            # The owner may have been told already that the task is forgotten, and have evicted
            # what was not yet written. When this worker is told it knows that it was.
            self._kept[key] = place.key

    def _tell_of_straggler(self, key: Key) -> None:
        """Have the owner evict a result, unless a task of his has it."""
        if not self._stragglers:
            # One report for all of this turn of the event loop.
            self._worker.loop.add_callback(self._flush)
        self._stragglers.append(key)

    def _flush(self) -> None:
        stragglers, self._stragglers = self._stragglers, []
        self._worker.log_event(self.name, {"stragglers": pickle.dumps(stragglers)})


def reach(recipe: Recipe) -> str | None:
    """Return why this process cannot use a store; None if it can."""
    try:
        recipes.open_store(recipe)
    except (ProxyflowError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None
