"""Being asked to stop: SIGTERM (a scheduler) and SIGINT (Ctrl-C) while training."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, has saved its state and can be gone on with.

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
    """While entered, SIGTERM and SIGINT are only noted in `received`, to be acted on at a good
    moment. A second one does what it did before: Ctrl-C twice ends the process at once.

    In other threads than the main one Python has no signal handlers, and nothing is noted.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)
