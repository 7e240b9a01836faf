import dataclasses
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiment.grid import display
from experiment.grid.claims import Claims, clear
from experiment.grid.display import Display, seconds_left
from experiment.grid.execution import execute, last_error
from experiment.grid.places import Place
from experiment.grid.runs import (
    FAILED,
    FINISHED,
    UNFINISHED,
    WAITING,
    Outcome,
    Run,
    listing,
    survey,
)
from registry import UserError
from tests.experiment.grid.grids import carry_out, fake

HERE = Path(__file__).parent


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_runs_one_after_the_other_each_told_in_a_line(tmp_path):
    runs = [fake(tmp_path, "A", 1), fake(tmp_path, "A", 2)]
    outcomes, changes, shown = carry_out(runs)
    assert changes == [[FINISHED, WAITING], [FINISHED, FINISHED]]
    assert [outcome.summary["top1"] for outcome in outcomes] == [0.1, 0.2]
    assert shown.splitlines() == [
        "run 1/2  A, seed 1  top-1 0.1  60 s left",
        "run 2/2  A, seed 2  top-1 0.2",
    ]
    log = (tmp_path / "A/seed1/run.log").read_text()
    assert log.startswith("$ ") and "fake_run.py" in log and "new {'group': 'A'" in log
    assert not list(tmp_path.rglob("seed*.log"))


def test_what_is_finished_is_not_run_again(tmp_path):
    carry_out([fake(tmp_path, "A", 1)])
    outcomes, changes, shown = carry_out([fake(tmp_path, "A", 1, "fault"), fake(tmp_path, "A", 2)])
    assert [outcome.status for outcome in outcomes] == [FINISHED, FINISHED]
    assert len(changes) == 1
    assert shown.splitlines()[0] == "1 of 2 runs are finished already"


def exporting(folder):
    return dataclasses.replace(fake(folder, "A", 1, "export"), files=("student.bin",))


def test_a_run_is_not_finished_while_a_file_is_missing_that_it_exports(tmp_path):
    run = exporting(tmp_path)
    outcomes, _, _ = carry_out([run])
    assert outcomes[0].status == FAILED
    assert outcomes[0].error == "exited with status 0 but did not write student.bin"
    assert outcomes[0].summary is not None, "what was trained counts all the same"
    assert survey([run])[0].summary == outcomes[0].summary
    outcomes, changes, _ = carry_out([run])
    assert outcomes[0].status == FINISHED and len(changes) == 1
    _, changes, _ = carry_out([run])
    assert not changes


def test_a_finished_grid_can_be_asked_for_files(tmp_path):
    carry_out([fake(tmp_path, "A", 1)])
    outcomes, changes, _ = carry_out([exporting(tmp_path)])
    assert outcomes[0].status == FINISHED and len(changes) == 1


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("fault", "ValueError: a fault"),
        ("mistake", "no such data"),
        ("nothing", "exited with status 0 but did not write summary.json"),
        ("killed", "killed by SIGKILL"),
    ],
)
def test_a_failure_stops_no_other_run_and_is_tried_again(tmp_path, what, error):
    runs = [fake(tmp_path, "A", 1, what), fake(tmp_path, "B", 1)]
    outcomes, _, shown = carry_out(runs)
    assert [outcome.status for outcome in outcomes] == [FAILED, FINISHED]
    assert outcomes[0].error == error and f"A, seed 1  failed: {error}" in shown
    assert runs[0].log.exists()
    before = runs[0].log.read_text()
    (tmp_path / "A/well").touch()
    outcomes, changes, _ = carry_out(runs)
    assert [outcome.status for outcome in outcomes] == [FINISHED, FINISHED]
    assert outcomes[0].error == "" and len(changes) == 1
    after = (tmp_path / "A/seed1/run.log").read_text()
    assert after.startswith(before) and after.count("$ ") == 2


def test_what_needs_a_failed_run_is_not_begun(tmp_path):
    teacher = fake(tmp_path, "teacher", what="fault")
    runs = [teacher, fake(tmp_path, "A", needs=teacher), fake(tmp_path, "None")]
    outcomes, _, _ = carry_out(runs)
    assert [outcome.status for outcome in outcomes] == [FAILED, FAILED, FINISHED]
    assert outcomes[1].error == "needs teacher, seed 0, which failed"
    assert not runs[1].folder.exists()
    (tmp_path / "teacher/well").touch()
    outcomes, _, _ = carry_out(runs)
    assert [outcome.status for outcome in outcomes] == [FINISHED] * 3


