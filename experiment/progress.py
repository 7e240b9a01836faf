"""What a person sees while a stage trains: a bar in a terminal, else one line an epoch."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

_REFRESH_SECONDS = 0.5
_BAR = 10


def _value(value: float) -> str:
    """Four significant digits at most, in at most nine characters."""
    return f"{value:.2e}" if value and not 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def shown_metrics(logs: Mapping[str, float]) -> list[str]:
    """Parts ``name value`` of `logs`: accuracy, loss parts (the total only where there are no
    parts), then the same on validation data. ``_loss`` is left out of the names of parts."""
    parts = []
    losses = [name for name in logs if name.endswith("_loss") and not name.startswith("val_")]
    for name in [*(losses or ["loss"]), "accuracy", "val_accuracy"]:
        if name in logs:
            parts.append(f"{name.removesuffix('_loss')} {_value(logs[name])}")
    return parts


def fit_line(head: str, parts: Sequence[str], tail: str, width: int) -> str:
    """`head`, as many of `parts` as there is room for, and `tail`, in at most `width` columns."""
    for count in range(len(parts), -1, -1):
        line = "  ".join(part for part in (head, *parts[:count], tail) if part)
        if len(line) <= width:
            return line
    return line[:width]


class Progress:
    """Shows how far a stage is.

    Args:
        stage: its name, shown before the epochs; "" for none.
        last_epoch: number of epochs of the run after which the stage ends.
        steps_per_epoch: steps of one epoch.
        images_per_epoch: images of one epoch.
        mode: ``"bar"``: refreshed in place while an epoch runs, and a line at its end;
            ``"line"``: only the line; ``"silent"``; ``"auto"``: a bar in a terminal, else lines.
        stream: where to write; stdout where None.
    """

    def __init__(self, stage: str, last_epoch: int, steps_per_epoch: int, images_per_epoch: int,
                 mode: str = "auto", stream: TextIO | None = None):
        if mode not in ("auto", "bar", "line", "silent"):
            raise ValueError(f"mode {mode!r}; expected auto, bar, line or silent")
        self._stream = stream or sys.stdout
        self._mode = mode
        if mode == "auto":
            self._mode = "bar" if self._stream.isatty() else "line"
        self._stage = f"{stage} " if stage else ""
        self._last_epoch = last_epoch
        self._steps = steps_per_epoch
        self._images = images_per_epoch
        self._shown = 0.0
        self._started = (0, 0.0)  # step and time at which this process began to count

    @property
    def width(self) -> int:
        """Columns of a line; one less than the terminal has, lest it wraps."""
        return shutil.get_terminal_size((80, 24)).columns - 1

    def _head(self, epoch: int) -> str:
        digits = len(str(self._last_epoch))
        return f"{self._stage}{epoch + 1:{digits}d}/{self._last_epoch}"

    def begin(self, epoch: int, step: int) -> None:
        """Epoch number `epoch` (from 0) begins or goes on at `step`."""
        self._started = (step, time.monotonic())

    def wants_logs(self) -> bool:
        """Whether it is time to show something (reading metrics waits for the device)."""
        return self._mode == "bar" and time.monotonic() - self._shown >= _REFRESH_SECONDS

    def step(self, epoch: int, step: int, logs: Mapping[str, float]) -> None:
        """`step` steps of the epoch are done; `logs` are its metrics until now."""
        self._shown = time.monotonic()
        begun, since = self._started
        steps_per_second = (step - begun) / max(self._shown - since, 1e-9)
        filled = _BAR * step // self._steps
        head = f"{self._head(epoch)} [{'=' * filled}{' ' * (_BAR - filled)}]"
        tail = ""
        if step > begun:
            left = (self._last_epoch - epoch) * self._steps - step
            images = steps_per_second * self._images / self._steps
            tail = f"{images:.0f} images/s  {_duration(left / steps_per_second)} left"
        self._write("\r" + fit_line(head, shown_metrics(logs), tail, self.width).ljust(self.width))

    def end(self, epoch: int, logs: Mapping[str, float], images_per_second: float) -> None:
        """The epoch is done, validation included."""
        if self._mode == "silent":
            return
        tail = f"{images_per_second:.0f} images/s"
        if self._mode == "bar":
            line = fit_line(self._head(epoch), shown_metrics(logs), tail, self.width)
            self._write(f"\r{line.ljust(self.width)}\n")
        else:
            self._write("  ".join([self._head(epoch), *shown_metrics(logs), tail]) + "\n")

    def clear(self) -> None:
        """Leave an unfinished bar's line, so that something else can be printed."""
        if self._mode == "bar" and self._shown:
            self._write("\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
