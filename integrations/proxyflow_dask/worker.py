"""The worker's side: opens the store, reads ahead, tells of results nobody waits for any more."""

from __future__ import annotations

import logging
import pickle
from typing import Any

from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin

from proxyflow import recipe as recipes
from proxyflow.errors import ProxyflowError
from proxyflow.recipe import Recipe
from proxyflow_dask.owner import topic_of
from proxyflow_dask.packed import Packed, packed_in, restoring
from proxyflow_dask.private import after_gather
from proxyflow_dask.results import ResultPlace, load_results, pass_on

__all__ = ["WorkerPart", "reach"]

logger = logging.getLogger("proxyflow.dask")

_AHEAD = 2
"""Tasks whose arguments are read ahead, for each thread: enough to hide the latency of a store,
few enough not to fill the memory with what runs last."""


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
        """Read ahead for a task that waits to run; tell when one ends that was forgotten."""
        if finish == "executing":
            self._restore_results_for(key)
        if finish == "ready":
            if self._moves:
                self._read_ahead(key)
        elif start == "cancelled":
            self._tell_of_straggler(key)
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

    def _tell_of_straggler(self, key: Any) -> None:
        packed = self._packed(key)
        if packed is not None and packed.place is not None:
            place: ResultPlace = pickle.loads(packed.place)
            self._worker.log_event(self.name, {"straggler": pickle.dumps(place.key)})


def reach(recipe: Recipe) -> str | None:
    """Return why this process cannot use a store; None if it can."""
    try:
        recipes.open_store(recipe)
    except (ProxyflowError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None
