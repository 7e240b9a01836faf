"""Runs divided beforehand: of n processes, the i-th has every n-th run, from the i-th on.

The processes need to know nothing of each other, so no claims are made, and every file system will
do. What one shard needs of another, the teacher that is trained once, it waits for. A shard ends
when its own runs have; the last one to end reports on all.

Beside the folder of a run that failed is a file ``seed0.failed``, which says why until the run is
tried again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from experiment.grid.runs import FAILED, FINISHED, LOG, Outcome, Run
from experiment.run.durations import rough_duration
from experiment.run.folder import RunFolder, write_text
from registry import UserError

PATIENCE_SECONDS = 3600.0
_POLL_SECONDS = 2.0
Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` shards, from 1 on."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that ``"2/8"`` means.

        Raises:
            UserError: it means none.
        """
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(
                f"--shard is {text!r}; expected NUMBER/COUNT with a number from 1 to the count, "
                "such as 2/8"
            )
        return cls(int(match[1]), int(match[2]))

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items of this shard."""
        return items[self.number - 1 :: self.count]

    def __str__(self) -> str:
        return f"shard {self.number}/{self.count}"


class ShardHold:
    """This process works on a run, which no other process does."""

    lost = ""


class Shards:
    """The runs of one shard, of all that `begin` is given.

    Args:
        shard: which.
        patience_seconds: for which to wait for another shard's run without a sign of life of it.
    """

    poll_seconds = _POLL_SECONDS

    def __init__(self, shard: Shard, patience_seconds: float = PATIENCE_SECONDS):
        self._shard = shard
        self._patience_seconds = patience_seconds
        self._shard_of: dict[Run, Shard] = {}
        self._needed: set[Run] = set()
        self._old_failures: dict[Run, int] = {}
        self._signs: dict[Run, tuple[list[int], float]] = {}

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, outcomes: Sequence[Outcome]) -> None:
        """Divide the runs, and see how far those of other shards are."""
        for position, outcome in enumerate(outcomes):
            self._shard_of[outcome.run] = Shard(
                position % self._shard.count + 1, self._shard.count
            )
        self._needed = {each.run.needs for each in outcomes if self._is_own(each.run)}
        for outcome in outcomes:
            if outcome.run in self._needed:
                self._old_failures[outcome.run] = _modified(outcome.run.failure)
            if outcome.status != FINISHED:
                self.look(outcome)

    def _is_own(self, run: Run) -> bool:
        return self._shard_of[run] == self._shard

    def waits_for(self, outcome: Outcome) -> bool:
        """A shard ends with its own runs."""
        return self._is_own(outcome.run)

    def look(self, outcome: Outcome) -> None:
        """Bring `outcome`, of a run that this process does not work on, up to date."""
        run = outcome.run
        if self._is_own(run):
            in_use = RunFolder(run.folder).is_in_use()
            outcome.holder = "another process" if in_use else ""
            return
        outcome.holder = str(self._shard_of[run])
        if not run.missing:
            outcome.finish()
        elif (failure := self._failure(run)) is not None:
            outcome.fail(failure)
        elif run in self._needed and self._is_given_up(run):
            outcome.status = FAILED
            outcome.error = (
                f"no sign of {self._shard_of[run]} for {rough_duration(self._patience_seconds)}; "
                f"start it, then {self._shard} again"
            )

    def _failure(self, run: Run) -> str | None:
        """Why the run failed since this process began; None where it did not."""
        if _modified(run.failure) == self._old_failures.get(run, 0):
            return None
        try:
            return run.failure.read_text("utf-8").strip()
        except FileNotFoundError:  # Its shard is just trying it again.
            return None

    def _is_given_up(self, run: Run) -> bool:
        """Whether nothing has changed in the other shard's run for too long."""
        places = (run.folder, run.open_log, run.folder / LOG)
        signs = [_modified(place) for place in places]
        known, since = self._signs.get(run, (None, 0.0))
        if signs != known:
            self._signs[run] = (signs, time.monotonic())
            return False
        return time.monotonic() - since > self._patience_seconds

    def take(self, outcome: Outcome) -> ShardHold:
        """Begin the run, one of this shard's."""
        outcome.run.failure.unlink(missing_ok=True)
        return ShardHold()

    def end(self, hold: ShardHold, outcome: Outcome) -> None:
        """The attempt at the run has ended: note why it failed."""
        if outcome.status == FAILED:
            write_text(outcome.run.failure, f"{outcome.error}\n")


def _modified(path: Path) -> int:
    """When a file was modified, in ns; 0: there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
