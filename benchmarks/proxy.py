"""What an operation costs on a resolved proxy, next to the raw object and to other proxies.

Run with ``python -m benchmarks.proxy [--quick]``. Every round times every implementation before the
next one begins, so that a disturbance of the machine hits all of them; the median of the rounds is
shown in nanoseconds, with its ratio to ours (below 1: faster than ours). Our proxies carry their
recorded facts, in the pickles too.
"""

from __future__ import annotations

import importlib.metadata
import pickle
import timeit
from collections.abc import Callable
from typing import Any, cast

from benchmarks.measure import Median
from benchmarks.options import Options, parser, read
from benchmarks.result import Result, Rows, Table
from proxyflow.facts import describe
from proxyflow.proxy import Proxy

Make = Callable[[Callable[[], Any]], Any]

OURS = "proxyflow"
LOOPS = 20_000
QUICK_LOOPS = 4_000
ROUNDS = 15


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


def collect(options: Options) -> Result:
    """Time every operation."""
    makers, missing = implementations()
    rows: Rows = {}
    loops = QUICK_LOOPS if options.quick else LOOPS
    for label, target, statement in OPERATIONS:
        rows[label] = measure(target, statement, makers, options.rounds(ROUNDS), loops)
    return Result(
        tables=[Table("An operation on a resolved proxy", rows, OURS, "ns", 1e9)],
        left_out=[f"{name} is not installed" for name in missing],
    )


def implementations() -> tuple[dict[str, Make], list[str]]:
    """Return how each implementation makes a proxy, and the names of those not installed."""
    makers: dict[str, Make] = {"raw": lambda factory: factory(), OURS: Proxy}
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
    target: Any, statement: str, makers: dict[str, Make], rounds: int, loops: int
) -> dict[str, float]:
    """Return the median seconds of the statement for each implementation that knows it."""
    timers = {name: timer(name, make, target, statement) for name, make in makers.items()}
    samples: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, clock in timers.items():
            if clock is not None:
                samples.setdefault(name, []).append(clock.timeit(loops) / loops)
    return {name: Median(taken) for name, taken in samples.items()}


def timer(name: str, make: Make, target: Any, statement: str) -> timeit.Timer | None:
    """Prepare a timer of the statement on a resolved proxy, or None if it is not possible."""
    give = Give(target)
    if name == "raw" and statement == "make(give)":
        return None
    if name == OURS:
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


def main() -> None:
    """Measure and print."""
    print(collect(read(parser(__doc__).parse_args())).text())


if __name__ == "__main__":
    main()
