"""Grids of fake runs (see fake_run.py), executed within this process."""

import io
import json
import sys
import time
from pathlib import Path

from experiment.grid.execution import execute
from experiment.grid.runs import Run, survey

HERE = Path(__file__).parent


def fake(folder, group, seed=0, what="fine", needs=None, **settings):
    settings = {"group": group, "seed": seed, **settings}
    place = folder / group / f"seed{seed}"
    command = (sys.executable, str(HERE / "fake_run.py"), str(place), json.dumps(settings), what)
    return Run(group, seed, place, command, settings, needs)


def carry_out(runs, stream=None, **options):
    """Outcomes, the statuses at each change, and what was shown."""
    outcomes = survey(runs)
    changes = []
    stream = stream or io.StringIO()
    execute(
        outcomes,
        lambda summary: f"top-1 {summary['top1']}",
        lambda: changes.append([outcome.status for outcome in outcomes]),
        stream,
        **options,
    )
    return outcomes, changes, stream.getvalue()


def starts(run):
    """How often a process of the run was started."""
    log = run.folder.with_name(f"{run.folder.name}.starts")
    return len(log.read_text().splitlines()) if log.exists() else 0


def wait_for(condition, process=None, seconds=60):
    """Wait until ``condition()`` is true, and give what it says."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.02)
    return found
