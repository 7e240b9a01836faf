"""A process that executes a grid of fake runs with others, and reports as compare.py does.

    python shared_grid.py FOLDER MACHINE EXPIRY
    python shared_grid.py FOLDER MACHINE NUMBER/COUNT

MACHINE: what the process takes its machine for. EXPIRY: of its claims, in seconds.
NUMBER/COUNT: its shard, which makes no claims.
"""

import json
import sys
from pathlib import Path

from experiment.command.main import run
from experiment.grid.claims import Claims
from experiment.grid.execution import execute
from experiment.grid.reports import join, reporting
from experiment.grid.runs import survey
from experiment.grid.shards import Shard, Shards
from experiment.report.comparison import describe, markdown_text, rows, terminal_text
from experiment.run.folder import RunFolder
from tests.experiment.grid.grids import fake

END = "---"
SETTINGS, REPORTS = {"grid": "fake"}, ("comparison.md", "rows.json")


def grid(folder, waiting="wait"):
    """Runs; one of them waits until it is told to stop, and then goes on."""
    teacher = fake(folder, "teacher", what="short")
    methods = {"None": None, "A": teacher, "BB": teacher}
    runs = [fake(folder, name, seed, "short", needs)
            for seed in (1, 2) for name, needs in methods.items()]
    runs[2] = fake(folder, "BB", 1, waiting, teacher)
    return [teacher, *runs, fake(folder, "failing", 1, "fault")]


def report(outcomes, folder):
    """As compare.py does, but for the picture, which takes a while."""
    with reporting(folder) as place:
        (place / REPORTS[0]).write_text(markdown_text(outcomes, "command"))
        (place / REPORTS[1]).write_text(json.dumps(rows(outcomes)))


def main(folder, machine, share):
    outcomes = survey(grid(folder))
    join(RunFolder(folder), SETTINGS, REPORTS)
    division = Shards(Shard.parse(share)) if "/" in share else Claims(float(share), machine)
    execute(outcomes, describe, lambda: report(outcomes, folder), division=division)
    print(f"{END}\n{terminal_text(outcomes)}")


if __name__ == "__main__":
    run(main, Path(sys.argv[1]), *sys.argv[2:])
