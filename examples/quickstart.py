"""A sweep over all patches of a photograph, three ways.

Extracts every 8 x 8 colour patch of an image (some 200 MB), then searches them for the nearest
neighbours of a few query patches, once for each of 24 parameter sets: with a plain process pool,
with the same pool in a `ProxyExecutor`, and with a `@proxied` function. All answers must agree,
and nothing may stay in the store. A large image is scaled down first: all patches of a photograph
of 12 megapixels would take 9 GB.

    python examples/quickstart.py [IMAGE] [--tasks N] [--workers N]
"""

from __future__ import annotations

import argparse
import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from sklearn.datasets import load_sample_image
from tqdm import tqdm

from proxyflow import Store, proxied
from proxyflow_futures import ProxyExecutor

PATCH = 8
PIXELS = 640 * 427
"""Of an image this large the patches take some 200 MB."""


class Query(NamedTuple):
    """One parameter set of the sweep."""

    seed: int
    count: int
    contrast: float


class Run(NamedTuple):
    """One way to run the sweep, and what it took."""

    name: str
    answers: list[np.ndarray]
    seconds: float
    piped: int
    left: int | None


class RecordingExecutor(Executor):
    """Hands every call on to a pool and keeps a record, to see what goes through its pipe."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool = pool
        self.calls: list[tuple[Any, ...]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call to the pool."""
        self.calls.append((fn, args, kwargs))
        return self.pool.submit(fn, *args, **kwargs)

    def piped(self) -> int:
        """Return the size of all calls, pickled as the pool pickles them."""
        meter = Meter()
        for call in self.calls:
            pickle.Pickler(meter).dump(call)
        return meter.nbytes


class Meter:
    """A file that only counts what is written to it."""

    nbytes = 0

    def write(self, data: Any) -> None:
        """Count the bytes."""
        self.nbytes += memoryview(data).nbytes


def load_image(path: str | None) -> np.ndarray:
    """Return the pixels of an image file, or of the sample photograph."""
    if path is None:
        return load_sample_image("china.jpg")
    with Image.open(path) as file:
        image = file.convert("RGB")
    if min(image.size) < PATCH:
        raise ValueError(f"{path} is smaller than a patch of {PATCH} x {PATCH} pixels")
    scale = (PIXELS / (image.width * image.height)) ** 0.5
    if scale < 1:
        image.thumbnail((max(PATCH, image.width * scale), max(PATCH, image.height * scale)))
    return np.asarray(image)


def extract_patches(image: np.ndarray) -> np.ndarray:
    """Return every patch of an image, one a row, as float32."""
    windows = sliding_window_view(image, (PATCH, PATCH), axis=(0, 1))
    return windows.reshape(-1, 3 * PATCH * PATCH).astype(np.float32)


def nearest_patches(patches: np.ndarray, query: Query) -> np.ndarray:
    """Return for each of some random query patches the index of its nearest neighbour."""
    rng = np.random.default_rng(query.seed)
    wanted = patches[rng.integers(len(patches), size=query.count)] * np.float32(query.contrast)
    best = np.full(query.count, np.inf, np.float32)
    index = np.zeros(query.count, np.int64)
    # In blocks: the patches are only read, and never more than a block of distances is held.
    for start in range(0, len(patches), 65536):
        block = patches[start : start + 65536]
        distance = np.einsum("ij,ij->i", block, block)[:, None] - 2 * (block @ wanted.T)
        nearest = distance.argmin(axis=0)
        found = distance[nearest, np.arange(query.count)]
        index = np.where(found < best, start + nearest, index)
        best = np.minimum(found, best)
    return index


@proxied(policy="1 MiB")
def nearest_patches_proxied(patches: np.ndarray, query: Query) -> np.ndarray:
    """Do the same as `nearest_patches`, sending its own arguments as proxies."""
    return nearest_patches(patches, query)


