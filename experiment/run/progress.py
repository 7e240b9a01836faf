"""What is shown while a stage trains: a line that is refreshed in a terminal, else one line an
epoch."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from experiment.run.durations import duration

_REFRESH_SECONDS = 0.5
_LEFT_OUT = "..."


def _value(value: float) -> str:
    """Three significant digits; the width stays the same while a value changes little."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:#.3g}".removesuffix(".") if abs(value) < 1000 else f"{value:.0f}"


def shown_metrics(logs: Mapping[str, float]) -> list[str]:
    """Parts ``name value`` of `logs`: accuracy, that on validation data as ``val``, and the loss
    parts without ``_loss`` in their names (the total only where there is no main loss)."""
    losses = [name for name in logs if name.endswith("_loss") and not name.startswith("val_")]
    losses.sort(key=lambda name: (name != "main_loss", name))  # Keras sorts some logs, some not
    shown = {"accuracy": "accuracy", "val_accuracy": "val", "loss": "loss"}
    if "main_loss" in losses:
        del shown["loss"]
    shown.update({name: name.removesuffix("_loss") for name in losses})
    return [f"{short} {_value(logs[name])}" for name, short in shown.items() if name in logs]


def fit_line(head: str, parts: Sequence[str], tail: str, width: int) -> str:
    """`head`, as many of `parts` as there is room for, and `tail`, in at most `width` columns;
    closer together before one is left out, for which `_LEFT_OUT` stands."""
    for count in range(len(parts), -1, -1):
        shown = [*parts[:count], *([_LEFT_OUT] if count < len(parts) else [])]
        for gap in ("  ", " "):
            line = gap.join(part for part in (head, *shown, tail) if part)
            if len(line) <= width:
                return line
    return line[:width]


def wrap_line(parts: Sequence[str], width: int = 80) -> str:
    """All of `parts`, in as few lines of at most `width` columns as they need; no part is broken
    unless it is longer than a line."""
    lines = [""]
    for part in parts:
        joined = f"{lines[-1]}  {part}" if lines[-1] else part
        if len(joined) <= width or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(f"    {part}")
    return "\n".join(lines)


class Progress:
    """Shows how far a stage is.

    Args:
        stage: its name, shown before the epochs; "" for none.
        last_epoch: number of epochs of the run after which the stage ends.
        steps_per_epoch: steps of one epoch.
        images_per_epoch: images of one epoch.
        mode: ``"bar"``: a line refreshed in place while an epoch runs, and one at its end;
            ``"line"``: only the latter; ``"silent"``; ``"auto"``: bar in a terminal, else line.
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
        self._started = (0, 0.0)  # step and time from which steps of this epoch are counted
        self._compiled = False  # whether this process has done a step, which is compiled first
        self._epoch_seconds: float | None = None  # of the last epoch that tells

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

    def begin_step(self, step: int) -> None:
        """`step` steps of the epoch are done. Time is counted from the process's second step on, as
        the first is compiled, which can take longer than the rest of the epoch."""
        if not self._compiled and step > self._started[0]:
            self._compiled = True
            self._started = (step, time.monotonic())

    def end_steps(self) -> None:
        """The epoch's steps are done, and what follows, its validation, may be compiled too."""
        step, began = self._started
        if self._compiled and 0 < step < self._steps:
            self._epoch_seconds = (time.monotonic() - began) * self._steps / (self._steps - step)

    def wants_logs(self) -> bool:
        """Whether it is time to show something (reading metrics waits for the device)."""
        return self._mode == "bar" and time.monotonic() - self._shown >= _REFRESH_SECONDS

    def step(self, epoch: int, step: int, logs: Mapping[str, float]) -> None:
        """`step` steps of the epoch are done; `logs` are its metrics until now."""
        self._shown = time.monotonic()
        begun, since = self._started
        steps_per_second = (step - begun) / max(self._shown - since, 1e-9)
        head = f"{self._head(epoch)} {100 * step // self._steps:3d}%"
        speed = left = ""
        if step > begun:
            steps_left = (self._last_epoch - epoch) * self._steps - step
            speed = f"{steps_per_second * self._images / self._steps:.0f} images/s"
            left = f"  {duration(steps_left / steps_per_second)} left"
        parts = shown_metrics(logs)
        line = fit_line(head, parts, speed + left, self.width)
        # All parts matter more than the time that is left, some of them less.
        without = fit_line(head, parts, speed, self.width)
        if _LEFT_OUT in line and _LEFT_OUT not in without:
            line = without
        self._write("\r" + line.ljust(self.width))

    def end(self, epoch: int, logs: Mapping[str, float], images_per_second: float) -> None:
        """The epoch is done, validation included."""
        if self._mode == "silent":
            return
        tail = f"{images_per_second:.0f} images/s"
        if self._mode == "bar":
            line = fit_line(self._head(epoch), shown_metrics(logs), tail, self.width)
            self._write(f"\r{line.ljust(self.width)}\n")
        else:
            parts = [self._head(epoch), *shown_metrics(logs), tail, self._left_after(epoch)]
            self._write(wrap_line([part for part in parts if part]) + "\n")

    def _left_after(self, epoch: int) -> str:
        """The time that the stage's remaining epochs take if they take as long as the last one that
        was trained in full, or as the steps of the one that was compiled."""
        step, began = self._started
        if self._compiled and step == 0:
            self._epoch_seconds = time.monotonic() - began
        self._compiled = True
        epochs = self._last_epoch - epoch - 1
        if not epochs or self._epoch_seconds is None:
            return ""
        return f"{duration(epochs * self._epoch_seconds)} left"

    def clear(self) -> None:
        """Leave an unfinished bar's line, so that something else can be printed."""
        if self._mode == "bar" and self._shown:
            self._write("\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
