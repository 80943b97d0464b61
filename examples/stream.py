"""Frames of a camera flight over a photograph, streamed to two groups of processes.

The frames are appended to a stream. Processes of the group "light" measure how bright each frame
is, those of the group "detail" how much detail it has; each group receives every frame, and gives
it to one of its processes. In the middle one process is killed: what it had in hand is delivered to
another one. All answers must be there in the end, be right, and nothing may stay in the store.

    python examples/stream.py [IMAGE] [--frames N] [--workers N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from proxyflow import Store
from proxyflow.stream import Stream

SPAWN = multiprocessing.get_context("spawn")


def light(frame: np.ndarray) -> float:
    """Return how bright a frame is."""
    return float(frame.mean())


def detail(frame: np.ndarray) -> float:
    """Return how much a frame changes from pixel to pixel."""
    return float(np.abs(np.diff(frame.astype("i2"), axis=1)).mean())


MEASURES: dict[str, Callable[[np.ndarray], float]] = {"light": light, "detail": detail}


def flight(image: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yield views of half the width and height, from corner to corner."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    for place in np.linspace(0, 1, count):
        top, left = int(place * height), int(place * width)
        yield image[top : top + height, left : left + width].copy()


def work(frames: Stream, results: Stream) -> None:
    """Measure frames until there are no more."""
    with frames, results:
        for item in frames.items(ack=True):
            # A mapping of the frame: nothing of it has been sent to this process.
            value = MEASURES[str(frames.group)](item.proxy)
            results.append((frames.group, item.metadata, value))


def load_image(path: str | None) -> np.ndarray:
    """Return the pixels of an image file, or of the sample photograph."""
    if path is None:
        return load_sample_image("china.jpg")
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


def main() -> None:
    """Stream the frames, kill a worker, and check the answers."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("image", nargs="?", help="a photograph; one that comes with scikit-learn")
    parser.add_argument("--frames", type=int, default=500, help="how many (500)")
    parser.add_argument("--workers", type=int, default=2, help="of each group (2)")
    options = parser.parse_args()
    if options.frames < 1 or options.workers < 2:
        parser.error("at least one frame, and two workers of a group: one is killed")
    try:
        image = load_image(options.image)
    except (OSError, ValueError) as error:
        parser.error(f"cannot use this image: {error}")
    with tempfile.TemporaryDirectory() as directory, Store(f"maildir://{directory}/run") as store:
        results = store.stream("results")
        # Made before the first frame, so that each group receives every frame.
        groups = [store.stream("frames", group=group) for group in MEASURES]
        workers: list[BaseProcess] = [
            SPAWN.Process(target=work, args=(group, results))
            for group in groups
            for _ in range(options.workers)
        ]
        for worker in workers:
            worker.start()
        started = time.perf_counter()
        # At most 50 frames lie in the store, however far the workers are behind.
        with store.stream("frames", maxsize=50) as frames:
            for number, frame in enumerate(flight(image, options.frames)):
                frames.append(frame, metadata=number)
                if number == options.frames // 2:
                    workers[0].kill()
            frames.close_for_writing()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - started
        results.close_for_writing()
        # A frame may be measured twice, by the killed worker and by its heir.
        found = {
            (group, number): value
            for group, number, value in (tuple(item.proxy) for item in results.items(ack=True))
        }
        expected = {
            (group, number): measure(frame)
            for number, frame in enumerate(flight(image, options.frames))
            for group, measure in MEASURES.items()
        }
        assert found == expected, "answers are missing or wrong"
        left = len(list(store.scan()))
        megabytes = options.frames * frame.nbytes / 1e6
    print(
        f"{options.frames} frames, {megabytes:.0f} MB, measured by {len(workers)} processes in "
        f"{seconds:.1f} s; one was killed, {len(found)} of {len(expected)} answers, "
        f"{left} objects left"
    )


if __name__ == "__main__":
    main()
