"""Executes the runs of a grid, each in a process of its own, in as many places as there are."""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from experiment.grid.claims import Claims
from experiment.grid.display import Display
from experiment.grid.places import Place
from experiment.grid.runs import FAILED, FINISHED, LOG, UNFINISHED, Outcome, Run
from experiment.run import failures
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
    and the others wait for it. In a terminal a status line shows the last line that a process
    printed; each run that ends leaves a line. SIGTERM and Ctrl-C are passed on to the processes,
    which are waited for; a second one kills them. Where this process itself fails, they are asked
    to end, and waited for too.

    Args:
        outcomes: of `survey`.
        describe: what to show of a finished run's summary.
        changed: called after each run, `outcomes` being up to date.
        stream: where to write; stdout where None.
        division: of the runs among processes; `Claims` where None.
        places: where to run processes, one at a time in each.

    Raises:
        Interrupted: asked to stop; one line about it was printed.
        OSError: the last report could not be written.
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
        self._reported: list[str] | None = self._statuses()
        self._unreported: OSError | None = None
        self._warned: set[str] = set()

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
            try:
                hold = self._division.take(outcome)
            except OSError as error:
                self._fail(outcome, failures.describe(error))
                continue
            if hold is not None:
                self._display.begin(outcome)
                return _Attempt(outcome, hold, place, self._signals, self._abort)
        self._look_at = time.monotonic() + self._division.poll_seconds
        return None

    def _look(self, outcome: Outcome) -> None:
        """See what another process did with the run, or whether it cannot be begun."""
        try:
            self._show_ended(lambda: self._division.look(outcome))
        except PermissionError:  # That does not pass.
            raise
        except OSError as error:
            outcome.holder = outcome.holder or f"cannot be read: {failures.describe(error)}"
        needed = self._by_run.get(outcome.run.needs)
        if needed is not None and needed.status == FAILED and not outcome.has_ended:
            self._fail(outcome, f"needs {needed.run.name}, which failed")

    def _fail(self, outcome: Outcome, error: str) -> None:
        """Note that a run could not be begun, and show it."""
        outcome.status, outcome.error = FAILED, error
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
            self._display.show(attempt.outcome, attempt.tail.last_line)
        return [self._end(self._running.pop(future), future) for future in ended]

    def _is_awaited(self, outcome: Outcome) -> bool:
        """Whether this process waits for another's run, or for one that its own needs."""
        needing = [each for each in self._outcomes if each.run.needs is outcome.run]
        concerned = any(self._division.waits_for(each) for each in [outcome, *needing])
        return concerned and bool(outcome.holder) and not outcome.has_ended

    def _end(self, attempt: _Attempt, future: Future) -> Place:
        """Note how an attempt ended, and show it; its place."""
        outcome = attempt.outcome
        try:
            status, outcome.process_seconds = future.result()
            if not attempt.stopped:
                lines = attempt.tail.lines
                _judge(outcome, status, lines, self._signals.received is not None)
        except OSError as error:  # This run cannot be begun, or read; others may.
            outcome.status, outcome.error = FAILED, failures.describe(error)
        self._warn("what a run printed is not in its log", attempt.log_fault)
        try:
            self._division.end(attempt.hold, outcome)
        except OSError as error:
            self._warn("others may not know how a run ended", error)
        self._look_at = 0.0
        self._report()
        self._display.end(outcome, self._describe, stopped=attempt.stopped)
        return attempt.place

    def _statuses(self) -> list[str]:
        return [outcome.status for outcome in self._outcomes]

    def _report(self) -> None:
        """Report how far all runs are. A report that cannot be written, on a full disk say, does
        not end the runs: the next one may be."""
        statuses = self._statuses()
        try:
            self._changed()
        except OSError as error:
            self._reported, self._unreported = None, error
            self._warn("the report is tried again when the next run ends", error)
        else:
            self._reported, self._unreported = statuses, None

    def _warn(self, consequence: str, error: OSError | None) -> None:
        """Show once what an error leads to that ends no run."""
        if error is not None and consequence not in self._warned:
            self._warned.add(consequence)
            self._display.warn(f"{failures.describe(error)}; {consequence}")

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
            if self._unreported is not None:
                if self._signals.received is not None:
                    return
                raise self._unreported


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
        outcome.fail(f"exited with status 0 but did not write {', '.join(missing)}")
    else:
        outcome.fail(last_error(lines, status))


