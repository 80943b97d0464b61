"""What an operation costs on a resolved proxy, next to the raw object and to other proxies.

Run with ``python -m benchmarks.proxy [--rounds N]``. Every round times every implementation before
the next one begins, so that a disturbance of the machine hits all of them; the median of the rounds
is printed in nanoseconds, with its ratio to ours (below 1: faster than ours). Our proxies carry
their recorded facts, in the pickles too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import pickle
import statistics
import timeit
from collections.abc import Callable
from typing import Any, cast

from proxyflow.facts import describe
from proxyflow.proxy import Proxy

Make = Callable[[Callable[[], Any]], Any]

LOOPS = 20_000


class Point:
    """A target with an attribute and a method."""

    def __init__(self) -> None:
        self.x = 1

    def norm(self) -> int:
        """Do as little as a method can."""
        return 1


class Give:
    """A picklable factory."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __call__(self) -> Any:
        """Return the target."""
        return self.target


def increment(x: int) -> int:
    """Do as little as a function can."""
    return x


# name, target, statement timed on `p`
OPERATIONS: list[tuple[str, Any, str]] = [
    ("attribute", Point(), "p.x"),
    ("method call", Point(), "p.norm()"),
    ("list item", list(range(10)), "p[3]"),
    ("int + 1", 7, "p + 1"),
    ("len", list(range(10)), "len(p)"),
    ("isinstance", list(range(10)), "isinstance(p, list)"),
    ("iterate 10 items", list(range(10)), "for _ in p: pass"),
    ("call", increment, "p(1)"),
    ("creation", list(range(10)), "make(give)"),
    ("pickle dumps", list(range(10)), "dumps(p, 5)"),
    ("pickle loads", list(range(10)), "loads(data)"),
]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    makers, missing = implementations()
    print(f"{'':18}" + "".join(f"{name:>22}" for name in makers))
    for label, target, statement in OPERATIONS:
        times = measure(target, statement, makers, rounds)
        ours = times["proxyflow"]
        cells = (cell(times[name], ours) for name in makers)
        print(f"{label:18}" + "".join(f"{text:>22}" for text in cells))
    print(f"medians of {rounds} rounds; in ns, and as a multiple of proxyflow's")
    for name in missing:
        print(f"{name} is not installed and was left out")


def implementations() -> tuple[dict[str, Make], list[str]]:
    """Return how each implementation makes a proxy, and the names of those not installed."""
    makers: dict[str, Make] = {"raw": lambda factory: factory(), "proxyflow": Proxy}
    missing = []
    for name, package, load in (
        ("proxystore", "proxystore", _proxystore),
        ("lazy-object-proxy", "lazy-object-proxy", _lazy_object_proxy),
        ("wrapt", "wrapt", _wrapt),
    ):
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
        else:
            makers[f"{name} {version}"] = load()
    return makers, missing


def _proxystore() -> Make:
    from proxystore.proxy import Proxy as StoreProxy

    return StoreProxy


def _lazy_object_proxy() -> Make:
    import lazy_object_proxy  # type: ignore[import-untyped]

    return cast(Make, lazy_object_proxy.Proxy)


def _wrapt() -> Make:
    import wrapt

    # wrapt's proxies are made with their target, and cannot be pickled.
    def make(factory: Callable[[], Any]) -> Any:
        target = factory()
        wrap = wrapt.CallableObjectProxy if callable(target) else wrapt.ObjectProxy
        return wrap(target)

    return make


def measure(
    target: Any, statement: str, makers: dict[str, Make], rounds: int
) -> dict[str, float | None]:
    """Return the median time of the statement for each implementation, None if it cannot."""
    timers = {name: timer(name, make, target, statement) for name, make in makers.items()}
    samples: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, clock in timers.items():
            if clock is not None:
                samples[name].append(clock.timeit(LOOPS) / LOOPS * 1e9)
    return {name: statistics.median(taken) if taken else None for name, taken in samples.items()}


def timer(name: str, make: Make, target: Any, statement: str) -> timeit.Timer | None:
    """Prepare a timer of the statement on a resolved proxy, or None if it is not possible."""
    give = Give(target)
    if name == "raw" and statement == "make(give)":
        return None
    if name == "proxyflow":
        facts = describe(target)

        def make(factory: Callable[[], Any]) -> Any:
            return Proxy(factory, facts)

    p = make(give)
    str(p)  # resolves a lazy one
    names = {"p": p, "make": make, "give": give, "dumps": pickle.dumps, "loads": pickle.loads}
    try:
        if statement.startswith(("dumps", "loads")):
            names["data"] = pickle.dumps(p, 5)
    except NotImplementedError:
        return None
    return timeit.Timer(statement, globals=names)


def cell(time: float | None, ours: float | None) -> str:
    """Format one time and its ratio to ours."""
    if time is None or ours is None:
        return "-"
    return f"{time:.0f} ({time / ours:.2f}x)"


if __name__ == "__main__":
    main()
