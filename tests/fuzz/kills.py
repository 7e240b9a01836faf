"""Runs that are killed at random moments and gone on with: the result is that of a run that is not.

Each command runs once without being disturbed. Then it is started, killed by SIGKILL
or asked to stop by SIGTERM at a moment between its start and its end, started again, and so on; the
last time it is left alone. All that it then has in its folder but times has to be the same bits.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz import children
from tests.fuzz.material import NPZ, OWN, Material
from tests.processes import assert_same_run, without_times

OFTEN = ("--checkpoint_minutes=1e-9", "--deterministic")  # a checkpoint after each step
LAST = ("checkpoints/000002-000000.npz", "best.npz")
MOST_SECONDS = 300.0
ENDED_BY = (0, 143, -signal.SIGTERM, -signal.SIGKILL)


def same_distillation(one: Path, other: Path) -> None:
    """Raise AssertionError unless the students are the same."""
    assert_same_run(one, other, LAST, "student.keras")


def same_pretraining(one: Path, other: Path) -> None:
    """Likewise of encoders and their scores."""
    assert_same_run(one, other, LAST[:1], "encoder.keras")
    assert _json(one / "targets.json") == _json(other / "targets.json")


def same_evaluation(one: Path, other: Path) -> None:
    """Likewise of scores."""
    for name in ("scores.json", "targets.json", "summary.json"):
        assert _json(one / name) == _json(other / name), name


def same_comparison(one: Path, other: Path) -> None:
    """Likewise of all runs of a comparison."""
    parts, others = (
        [path.parent.relative_to(folder) for path in sorted(folder.rglob("student.keras"))]
        for folder in (one, other)
    )
    assert parts and parts == others
    for part in parts:
        assert_same_run(one / part, other / part, LAST, "student.keras")


def same_export(one: Path, other: Path) -> None:
    """Likewise of files for serving, and what is said of them."""
    cards = [_json(folder / "card.json")["rows"] for folder in (one, other)]
    for rows in cards:
        for row in rows:
            row.pop("times", None)
    assert cards[0] == cards[1] and {row["name"] for row in cards[0]} >= {"keras", "saved_model"}
    same_distillation(one, other)


def _json(path: Path) -> Any:
    return without_times(json.loads(path.read_text()))


@dataclass(frozen=True)
class Killed:
    """A command that is killed.

    Attributes:
        words: without its folder.
        folder: the flag that names its folder.
        same: raises AssertionError unless two folders hold the same result.
        begins_with: the folder of material that a copy of is its folder; empty: none.
    """

    words: Sequence[str]
    folder: str
    same: Callable[[Path, Path], None]
    begins_with: str = ""


EPOCHS = ("--epochs=2", "--batch_size=10", "--crop_padding=1")
RUNS = {
    "train_w_distill": Killed(
        ("--Distillation=FitNet", NPZ, *OWN, *EPOCHS, *OFTEN), "train_dir", same_distillation
    ),
    "compare": Killed(
        ("--Distillation=None,AT", "--seeds=1", NPZ, *OWN, *EPOCHS, *OFTEN), "compare_dir",
        same_comparison,
    ),
    "pretrain_tte": Killed(
        (NPZ, "--tasks=rotation,instance", "--encoder_model=student.keras", *EPOCHS, *OFTEN,
         "--targets=clustering"), "train_dir", same_pretraining,
    ),
    "evaluate": Killed(
        (NPZ, "--encoder=student.keras,pixels", "--targets=clustering,classification", "--seeds=2",
         "--deterministic"), "out_dir", same_evaluation,
    ),
    "export": Killed(("--formats=keras,saved_model",), "run", same_export, "run"),
}


@dataclass(frozen=True)
class Trial:
    """A run that was killed and then let go on.

    Attributes:
        killed: how often a signal ended it; it may have ended by itself before.
        fault: what went wrong, or ``""``.
    """

    killed: int
    fault: str = ""


def trial(command: str, seed: int, seconds: float, reference: Path, work: Path) -> Trial:
    """Kill a run of `command` one to three times and let it go on.

    Args:
        command: one of `RUNS`.
        seed: of moments and signals.
        seconds: that the run takes when it is left alone.
        reference: the folder of such a run.
        work: where the inputs are, and the run is made.
    """
    random = Random(f"kill {command}/{seed}")
    words = _begin(command, work, "killed")
    told, hit = [], 0
    for _ in range(random.choice((1, 2, 3))):
        number = random.choice((signal.SIGKILL, signal.SIGTERM))
        moment = random.uniform(0, 1.05 * seconds)
        status, err = killed(words, work, number, moment)
        told.append(f"{number.name} after {moment:.2f} s: status {status}")
        hit += status != 0
        if status not in ENDED_BY or "Traceback" in err or err.count("\n") > 1:
            return Trial(hit, f"{'; '.join(told)}: {err[-500:]}")
    ended = children.run_command(words, work, MOST_SECONDS)
    if ended.status or "Traceback" in ended.err or ended.err.count("\n") > 1:
        return Trial(hit, f"{'; '.join(told)}; then status {ended.status}: {ended.err[-500:]}")
    try:
        children.call(lambda: RUNS[command].same(reference, work / "killed"), work)
    except RuntimeError as different:
        return Trial(hit, f"{'; '.join(told)}; then another result: {str(different)[-1000:]}")
    return Trial(hit)


def killed(words: Sequence[str], work: Path, number: int, moment: float) -> tuple[int, str]:
    """Start a command and send it a signal; its status and stderr."""
    pid = children.start_command(words, work)
    end = time.monotonic() + moment
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), children.read_err(work)
        time.sleep(0.005)
    os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), children.read_err(work)


def _begin(command: str, work: Path, folder: str) -> list[str]:
    """Make the folder of `command` new within `work`; the command's words."""
    shutil.rmtree(work / folder, ignore_errors=True)
    own = RUNS[command]
    if own.begins_with:
        shutil.copytree(work / own.begins_with, work / folder)
    return [command, *own.words, f"--{own.folder}={folder}"]


def run(
    seed: int, first: int, count: int, most_seconds: float, folder: Path, commands: Sequence[str]
) -> int:
    """Make the trials `first` to `first + count - 1`, the commands in turn; 1 where one went wrong.

    No trial is begun after `most_seconds`. Trials depend on `seed` and their numbers alone.
    """
    material, began = Material(folder / "work"), time.monotonic()
    material.need("arrays", "networks")
    if any(RUNS[command].begins_with for command in commands):
        material.need("runs")
    work = material.folder
    taken = {}
    for command in commands:
        words = _begin(command, work, f"{command}-alone")
        ended = children.run_command(words, work, MOST_SECONDS)
        assert ended.status == 0, ended
        taken[command] = ended.seconds
    trials: dict[str, list[Trial]] = {command: [] for command in commands}
    number = first
    while number < first + count and time.monotonic() - began <= most_seconds:
        command, own = commands[number % len(commands)], seed * 1000 + number // len(commands)
        made = trial(command, own, taken[command], work / f"{command}-alone", work)
        trials[command].append(made)
        number += 1
        if made.fault:
            print(f"FAULT {command}, kill {own}: {made.fault}", flush=True)
    for command, those in trials.items():
        print(f"{command}: {len(those)} trials, killed {sum(each.killed for each in those)} times")
    wrong = sum(bool(each.fault) for those in trials.values() for each in those)
    print(f"trials {first} to {number - 1} in {time.monotonic() - began:.0f} s, seed {seed}: "
          f"{wrong} went wrong")
    return int(wrong > 0)
