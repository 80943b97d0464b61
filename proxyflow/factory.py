"""What a proxy calls to get its target: a store's recipe and a key."""

from __future__ import annotations

from typing import Any

from proxyflow import recipe as recipes
from proxyflow.connectors.protocol import Key
from proxyflow.errors import ObjectNotFoundError, WaitTimeoutError
from proxyflow.recipe import Recipe

__all__ = ["Loan", "StoreFactory", "WaitingFactory"]

_MISSING = object()


class StoreFactory:
    """Gets one object out of its store, which it opens when this process has not yet.

    Parameters
    ----------
    recipe
        How to open the store.
    key
        Key of the object.
    """

    __slots__ = ("key", "recipe")

    def __init__(self, recipe: Recipe, key: Key) -> None:
        self.recipe = recipe
        self.key = key

    def __call__(self) -> Any:
        """Return the object.

        Raises
        ------
        ObjectNotFoundError
            If it is not stored, or not any more.
        """
        return _fetch(self.recipe, self.key)

    def __reduce__(self) -> tuple[Any, ...]:
        return (StoreFactory, (self.recipe, self.key))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {recipes.name_of(self.recipe)} {self.key!r}>"

    def __eq__(self, other: object) -> bool:
        return (
            type(other) is type(self)
            and isinstance(other, StoreFactory)
            and (self.recipe, self.key) == (other.recipe, other.key)
        )

    def __hash__(self) -> int:
        return hash((self.recipe, self.key))


class Loan(StoreFactory):
    """Gets an object that a task has been lent: it is evicted when the task is done.

    It travels in a proxy where the task may receive that, and by itself where it will not.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Loan, (self.recipe, self.key))


class WaitingFactory(StoreFactory):
    """Waits for an object that is set later, then gets it.

    Parameters
    ----------
    recipe
        How to open the store.
    key
        Key the object will have.
    timeout
        How many seconds to wait; None waits for ever.
    """

    __slots__ = ("timeout",)

    def __init__(self, recipe: Recipe, key: Key, timeout: float | None) -> None:
        super().__init__(recipe, key)
        self.timeout = timeout

    def __call__(self) -> Any:
        """Return the object once it is there.

        Raises
        ------
        WaitTimeoutError
            If it does not come in time.
        """
        store = recipes.open_store(self.recipe)
        if not store.wait(self.key, self.timeout):
            raise WaitTimeoutError(
                f"nothing was set within {self.timeout:g} seconds",
                store=store.name,
                key=self.key,
                remedy="check that the task that sets it runs, or give the future more time",
            )
        outcome = _fetch(self.recipe, self.key)
        return outcome.unwrap()

    def __reduce__(self) -> tuple[Any, ...]:
        return (WaitingFactory, (self.recipe, self.key, self.timeout))


def _fetch(recipe: Recipe, key: Key) -> Any:
    store = recipes.open_store(recipe)
    obj = store.get(key, _MISSING)
    if obj is _MISSING:
        raise ObjectNotFoundError(
            "the object is not in the store (any more)",
            store=store.name,
            key=key,
            remedy="it has been evicted, or its store was closed, before this proxy was resolved",
        )
    return obj
