"""Being asked to stop: SIGTERM (a scheduler) and SIGINT (Ctrl-C) while training."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

COPY_SECONDS = 2.0
"""A second SIGTERM so soon is a copy: a scheduler sends it to all processes of a job, and a grid,
which gets it too, passes it on to its runs. Who presses Ctrl-C twice means it."""
RESUME = "rerun the same command (without --overwrite) to resume"
"""What to do after an interruption. With the flag, the command would begin anew."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, has saved its state and can be resumed.

    A KeyboardInterrupt, so that whatever lets Ctrl-C through lets this through, a loop over runs
    with ``except Exception`` included. Scripts end with `exit_status`, 128 + the signal's number
    as shells have it (130 for Ctrl-C, 143 for SIGTERM), so that ``train && evaluate`` does not go
    on with a run that is not finished.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number

    @property
    def exit_status(self) -> int:
        """Exit status of a process that this ended."""
        return 128 + self.signal_number


class Signals:
    """While entered, the first SIGTERM or SIGINT is only noted in `received`, to be acted on at a
    good moment. A second one, unless it is a copy (see `COPY_SECONDS`), ends the process at once,
    after one line on stderr: files are written so that a process may end at any moment.

    In other threads than the main one Python has no signal handlers, and nothing is noted.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._received_at = number, time.monotonic()
            return
        soon = time.monotonic() - self._received_at < COPY_SECONDS
        if number == self.received == signal.SIGTERM and soon:
            return
        # No buffered stream: the signal may have come while that was being written to.
        name = signal.Signals(number).name
        text = f"ended at once ({name}); {RESUME}\n"
        os.write(sys.__stderr__.fileno(), text.encode())
        os._exit(128 + number)
