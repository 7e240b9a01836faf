import csv
import importlib.util
import os
import signal
import subprocess
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiment.run import arrays, training
from experiment.run.checkpoints import Checkpoints
from experiment.run.folder import RunFolder
from experiment.run.interruption import Interrupted
from experiment.run.variables import numbered, read, read_all, restore
from registry import UserError
from tests.warm_python import warm_python

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}


def load_tiny_run():
    spec = importlib.util.spec_from_file_location("tiny_run", HERE / "tiny_run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny_run = load_tiny_run()


def call(folder, *trouble):
    command = [warm_python(), HERE / "tiny_run.py", folder, *map(str, trouble)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=folder)


def columns_but_times(folder):
    with open(folder / "history.csv") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items()
             if key not in ("seconds", "images_per_second")} for row in rows]


def events(folder):
    """``[(tag, step)]`` of all scalars under ``logs/``."""
    found = []
    for path in (folder / "logs").glob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            found += [(value.tag, event.step) for value in event.summary.value]
    return found


def assert_same(left, right):
    about, groups = left
    other_about, other_groups = right
    assert about == other_about
    assert groups.keys() == other_groups.keys()
    for group in groups:
        assert groups[group].keys() == other_groups[group].keys()
        for name, array in groups[group].items():
            assert array.dtype == other_groups[group][name].dtype
            assert array.tobytes() == other_groups[group][name].tobytes(), (group, name)


