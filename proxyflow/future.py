"""An object that will be set later, and whose proxy can be passed on now."""

from __future__ import annotations

from typing import Any

from proxyflow import recipe as recipes
from proxyflow.connectors.protocol import Key
from proxyflow.errors import ObjectExistsError
from proxyflow.factory import WaitingFactory
from proxyflow.proxy import Proxy
from proxyflow.recipe import Recipe

__all__ = ["Outcome", "StoreFuture"]


class Outcome:
    """What a :class:`StoreFuture` was set to: a value, or the exception that took its place."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any, error: BaseException | None) -> None:
        self.value = value
        self.error = error

    def unwrap(self) -> Any:
        """Return the value, or raise the exception."""
        if self.error is not None:
            raise self.error
        return self.value


class StoreFuture:
    """An object that will be set later, by this or another process; picklable.

    Made by :meth:`Store.future`. Everything it stores is evicted with the store's session, or by
    :meth:`evict`.

    Notes
    -----
    A future is set by one party. Setting it again is refused, but connectors (as ProxyStore's)
    have no "store unless there": of two that set it at the very same moment the later one wins.

    Examples
    --------
    >>> from proxyflow import Store
    >>> with Store() as store:
    ...     future = store.future(timeout=10)
    ...     proxy = future.proxy()
    ...     future.set_result("here it is")
    ...     proxy.upper()
    'HERE IT IS'
    """

    __slots__ = ("_key", "_recipe", "_timeout")

    def __init__(self, recipe: Recipe, key: Key, timeout: float | None) -> None:
        self._recipe = recipe
        self._key = key
        self._timeout = timeout

    def __reduce__(self) -> tuple[Any, ...]:
        return (StoreFuture, (self._recipe, self._key, self._timeout))

    def __repr__(self) -> str:
        return f"<StoreFuture {recipes.name_of(self._recipe)} {self._key!r}>"

    @property
    def key(self) -> Key:
        """Key under which the outcome is stored."""
        return self._key

    def done(self) -> bool:
        """Return whether the object or an exception has been set."""
        return recipes.open_store(self._recipe).exists(self._key)

    def set_result(self, obj: Any) -> None:
        """Set the object; every process that waits for it goes on.

        Raises
        ------
        ObjectExistsError
            If it has been set before.
        """
        self._set(Outcome(obj, None))

    def set_exception(self, error: BaseException) -> None:
        """Set an exception in the object's place; who waits for the object gets it raised.

        Raises
        ------
        ObjectExistsError
            If the future has been set before.
        """
        self._set(Outcome(None, error))

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the object and return it.

        Parameters
        ----------
        timeout
            How many seconds to wait, if not as many as the future was made with.

        Raises
        ------
        WaitTimeoutError
            If it does not come in time.
        """
        return self._factory(self._timeout if timeout is None else timeout)()

    def proxy(self) -> Proxy[Any]:
        """Return a proxy that waits for the object when it is resolved."""
        return Proxy(self._factory(self._timeout))

    def evict(self) -> None:
        """Remove the object from the store."""
        recipes.open_store(self._recipe).evict(self._key)

    def _factory(self, timeout: float | None) -> WaitingFactory:
        return WaitingFactory(self._recipe, self._key, timeout)

    def _set(self, outcome: Outcome) -> None:
        store = recipes.open_store(self._recipe)
        if store.exists(self._key):
            raise ObjectExistsError(
                "the future has been set already", store=store.name, key=self._key
            )
        store.write(store.encode(outcome), self._key)
