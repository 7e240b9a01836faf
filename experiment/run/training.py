"""One stage of a run through Keras' own ``Model.fit``, interrupted and resumed at any step.

Where it differs from ``keras.callbacks.BackupAndRestore``: a stage goes on in the middle of an
epoch with the metrics of its first part, the best weights and the history go with the state, what
was written damaged is found out, and a run can have several stages.

Epochs are counted over all stages of a run. In the history and in TensorBoard epoch 1 is the first
one, so that the number is also that of epochs done, as in the names of checkpoints.
"""

from __future__ import annotations

import csv
import io
import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from experiment.run import arrays
from experiment.run.checkpoints import Checkpoints
from experiment.run.folder import RunFolder, write_text
from experiment.run.interruption import RESUME, Interrupted, Signals
from experiment.run.progress import Progress
from experiment.run.variables import numbered, read, read_all, restore
from experiment.run.workers import Rounds
from registry import UserError

Variables = Mapping[str, Any]
HISTORY = "history.csv"
BEST = "best.npz"
_EVENTS = "logs/events.out.tfevents.*"


def write_history(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write `rows` as CSV. A column for every key, in order of appearance; empty where a row has
    none. Numbers are written so that reading them gives the same bits."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """What `write_history` wrote: numbers as float, ``epoch`` as int, empty cells left out."""

    def value(key: str, text: str) -> Any:
        if key == "stage":
            return text
        return int(text) if key == "epoch" else float(text)

    with open(path, newline="") as file:
        return [
            {key: value(key, text) for key, text in row.items() if text != ""}
            for row in csv.DictReader(file)
        ]


class _Logs:
    """The history as TensorBoard scalars.

    The history in the checkpoint is the truth: the event files of an interrupted process are
    replaced by one with all rows, so no step is there twice and none is missing.
    """

    def __init__(self, folder: RunFolder, rows: list[dict[str, Any]]):
        folder.output(_EVENTS)
        for old in folder.path.glob(_EVENTS):
            old.unlink()
        self._writer = tf.summary.create_file_writer(str(folder.path / "logs"))
        for row in rows:
            self.write(row)

    def write(self, row: dict[str, Any]) -> None:
        with self._writer.as_default(step=row["epoch"]):
            for key, value in row.items():
                if key in ("epoch", "stage"):
                    continue
                part, name = "train", key
                if key.startswith("val_"):
                    part, name = "validation", key.removeprefix("val_")
                elif key in ("learning_rate", "seconds", "images_per_second"):
                    part = "run"
                tf.summary.scalar(f"{part}/{name}", value)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def new_progress() -> dict[str, Any]:
    """Progress of a run that has not begun: what checkpoints hold besides arrays."""
    return {"epoch": 0, "step": 0, "stage": "", "history": [], "best": None, "seconds": 0.0}


def _metric_variables(model: keras.Model) -> dict[str, Any]:
    return numbered(variable for metric in model.metrics for variable in metric.variables)


def _is_better(new: Mapping[str, Any], old: Mapping[str, Any] | None) -> bool:
    """Whether an epoch is better than the best one before it: by the monitored value, of equal ones
    by the validation loss, and of those that are equal in this too the later one.

    Args:
        new, old: ``monitor``, ``value`` and ``loss`` (None where it is not known).
    """
    if not np.isfinite(new["value"]):
        return False
    if old is None or old["monitor"] != new["monitor"]:
        return True
    if new["value"] != old["value"]:
        return (new["value"] < old["value"]) == new["monitor"].endswith("loss")
    losses = [each.get("loss") for each in (new, old)]
    losses = [loss if loss is not None and np.isfinite(loss) else math.inf for loss in losses]
    return losses[0] <= losses[1]


class _Stage(keras.callbacks.Callback):
    """Saves, records and shows one stage.

    Only hooks that run in the main thread between two steps are used. ``on_train_batch_end`` is
    not: that would make Keras read all metrics after each step, and so wait for the device.
    """

    def __init__(self, *, checkpoints: Checkpoints, folder: RunFolder,
                 groups: Mapping[str, Variables], progress: dict[str, Any],
                 best_arrays: dict[str, np.ndarray], best_variables: Variables,
                 monitor: str | None, steps_per_epoch: int, images_per_epoch: int,
                 learning_rate: Callable[[int], float] | None, checkpoint_minutes: float,
                 display: Progress, signals: Signals):
        super().__init__()
        self._checkpoints = checkpoints
        self._folder = folder
        self._groups = groups
        self.progress = progress
        self.best_arrays = best_arrays
        self._best_variables = best_variables
        self._monitor = monitor
        self._steps_per_epoch = steps_per_epoch
        self._images_per_epoch = images_per_epoch
        self._learning_rate = learning_rate
        self._checkpoint_seconds = 60 * checkpoint_minutes
        self._display = display
        self._signals = signals
        self._rounds = Rounds(folder.team)
        self._logs = _Logs(folder, progress["history"])
        self._pending_metrics: dict[str, np.ndarray] | None = None
        self._start_step = 0
        self._steps_done = 0
        self._epoch_began = 0.0
        self._trained_seconds = 0.0
        self._saved_at = time.monotonic()
        self._warned_of_nan = False

    def close(self) -> None:
        self._logs.close()

    def begin_at(self, step: int, metrics: dict[str, np.ndarray] | None) -> None:
        """The next ``fit`` begins at `step` of its first epoch, with these metric states."""
        self._start_step = step
        self._pending_metrics = metrics

    # Keras' hooks

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if self._pending_metrics is not None:  # Keras has just reset the metrics
            metrics = _metric_variables(self.model)
            restore(metrics, self._pending_metrics, "metrics", self._folder.team)
            self._pending_metrics = None
        self.progress.update(epoch=epoch, step=self._start_step)
        self._steps_done = self._start_step
        self._epoch_began = time.monotonic() - self.progress["seconds"]
        self._trained_seconds = 0.0
        self._display.begin(epoch, self._start_step)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        step = self._start_step + batch
        is_time = time.monotonic() - self._saved_at >= self._checkpoint_seconds
        signal_number, is_time = self._rounds.agree(
            self.progress["epoch"] * self._steps_per_epoch + step, self._signals.received, is_time
        )
        if signal_number is not None:
            self._save_within(step)
            self._interrupt(signal_number)
        self._display.begin_step(step)
        if step > self._start_step:
            if is_time:
                self._save_within(step)
            if self._display.wants_logs():
                self._display.step(self.progress["epoch"], step, _floats(self.model))
        self._steps_done = step + 1

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.note_trained()
        executions = self.model.steps_per_execution
        if self._steps_done + executions - 1 < self._steps_per_epoch:
            raise RuntimeError(
                f"the training data ended after {self._steps_done} steps of epoch {epoch + 1}; "
                f"expected {self._steps_per_epoch} steps in each remaining epoch"
            )
        row = {"epoch": epoch + 1, "stage": self.progress["stage"], **(logs or {})}
        row["learning_rate"] = self._current_learning_rate(epoch)
        row["seconds"] = time.monotonic() - self._epoch_began
        row["images_per_second"] = self._images_per_epoch / max(self._trained_seconds, 1e-9)
        self.progress["history"].append(row)
        self._warn_of_nan(row)
        self._note_best(row)
        self.progress.update(epoch=epoch + 1, step=0, seconds=0.0)
        self._start_step = 0
        self._save({})
        write_history(self._folder.output(HISTORY), self.progress["history"])
        self._logs.write(row)
        self._display.end(epoch, row, row["images_per_second"])
        self.stop_if_asked()

    # What they are made of

    def stop_if_asked(self) -> None:
        """Between two epochs or after the last one, in all workers: all stop if one was asked."""
        step = self.progress["epoch"] * self._steps_per_epoch
        signal_number, _ = self._rounds.agree(step, self._signals.received, False, force=True)
        if signal_number is not None:
            self._interrupt(signal_number)

    def note_trained(self) -> None:
        """The epoch's steps have ended now, unless they have before."""
        if not self._trained_seconds:
            self._trained_seconds = time.monotonic() - self._epoch_began
            self._display.end_steps()

    def _current_learning_rate(self, epoch: int) -> float:
        if self._learning_rate is not None:
            return float(self._learning_rate(epoch))
        return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def _warn_of_nan(self, row: dict[str, Any]) -> None:
        """Warn once that a loss has become NaN or infinite: all further training is wasted."""
        lost = [
            name for name, value in row.items()
            if name.endswith("loss") and not np.isfinite(value)
        ]
        if lost and not self._warned_of_nan:
            self._warned_of_nan = True
            self._display.clear()
            self._report(f"warning: {', '.join(lost)} is not a finite number after epoch "
                         f"{row['epoch']}; a lower learning rate may help")

    def _report(self, line: str) -> None:
        """Print a line to stderr, of several workers once."""
        if self._folder.team.is_chief:
            print(line, file=sys.stderr, flush=True)

    def _note_best(self, row: dict[str, Any]) -> None:
        if self._monitor is None:
            return
        if self._monitor not in row:
            raise UserError(
                f"monitor {self._monitor!r} is not among the logs; known: "
                f"{', '.join(key for key in row if key not in ('epoch', 'stage'))}"
            )
        found = {
            "monitor": self._monitor, "value": row[self._monitor], "epoch": row["epoch"],
            "loss": row.get("val_loss"),
        }
        if _is_better(found, self.progress["best"]):
            self.progress["best"] = found
            self.best_arrays = {
                name: read(variable) for name, variable in self._best_variables.items()
            }
            _write_best(self._folder, self.progress["best"], self.best_arrays)

    def _save_within(self, step: int) -> None:
        """Save in the middle of an epoch, metrics included."""
        if step == 0:  # nothing of the epoch is done: the state before it is the same
            self._save({})
            return
        self.progress.update(step=step, seconds=time.monotonic() - self._epoch_began)
        self._save(read_all(_metric_variables(self.model), self._folder.team))

    def _save(self, metrics: dict[str, np.ndarray]) -> None:
        team = self._folder.team
        groups = {name: read_all(variables, team) for name, variables in self._groups.items()}
        if team.is_chief:
            self._checkpoints.save(
                self.progress, {**groups, "best": self.best_arrays, "metrics": metrics}
            )
        self._saved_at = time.monotonic()

    def _interrupt(self, signal_number: int) -> None:
        self._display.clear()
        progress = self.progress
        name = signal.Signals(signal_number).name
        place = f"after {progress['epoch']} epochs"
        if progress["step"]:
            place += f" and {progress['step']} of {self._steps_per_epoch} steps"
        self._report(f"interrupted ({name}) {place}; saved: {RESUME}")
        raise Interrupted(signal_number)


def _floats(model: keras.Model) -> dict[str, float]:
    return {
        name: float(keras.ops.convert_to_numpy(value))
        for name, value in model.get_metrics_result().items()
    }


def _write_best(folder: RunFolder, best: dict[str, Any], values: dict[str, np.ndarray]) -> None:
    arrays.save(folder.output(BEST), best, {"best": values})


def _rewrite_best(
    folder: RunFolder, progress: dict[str, Any], values: dict[str, np.ndarray]
) -> None:
    """Bring ``best.npz`` to what the checkpoint says: the file may be of an epoch that was lost."""
    path = folder.path / BEST
    if progress["best"] is None:
        path.unlink(missing_ok=True)
        return
    try:
        if arrays.load(path)[0] == progress["best"]:
            return
    except (arrays.DamagedFile, FileNotFoundError):
        pass
    _write_best(folder, progress["best"], values)


def load_best(folder: RunFolder, best_variables: Variables) -> dict[str, Any] | None:
    """Set `best_variables` to the values of the best epoch, the chief's in all workers, and return
    ``{"monitor", "value", "epoch", "loss"}``.

    None, and nothing set, where no epoch was best (no stage monitored anything, or only NaN came).

    Raises:
        UserError: the file is damaged or does not fit.
    """
    path = folder.path / BEST
    folder.team.share_file(path)
    if not path.exists():
        return None
    try:
        best, groups = arrays.load(path)
    except arrays.DamagedFile as damage:
        raise UserError(f"{path}: {damage}; remove it and run again") from None
    restore(best_variables, groups["best"], "best variables")
    return best


def _build_metrics(model: keras.Model, dataset: Any) -> None:
    """Keras makes the variables of compiled metrics at the first batch; show it one.

    To be done before anything is restored, whatever evaluating may change.
    """
    model.evaluate(dataset, steps=1, verbose=0)


def _check(first_epoch: int, last_epoch: int, steps_per_epoch: int, model: keras.Model,
           groups: Mapping[str, Variables], monitor: str | None, validated: bool) -> None:
    if monitor is not None and monitor.startswith("val_") and not validated:
        raise ValueError(f"monitor {monitor!r} without validation data; give them or monitor=None")
    if not 0 <= first_epoch <= last_epoch or steps_per_epoch < 1:
        raise ValueError(
            f"epochs {first_epoch} to {last_epoch} of {steps_per_epoch} steps; expected "
            "0 <= first_epoch <= last_epoch and steps_per_epoch >= 1"
        )
    if set(groups) != {"model", "optimizer"}:
        raise ValueError(f"groups {sorted(groups)}; expected 'model' and 'optimizer'")
    if getattr(model.optimizer, "use_ema", False):
        # Keras puts the averages in place of the weights at the end of each fit, of which an
        # interrupted epoch takes two.
        raise UserError("optimizers with use_ema=True cannot be resumed exactly; use use_ema=False")


def fit(
    model: keras.Model,
    *,
    folder: RunFolder,
    groups: Mapping[str, Variables],
    batches: Callable[[int, int], Any],
    steps_per_epoch: int,
    first_epoch: int,
    last_epoch: int,
    images_per_epoch: int,
    stage: str = "",
    validation: Any = None,
    validation_steps: int | None = None,
    monitor: str | None = "val_accuracy",
    best_variables: Variables | None = None,
    learning_rate: Callable[[int], float] | None = None,
    restore_optimizer: bool = False,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    checkpoint_minutes: float = 10.0,
    verbose: str = "auto",
) -> dict[str, Any]:
    """Train epochs ``[first_epoch, last_epoch)`` of a run, from wherever its folder says it is.

    The state is saved after each epoch, every `checkpoint_minutes` within one, and on SIGTERM or
    Ctrl-C. Called again after an interruption, with everything the same, it goes on at the very
    step. The folder gets ``checkpoints/``, ``history.csv``, ``best.npz`` and ``logs/``.

    Args:
        model: compiled, its optimizer built.
        folder: an open run folder.
        groups: ``{"model": {name: variable}, "optimizer": {name: variable}}``: all state that
            changes while training, seeds and memories included; Keras or TensorFlow variables.
            Metrics are saved without being named. The names must be the same in every process
            (see `variables.numbered`).
        batches: ``batches(epoch, step)`` gives a data set that begins at this step of this epoch
            (counted over the run, from 0) and spans at least all epochs until `last_epoch`; of
            several workers, what `devices.shared_out` gives.
        steps_per_epoch: at least 1.
        first_epoch: epochs of the stages before.
        last_epoch: epochs of the stages before and of this one.
        images_per_epoch: for the images per second.
        stage: name, for the history and the display.
        validation: batches for ``Model.evaluate`` after each epoch, likewise.
        validation_steps: how many they are; None: until they end.
        monitor: the log by which the best epoch is chosen: the smallest if its name ends in
            ``loss``, else the largest; of equal ones that of the smaller ``val_loss``, then the
            later. None: this stage has no best epoch. Another than that of the stage before begins
            anew.
        best_variables: what to save in ``best.npz`` (see `load_best`); none where None.
        learning_rate: ``learning_rate(epoch)`` for the history; the optimizer's own, after the
            epoch, where None.
        restore_optimizer: the stage goes on with the optimizer of the stage before. Otherwise it
            begins with the optimizer as given.
        callbacks: more of Keras' callbacks, called before the state is saved. Their ``epoch``
            counts over the run. What they add to ``logs`` in ``on_epoch_end`` goes into the
            history.
        checkpoint_minutes: time between two saves within an epoch.
        verbose: see `progress.Progress`.

    Returns:
        The progress of the run: ``epoch``, ``step``, ``stage``, ``history`` (a dict per epoch:
        ``epoch`` from 1, ``stage``, all logs, ``learning_rate``, ``seconds`` with validation,
        ``images_per_second`` without), ``best`` (``monitor``, ``value``, ``epoch``,
        ``loss``; or None).
        If the run is past this stage nothing is trained; at its very end the model group has been
        restored.

    Raises:
        Interrupted: asked to stop; the state is saved and one line about it printed.
        UserError: the checkpoint does not fit `groups`, or `monitor` is not among the logs.
    """
    _check(first_epoch, last_epoch, steps_per_epoch, model, groups, monitor,
           validation is not None)
    checkpoints = Checkpoints(folder)
    progress, saved = checkpoints.latest() or (new_progress(), None)
    position = (progress["epoch"], progress["step"])
    if saved is None and first_epoch > 0 or position < (first_epoch, 0):
        raise ValueError(f"the run is at epoch {position[0]}, before stage {stage!r}")
    if saved is not None and position >= (last_epoch, 0):
        _leave(folder, progress, saved, groups if position == (last_epoch, 0) else None)
        return progress
    if saved is not None:
        if not saved["metrics"].keys() <= read_all(_metric_variables(model)).keys():
            _build_metrics(model, batches(*position))
        restore(groups["model"], saved["model"], "model", folder.team)
        if position > (first_epoch, 0) or restore_optimizer:
            restore(groups["optimizer"], saved["optimizer"], "optimizer", folder.team)
        _bring_up_to_date(folder, progress, saved)
    if position > (first_epoch, 0) and verbose != "silent":
        print(f"resuming after {position[0]} epochs and {position[1]} of {steps_per_epoch} steps")
    progress["stage"] = stage
    if verbose == "auto" and folder.team.size > 1:
        verbose = "line"  # a bar reads the metrics, in which all workers take part
    display = Progress(stage, last_epoch, steps_per_epoch, images_per_epoch, verbose)
    with Signals() as signals:
        state = _Stage(
            checkpoints=checkpoints, folder=folder, groups=groups, progress=progress,
            best_arrays=saved["best"] if saved else {}, best_variables=best_variables or {},
            monitor=monitor, steps_per_epoch=steps_per_epoch, images_per_epoch=images_per_epoch,
            learning_rate=learning_rate, checkpoint_minutes=checkpoint_minutes, display=display,
            signals=signals,
        )
        try:
            # First of all: what others do when a validation begins is no training.
            clock = keras.callbacks.LambdaCallback(on_test_begin=lambda logs: state.note_trained())
            _run(model, state, [clock, *callbacks, state], batches, steps_per_epoch, position,
                 last_epoch, (validation, validation_steps), saved["metrics"] if saved else None)
            state.stop_if_asked()  # a signal may have come since the last epoch's end
        finally:
            state.close()
    return progress


def _leave(
    folder: RunFolder, progress: dict[str, Any], saved: Any, groups: Mapping[str, Variables] | None
) -> None:
    """Leave a stage that the run has behind it; `groups` are restored where it is at its end."""
    if groups is not None:
        restore(groups["model"], saved["model"], "model", folder.team)
        _Logs(folder, progress["history"]).close()  # may lack the last epoch
    _bring_up_to_date(folder, progress, saved)


def _bring_up_to_date(folder: RunFolder, progress: dict[str, Any], saved: Any) -> None:
    """Files that are made from the checkpoint may be of a moment before or after it."""
    _rewrite_best(folder, progress, saved["best"])
    if progress["history"]:
        write_history(folder.output(HISTORY), progress["history"])


def _run(model: keras.Model, state: _Stage, callbacks: list[keras.callbacks.Callback],
         batches: Callable[[int, int], Any], steps_per_epoch: int,
         position: tuple[int, int], last_epoch: int, validation: tuple[Any, int | None],
         metrics: dict[str, np.ndarray] | None) -> None:
    """``Model.fit``; an epoch of which a part is done takes one of its own, being shorter."""
    epoch, step = position

    def keras_fit(until: int, steps: int) -> None:
        model.fit(batches(epoch, step), epochs=until, initial_epoch=epoch, steps_per_epoch=steps,
                  validation_data=validation[0], validation_steps=validation[1],
                  callbacks=callbacks, verbose=0, shuffle=False)

    if step:
        state.begin_at(step, metrics)
        keras_fit(epoch + 1, steps_per_epoch - step)
        epoch, step = epoch + 1, 0
    if epoch < last_epoch:
        keras_fit(last_epoch, steps_per_epoch)