def sweep(
    name: str, submit: Callable[[Query], Future[np.ndarray]], queries: list[Query]
) -> tuple[list[np.ndarray], float]:
    """Run all queries with a progress bar; return the answers in order and the seconds taken."""
    started = time.perf_counter()
    with tqdm(total=len(queries), desc=f"{name:>14}", unit="task") as bar:
        futures = [submit(query) for query in queries]
        for _ in as_completed(futures):
            bar.update()
    return [future.result() for future in futures], time.perf_counter() - started


def run_plain(pool: ProcessPoolExecutor, patches: np.ndarray, queries: list[Query]) -> Run:
    """Pass the patches as they are."""
    name = "plain pool"
    record = RecordingExecutor(pool)
    answers, seconds = sweep(
        name, lambda query: record.submit(nearest_patches, patches, query), queries
    )
    return Run(name, answers, seconds, record.piped(), None)


def run_wrapped(pool: ProcessPoolExecutor, patches: np.ndarray, queries: list[Query]) -> Run:
    """Pass the same arguments to the same pool in a `ProxyExecutor`."""
    name = "ProxyExecutor"
    record = RecordingExecutor(pool)
    with Store() as store:
        executor = ProxyExecutor(record, store)
        answers, seconds = sweep(
            name, lambda query: executor.submit(nearest_patches, patches, query), queries
        )
        return Run(name, answers, seconds, record.piped(), count_left(store))


def run_decorated(pool: ProcessPoolExecutor, patches: np.ndarray, queries: list[Query]) -> Run:
    """Let the `@proxied` function submit itself to the pool."""
    name = "@proxied"
    record = RecordingExecutor(pool)
    task = nearest_patches_proxied
    answers, seconds = sweep(name, lambda query: task.submit(record, patches, query), queries)
    return Run(name, answers, seconds, record.piped(), count_left(task.store))


def count_left(store: Store) -> int:
    """Return how many objects a store holds."""
    return sum(1 for _ in store.scan())


def table(runs: list[Run], tasks: int) -> str:
    """Return the runs as a table."""
    lines = [
        f"{'':>14} {'wall s':>8} {'tasks/s':>8} {'MB through the pipe':>20} {'objects left':>13}"
    ]
    for run in runs:
        left = "-" if run.left is None else str(run.left)
        rate = tasks / run.seconds
        lines.append(
            f"{run.name:>14} {run.seconds:8.2f} {rate:8.1f} {run.piped / 1e6:20.1f} {left:>13}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the sweep three ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", nargs="?", help="an image file; default: a sample photograph")
    parser.add_argument("--tasks", type=int, default=24, help="how many parameter sets (24)")
    workers = min(4, os.cpu_count() or 1)
    parser.add_argument(
        "--workers", type=int, default=workers, help=f"how many processes ({workers})"
    )
    options = parser.parse_args()
    if options.tasks < 1 or options.workers < 1:
        parser.error("at least one task and one worker")
    try:
        image = load_image(options.image)
    except (OSError, ValueError) as error:
        parser.error(f"cannot use this image: {error}")

    patches = extract_patches(image)
    queries = [Query(i, 16 + i % 4, 1 + 0.01 * i) for i in range(options.tasks)]
    name = options.image or "china.jpg, a sample photograph of scikit-learn"
    height, width, _ = image.shape
    print(f"{name}, {width} x {height}: {len(patches):,} patches, {patches.nbytes / 1e6:.0f} MB")
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        # The workers start and import NumPy before any clock runs.
        list(pool.map(nearest_patches, [patches[:64]] * 4 * options.workers, queries))
        runs = [run(pool, patches, queries) for run in (run_plain, run_wrapped, run_decorated)]

    print(table(runs, options.tasks))
    for run in runs[1:]:
        for ours, reference in zip(run.answers, runs[0].answers, strict=True):
            np.testing.assert_array_equal(ours, reference)
    if any(run.left for run in runs):
        raise SystemExit("objects were left in the store")
    print(f"all answers agree; {runs[0].seconds / runs[1].seconds:.1f} times as fast")


if __name__ == "__main__":
    main()
