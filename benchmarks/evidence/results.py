"""The results of finished comparisons, and the tables and the picture that are made from them.

    python benchmarks/evidence/results.py collect TABLE COMPARE_DIR [--machine TEXT] [--add]
    python benchmarks/evidence/results.py tables
    python benchmarks/evidence/results.py picture TABLE FILE.png

``collect`` copies what the runs of one ``compare.py`` found into ``results.csv``, a row for each
run, and replaces what the table had before; with ``--add``, what it had of the same methods and
seeds, so that runs of several folders make one table. ``tables`` brings the tables in
``docs/results/`` up to date: each stands between the lines ``<!-- table: TABLE -->`` and
``<!-- end of table -->``.
``picture`` draws gain against cost. Tables and picture are made from ``results.csv`` and
``step_costs.csv`` alone. The latter has the costs of steps that ``step_costs.py`` has measured;
where it lacks a method of a table, that table's costs are ratios of the runs' speeds, whatever
else the machine did.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import csv_tables  # noqa: E402 (found by the line above)

from experiment.grid.runs import FINISHED, Outcome, Run  # noqa: E402
from experiment.report import comparison  # noqa: E402
from experiment.report.comparison import (  # noqa: E402
    BASELINE,
    TEACHER,
    method_rows,
    metrics,
    students,
)
from experiment.report.statistics import median_ratio, paired_gain  # noqa: E402
from experiment.report.tables import markdown_table  # noqa: E402
from registry import UserError  # noqa: E402

RESULTS = Path(__file__).with_name("results.csv")
COSTS = Path(__file__).with_name("step_costs.csv")
COSTS_COLUMNS = ("table", "method", "milliseconds", "step_cost", "machine")
PAGES = ROOT / "docs" / "results"
RECIPE = (  # of a run's settings
    "dataset", "net", "train_images", "labelled_per_class", "main_loss", "epochs", "batch_size",
    "optimizer", "learning_rate", "schedule", "weight_decay", "rotation", "mixed_precision",
)
SCORES = {**comparison.SCORES, "agreement": "agreement"}
COLUMNS = ("table", "method", "seed", *SCORES, *RECIPE, "machine")


def collect(
    table: str, directory: Path, machine: str, results: Path = RESULTS, *, add: bool = False
) -> int:
    """Put the finished runs of a comparison into `results`; how many there are.

    Args:
        table: the name of the table that they are rows of; what it had before is replaced.
        directory: the ``--compare_dir``.
        machine: what they ran on.
        results: a CSV file, which need not exist.
        add: replace only what the table had of the same methods and seeds.

    Raises:
        UserError: the folder holds no finished run, or runs to be added were made by another recipe
            than the table's.
    """
    files = sorted(directory.glob("*/seed*/summary.json"))
    found = [run_row(table, file, machine) for file in files]
    if not found:
        raise UserError(f"{directory} holds no finished run; expected a --compare_dir")
    if add:
        check_recipes([row for row in read(results) if row["table"] == table], found)
    csv_tables.replace(results, COLUMNS, table, found, ("method", "seed") if add else None)
    return len(found)


def check_recipes(present: Iterable[Mapping[str, str]], added: Iterable[Mapping[str, Any]]) -> None:
    """Refuse students to be added that were trained otherwise than those of the table.

    Raises:
        UserError: names the first setting that differs.
    """
    for new in added:
        for old in present:
            if TEACHER in (new["method"], old["method"]):
                continue
            for key in RECIPE:
                if csv_tables.as_text(new[key]) != old[key]:
                    raise UserError(
                        f"{new['method']}, seed {new['seed']}, has {key} {new[key]}, but the "
                        f"table's {old['method']} has {old[key]}; add runs of the same recipe, or "
                        "collect them into another table"
                    )


def run_row(table: str, file: Path, machine: str) -> dict[str, Any]:
    """A run's row, of its ``summary.json``."""
    summary = json.loads(file.read_text())
    settings = summary["settings"]
    recipe = {key: settings.get(key) for key in RECIPE}
    kind, mark, path = settings["dataset"].rpartition(":")  # where the file was says nothing
    recipe["dataset"] = f"{kind}{mark}{Path(path).name}"
    return {
        "table": table, "method": summary["method"], "seed": summary["seed"],
        **{column: summary.get(key) for column, key in SCORES.items()}, **recipe,
        "machine": machine,
    }


def read(results: Path = RESULTS) -> list[dict[str, str]]:
    """All rows, as text; none where there is no file."""
    return csv_tables.read(results)


def outcomes(rows: Iterable[Mapping[str, str]]) -> list[Outcome]:
    """The rows as `compare.py` knows runs, so that its tables can be made of them."""
    return [
        Outcome(
            Run(row["method"], int(row["seed"]), Path(), (), {}),
            FINISHED,
            {key: float(row[column]) if row[column] else None for column, key in SCORES.items()},
        )
        for row in rows if row["method"] != TEACHER
    ]