class _Tail:
    """The last lines that a process printed.

    Attributes:
        lines: the complete ones; after `end` all.
        last_line: the last one that is not empty.
    """

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.last_line = ""
        self._rest = b""

    def add(self, chunk: bytes) -> None:
        """The process printed `chunk`. Each state of a line that is rewritten counts as a line."""
        *complete, self._rest = (self._rest + chunk).replace(b"\r", b"\n").split(b"\n")
        for line in complete:
            self._append(line)

    def end(self) -> None:
        """The process prints no more."""
        if self._rest:
            self._append(self._rest)

    def _append(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        self.lines.append(text)
        self.last_line = text or self.last_line


class _Log:
    """A file for what a process prints. Where it cannot be written, on a full disk say, the process
    goes on without it. A context manager.

    Args:
        path: of the file, to which is appended.

    Attributes:
        fault: what hindered the last writing that failed; None where all succeeded.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path):
        self.fault: OSError | None = None
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed where this is left)
        self._show_life_at = 0.0

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        with self._noting_faults():
            self._file.close()

    @contextlib.contextmanager
    def _noting_faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.fault = error

    def write(self, chunk: bytes) -> None:
        """Append what the process printed."""
        with self._noting_faults():
            self._file.write(chunk)

    def show_life(self) -> None:
        """Say to others that the process lives, also where it prints nothing."""
        if time.monotonic() > self._show_life_at:
            self._show_life_at = time.monotonic() + _SIGN_SECONDS
            with self._noting_faults():
                os.utime(self._file.fileno())

    def move_behind(self, path: Path) -> None:
        """Append the file, once it is closed, to that at `path`."""
        with self._noting_faults():
            with open(path, "ab") as former, open(self._path, "rb") as new:
                shutil.copyfileobj(new, former)
            self._path.unlink()


@dataclass
class _Attempt:
    """A run's process, in a thread that waits for it.

    Attributes:
        outcome: of the run, as it was before.
        hold: that allows the attempt.
        place: where.
        signals: passed on to the process.
        abort: set where this process cannot go on: all that it started are asked to end.
        tail: what the process printed last.
        log_fault: why the log lacks some of it; None where it does not.
        stopped: why the process was ended, the hold being lost; "" where it was not.
    """

    outcome: Outcome
    hold: Hold
    place: Place
    signals: Signals
    abort: threading.Event
    tail: _Tail = field(default_factory=_Tail)
    log_fault: OSError | None = None
    stopped: str = ""
    _was_asked: bool = False

    def carry_out(self) -> tuple[int, float]:
        """Exit status of the process, and how many seconds it took. What it prints goes to the log
        and, the last of it, to `tail`.

        Raises:
            OSError: the process could not be started, or the log not be opened.
        """
        run, began = self.outcome.run, time.monotonic()
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        with _Log(run.open_log) as log:
            log.write(f"$ {shlex.join(run.command)}\n".encode())
            child = self._start(run)
            try:
                self._follow(child, log)
                self.stopped = self.stopped or self.hold.lost
            finally:
                _send(child, signal.SIGKILL)
                child.wait()
                child.stdin.close()
                child.stdout.close()
        if (run.folder / SETTINGS).exists() and not self.stopped:
            log.move_behind(run.folder / LOG)
        self.log_fault = log.fault
        return child.returncode, time.monotonic() - began

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

    def _follow(self, child: subprocess.Popen, log: _Log) -> None:
        """Copy what `child` prints into log and tail until it ends, and end it where it must."""
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while True:
                self._steer(child)
                log.show_life()
                timeout = _REFRESH_SECONDS if selector.get_map() else _END_SECONDS
                if selector.select(timeout):
                    chunk = os.read(child.stdout.fileno(), 1 << 16)
                    if not chunk:
                        selector.unregister(child.stdout)
                    log.write(chunk)
                    self.tail.add(chunk)
                elif child.poll() is not None and not selector.select(0):  # nor has it just written
                    break
        self.tail.end()

    def _steer(self, child: subprocess.Popen) -> None:
        """End `child` where it must not go on, or ask it to end, once."""
        self.stopped = self.stopped or self.hold.lost
        if self.stopped:
            # It must not write any more, not even to save its state.
            _send(child, signal.SIGKILL)
            return
        number = self.signals.received or (signal.SIGTERM if self.abort.is_set() else None)
        if number is not None and not self._was_asked:
            _send(child, number)
            self._was_asked = True
