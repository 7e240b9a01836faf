"""Executes the runs of a grid, each in a process of its own, in as many places as there are."""

from __future__ import annotations

import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from experiment.grid.claims import Claims
from experiment.grid.display import Display
from experiment.grid.places import Place
from experiment.grid.runs import FAILED, FINISHED, LOG, UNFINISHED, Outcome, Run
from experiment.run.folder import SETTINGS
from experiment.run.interruption import Interrupted, Signals

_TIED = Path(__file__).with_name("tied.py")
_REFRESH_SECONDS = 0.5
_SIGN_SECONDS = 30.0  # between signs of life of a process that prints nothing
_END_SECONDS = 0.02  # between looks at a process that prints no more, so is about to end
_KEPT_LINES = 200
_ERROR = re.compile(r"error: |[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")


class Hold(Protocol):
    """That this process, and no other, works on a run.

    Attributes:
        lost: why it must stop; "" where it may go on.
    """

    @property
    def lost(self) -> str: ...


class Division(Protocol):
    """How runs are divided among processes that know of each other by the folders alone: `Claims`
    or `Shards`. A context manager, entered while runs are executed.

    Attributes:
        poll_seconds: how often to look whether another process is done.
    """

    poll_seconds: float

    def __enter__(self) -> Division: ...

    def __exit__(self, *_: object) -> None: ...

    def begin(self, outcomes: Sequence[Outcome]) -> None:
        """See how far all runs are; called once, first."""

    def waits_for(self, outcome: Outcome) -> bool:
        """Whether this process ends only when that run has ended."""

    def look(self, outcome: Outcome) -> None:
        """Bring the outcome of a run that this process does not work on up to date, with its
        `holder`."""

    def take(self, outcome: Outcome) -> Hold | None:
        """Take a run that has no holder; None: another process was faster."""

    def end(self, hold: Hold, outcome: Outcome) -> None:
        """This process does not work on the run any more; `outcome` says how that ended."""


def execute(
    outcomes: Sequence[Outcome],
    describe: Callable[[Mapping[str, Any]], str],
    changed: Callable[[], None],
    stream: TextIO | None = None,
    division: Division | None = None,
    places: Sequence[Place] = (Place(),),
) -> None:
    """Run what is not finished, and bring `outcomes` up to date.

    Other processes may execute the same runs at the same time: each run is executed by one of them,
    and the others wait for it. In a terminal a line runs along with the last one that a process
    printed; each run that ends leaves a line. SIGTERM and Ctrl-C are passed on to the processes,
    which are waited for; a second one kills them.

    Args:
        outcomes: of `survey`.
        describe: what to show of a finished run's summary.
        changed: called after each run, `outcomes` being up to date.
        stream: where to write; stdout where None.
        division: of the runs among processes; `Claims` where None.
        places: where to run processes, one at a time in each.

    Raises:
        Interrupted: asked to stop; one line about it was printed.
    """
    display = Display(outcomes, stream or sys.stdout, len(places))
    with Signals() as signals, (division or Claims()) as entered:
        _Execution(outcomes, describe, changed, display, entered, signals).carry_out(places)
        if signals.received is not None:
            display.interrupted()
            raise Interrupted(signals.received)


