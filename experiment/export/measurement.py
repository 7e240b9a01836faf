"""Running files by their own interpreters: what they answer, and how long they take.

    python -m experiment.export.measurement FOLDER

measures the files that ``FOLDER/job.json`` names, and writes what it finds beside it. Files of one
runtime and number of threads share a process, whose threads are those of TensorFlow and of the
interpreters alike.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import plugins
from experiment.command.main import run
from experiment.export import formats  # noqa: F401 (registers them)
from experiment.export.format import FORMATS, Format
from experiment.export.processes import run_module
from processors import usable_cores

SIZES = (1, 32)  # images at a time
_SECONDS, _MOST_CALLS, _LEAST_CALLS = 2.0, 50, 5
_JOB, _IMAGES, _TIMES = "job.json", "images.npy", "times.json"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file to measure.

    Attributes:
        label: names it.
        form: its format.
        path: where it is.
    """

    label: str
    form: Format
    path: Path


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a file answers and how long it takes.

    Attributes:
        probabilities: of all images, float32 ``[N, classes]``.
        milliseconds: median by (images at a time, threads).
    """

    probabilities: np.ndarray
    milliseconds: dict[tuple[int, int], float]


def all_threads() -> int:
    """How many threads this process can run at once."""
    return len(usable_cores())


def measure(entries: Sequence[Entry], images: Path, folder: Path) -> dict[str, Measured]:
    """Run files on images, on one thread and on all.

    Args:
        entries: the files, each with a label of its own.
        images: an ``.npy`` of raw images, uint8 ``[N, H, W, C]``.
        folder: to work in.

    Returns:
        What was found, by label.

    Raises:
        UserError: an interpreter cannot run a file, or crashed.
    """
    answers: dict[str, np.ndarray] = {}
    times: dict[str, dict[tuple[int, int], float]] = {entry.label: {} for entry in entries}
    runtimes = dict.fromkeys(entry.form.runtime for entry in entries)
    numbers = dict.fromkeys((all_threads(), 1))
    for number, (runtime, threads) in enumerate(itertools.product(runtimes, numbers)):
        chosen = [entry for entry in entries if entry.form.runtime == runtime]
        place = folder / f"{runtime}-{number}"
        found = _measure_in_process(chosen, images, threads, place, threads == max(numbers))
        for entry, seconds in zip(chosen, found, strict=True):
            times[entry.label] |= {
                (size, threads): 1000 * each for size, each in zip(SIZES, seconds, strict=True)
            }
            answer = place / f"{chosen.index(entry)}.npy"
            if answer.exists():
                answers[entry.label] = np.load(answer)
    return {label: Measured(answers[label], times[label]) for label in times}


def _measure_in_process(
    entries: Sequence[Entry], images: Path, threads: int, place: Path, score: bool
) -> list[list[float]]:
    """Seconds of each entry for each of `SIZES`; with `score`, answers are in ``place/I.npy``."""
    place.mkdir()
    (place / _IMAGES).symlink_to(images)
    job = {
        "threads": threads, "score": score,
        "files": [[entry.form.specification(), str(entry.path)] for entry in entries],
    }
    (place / _JOB).write_text(json.dumps(job), encoding="utf-8")
    what = f"running {', '.join(entry.path.name for entry in entries)}"
    run_module("experiment.export.measurement", [str(place)], what)
    return json.loads((place / _TIMES).read_text(encoding="utf-8"))


def main(folder: str) -> None:
    """Measure in this process."""
    place = Path(folder)
    job = json.loads((place / _JOB).read_text(encoding="utf-8"))
    images = np.load(place / _IMAGES, mmap_mode="r")
    times = []
    for number, (specification, path) in enumerate(job["files"]):
        predict = plugins.create(FORMATS, specification).open(Path(path), job["threads"])
        if job["score"]:
            np.save(place / f"{number}.npy", answers(predict, images))
        times.append([seconds_of(predict, _first(images, size)) for size in SIZES])
    (place / _TIMES).write_text(json.dumps(times), encoding="utf-8")


def answers(predict: Any, images: np.ndarray) -> np.ndarray:
    """The probabilities of all images, float32 ``[N, classes]``."""
    size = SIZES[-1]
    return np.concatenate([
        predict(np.ascontiguousarray(images[first : first + size]))
        for first in range(0, len(images), size)
    ]).astype("float32")


def _first(images: np.ndarray, count: int) -> np.ndarray:
    """The first `count` images, from the beginning again where there are fewer."""
    return np.ascontiguousarray(images[np.arange(count) % len(images)])


def seconds_of(predict: Any, batch: np.ndarray) -> float:
    """The median time of a call, after two that are not counted."""
    found: list[float] = []
    for _ in range(2):
        predict(batch)
    while len(found) < _MOST_CALLS and (len(found) < _LEAST_CALLS or sum(found) < _SECONDS):
        began = time.perf_counter()
        predict(batch)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