def in_order(rows: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The rows of a table: None first, then methods from the largest mean gain to the smallest."""
    rows = list(rows)
    gains = {name: gain.mean for name, gain in gains_by_method(outcomes(rows)).items()}

    def place(row: Mapping[str, str]) -> tuple:
        gain = gains[row["method"]]
        return row["method"] != BASELINE, -(gain if gain is not None else -math.inf), row["method"]

    return sorted(rows, key=lambda row: (*place(row), int(row["seed"])))


def gains_by_method(runs: list[Outcome]) -> dict[str, Any]:
    """Each method's gain over None with the same seed, last epoch, 0..1."""
    baseline = metrics(students(runs).get(BASELINE, []), "student_top1_last")
    return {
        name: paired_gain(metrics(each, "student_top1_last"), baseline)
        for name, each in students(runs).items()
    }


def step_costs(
    rows: Iterable[Mapping[str, str]], costs: Path = COSTS
) -> dict[str, float | None]:
    """The time of a step of each method of a table, in steps of None; None where it is not known.

    Args:
        rows: of the table.
        costs: the CSV file of what was measured.
    """
    rows = list(rows)
    runs = students(outcomes(rows))
    speeds = {name: metrics(each, "images_per_second").values() for name, each in runs.items()}
    measured = {
        row["method"]: float(row["step_cost"])
        for row in csv_tables.read(costs) if row["table"] == rows[0]["table"]
    }
    if speeds.keys() <= measured.keys():
        return {name: measured[name] for name in speeds}
    return {name: median_ratio(speeds.get(BASELINE, []), each) for name, each in speeds.items()}


def table_text(rows: Iterable[Mapping[str, str]], costs: Path = COSTS) -> str:
    """A table in Markdown: that of compare.py, with `step_costs`, and by how many standard errors
    each gain is above zero."""
    rows = in_order(rows)
    runs, by_method = outcomes(rows), step_costs(rows, costs)
    gains = gains_by_method(runs)
    lines = []
    for row in method_rows(runs):
        gain, errors = gains[row["method"]], None
        if row["method"] != BASELINE and gain.deviation:
            errors = f"{gain.mean / (gain.deviation / math.sqrt(gain.count)):.1f}"
        shown = {key: value for key, value in row.items() if key != "failed"}
        if by_method[row["method"]] is not None:
            shown["step cost"] = f"{by_method[row['method']]:.2f} x"
        lines.append({**shown, "gain / standard error": errors or "-"})
    return markdown_table(lines)


def with_tables(page: str, rows: Iterable[Mapping[str, str]]) -> str:
    """A page's text with its tables as `rows` have them.

    Raises:
        UserError: the page has a table of which there is no row.
    """
    return csv_tables.with_tables(page, rows, "table", table_text, RESULTS.name)


def write_tables(pages: Path = PAGES, results: Path = RESULTS) -> list[Path]:
    """Bring the pages up to date; those that changed."""
    rows = read(results)
    return csv_tables.write_tables(pages, lambda page: with_tables(page, rows))


def draw(table: str, path: Path, results: Path = RESULTS, costs: Path = COSTS) -> None:
    """Draw each method's mean gain, with its deviation, against the cost of its step.

    Args:
        table: whose rows.
        path: a ``.png``.
        results, costs: the CSV files.

    Raises:
        UserError: there is no row of the table.
    """
    from experiment.report.scatter import scatter

    rows = [row for row in read(results) if row["table"] == table]
    if not rows:
        raise UserError(f"{results.name} has no row of the table {table!r}")
    gains, by_method = gains_by_method(outcomes(rows)), step_costs(rows, costs)
    points = {
        name: (by_method[name], 100 * gain.mean, 100 * (gain.deviation or 0))
        for name, gain in gains.items()
        if name != BASELINE and gain.mean is not None and by_method[name] is not None
    }
    scatter(
        points, path, x_label="time of a training step, in steps of None",
        y_label="gain in top-1 over None, points", origin=(1.0, 0.0, BASELINE),
    )


def main(words: list[str] | None = None) -> int:
    """Exit status."""
    parser, commands = csv_tables.make_parser(__doc__ or "")
    drawing = commands.add_parser("picture")
    drawing.add_argument("table")
    drawing.add_argument("path", type=Path)
    given = parser.parse_args(words)
    try:
        if given.command == "collect":
            count = collect(given.table, given.directory, given.machine, add=given.add)
            print(f"{count} runs, in {RESULTS}")
        elif given.command == "tables":
            print("\n".join(map(str, write_tables())) or "all tables are up to date")
        else:
            draw(given.table, given.path)
            print(given.path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