def test_other_settings_are_refused_by_name(tmp_path):
    carry_out([fake(tmp_path, "A", epochs=1)])
    with pytest.raises(UserError, match="epochs: 1 -> 2"):
        survey([fake(tmp_path, "A", epochs=2)])


def test_clear_makes_all_runs_new_but_leaves_what_is_not_theirs(tmp_path):
    runs = [fake(tmp_path, "A", 1, epochs=1), fake(tmp_path, "A", 2, what="mistake", epochs=1)]
    carry_out(runs)
    (tmp_path / "A/seed1/mine").touch()
    runs = [fake(tmp_path, "A", 1, epochs=2), fake(tmp_path, "A", 2, epochs=2)]
    assert [each.status for each in survey(runs, overwrite=True)] == [WAITING, WAITING]
    clear(runs)
    # Even if nothing more was done, the old run is gone for good.
    assert [each.status for each in survey(runs)] == [UNFINISHED, WAITING]
    outcomes, _, _ = carry_out(runs)
    assert [outcome.status for outcome in outcomes] == [FINISHED, FINISHED]
    assert (tmp_path / "A/seed1/mine").exists()
    assert (tmp_path / "A/seed1/run.log").read_text().count("$ ") == 1


def test_listing_says_what_would_run_and_writes_nothing(tmp_path):
    outcomes = survey([fake(tmp_path, "A", 1), fake(tmp_path, "A", 2)])
    first, second, *_, last = listing(outcomes).splitlines()
    assert first == "waiting: A, seed 1" and "fake_run.py" in second
    assert last == "2 runs: 2 waiting"
    assert not list(tmp_path.iterdir())


GRID = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from grids import fake
from experiment.grid.execution import execute
from experiment.grid.runs import survey
from experiment.command.main import run

def main(_):
    folder = Path({folder!r})
    runs = [fake(folder, "A", 1), fake(folder, "A", 2, "wait"), fake(folder, "A", 3)]
    execute(survey(runs), str, lambda: None)

