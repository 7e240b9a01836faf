"""Processes for work that may crash, leak memory, or needs a number of threads of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from registry import UserError

REFUSED = 2  # the exit status after a UserError, see `experiment.command.main.run`


def run_module(module: str, words: Sequence[str], what: str) -> None:
    """Run ``python -m module words...`` and wait for its end.

    Args:
        module: ends by `experiment.command.main.run`.
        words: its arguments.
        what: is done there, for error messages.

    Raises:
        UserError: the one that was raised there; or the process ended in another way.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", module, *words], env=environment, capture_output=True, text=True,
        errors="replace",
    )
    if done.returncode == 0:
        return
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == REFUSED and said and said[-1].startswith("error: "):
        raise UserError(said[-1].removeprefix("error: "))
    how = f"exit status {done.returncode}"
    if done.returncode < 0:
        how = signal.Signals(-done.returncode).name
    last = f": {said[-1][:300]}" if said else ""
    raise UserError(f"{what} failed, its process ended by {how}{last}")
