"""Submits processes that share a grid to Slurm, as an array of jobs, through submitit."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from registry import UserError

LOGS = "jobs"


@dataclass(frozen=True)
class Jobs:
    """Jobs that are all the same.

    Attributes:
        command: of each, to be run in the current directory.
        count: how many.
        folder: for what they print and for submitit's own files.
        options: of sbatch, by submitit's names, such as ``{"partition": "gpu", "time": 240}``.
    """

    command: Sequence[str]
    count: int
    folder: Path
    options: Mapping[str, Any]

    def text(self) -> str:
        """What would be submitted, for people."""
        options = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return (
            f"{self.count} Slurm jobs as one array, with {options or 'default options'}, "
            f"each:\n    cd {shlex.quote(os.getcwd())}\n    {shlex.join(self.command)}\n"
            f"    output in {self.folder}"
        )

    def check(self) -> None:
        """Refuse what can be refused before Slurm is asked. Writes nothing.

        Raises:
            UserError: submitit is not installed, Slurm is not there, or there is no such option.
        """
        with _refusals():
            self._executor()

    def submit(self) -> str:
        """Submit the jobs; their number in Slurm.

        Raises:
            UserError: see `check`; or Slurm refuses.
        """
        with _refusals():
            executor = self._executor()
            task = _submitit().helpers.CommandFunction(list(self.command), cwd=os.getcwd())
            with executor.batch():
                jobs = [executor.submit(task) for _ in range(self.count)]
        return jobs[0].job_id.partition("_")[0]

    def _executor(self) -> Any:
        """submitit's, with the options."""
        executor = _submitit().SlurmExecutor(self.folder)
        executor.update_parameters(**{"job_name": "grid", **self.options})
        return executor


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Tell the user what submitit or Slurm refuses."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise UserError(f"cannot submit to Slurm: {error}") from None


def parse_options(words: Sequence[str]) -> dict[str, int | str]:
    """Options by name, of words such as ``"time=240"``; whole numbers as such.

    Raises:
        UserError: a word has another form.
    """
    options: dict[str, int | str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name.isidentifier() and equals and value):
            raise UserError(
                f"--job_options has {word!r}; expected NAME=VALUE, such as partition=gpu"
            )
        options[name] = int(value) if value.isdecimal() else value
    return options


def _submitit() -> ModuleType:
    try:
        import submitit
    except ImportError:
        raise UserError(
            "--submit slurm needs the package submitit, which is not installed; "
            "pip install -r requirements-slurm.txt"
        ) from None
    return submitit
