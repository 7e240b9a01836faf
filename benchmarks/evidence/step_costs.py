"""Measure what a training step of each method of a table costs, in steps of None.

    python benchmarks/evidence/step_costs.py --table residual \
      --flagfile benchmarks/evidence/residual.flags --dataset npz:cifar100.npz

Times one step of each method, on a batch of the table's own images, with its networks and recipe.
The methods alternate in one process, so the ratios hold even if the machine's speed drifts. They
are written to ``step_costs.csv``, from which ``results.py`` takes the costs in tables and pictures.
The input pipeline is not timed. A method of several stages is timed in its last.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from experiment.command import quiet  # noqa: E402, F401 (before TensorFlow)

# isort: split

import csv_tables  # noqa: E402
import tensorflow as tf  # noqa: E402
from absl import flags  # noqa: E402
from results import COSTS, COSTS_COLUMNS  # noqa: E402
from timing import medians  # noqa: E402

import compare  # noqa: E402
import dataloader  # noqa: E402
from experiment.command.main import read, run  # noqa: E402
from experiment.report import tables  # noqa: E402
from experiment.report.comparison import BASELINE  # noqa: E402
from experiment.run import devices  # noqa: E402
from registry import UserError  # noqa: E402
from settings.comparison import Comparison  # noqa: E402
from settings.distillation import Settings  # noqa: E402
from settings.run_setup import (  # noqa: E402
    compile_for,
    load_data,
    make_setup,
    taught_batches,
)


def define() -> None:
    """Define the flags: those of compare.py, and this script's own."""
    compare.define()
    own: dict[str, Any] = {"module_name": "benchmark"}
    flags.DEFINE_string("table", None, "whose costs these are", **own)
    flags.DEFINE_integer("rounds", 15, "how often to time each step", lower_bound=1, **own)
    flags.DEFINE_string("machine", "", "what it runs on, in words", **own)
    flags.mark_flag_as_required("table")


def main(comparison: Comparison, settings: Settings, costs: Path = COSTS) -> None:
    """Time the steps, print the ratios and write them.

    Args:
        comparison, settings: as of the table's runs.
        costs: the CSV file, which need not exist; other tables' rows stay.

    Raises:
        UserError: the teacher is not trained, or the methods do not include None.
    """
    tf.get_logger().setLevel("ERROR")  # it mistakes many small functions for repeated retracing
    runs = {each.group: each for each in reversed(compare.plan(comparison, settings))}
    if BASELINE not in runs:
        raise UserError(f"--Distillation does not include {BASELINE}, which costs are relative to")
    if any(each.needs for each in runs.values()):
        raise UserError("the teacher has not been trained: give --teacher")
    first = runs[BASELINE].given
    devices.prepare(first.seed, first.deterministic, first.mixed_precision)
    data = load_data(first)
    steps = {name: make_step(each.given, data) for name, each in reversed(runs.items())}
    times = medians(steps, flags.FLAGS.rounds)
    found = [
        {
            "table": flags.FLAGS.table, "method": name, "milliseconds": f"{milliseconds:.1f}",
            "step_cost": f"{milliseconds / times[BASELINE]:.3f}", "machine": flags.FLAGS.machine,
        }
        for name, milliseconds in times.items()
    ]
    print(tables.table([{key: row[key] for key in COSTS_COLUMNS[1:4]} for row in found]))
    csv_tables.replace(costs, COSTS_COLUMNS, flags.FLAGS.table, found, ("method",))


def make_step(settings: Settings, data: dataloader.Data) -> Callable[[], Any]:
    """A function that trains one step, as a run with these settings does in its last stage."""
    settings = dataclasses.replace(settings, strategy="none")
    strategy = devices.strategy("none")
    setup = make_setup(settings, data, strategy, settings.teacher_file())
    distiller = setup.distiller
    distiller.enter(distiller.parts(settings.epochs)[-1])
    compile_for(setup, settings.epochs)
    distiller.optimizer.build(distiller.variables_ever_trained())
    batch = next(iter(taught_batches(setup)))
    step = tf.function(distiller.train_step, autograph=False)
    return lambda: step(batch)


if __name__ == "__main__":
    run(main, *read(__doc__ or "", define, compare.given))