run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_the_running_process_saves(tmp_path, number):
    command = [sys.executable, "-c", GRID.format(here=str(HERE), folder=str(tmp_path))]
    # As in a terminal, where Ctrl-C reaches a group of processes.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )
    log, deadline = tmp_path / "A/seed2.log", time.monotonic() + 60
    while not (log.exists() and "accuracy" in log.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, number)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert (tmp_path / "A/seed2/saved").read_text() == number.name
    assert shown.splitlines()[-2:] == [
        "run 2/3  A, seed 2  unfinished  2 min left",
        "interrupted, 2 of 3 runs left; rerun the same command (without --overwrite) to resume",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "1 of 3 runs are finished already"
    summary = json.loads((tmp_path / "A/seed2/summary.json").read_text())
    assert summary["begun"] == "resumed"


def test_the_process_of_a_killed_grid_saves_and_ends_and_the_grid_goes_on(tmp_path):
    command = [sys.executable, "-c", GRID.format(here=str(HERE), folder=str(tmp_path))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log, deadline = tmp_path / "A/seed2.log", time.monotonic() + 60
    while not (log.exists() and "accuracy" in log.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "failed" not in done.stdout
    assert (tmp_path / "A/seed2/saved").read_text() == "SIGTERM"
    assert json.loads((tmp_path / "A/seed2/summary.json").read_text())["begun"] == "resumed"


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_report_that_cannot_be_written_ends_no_run_and_is_tried_again(tmp_path):
    runs = [fake(tmp_path, "A", 1, "short"), fake(tmp_path, "A", 2), fake(tmp_path, "A", 3)]
    outcomes, stream, written = survey(runs), io.StringIO(), []

    def report():
        statuses = [outcome.status for outcome in outcomes]
        if statuses.count(FINISHED) < 3:
            full()
        written.append(statuses)

    execute(outcomes, str, report, stream, places=[Place(), Place()])
    assert written == [[FINISHED] * 3]
    warnings = [line for line in stream.getvalue().splitlines() if line.startswith("warning")]
    assert warnings == [
        "warning: the disk is full: [Errno 28] No space left on device; free some space; the "
        "report is tried again when the next run ends"
    ]


def test_who_cannot_write_the_last_report_is_told(tmp_path):
    outcomes = survey([fake(tmp_path, "A", 1)])
    with pytest.raises(OSError, match="No space left"):
        execute(outcomes, str, full, io.StringIO())
    assert outcomes[0].status == FINISHED


def test_a_run_without_a_log_or_a_claim_fails_alone(tmp_path, monkeypatch):
    runs = [fake(tmp_path, "A", 1), fake(tmp_path, "A", 2), fake(tmp_path, "A", 3)]
    runs[0].open_log.mkdir(parents=True)
    take = Claims.take
    monkeypatch.setattr(
        Claims, "take", lambda *given: full() if given[1].run is runs[1] else take(*given)
    )
    outcomes, changes, _ = carry_out(runs)
    assert [outcome.status for outcome in outcomes] == [FAILED, FAILED, FINISHED]
    assert "Is a directory" in outcomes[0].error and "the disk is full" in outcomes[1].error
    assert changes[-1] == [FAILED, FAILED, FINISHED]


def test_a_log_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "utime", full)
    outcomes, _, shown = carry_out([fake(tmp_path, "A", 1)])
    assert outcomes[0].status == FINISHED and "what a run printed is not in its log" in shown


def test_the_runs_of_a_grid_that_cannot_go_on_save_their_state(tmp_path, monkeypatch):
    run = fake(tmp_path, "A", 1, "wait")

    def show(*_):
        if run.open_log.exists() and "accuracy" in run.open_log.read_text():
            raise RuntimeError("a fault of ours")

    monkeypatch.setattr(display.Display, "show", show)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        carry_out([run])
    assert (run.folder / "saved").read_text() == "SIGTERM"


def test_a_run_whose_summary_lacks_results_has_failed(tmp_path):
    run = dataclasses.replace(fake(tmp_path, "A", 1), results={"top1": float, "top5": float})
    outcomes, _, _ = carry_out([run])
    assert outcomes[0].status == FAILED and "it has no 'top5'" in outcomes[0].error


def test_a_line_runs_along_in_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(display, "_REFRESH_SECONDS", 0.01)  # far less than the run takes
    _, _, shown = carry_out([fake(tmp_path, "A", 1, "slow", note="x" * 100)], Terminal())
    running = [line for line in shown.split("\r") if "new {'group'" in line]
    assert running and all(len(line) <= 59 for line in running)
    assert running[0].startswith("run 1/1  A, seed 1  new {'group': 'A'") and "…" in running[0]
    assert shown.endswith("\r\x1b[Krun 1/1  A, seed 1  top-1 0.1\n")


def outcome(group, status, seconds=None, needs=None):
    run = Run(group, 0, Path(group), (), {}, needs)
    return Outcome(run, status, {"seconds": seconds} if status == FINISHED else None)


def test_seconds_left():
    teacher = outcome("teacher", FINISHED, 1000.0)
    waiting = outcome("A", WAITING, needs=teacher.run)
    assert seconds_left([teacher, waiting]) is None  # a teacher's run is of another kind
    known = [outcome("A", FINISHED, 10.0), outcome("A", FINISHED, 20.0),
             outcome("B", FINISHED, 90.0)]
    # A takes 15, B 90, C as the mean of 10, 20 and 90.
    left = [outcome("B", UNFINISHED), outcome("C", WAITING), outcome("A", FAILED)]
    assert seconds_left([teacher, waiting, *known, *left]) == pytest.approx(15 + 90 + 40)
    assert seconds_left([teacher, *known]) == 0
    known[2].process_seconds = 120.0  # with starting and scoring
    assert seconds_left([*known, outcome("B", WAITING)]) == 120
    known[2].process_seconds = 30.0  # of a run that went on
    assert seconds_left([*known, outcome("B", WAITING)]) == 90


@pytest.mark.parametrize(
    ("workers", "waiting", "said"), [(1, 1, 4), (4, 1, 4), (4, 2, 4), (2, 4, 8)]
)
def test_the_last_runs_do_not_get_faster_by_workers_that_have_nothing_to_do(workers, waiting, said):
    runs = [outcome("A", FINISHED, 240.0), *(outcome("A", WAITING) for _ in range(waiting))]
    stream = io.StringIO()
    Display(runs, stream, workers).end(runs[0], lambda summary: "done")
    assert stream.getvalue().splitlines()[-1].endswith(f"done  {said} min left")


@pytest.mark.parametrize(
    ("lines", "status", "expected"),
    [
        (["1/2", "Traceback", "tf.errors.NotFoundError: it", "", "bye"], 1,
         "tf.errors.NotFoundError: it"),
        (["ValueError: first", "KeyError: last"], 1, "KeyError: last"),
        (["error: wrong", "2026 W something"], 2, "wrong"),
        (["out of disk", ""], 3, "out of disk"),
        ([], 3, "exit status 3"),
        (["1/2"], -9, "killed by SIGKILL"),
    ],
)
def test_last_error(lines, status, expected):
    assert last_error(lines, status) == expected