@pytest.mark.slow
def test_killed_anywhere_and_run_again_is_never_killed(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    assert call(whole).returncode == 0

    assert call(cut, 0, 4, "kill").returncode == -signal.SIGKILL
    assert call(cut, 1, 0, "write").returncode == -signal.SIGKILL  # goes on at epoch 0, step 3
    stopped = call(cut, 1, 3, "terminate")
    assert stopped.returncode == 143
    assert stopped.stderr.count("interrupted (SIGTERM) after 1 epochs and 3 of 6 steps") == 1
    assert "Traceback" not in stopped.stderr
    # The best epoch's file is written, the checkpoint that says so is not; with the last whole
    # checkpoint damaged besides, the one before is used.
    assert call(cut, 3, 5, "write").returncode == -signal.SIGKILL
    latest = sorted((cut / "checkpoints").glob("0*.npz"))[-1]
    assert latest.name == "000003-000004.npz"
    latest.write_bytes(latest.read_bytes()[:-200])
    done = call(cut)
    assert done.returncode == 0
    assert "000003-000004.npz is damaged" in done.stderr

    def final(folder):
        about, groups = arrays.load(folder / "checkpoints" / "000004-000000.npz")
        for row in about["history"]:
            del row["seconds"], row["images_per_second"]
        return about, groups

    assert_same(final(whole), final(cut))
    assert_same(arrays.load(whole / "best.npz"), arrays.load(cut / "best.npz"))
    assert columns_but_times(whole) == columns_but_times(cut)
    assert [row["stage"] for row in columns_but_times(cut)] == ["s0", "s0", "s1", "s1"]
    assert sorted(events(whole)) == sorted(events(cut))
    assert len(set(events(cut))) == len(events(cut))


def test_interrupted_in_process_goes_on_and_tells_its_state(tmp_path, capsys):
    """The same by Ctrl-C at the end of an epoch; handlers are as they were afterwards."""
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    keras.utils.set_random_seed(1)
    whole, _ = tiny_run.train(tmp_path / "whole", verbose="silent", checkpoint_minutes=10)

    class CtrlC(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            os.kill(os.getpid(), signal.SIGINT)

    keras.utils.set_random_seed(1)
    with pytest.raises(Interrupted) as interruption:
        tiny_run.train(tmp_path / "cut", [CtrlC()], verbose="silent", checkpoint_minutes=10)
    assert interruption.value.exit_status == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "interrupted (SIGINT) after 1 epochs; saved: rerun the same command (without --overwrite) "
        "to resume\n"
    )
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    names = [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()]
    assert names == ["000001-000000.npz"]

    class CtrlCAtLast(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        tiny_run.train(tmp_path / "cut", [CtrlCAtLast()], verbose="silent", checkpoint_minutes=10)
    assert "interrupted (SIGINT) after 2 epochs; saved" in capsys.readouterr().err

    resumed, model = tiny_run.train(tmp_path / "cut", verbose="silent", checkpoint_minutes=10)
    for row, expected in zip(resumed["history"], whole["history"], strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    again, restored = tiny_run.train(tmp_path / "cut", verbose="silent")
    assert again == resumed
    for left, right in zip(model.variables, restored.variables, strict=True):
        np.testing.assert_array_equal(read(left), read(right))


def test_what_others_do_before_a_validation_is_no_training(tmp_path):
    class Slow(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_test_begin(self, logs=None):
            time.sleep(self.epoch == 3)  # the last, in which nothing compiles

    progress, _ = tiny_run.train(
        tmp_path / "run", [Slow()], verbose="silent", checkpoint_minutes=10
    )
    last = progress["history"][3]
    assert last["seconds"] > 1 and last["images_per_second"] > tiny_run.IMAGES


def test_history_and_best_are_right(tmp_path, monkeypatch):
    """Against Keras' own history and a count by hand."""
    progress, model = tiny_run.train(tmp_path / "run", verbose="silent")
    rows = training.read_history(tmp_path / "run" / "history.csv")
    assert rows == progress["history"]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["learning_rate"] == np.float32(0.05)
    accuracies = [row["val_accuracy"] for row in rows]
    best = max(range(4), key=lambda i: (accuracies[i], -rows[i]["val_loss"], i))
    expected = {
        "monitor": "val_accuracy", "value": accuracies[best], "epoch": best + 1,
        "loss": rows[best]["val_loss"],
    }
    assert progress["best"] == expected
    with RunFolder(tmp_path / "run") as folder:
        assert training.load_best(folder, numbered(model.variables)) == expected
    x, y = tiny_run.images()
    model.compile(metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")], loss="mse")
    accuracy = np.mean(np.argmax(model.predict(x, verbose=0), axis=1) == y)
    assert accuracy == pytest.approx(accuracies[best])


def test_a_run_killed_after_its_last_checkpoint_gets_its_last_epoch_in_tensorboard(tmp_path):
    tiny_run.train(tmp_path / "run", verbose="silent")
    (tmp_path / "run/summary.json").unlink()
    for file in (tmp_path / "run/logs").iterdir():
        file.unlink()
    tiny_run.train(tmp_path / "run", verbose="silent")
    (file,) = (tmp_path / "run/logs").iterdir()
    logged = EventAccumulator(str(file)).Reload().Tensors("train/loss")
    assert [event.step for event in logged] == [1, 2, 3, 4]


def epoch(value, loss=None, monitor="val_accuracy"):
    return {"monitor": monitor, "value": value, "loss": loss}


@pytest.mark.parametrize(
    ("new", "old", "better"),
    [
        (epoch(0.5), None, True),
        (epoch(np.nan), None, False),
        (epoch(0.6, 2.0), epoch(0.5, 1.0), True),
        (epoch(0.4, 0.1), epoch(0.5, 1.0), False),
        (epoch(0.5, 0.9), epoch(0.5, 1.0), True),
        (epoch(0.5, 1.1), epoch(0.5, 1.0), False),
        (epoch(0.5, 1.0), epoch(0.5, 1.0), True),
        (epoch(0.5), epoch(0.5), True),
        (epoch(0.5, np.nan), epoch(0.5, 1.0), False),
        (epoch(0.4, monitor="val_loss"), epoch(0.5, monitor="val_loss"), True),
        (epoch(0.6, monitor="val_loss"), epoch(0.5, monitor="val_loss"), False),
        (epoch(0.1), epoch(0.5, monitor="val_loss"), True),
    ],
)
def test_of_equal_epochs_that_of_the_lower_loss_then_the_later_is_best(new, old, better):
    assert training._is_better(new, old) == better


def small(tmp_path, **changes):
    """`fit` of a linear model on two batches, with what `changes` says."""
    x, y = np.eye(4, dtype=np.float32), np.arange(4, dtype=np.float32)[:, None]
    model = changes.pop("model", None) or keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(1)]
    )
    optimizer = changes.pop("optimizer", None) or keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "mse")
    arguments = {
        "batches": lambda *_: tf.data.Dataset.from_tensor_slices((x, y)).batch(2).repeat(9),
        "steps_per_epoch": 2, "first_epoch": 0, "last_epoch": 2, "images_per_epoch": 4,
        "monitor": "loss", "verbose": "silent",
        "groups": {"model": numbered(model.variables),
                   "optimizer": numbered(optimizer.variables)},
        **changes,
    }
    with RunFolder(tmp_path / "run") as folder:
        folder.open({})
        return training.fit(model, folder=folder, **arguments)


def test_smallest_loss_is_best_and_callable_rate_is_logged(tmp_path):
    progress = small(tmp_path, learning_rate=lambda epoch: 10.0 + epoch)
    rows = progress["history"]
    assert rows[1]["loss"] < rows[0]["loss"]
    assert progress["best"]["epoch"] == 2
    assert [row["learning_rate"] for row in rows] == [10.0, 11.0]


def test_a_loss_that_is_no_number_is_told_once(tmp_path, capsys):
    small(tmp_path, optimizer=keras.optimizers.SGD(1e30), last_epoch=4)
    told = capsys.readouterr().err
    assert told.startswith("warning: loss is not a finite number after epoch ")
    assert told.count("\n") == 1
    small(tmp_path / "well", last_epoch=2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("changes", "kind", "message"), [
    ({"monitor": "acuracy"}, UserError, "monitor 'acuracy' is not among the logs; known: loss"),
    ({"monitor": "val_loss"}, ValueError, "without validation data"),
    ({"optimizer": keras.optimizers.Adam(use_ema=True)}, UserError, "use_ema"),
    ({"first_epoch": 1}, ValueError, "before stage"),
    ({"steps_per_epoch": 0}, ValueError, "steps_per_epoch"),
    ({"groups": {"model": {}}}, ValueError, "expected 'model' and 'optimizer'"),
    ({"steps_per_epoch": 99}, RuntimeError, "ended after 1[89] steps"),
])
@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_mistakes(tmp_path, changes, kind, message):
    with pytest.raises(kind, match=message):
        small(tmp_path, **changes)


def test_checkpoint_of_another_network_is_refused(tmp_path):
    small(tmp_path, last_epoch=1)
    other = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1, use_bias=False)])
    with pytest.raises(UserError, match="does not fit the model: it has 2 variables, expected 1"):
        small(tmp_path, model=other)


