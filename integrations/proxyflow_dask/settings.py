"""Where the settings of the plugin come from: its arguments, Dask's configuration, proxyflow's.

In Dask's YAML files::

    proxyflow:
      store: file:///dev/shm/run1
      threshold: 1 MiB
      resolve: auto
      results: false
    distributed:
      client:
        preload: [proxyflow_dask.preload]

or as environment variables, ``DASK_PROXYFLOW__STORE``, ``DASK_PROXYFLOW__THRESHOLD``, ...
"""

from __future__ import annotations

import os
from typing import NamedTuple

import dask

from proxyflow.boundary import check_resolve
from proxyflow.config import as_url
from proxyflow.errors import ConfigError
from proxyflow.policy import Policy
from proxyflow.store import Store
from proxyflow_dask.graph import Rules
from proxyflow_dask.owner import Owner
from proxyflow_dask.values import GraphPolicy

__all__ = ["Settings"]

_KNOWN = frozenset({"store", "threshold", "resolve", "results"})


class Settings(NamedTuple):
    """What a plugin was told."""

    where: Store | str | None
    rules: Rules

    @classmethod
    def of(
        cls,
        store: Store | str | os.PathLike[str] | None,
        threshold: Policy | int | str | None,
        resolve: str | None,
        results: bool | None,
    ) -> Settings:
        """Return the settings, with Dask's configuration for what is None.

        Raises
        ------
        ConfigError
            If one of them makes no sense, or the configuration has one that nobody knows.
        """
        configured = dask.config.get("proxyflow", None) or {}
        unknown = sorted(set(configured) - _KNOWN)
        if unknown:
            raise ConfigError(
                f"Dask's configuration has an unknown setting proxyflow.{unknown[0]}",
                remedy=f"known: {', '.join(sorted(_KNOWN))}",
            )
        if store is None:
            store = configured.get("store")
        if isinstance(store, os.PathLike):
            store = str(as_url(store))
        policy = Policy.of(configured.get("threshold") if threshold is None else threshold)
        resolve = configured.get("resolve", "auto") if resolve is None else resolve
        results = configured.get("results", False) if results is None else results
        if not isinstance(results, bool):
            raise ConfigError(f"results={results!r} is neither true nor false")
        rules = Rules(GraphPolicy.like(policy), check_resolve(str(resolve)), results)
        return cls(store, rules)

    def open(self) -> Owner:
        """Open the store, if it is not one that is open; return who owns what is put there.

        Raises
        ------
        ConfigError
            If it cannot do what is asked for.
        """
        given = isinstance(self.where, Store)
        store = self.where if isinstance(self.where, Store) else Store(self.where)
        if self.rules.results and not store.deferrable:
            if not given:
                store.close()
            raise ConfigError(
                f"{store.name} cannot make the key of a result before the result",
                remedy="use another store, or results=False",
            )
        return Owner(store, closes=not given)
