"""Many runs of a training script one after the other, each a process with a run folder of its own.

What is finished is not run again, what was cut off goes on, what failed is tried again; a run that
fails does not stop the others. A run is whatever leaves ``settings.json`` and, once it is finished,
``summary.json`` in its folder (see `experiment.folder`).
"""

from __future__ import annotations

import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from experiment.folder import SETTINGS, SUMMARY, RunFolder
from experiment.interruption import Interrupted, Signals
from experiment.statistics import spread
from registry import UserError

LOG = "run.log"
WAITING, UNFINISHED, FINISHED, FAILED = "waiting", "unfinished", "finished", "failed"
_REFRESH_SECONDS = 0.5
_KEPT_LINES = 200
_ERROR = re.compile(r"error: |[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a grid.

    Attributes:
        group: what is repeated with several seeds, such as a method.
        seed: of this run.
        folder: its run folder.
        command: the process to start.
        settings: what its script gives to `RunFolder.open`.
        needs: a run that has to be finished before.
    """

    group: str
    seed: int
    folder: Path
    command: tuple[str, ...]
    settings: Mapping[str, Any]
    needs: Run | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.group}, seed {self.seed}"

    @property
    def open_log(self) -> Path:
        """What the process printed, while it works and if it left no run: beside the run folder,
        as a folder with nothing but a log would be taken for a foreign one."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def log(self) -> Path:
        """What the process printed."""
        return self.open_log if self.open_log.exists() else self.folder / LOG


@dataclass
class Outcome:
    """How far a run is.

    Attributes:
        run: the run.
        status: ``"waiting"``, ``"unfinished"`` (cut off), ``"finished"`` or ``"failed"``.
        summary: of a finished run, else None.
        error: why it failed, in one line.
        process_seconds: that its process took; 0 where it was not run in this call.
    """

    run: Run
    status: str = WAITING
    summary: dict[str, Any] | None = None
    error: str = ""
    process_seconds: float = 0.0

    def seconds(self) -> float | None:
        """How long the whole run took: its training by the summary, or its process with all that
        comes before and after, which one that went on where another stopped has only a part of.
        None where nothing says."""
        training = (self.summary or {}).get("seconds")
        return None if training is None else max(training, self.process_seconds)


def survey(runs: Sequence[Run], overwrite: bool = False) -> list[Outcome]:
    """How far each run is, by its folder. Writes nothing.

    Args:
        runs: in the order in which to run them: what others need before them.
        overwrite: as if none had been begun.

    Raises:
        UserError: a folder holds a run with other settings (the first such is told), or something
            that is no run.
    """
    outcomes = []
    for run in runs:
        folder = RunFolder(run.folder)
        state = folder.state(run.settings, overwrite)
        status = {"new": WAITING, "resumed": UNFINISHED, "finished": FINISHED}[state]
        summary = folder.summary() if status == FINISHED else None
        outcomes.append(Outcome(run, status, summary))
    return outcomes


def listing(outcomes: Sequence[Outcome]) -> str:
    """What `execute` would run, a status and a command each (for a dry run)."""
    return "\n".join(
        f"{outcome.status}: {outcome.run.name}\n    {shlex.join(outcome.run.command)}"
        for outcome in outcomes
    )


def clear(runs: Sequence[Run]) -> None:
    """Remove what former runs left in the folders, all of it before the first one is run again:
    else an interruption would leave old runs beside new ones, and nothing to tell them by.

    Raises:
        UserError: another process is working in one of the folders, or it holds no run.
    """
    for run in runs:
        run.open_log.unlink(missing_ok=True)
        (run.folder / LOG).unlink(missing_ok=True)
        if run.folder.exists():
            with RunFolder(run.folder) as folder:
                folder.open(run.settings, overwrite=True)


def execute(
    outcomes: Sequence[Outcome],
    describe: Callable[[Mapping[str, Any]], str],
    changed: Callable[[], None],
    stream: TextIO | None = None,
) -> None:
    """Run what is not finished, and bring `outcomes` up to date.

    In a terminal a line runs along with the last one that the process printed; each run that ends
    leaves a line. SIGTERM and Ctrl-C are passed on to the process, which is waited for; a second
    one kills it.

    Args:
        outcomes: of `survey`.
        describe: what to show of a finished run's summary.
        changed: called after each run, `outcomes` being up to date.
        stream: where to write; stdout where None.

    Raises:
        Interrupted: asked to stop; one line about it was printed.
    """
    display = _Display(outcomes, stream or sys.stdout)
    by_run = {outcome.run: outcome for outcome in outcomes}
    with Signals() as signals:
        for outcome in outcomes:
            if outcome.status == FINISHED:
                continue
            needed = by_run.get(outcome.run.needs)
            if needed is None or needed.status == FINISHED:
                display.begin(outcome)
                _attempt(outcome, signals, display.show)
            else:
                outcome.status, outcome.error = FAILED, f"needs {needed.run.name}, which failed"
            changed()
            display.end(outcome, describe)
            if signals.received is not None:
                display.interrupted()
                raise Interrupted(signals.received)


def seconds_left(outcomes: Sequence[Outcome]) -> float | None:
    """How long the runs that are neither finished nor failed may take, as the finished ones did.

    A group's runs take as long as its finished ones on average, or else as all finished ones, but
    for those that others need, which are of another kind. None where that says nothing yet.
    """
    groups: dict[str, list[float | None]] = {}
    for outcome in outcomes:
        if outcome.summary is not None:
            groups.setdefault(outcome.run.group, []).append(outcome.seconds())
    own = {group: spread(seconds).mean for group, seconds in groups.items()}
    special = {outcome.run.needs.group for outcome in outcomes if outcome.run.needs is not None}
    typical = spread(
        seconds for group, each in groups.items() if group not in special for seconds in each
    ).mean
    left = [
        typical if own.get(outcome.run.group) is None else own[outcome.run.group]
        for outcome in outcomes if outcome.status in (WAITING, UNFINISHED)
    ]
    return None if None in left else sum(left)


def last_error(lines: Sequence[str], status: int) -> str:
    """Why a process failed, in one line: its last line that tells of an error, or its last one."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    telling = [line for line in lines if _ERROR.match(line)] or [line for line in lines if line]
    return telling[-1].removeprefix("error: ") if telling else f"exit status {status}"


# One run


def _attempt(outcome: Outcome, signals: Signals, show: Callable[[str], None]) -> None:
    """Start the run's process, wait for it, and note in `outcome` how it ended."""
    folder, began = outcome.run.folder, time.monotonic()
    status, lines = _process(outcome.run, signals, show)
    outcome.process_seconds = time.monotonic() - began
    outcome.error = ""
    if status == 0 and (folder / SUMMARY).exists():
        try:
            outcome.summary = RunFolder(folder).summary()
            outcome.status = FINISHED
        except UserError as damage:
            outcome.status, outcome.error = FAILED, str(damage)
    elif signals.received is not None:
        outcome.status = UNFINISHED
    elif status == 0:
        outcome.status, outcome.error = FAILED, f"ended well, but without {SUMMARY}"
    else:
        outcome.status, outcome.error = FAILED, last_error(lines, status)


def _process(
    run: Run, signals: Signals, show: Callable[[str], None]
) -> tuple[int, Sequence[str]]:
    """Exit status and last lines of the run's process, all of which go to the log too."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    with open(run.open_log, "ab") as log:
        log.write(f"$ {shlex.join(run.command)}\n".encode())
        log.flush()
        # A process group of its own: Ctrl-C in a terminal would reach it twice, which means
        # "end at once".
        child = subprocess.Popen(
            run.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"},
            process_group=0,
        )
        try:
            lines = _follow(child, log, signals, show)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            child.stdout.close()
    if (run.folder / SETTINGS).exists():
        with open(run.folder / LOG, "ab") as log, open(run.open_log, "rb") as new:
            shutil.copyfileobj(new, log)
        run.open_log.unlink()
    return child.returncode, lines


def _follow(
    child: subprocess.Popen, log: Any, signals: Signals, show: Callable[[str], None]
) -> Sequence[str]:
    """Copy what `child` prints into `log` until it ends; its last lines."""
    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    rest = b""
    passed_on = False
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if signals.received is not None and not passed_on:
                child.send_signal(signals.received)
                passed_on = True
            if selector.select(_REFRESH_SECONDS):
                chunk = os.read(child.stdout.fileno(), 1 << 16)
                if not chunk:
                    selector.unregister(child.stdout)
                log.write(chunk)
                log.flush()
                *complete, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
                lines.extend(line.decode(errors="replace").rstrip() for line in complete)
            elif child.poll() is not None and not selector.select(0):  # nor has it just written
                break
            shown = [line for line in lines if line]
            show(shown[-1] if shown else "")
    if rest:
        lines.append(rest.decode(errors="replace").rstrip())
    return lines


# What is shown


def _coarse(seconds: float) -> str:
    """A time as exact as an estimate is."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


class _Display:
    """Where the grid is: a line that runs along in a terminal, and a line a run that ended."""

    def __init__(self, outcomes: Sequence[Outcome], stream: TextIO):
        self._outcomes = outcomes
        self._stream = stream
        self._runs_along = stream.isatty()
        self._running: Outcome | None = None
        self._began = self._shown = 0.0
        finished = sum(outcome.status == FINISHED for outcome in outcomes)
        if finished:
            self._line(f"{finished} of {len(outcomes)} runs are finished already")

    def begin(self, outcome: Outcome) -> None:
        self._running = outcome
        self._began, self._shown = time.monotonic(), 0.0

    def show(self, last_line: str) -> None:
        """The process that runs now printed `last_line` last."""
        now = time.monotonic()
        if not self._runs_along or now - self._shown < _REFRESH_SECONDS:
            return
        self._shown = now
        width = shutil.get_terminal_size((80, 24)).columns - 1
        head, tail = self._place(self._running), self._left(now - self._began)
        room = width - len(head) - len(tail) - 4
        middle = " ".join(last_line.split())
        if len(middle) > room:
            middle = middle[: max(room - 1, 0)] + "…"
        parts = [head, middle if room > 10 else "", tail]
        line = "  ".join(part for part in parts if part)[:width]
        self._stream.write("\r" + line.ljust(width))
        self._stream.flush()

    def end(self, outcome: Outcome, describe: Callable[[Mapping[str, Any]], str]) -> None:
        """The run of `outcome` has ended."""
        self._running = None
        what = outcome.status
        if outcome.status == FINISHED:
            what = describe(outcome.summary)
        elif outcome.error:
            what += f": {outcome.error}"
        parts = [self._place(outcome), what, self._left(0.0)]
        self._line("  ".join(part for part in parts if part))

    def interrupted(self) -> None:
        left = sum(outcome.status != FINISHED for outcome in self._outcomes)
        self._line(
            f"interrupted, {left} of {len(self._outcomes)} runs left; the same command (without "
            "--overwrite) goes on"
        )

    def _place(self, outcome: Outcome) -> str:
        total = str(len(self._outcomes))
        number = str(self._outcomes.index(outcome) + 1).rjust(len(total))
        return f"run {number}/{total}  {outcome.run.name}"

    def _left(self, elapsed: float) -> str:
        """An estimate, if there is one; a run that takes longer than others does not count down
        the time of those after it."""
        seconds = seconds_left(self._outcomes)
        after = seconds_left([each for each in self._outcomes if each is not self._running])
        if seconds is None or after is None or not max(seconds - elapsed, after):
            return ""
        return f"{_coarse(max(seconds - elapsed, after))} left"

    def _line(self, text: str) -> None:
        if self._runs_along:
            self._stream.write("\r\x1b[K")
        self._stream.write(text + "\n")
        self._stream.flush()