def test_restore_is_all_or_nothing():
    kernel, bias = tf.Variable([1.0, 2.0]), tf.Variable([3])
    saved = {"0000": np.float32([5, 6]), "0001": np.float32([7])}
    with pytest.raises(UserError, match=r"'0001' is float32\[1\] there, expected int32\[1\]"):
        restore(numbered([kernel, bias]), saved, "model")
    assert kernel.numpy().tolist() == [1, 2]


def test_low_precision_and_seed_variables_survive(tmp_path):
    half = keras.Variable(np.float32([1.0 / 3, 1e30]), dtype="bfloat16")
    seed = tf.Variable(np.uint32([4_000_000_000, 7]))
    before = [read(half), read(seed)]
    with RunFolder(tmp_path / "run") as folder:
        folder.open({})
        checkpoints = Checkpoints(folder)
        checkpoints.save({"epoch": 0, "step": 1}, {"model": read_all({"a": half, "b": seed})})
        half.assign([0.0, 0.0])
        seed.assign(np.uint32([0, 0]))
        restore({"a": half, "b": seed}, checkpoints.latest()[1]["model"], "model")
    assert str(before[0].dtype) == "bfloat16" and before[1].dtype == np.uint32
    assert [read(half).tobytes(), read(seed).tobytes()] == [array.tobytes() for array in before]


MIRRORED = """
import sys, keras, numpy as np, tensorflow as tf
import importlib.util
spec = importlib.util.spec_from_file_location("tiny_run", sys.argv[2])
tiny_run = importlib.util.module_from_spec(spec); spec.loader.exec_module(tiny_run)
from experiment.run import devices
from experiment.run.interruption import Interrupted
from experiment.run.variables import read
from tests.virtual_devices import split_cpu
split_cpu(2)
devices.prepare(5, deterministic=True)
strategy = devices.strategy("mirrored")
assert devices.replicas(strategy) == 2
assert devices.strategy("auto") is tf.distribute.get_strategy()
def train(name, trouble=()):
    keras.utils.set_random_seed(5)
    return tiny_run.train(sys.argv[1] + "/" + name, trouble, strategy, 10, "silent")
whole, model = train("whole")
try:
    train("cut", [tiny_run.Trouble(1, 3, "terminate")])
except Interrupted as stop:
    print("stopped", stop)
cut, resumed = train("cut")
for left, right in zip(model.variables, resumed.variables, strict=True):
    np.testing.assert_array_equal(read(left), read(right))
for left, right in zip(whole["history"], cut["history"], strict=True):
    times = ("seconds", "images_per_second")
    assert all(left[key] == right[key] for key in left if key not in times), (left, right)
print("same")
"""


@pytest.mark.slow
def test_interrupted_under_mirrored_strategy(tmp_path):
    done = subprocess.run(
        [warm_python(), "-c", MIRRORED, tmp_path, HERE / "tiny_run.py"],
        capture_output=True, text=True, env=ENVIRONMENT,
    )
    assert done.stdout.split("\n")[-3:] == ["stopped SIGTERM", "same", ""], done.stderr[-2000:]
