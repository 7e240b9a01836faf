"""How far a grid is: a line that is refreshed in a terminal, and a line for each run that ended."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from experiment.grid.runs import FINISHED, UNFINISHED, WAITING, Outcome, Run
from experiment.report.statistics import spread
from experiment.run.durations import rough_duration
from experiment.run.interruption import RESUME

_REFRESH_SECONDS = 0.5
_NAMED = 3  # of the runs that are waited for


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
    """Shows how far the grid is: a status line in a terminal, and a line for each run that ended.

    Args:
        outcomes: of all runs.
        stream: where to write.
        workers: how many runs this process executes at once.
    """

    def __init__(self, outcomes: Sequence[Outcome], stream: TextIO, workers: int = 1):
        self._outcomes = outcomes
        self._stream = stream
        self._workers = workers
        self._is_terminal = stream.isatty()
        self._began: dict[Run, float] = {}
        self._shown = 0.0
        self._waits = False
        finished = sum(outcome.status == FINISHED for outcome in outcomes)
        if finished:
            self._line(f"{finished} of {len(outcomes)} runs are finished already")

    def begin(self, outcome: Outcome) -> None:
        """This process begins with a run."""
        self._began[outcome.run] = time.monotonic()
        self._shown, self._waits = 0.0, False

    def show(self, outcome: Outcome, last_line: str) -> None:
        """The process of a run printed `last_line` last."""
        if not self._is_time():
            return
        more = len(self._began) - 1
        head = self._place(outcome) + (f" (and {more} more)" if more else "")
        self._refresh(head, last_line, self._left())

    def waiting(self, outcomes: Sequence[Outcome]) -> None:
        """This process waits for runs that others work on."""
        if not outcomes:
            return
        named = [f"{outcome.run.name} ({outcome.holder})" for outcome in outcomes[:_NAMED]]
        more = len(outcomes) - len(named)
        text = f"waiting for {'; '.join(named)}" + (f" and {more} more" if more else "")
        if not self._is_terminal:
            if not self._waits:
                self._line(text)
        elif self._is_time():
            self._refresh(text, "", self._left())
        self._waits = True

    def end(
        self,
        outcome: Outcome,
        describe: Callable[[Mapping[str, Any]], str],
        by: str = "",
        stopped: str = "",
    ) -> None:
        """A run has ended.

        Args:
            outcome: of the run.
            describe: what to show of a summary.
            by: who else executed it; "": this process.
            stopped: why this process works on it no more, though it has not ended.
        """
        self._began.pop(outcome.run, None)
        what = outcome.status
        if stopped:
            what = f"stopped here: {stopped}"
        elif outcome.status == FINISHED:
            what = describe(outcome.summary)
        elif outcome.error:
            what += f": {outcome.error}"
        parts = [self._place(outcome), what, by and f"({by})", self._left()]
        self._line("  ".join(part for part in parts if part))

    def warn(self, text: str) -> None:
        """Something went wrong that ends no run."""
        self._line(f"warning: {text}")

    def interrupted(self) -> None:
        """The grid was asked to stop, and has."""
        left = sum(outcome.status != FINISHED for outcome in self._outcomes)
        self._line(f"interrupted, {left} of {len(self._outcomes)} runs left; {RESUME}")

    def _place(self, outcome: Outcome) -> str:
        total = str(len(self._outcomes))
        number = str(self._outcomes.index(outcome) + 1).rjust(len(total))
        return f"run {number}/{total}  {outcome.run.name}"

    def _left(self) -> str:
        """An estimate, if there is one; a run that takes longer than others does not count down
        the time of those after it. Those who work now share what is left."""
        others = {each.holder for each in self._outcomes if each.holder and not each.has_ended}
        now = time.monotonic()
        elapsed = sum(now - began for began in self._began.values())
        seconds = seconds_left(self._outcomes)
        after = seconds_left([each for each in self._outcomes if each.run not in self._began])
        if seconds is None or after is None or not max(seconds - elapsed, after):
            return ""
        runs = sum(not each.has_ended for each in self._outcomes)
        left = max(seconds - elapsed, after) / min(self._workers + len(others), runs)
        return f"{rough_duration(left)} left"

    def _is_time(self) -> bool:
        """Whether it is time to rewrite the status line."""
        now = time.monotonic()
        if not self._is_terminal or now - self._shown < _REFRESH_SECONDS:
            return False
        self._shown = now
        return True

    def _refresh(self, head: str, middle: str, tail: str) -> None:
        """Rewrite the status line, no longer than the terminal is wide."""
        width = shutil.get_terminal_size((80, 24)).columns - 1
        room = width - len(head) - len(tail) - 4
        middle = " ".join(middle.split())
        if len(middle) > room:
            middle = middle[: max(room - 1, 0)] + "…"
        parts = [head, middle if room > 10 else "", tail]
        line = "  ".join(part for part in parts if part)[:width]
        self._stream.write("\r" + line.ljust(width))
        self._stream.flush()

    def _line(self, text: str) -> None:
        if self._is_terminal:
            self._stream.write("\r\x1b[K")
        self._stream.write(text + "\n")
        self._stream.flush()