def last_error(lines: Sequence[str], status: int) -> str:
    """Why a process failed, in one line: its last line that tells of an error, or its last one."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    telling = [line for line in lines if _ERROR.match(line)] or [line for line in lines if line]
    return telling[-1].removeprefix("error: ") if telling else f"exit status {status}"


class _Execution:
    """The runs under way, and what is to happen when one ends. For the arguments see `execute`."""

    def __init__(
        self,
        outcomes: Sequence[Outcome],
        describe: Callable[[Mapping[str, Any]], str],
        changed: Callable[[], None],
        display: Display,
        division: Division,
        signals: Signals,
    ):
        self._outcomes = outcomes
        self._by_run = {outcome.run: outcome for outcome in outcomes}
        self._describe = describe
        self._changed = changed
        self._display = display
        self._division = division
        self._signals = signals
        self._abort = threading.Event()
        self._running: dict[Future, _Attempt] = {}
        self._look_at = 0.0
        self._reported = self._statuses()

    def carry_out(self, places: Sequence[Place]) -> None:
        """Execute runs until all have ended, or no more are to begin."""
        self._show_ended(lambda: self._division.begin(self._outcomes))
        idle = list(places)
        with ThreadPoolExecutor(len(places)) as pool:
            try:
                while True:
                    while idle and (attempt := self._next(idle[0])):
                        idle.pop(0)
                        self._running[pool.submit(attempt.carry_out)] = attempt
                    if not self._running and (self._signals.received or self._is_complete()):
                        break
                    idle += self._wait()
            finally:
                self._abort.set()
        self._report_what_others_did()

    def _next(self, place: Place) -> _Attempt | None:
        """An attempt at the first run that is ready and that nobody else works on."""
        if self._signals.received is not None or time.monotonic() < self._look_at:
            return None
        attempted = {attempt.outcome.run for attempt in self._running.values()}
        for outcome in self._outcomes:
            if outcome.has_ended or outcome.run in attempted:
                continue
            self._look(outcome)
            if outcome.has_ended or outcome.holder or not self._is_ready(outcome):
                continue
            hold = self._division.take(outcome)
            if hold is not None:
                self._display.begin(outcome)
                return _Attempt(outcome, hold, place, self._signals, self._abort)
        self._look_at = time.monotonic() + self._division.poll_seconds
        return None

    def _look(self, outcome: Outcome) -> None:
        """See what another process did with the run, or whether it cannot be begun."""
        self._show_ended(lambda: self._division.look(outcome))
        needed = self._by_run.get(outcome.run.needs)
        if needed is not None and needed.status == FAILED and not outcome.has_ended:
            outcome.status, outcome.error = FAILED, f"needs {needed.run.name}, which failed"
            self._report()
            self._display.end(outcome, self._describe)

    def _show_ended(self, look: Callable[[], None]) -> None:
        """Call `look`, and show the runs that it finds ended."""
        before = [(each.status, each.holder) for each in self._outcomes]
        look()
        for outcome, (status, holder) in zip(self._outcomes, before, strict=True):
            if outcome.has_ended and outcome.status != status:
                self._display.end(
                    outcome, self._describe, by=outcome.holder or holder or "another process"
                )

    def _is_ready(self, outcome: Outcome) -> bool:
        needed = self._by_run.get(outcome.run.needs)
        return needed is None or needed.status == FINISHED

    def _is_complete(self) -> bool:
        return all(each.has_ended for each in self._outcomes if self._division.waits_for(each))

    def _wait(self) -> list[Place]:
        """Let some time pass; the places of attempts that ended in it."""
        if not self._running:
            self._display.waiting([each for each in self._outcomes if self._is_awaited(each)])
            time.sleep(min(_REFRESH_SECONDS, self._division.poll_seconds))
            return []
        ended, _ = wait(self._running, timeout=_REFRESH_SECONDS, return_when=FIRST_COMPLETED)
        for attempt in self._running.values():
            self._display.show(attempt.outcome, attempt.last_line)
        return [self._end(self._running.pop(future), future) for future in ended]

    def _is_awaited(self, outcome: Outcome) -> bool:
        """Whether this process waits for another's run, or for one that its own needs."""
        needing = [each for each in self._outcomes if each.run.needs is outcome.run]
        concerned = any(self._division.waits_for(each) for each in [outcome, *needing])
        return concerned and bool(outcome.holder) and not outcome.has_ended

    def _end(self, attempt: _Attempt, future: Future) -> Place:
        """Note how an attempt ended, and show it; its place."""
        status, lines, seconds = future.result()
        outcome = attempt.outcome
        outcome.process_seconds = seconds
        if not attempt.stopped:
            _judge(outcome, status, lines, self._signals.received is not None)
        self._division.end(attempt.hold, outcome)
        self._look_at = 0.0
        self._report()
        self._display.end(outcome, self._describe, stopped=attempt.stopped)
        return attempt.place

    def _statuses(self) -> list[str]:
        return [outcome.status for outcome in self._outcomes]

    def _report(self) -> None:
        self._reported = self._statuses()
        self._changed()

    def _report_what_others_did(self) -> None:
        """Have the last report be about all runs, whoever wrote one last: two processes that end at
        the same time may each have looked before the other ended, so look again after writing."""
        while True:
            for outcome in self._outcomes:
                if outcome.status != FINISHED and not self._division.waits_for(outcome):
                    self._look(outcome)
            if self._statuses() == self._reported:
                return
            self._report()


