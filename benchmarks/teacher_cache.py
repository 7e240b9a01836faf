"""What the teacher's forward passes cost in a grid of methods, with and without --cache_teacher.

    python benchmarks/teacher_cache.py

Goes through the training batches of every method as its training does, in one process: alone; with
the teacher run on each; and with the outputs that are kept, computed by the first method and found
by the others. Nothing is trained. All flags of train_w_distill.py hold; by default the untrained
networks of --net see a few digits.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiment.command.main import read  # noqa: E402
from settings import distillation  # noqa: E402

if __name__ == "__main__":
    GIVEN = read(__doc__ or "", distillation.define, distillation.given_settings)

# isort: split
from experiment.command import quiet  # noqa: E402, F401 (before TensorFlow)

# isort: split
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from experiment.command.main import run
from experiment.report import tables
from settings.distillation import CACHED, Settings
from settings.run_setup import Setup, prepare, taught_batches, training_batches
from settings.teacher_cache import fill_cache, make_teacher_function

METHODS = ("Soft_logits", "DKD", "DIST", "LogitStd", "MLKD", "TTM", "RKD", "PKT")
EPOCHS, IMAGES, BATCH = 2, 640, 128


def main(given: Settings) -> None:
    """Time the grid and print a row for each method."""
    settings = dataclasses.replace(
        given, epochs=given.epochs or EPOCHS, batch_size=given.batch_size or BATCH,
        train_images=given.train_images or (IMAGES if given.dataset == "digits" else None),
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = list(time_grid(settings, folder))
    total = {name: sum(row[name] for row in rows) for name in rows[0] if name != "method"}
    print(f"\nseconds\n{tables.table([*rows, {'method': 'all', **total}])}")


def time_grid(settings: Settings, folder: str) -> Iterator[dict[str, Any]]:
    """The seconds of each method.

    Args:
        settings: of all runs but for the method.
        folder: of the cache.
    """
    for method in METHODS:
        setup = prepare(dataclasses.replace(
            settings, Distillation=method, cache_teacher=True, cache_dir=folder,
            cache_outputs=CACHED,
        ).spelled())
        setup = dataclasses.replace(setup, teacher_is_trained=True)  # it takes as long
        yield {"method": method, **time_method(setup)}


def time_method(setup: Setup) -> dict[str, float]:
    """The seconds of one method's batches in all epochs."""
    batches = training_batches(setup.settings, setup.data)
    outputs_of = make_teacher_function(setup, setup.read_outputs())
    outputs_of(next(iter(batches))["image"])  # TensorFlow prepares itself
    alone = seconds(lambda: go_through(batches))
    with_teacher = seconds(lambda: go_through(batches, lambda batch: outputs_of(batch["image"])))
    began = time.perf_counter()
    setup = fill_cache(setup)
    keeping = time.perf_counter() - began
    return {
        "batches": alone,
        "with teacher": with_teacher,
        "with cache": seconds(lambda: go_through(taught_batches(setup))),
        "keeping them": keeping,
    }


def go_through(
    batches: Iterable[dict[str, Any]], use: Callable[[dict[str, Any]], Any] | None = None
) -> None:
    """Take all batches, and wait for what is made of each."""
    for batch in batches:
        for value in use(batch).values() if use else ():
            value.numpy()


def seconds(work: Callable[[], None]) -> float:
    """That `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    run(main, GIVEN)
