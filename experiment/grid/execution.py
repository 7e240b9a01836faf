"""Executes the runs of a grid one after the other, each in a process of its own."""

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
from pathlib import Path
from typing import Any, TextIO

from experiment.grid.display import Display
from experiment.grid.runs import FAILED, FINISHED, LOG, UNFINISHED, Outcome, Run
from experiment.run.folder import SETTINGS, SUMMARY, RunFolder
from experiment.run.interruption import Interrupted, Signals
from registry import UserError

_TIED = Path(__file__).with_name("tied.py")
_REFRESH_SECONDS = 0.5
_SAVING_SECONDS = 120  # in which a process that was asked to stop saves its state
_KEPT_LINES = 200
_ERROR = re.compile(r"error: |[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")


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
    display = Display(outcomes, stream or sys.stdout)
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


def last_error(lines: Sequence[str], status: int) -> str:
    """Why a process failed, in one line: its last line that tells of an error, or its last one."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    telling = [line for line in lines if _ERROR.match(line)] or [line for line in lines if line]
    return telling[-1].removeprefix("error: ") if telling else f"exit status {status}"


def _attempt(outcome: Outcome, signals: Signals, show: Callable[[str], None]) -> None:
    """Start the run's process, wait for it, and note in `outcome` how it ended."""
    folder, began = outcome.run.folder, time.monotonic()
    _wait_until_free(folder)
    status, lines = _process(outcome.run, signals, show)
    outcome.process_seconds = time.monotonic() - began
    outcome.error = ""
    if status == 0 and (folder / SUMMARY).exists():
        try:
            outcome.summary = RunFolder(folder).summary(outcome.run.results)
            outcome.status = FINISHED
        except UserError as damage:
            outcome.status, outcome.error = FAILED, str(damage)
    elif signals.received is not None:
        outcome.status = UNFINISHED
    elif status == 0:
        outcome.status, outcome.error = FAILED, f"ended well, but without {SUMMARY}"
    else:
        outcome.status, outcome.error = FAILED, last_error(lines, status)


def _wait_until_free(folder: Path) -> None:
    """Wait while another process works in the folder: where a grid was killed, its run may still be
    saving its state."""
    deadline = time.monotonic() + _SAVING_SECONDS
    while RunFolder(folder).is_in_use() and time.monotonic() < deadline:
        time.sleep(_REFRESH_SECONDS)


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
            (sys.executable, str(_TIED), str(os.getpid()), *run.command),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
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