def _send(child: subprocess.Popen, number: int) -> None:
    """Send a signal to the process and those that it started, unless it has ended."""
    if child.poll() is None:
        os.killpg(child.pid, number)


def _judge(outcome: Outcome, status: int, lines: Sequence[str], interrupted: bool) -> None:
    """Note in `outcome` how its process ended.

    Args:
        outcome: of the run.
        status: the exit status.
        lines: what it printed last.
        interrupted: whether it was asked to stop.
    """
    outcome.error = ""
    missing = outcome.run.missing
    if status == 0 and not missing:
        outcome.finish()
    elif interrupted:
        outcome.status = UNFINISHED
    elif status == 0:
        outcome.status, outcome.error = FAILED, f"ended well, but without {', '.join(missing)}"
    else:
        outcome.status, outcome.error = FAILED, last_error(lines, status)


@dataclass
class _Attempt:
    """A run's process, in a thread that waits for it.

    Attributes:
        outcome: of the run, as it was before.
        hold: that allows the attempt.
        place: where.
        signals: passed on to the process.
        abort: set where all is to end at once.
        last_line: that the process printed.
        stopped: why the process was ended, the hold being lost; "" where it was not.
    """

    outcome: Outcome
    hold: Hold
    place: Place
    signals: Signals
    abort: threading.Event
    last_line: str = ""
    stopped: str = ""

    def carry_out(self) -> tuple[int, Sequence[str], float]:
        """Exit status and last lines of the process, all of which go to the log too; and how many
        seconds it took."""
        run, began = self.outcome.run, time.monotonic()
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        with open(run.open_log, "ab") as log:
            log.write(f"$ {shlex.join(run.command)}\n".encode())
            log.flush()
            child = self._start(run)
            try:
                lines = self._follow(child, log)
                self.stopped = self.stopped or self.hold.lost
            finally:
                _send(child, signal.SIGKILL)
                child.wait()
                child.stdin.close()
                child.stdout.close()
        if (run.folder / SETTINGS).exists() and not self.stopped:
            with open(run.folder / LOG, "ab") as log, open(run.open_log, "rb") as new:
                shutil.copyfileobj(new, log)
            run.open_log.unlink()
        return child.returncode, lines, time.monotonic() - began

    def _start(self, run: Run) -> subprocess.Popen:
        # A process group of its own: Ctrl-C in a terminal would reach it twice, which means
        # "end at once".
        cores = ",".join(map(str, self.place.cores))
        return subprocess.Popen(
            (sys.executable, str(_TIED), cores, *run.command),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self.place.environment},
            process_group=0,
        )

    def _follow(self, child: subprocess.Popen, log: Any) -> Sequence[str]:
        """Copy what `child` prints into `log` until it ends; its last lines."""
        lines: deque[str] = deque(maxlen=_KEPT_LINES)
        rest = b""
        passed_on, sign_at = False, 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while True:
                self.stopped = self.stopped or self.hold.lost
                if self.stopped or self.abort.is_set():
                    # It must not write any more, not even to save its state.
                    _send(child, signal.SIGKILL)
                elif self.signals.received is not None and not passed_on:
                    _send(child, self.signals.received)
                    passed_on = True
                if time.monotonic() > sign_at:
                    os.utime(log.fileno())
                    sign_at = time.monotonic() + _SIGN_SECONDS
                timeout = _REFRESH_SECONDS if selector.get_map() else _END_SECONDS
                if selector.select(timeout):
                    chunk = os.read(child.stdout.fileno(), 1 << 16)
                    if not chunk:
                        selector.unregister(child.stdout)
                    log.write(chunk)
                    log.flush()
                    *complete, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
                    lines.extend(line.decode(errors="replace").rstrip() for line in complete)
                elif child.poll() is not None and not selector.select(0):  # nor has it just written
                    break
                self.last_line = next((line for line in reversed(lines) if line), "")
        if rest:
            lines.append(rest.decode(errors="replace").rstrip())
        return lines
