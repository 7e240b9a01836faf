"""Several processes at once on one folder, one of them killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiment.grid.claims import Claim, claims_of
from experiment.grid.reports import join
from experiment.run.folder import RunFolder
from tests.experiment.grid.grids import starts, wait_for
from tests.experiment.grid.shared_grid import END, REPORTS, SETTINGS, grid

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def process(folder, machine, share):
    """`share`: the expiry of its claims in seconds, or its shard."""
    command = [sys.executable, str(HERE / "shared_grid.py"), "grid", machine, str(share)]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def reports(folder):
    return {name: (folder / "grid" / name).read_text() for name in REPORTS}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The reports of one process that carries out the grid, in which no run waits, and the table
    that it shows."""
    folder = tmp_path_factory.mktemp("alone")
    join(RunFolder(folder / "grid"), SETTINGS, REPORTS)
    waiting = next(run for run in grid(folder / "grid") if "wait" in run.command)
    waiting.folder.parent.mkdir()
    (waiting.folder.parent / "well").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        single = process(folder, "a", 1000.0)
    shown, _ = single.communicate(timeout=90)
    assert single.returncode == 0
    assert "7 of 8 runs finished" in reports(folder)["comparison.md"]
    assert "Compared with None" in shown
    return reports(folder), shown.partition(END)[2]


@pytest.mark.slow
# With an expiry that is never reached, the machine itself says that the process is gone.
@pytest.mark.parametrize(("machines", "expiry"), [("abc", 2.0), ("aaa", 1000.0)])
def test_of_three_at_once_one_is_killed_and_the_report_is_that_of_one(
    tmp_path, alone, machines, expiry
):
    shared = tmp_path
    runs = grid(shared / "grid")
    waiting = next(run for run in runs if "wait" in run.command)
    processes = {each.pid: each for each in (process(shared, name, expiry) for name in machines)}
    try:
        wait_for(lambda: waiting.open_log.exists() and "accuracy" in waiting.open_log.read_text())
        claim = next(iter(claims_of(waiting.folder).values()))
        killed = processes.pop(json.loads(claim.read_text().splitlines()[0])["process"])
        killed.send_signal(signal.SIGKILL)
        killed.communicate(timeout=60)
        said = [each.communicate(timeout=90)[0] for each in processes.values()]
    finally:
        for each in processes.values():
            each.kill()
    assert [each.returncode for each in processes.values()] == [0, 0]
    # Each run once, but for the one that was cut off, which its second process resumed.
    assert [starts(run) for run in runs] == [1 + (run is waiting) for run in runs]
    assert json.loads((waiting.folder / "summary.json").read_text())["begun"] == "resumed"
    assert (waiting.folder / "saved").read_text() == "SIGTERM"

    assert reports(shared) == alone[0]
    assert all(text.partition(END)[2] == alone[1] for text in said)
    left = [str(path) for path in shared.rglob("*")
            if ".partial" in path.name or "claim" in path.name and "failing" not in str(path)]
    assert not left


@pytest.mark.slow
def test_of_three_shards_one_is_killed_and_started_again_and_the_report_is_that_of_one(
    tmp_path, alone
):
    shared = tmp_path
    runs = grid(shared / "grid")
    waiting = next(run for run in runs if "wait" in run.command)
    number = runs.index(waiting) % 3 + 1
    shards = {each: process(shared, "a", f"{each}/3") for each in (1, 2, 3)}
    try:
        wait_for(lambda: waiting.open_log.exists() and "accuracy" in waiting.open_log.read_text())
        shards[number].kill()
        for each in shards.values():
            each.communicate(timeout=90)
        shards[number] = process(shared, "a", f"{number}/3")
        said, _ = shards[number].communicate(timeout=90)
    finally:
        for each in shards.values():
            each.kill()
    assert [each.returncode for each in shards.values()] == [0, 0, 0]
    assert [starts(run) for run in runs] == [1 + (run is waiting) for run in runs]
    assert json.loads((waiting.folder / "summary.json").read_text())["begun"] == "resumed"
    assert reports(shared) == alone[0]
    assert said.partition(END)[2] == alone[1]


def test_a_process_that_was_halted_stops_its_run_and_tries_it_anew(tmp_path):
    waiting = next(run for run in grid(tmp_path / "grid") if "wait" in run.command)
    halted = process(tmp_path, "a", 2.0)
    try:
        wait_for(lambda: waiting.open_log.exists() and "accuracy" in waiting.open_log.read_text())
        halted.send_signal(signal.SIGSTOP)
        time.sleep(1.5)  # more than half of the time in which its claim expires
        halted.send_signal(signal.SIGCONT)
        said, _ = halted.communicate(timeout=60)
    finally:
        halted.kill()
    assert halted.returncode == 0
    assert re.search(r"BB, seed 1  stopped here: its claim could not be renewed for \d s", said)
    assert not (waiting.folder / "saved").exists() and starts(waiting) == 2
    assert json.loads((waiting.folder / "summary.json").read_text())["begun"] == "resumed"


def test_a_process_that_waits_for_others_can_be_interrupted(tmp_path):
    join(RunFolder(tmp_path / "grid"), SETTINGS, REPORTS)
    for run in grid(tmp_path / "grid"):
        run.folder.parent.mkdir(exist_ok=True)
        Claim(run.folder.with_name(f"{run.folder.name}.claim.1"), 1000.0, "another machine")
    waiting = process(tmp_path, "a", 1000.0)
    line = waiting.stdout.readline()
    assert re.fullmatch(r"waiting for teacher, seed 0 \(.*, process \d+\); .* and 5 more\n", line)
    waiting.send_signal(signal.SIGINT)
    said, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 128 + signal.SIGINT
    assert said.startswith("interrupted, 8 of 8 runs left")


WORKERS = """
import sys
from pathlib import Path
from experiment.command.main import run
from experiment.grid.execution import execute
from experiment.grid.places import Place
from experiment.grid.runs import survey
from tests.experiment.grid.grids import fake

def main(folder):
    runs = [fake(folder, name, 1, what) for name, what in zip("ABC", ["wait", "wait", "fine"])]
    execute(survey(runs), str, lambda: None, places=[Place(), Place()])

run(main, Path(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_all_workers_are_asked_to_stop(tmp_path, number):
    command = [sys.executable, "-c", WORKERS, str(tmp_path)]
    grid_process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )
    logs = [tmp_path / name / "seed1.log" for name in "AB"]
    wait_for(
        lambda: all(log.exists() and "accuracy" in log.read_text() for log in logs), grid_process
    )
    os.killpg(grid_process.pid, number)
    shown, _ = grid_process.communicate(timeout=60)
    assert grid_process.returncode == 128 + number
    assert [(tmp_path / name / "seed1/saved").read_text() for name in "AB"] == [number.name] * 2
    assert not (tmp_path / "C").exists()
    assert shown.splitlines()[-1].startswith("interrupted, 3 of 3 runs left")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.count("begun") == 3
