"""What a proxy calls to get its target: a store's recipe and a key."""

from __future__ import annotations

from typing import Any

from proxyflow import recipe as recipes
from proxyflow.connectors import connector_class
from proxyflow.connectors.protocol import Key
from proxyflow.errors import InvalidKeyError, ObjectNotFoundError, WaitTimeoutError
from proxyflow.proxy import rebuild
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
        Key of the object, or the plain tuple in place of it that pickles hold.
    """

    __slots__ = ("_key", "recipe")

    def __init__(self, recipe: Recipe, key: Key) -> None:
        self.recipe = recipe
        self._key = key

    @property
    def key(self) -> Key:
        """Key of the object.

        Raises
        ------
        InvalidKeyError
            If it came out of a pickle that no proxy of ours was written to.
        """
        if type(self._key) is tuple:
            self._key = _as_key(self._key, self.recipe)
        return self._key

    def __call__(self) -> Any:
        """Return the object.

        Raises
        ------
        ObjectNotFoundError
            If it is not stored, or not any more.
        """
        return _fetch(self.recipe, self.key)

    def __reduce__(self) -> tuple[Any, ...]:
        return (StoreFactory, (self.recipe, _as_tuple(self._key, self.recipe)))

    def __reduce_proxy__(self, facts: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what a proxy with this factory is pickled as: less than proxy and factory."""
        return (_s, (self.recipe, _as_tuple(self._key, self.recipe), *facts))

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
        return (Loan, (self.recipe, _as_tuple(self._key, self.recipe)))

    def __reduce_proxy__(self, facts: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what a proxy with this factory is pickled as: less than proxy and factory."""
        return (_l, (self.recipe, _as_tuple(self._key, self.recipe), *facts))


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
        # A future that was evicted can be set anew, and not every connector can tell.
        store.forget(self.key)
        outcome = _fetch(self.recipe, self.key)
        return outcome.unwrap()

    def __reduce__(self) -> tuple[Any, ...]:
        return (WaitingFactory, (self.recipe, _as_tuple(self._key, self.recipe), self.timeout))

    def __reduce_proxy__(self, facts: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what a proxy with this factory is pickled as: less than proxy and factory."""
        return (_w, (self.recipe, _as_tuple(self._key, self.recipe), self.timeout, *facts))


# Named to be short, since module and name are in the pickle of every proxy.


def _s(recipe: Recipe, key: Key, *facts: Any) -> Any:
    """Rebuild a proxy of a stored object."""
    return rebuild(StoreFactory(recipe, key), facts)


def _l(recipe: Recipe, key: Key, *facts: Any) -> Any:
    """Rebuild a proxy that a task has been lent."""
    return rebuild(Loan(recipe, key), facts)


def _w(recipe: Recipe, key: Key, timeout: float | None, *facts: Any) -> Any:
    """Rebuild a proxy of an object that is set later."""
    return rebuild(WaitingFactory(recipe, key, timeout), facts)


for _function in (_s, _l, _w):
    _function.__module__ = "proxyflow"

# The class of the keys, by the scheme of the store's URL; None if they travel as they are.
_key_types: dict[str, Any] = {}


def _key_type(recipe: Recipe) -> Any:
    if type(recipe) is not str:
        return None
    scheme = recipe[: recipe.index(":")]
    try:
        return _key_types[scheme]
    except KeyError:
        kind = getattr(connector_class(scheme), "key_type", None)
        return _key_types.setdefault(scheme, kind)


def _as_tuple(key: Key, recipe: Recipe) -> Key:
    """Return the parts of a key: the name of its class would take more bytes than they do."""
    return tuple(key) if type(key) is _key_type(recipe) else key


def _as_key(parts: tuple[Any, ...], recipe: Recipe) -> Key:
    kind = _key_type(recipe)
    if kind is None:
        return parts
    try:
        return kind(*parts)
    except TypeError as error:
        raise InvalidKeyError(
            "this is no key of such a store", store=recipes.name_of(recipe), key=parts
        ) from error


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
