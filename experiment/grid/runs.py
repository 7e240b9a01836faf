"""Many runs of a training script, each a process with a run folder of its own.

What is finished is not run again, what was cut off goes on, what failed is tried again; a run that
fails does not stop the others. A run is whatever leaves ``settings.json`` and, once it is finished,
``summary.json`` in its folder (see `experiment.run.folder`), and after that the `Run.files`.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiment.run.folder import SUMMARY, RunFolder
from registry import UserError

LOG = "run.log"
WAITING, UNFINISHED, FINISHED, FAILED = "waiting", "unfinished", "finished", "failed"


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
        results: the entries that the summary of the finished run has to have, with their types.
        networks: gives what identifies the networks that it is given as files, as they are now (see
            `RunFolder.check_facts`). Another run may write them, or write them anew, after this
            one was planned.
        files: names in the folder of what the run writes after its summary, such as exported files:
            while one is missing the run is not finished.
        teacher_stays: whether the run leaves its teacher as it was, so that what it measures of it
            is the same in all runs.
    """

    group: str
    seed: int
    folder: Path
    command: tuple[str, ...]
    settings: Mapping[str, Any]
    needs: Run | None = None
    results: Mapping[str, Any] = field(default_factory=dict)
    networks: Callable[[], Mapping[str, str]] = dict
    files: Sequence[str] = ()
    teacher_stays: bool = True

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.group}, seed {self.seed}"

    @property
    def missing(self) -> list[str]:
        """Names of the files that the finished run has, and that are not there."""
        return [name for name in (SUMMARY, *self.files) if not (self.folder / name).exists()]

    @property
    def open_log(self) -> Path:
        """What the process printed, while it works and if it left no run: beside the run folder,
        as a folder with nothing but a log would be taken for a foreign one."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def failure(self) -> Path:
        """Why the run failed, where no claims say so (see `experiment.grid.shards`)."""
        return self.folder.with_name(f"{self.folder.name}.failed")

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
        summary: of a run whose training is finished, else None.
        error: why it failed, in one line.
        process_seconds: that its process took; 0 where it was not run in this call.
        holder: who else works on it, or did, for people; "" where nobody does.
    """

    run: Run
    status: str = WAITING
    summary: dict[str, Any] | None = None
    error: str = ""
    process_seconds: float = 0.0
    holder: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do in this call."""
        return self.status in (FINISHED, FAILED)

    def finish(self) -> None:
        """Take over what the finished run reported; a report that is damaged, or of a run with
        other settings, is a failure."""
        folder = RunFolder(self.run.folder)
        try:
            folder.state(self.run.settings, networks=self.run.networks())
            self.summary = folder.summary(self.run.results)
            self.status, self.error = FINISHED, ""
        except UserError as error:
            self.status, self.error = FAILED, str(error)

    def fail(self, error: str) -> None:
        """Note why the run failed. What it reported counts all the same, where only a file that it
        was to write after that is missing."""
        if SUMMARY not in self.run.missing:
            self.finish()
        self.status, self.error = FAILED, error

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
        UserError: a folder holds a run with other settings or of other networks (the message names
            the first), or something that is no run.
    """
    outcomes = []
    for run in runs:
        folder = RunFolder(run.folder)
        state = folder.state(run.settings, overwrite, run.networks())
        status = {"new": WAITING, "resumed": UNFINISHED, "finished": FINISHED}[state]
        if status == FINISHED and run.missing:
            status = UNFINISHED
        summary = folder.summary(run.results) if state == "finished" else None
        outcomes.append(Outcome(run, status, summary))
    return outcomes


def listing(outcomes: Sequence[Outcome]) -> str:
    """What `execute` would run (for a dry run): a status and a command each, and how many there are
    of each status."""
    lines = [
        f"{outcome.status}: {outcome.run.name}\n    {shlex.join(outcome.run.command)}"
        for outcome in outcomes
    ]
    counts = Counter(outcome.status for outcome in outcomes)
    total = ", ".join(f"{count} {status}" for status, count in counts.items())
    return "\n".join([*lines, f"{len(outcomes)} runs: {total}"])
