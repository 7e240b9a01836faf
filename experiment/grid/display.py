"""How far a grid is: a line that is refreshed in a terminal, and a line for each run that ended."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from experiment.grid.runs import FINISHED, UNFINISHED, WAITING, Outcome
from experiment.report.statistics import spread
from experiment.run.durations import rough_duration

_REFRESH_SECONDS = 0.5


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


class Display:
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
        return f"{rough_duration(max(seconds - elapsed, after))} left"

    def _line(self, text: str) -> None:
        if self._runs_along:
            self._stream.write("\r\x1b[K")
        self._stream.write(text + "\n")
        self._stream.flush()
