"""The script as a person at the keyboard sees it: what it prints, writes, refuses and leaves."""

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dataloader
import nets
import pretext
import pretrain_tte
from experiment.command.main import run
from experiment.command.options import compared
from experiment.grid.reports import join
from experiment.grid.runs import LOG
from experiment.run import arrays
from experiment.run.folder import DATA, RunFolder
from experiment.run.training import read_history
from registry import UserError
from settings import pretraining
from targets.target import Material
from tests.commands import own_flags, script_caller
from tests.processes import (
    assert_alone,
    assert_same_run,
    everything_in,
    flags_by_group,
    start,
    stop_at,
    with_times,
)
from tests.targets import small
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "pretrain_tte.py"
SMALL = ("--net=MobileNet_student", "--net_options=width=8,first=8")
FEW_LAYERS = "--encoder_model={files}/own.keras"
TASKS = ("reconstruction", "rotation", "jigsaw", "instance")
CLASSES = 4
SIZE = 20
QUICK_TARGETS = (
    "--fine_tuning_steps=2", "--fractions=0.5", "--detection_steps=2", "--metric_steps=2",
)


@pytest.fixture
def script(monkeypatch, capsys):
    """Call the script within this process: ``script(*arguments)`` gives status, out and err."""

    def begin():
        run(pretrain_tte.main, pretraining.read_settings(pretrain_tte.__doc__))

    call = script_caller("pretrain_tte.py", begin, monkeypatch, capsys)

    def without_warning(*arguments):
        done = call(*arguments)
        done.err = without_collapse(done.err)
        return done

    return without_warning


def images(count, size=SIZE, channels=3, seed=0):
    coarse = np.random.default_rng(seed).uniform(0, 255, (count, 4, 4, channels))
    return tf.image.resize(coarse, (size, size)).numpy().astype(np.uint8)


def save_data(path, **changed):
    labels = np.arange(40) % CLASSES
    content = {
        "x_train": images(40), "y_train": labels, "x_test": images(12, seed=1),
        "y_test": labels[:12], **changed,
    }
    np.savez(path, **content)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with whatever may be given to the script, good and bad."""
    folder = tmp_path_factory.mktemp("files")
    save_data(folder / "good.npz")
    save_data(folder / "grey.npz", x_train=images(40, channels=1), x_test=images(12, channels=1))
    colourless = [images(count, channels=1).repeat(3, axis=-1) for count in (40, 12)]
    save_data(folder / "colourless.npz", x_train=colourless[0], x_test=colourless[1])
    save_data(folder / "tiny.npz", x_train=images(40, size=14), x_test=images(12, size=14))
    save_data(folder / "two.npz", y_train=np.arange(40) % 2, y_test=np.arange(12) % 2)
    (folder / "text.keras").write_text("This is no network.\n")
    image = keras.Input((SIZE, SIZE, 3))
    maps = keras.layers.Conv2D(8, 3, strides=2, name="one", use_bias=False)(image)
    maps = keras.layers.ReLU()(keras.layers.BatchNormalization()(maps))
    keras.Model(image, maps, name="own").save(folder / "own.keras")
    frozen = keras.Model(image, maps, name="frozen")
    frozen.trainable = False
    frozen.save(folder / "frozen.keras")
    image = keras.Input((32, 32, 3))
    keras.Model(image, keras.layers.Conv2D(8, 3)(image)).save(folder / "larger.keras")
    image = keras.Input((SIZE, SIZE, 1))
    keras.Model(image, keras.layers.Conv2D(8, 3)(image)).save(folder / "grey.keras")
    image = keras.Input((SIZE, SIZE, 3))
    logits = keras.layers.Dense(4)(keras.layers.Flatten()(image))
    keras.Model(image, logits).save(folder / "no_maps.keras")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.tex").write_text("mine")
    return folder


ONE = ("--tasks=rotation",)
MISTAKES = {
    "task": (["--tasks=rotaton,jigsaw"], "unknown pretext task 'rotaton'", "mean 'rotation'"),
    "no task": (["--tasks="], "no task", "known:", "jigsaw"),
    "task twice": (["--tasks=jigsaw,Jigsaw(tiles=2)"], "given twice"),
    "balance": (["--balance=scal"], "did you mean 'scale'"),
    "regularizer": (["--regularizer=tripel"], "did you mean 'triplet'"),
    "ensemble": (["--ensemble=temporl"], "did you mean 'temporal'"),
    "one task": (
        [*ONE], "--regularizer triplet and --ensemble temporal compare tasks and need at least 2",
        "--tasks rotation names 1", "or give --regularizer none --ensemble none",
    ),
    "one task, regularizer": ([*ONE, "--ensemble=none"], "or give --regularizer none"),
    "one task, ensemble": ([*ONE, "--regularizer=none", "--ensemble=both"], "--ensemble both"),
    "one task, balance": (
        [*ONE, "--regularizer=none", "--ensemble=none", "--balance=pcgrad"], "--balance pcgrad",
    ),
    "tasks of images, compiled": (
        ["--tasks_per_image=2", "--regularizer=none", "--jit_compile"], "--jit_compile needs the",
    ),
    "tasks of which images have different ones": (
        ["--tasks_per_image=2", "--regularizer=relational"], "so all images take part in all tasks",
    ),
    "more tasks an image than tasks": (["--tasks_per_image=5"], "names 4; expected at most 4"),
    "one task an image, regularizer": (
        ["--tasks_per_image=1"], "--regularizer triplet compares at least 2 tasks' embeddings",
        "or --regularizer none",
    ),
    "two balances": (["--balance=scale,none"], "--balance is 'scale,none'; expected one of"),
    "unknown setting": (["--tasks=rotation,jigsaw(tilse=3)"], "did you mean 'tiles'"),
    "setting of another type": (["--tasks=rotation,jigsaw(tiles=2.5)"], "must be a whole number"),
    "folders without scenes": (["--images=x"], "give --scenes voc:DIR"),
    "colorization of grey": (
        ["--dataset=npz:{files}/grey.npz", "--tasks=colorization,rotation", "--targets="],
        "colorization needs colour images (3 channels), not 1",
    ),
    "colorization of colourless": (
        ["--dataset=npz:{files}/colourless.npz", "--tasks=colorization,rotation"],
        "these are grey although they have 3 channels",
    ),
    "small tiles": (["--dataset=npz:{files}/tiny.npz"], "14x14", "8x8 are needed", "jigsaw"),
    "task's setting": (["--instance_temperature=-1"], "temperature must be above 0, not -1"),
    "task's setting nan": (["--instance_temperature=nan"], "a finite number, not nan"),
    "task's setting, no number": (["--inpainting_largest=big"], "inpainting_largest", "big"),
    "decay": (["--memory_decay=1"], "memory_decay must be from 0 to 0.9999, not 1.0"),
    "temperature": (["--ensemble_temperature=0"], "must be above 0"),
    "weight": (["--regularizer_weight=-1"], "must be at least 0"),
    "weight nan": (["--ensemble_weight=nan"], "must be a finite number"),
    "margin": (["--triplet_margin=5"], "triplet: margin must be from 0 to 4, not 5.0"),
    "memory dtype": (["--memory_dtype=float8"], "expected one of float32, float16"),
    "net": (["--net=MobilNet_student"], "did you mean 'MobileNet_student'"),
    "option": (["--net_options=widht=8"], "no option 'widht' (did you mean 'width'?)"),
    "net and model": (["--encoder_model={files}/own.keras"], "give only one"),
    "no model": (["--net=", "--net_options=", "--encoder_model={files}/none.keras"],
                 "none.keras does not exist"),
    "no network": (["--net=", "--net_options=", "--encoder_model={files}/text.keras"],
                   "text.keras"),
    "larger model": (["--net=", "--net_options=", "--encoder_model={files}/larger.keras"],
                     "takes images of 32x32x3", "has 20x20x3", "--image_size"),
    "frozen model": (["--net=", "--net_options=", "--encoder_model={files}/frozen.keras"],
                     "has nothing to train", "trainable=False"),
    "grey model": (["--net=", "--net_options=", "--encoder_model={files}/grey.keras"],
                   "takes images of 20x20x1", "has 20x20x3"),
    "model without maps": (["--net=", "--net_options=", "--encoder_model={files}/no_maps.keras"],
                           "no feature map"),
    "target": (["--targets=clasification"], "did you mean 'classification'"),
    "two classes": (
        ["--dataset=npz:{files}/two.npz", "--train_classes=seen"], "need two in each half",
        "--train_classes all",
    ),
    "detection in grey": (
        ["--dataset=npz:{files}/grey.npz"], "--targets classification,clustering",
    ),
    "epochs": (["--epochs=0"], "must be at least 1"),
    "batch": (["--batch_size=37"], "batch of 37 images", "only 36 training images"),
    "flag": (["--task=rotation"], "Unknown command line flag 'task'. Did you mean: tasks"),
    "argument": (["rotation"], "unexpected argument 'rotation'"),
    "foreign": (["--train_dir={files}/foreign"], "holds no run (it has 'thesis.tex')"),
    "seeds": (["--seeds=0"], "must be at least 1"),
    "mistake with several seeds": (["--seeds=2", "--tasks=rotaton"], "'rotation'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_takes_one_line_and_leaves_nothing(script, files, tmp_path, monkeypatch, name):
    given, *expected = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    before = everything_in(files)
    done = script(
        *SMALL, f"--dataset=npz:{files}/good.npz", "--batch_size=16",
        *(argument.replace("{files}", str(files)) for argument in given),
    )
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert (done.status, done.out) == (2, "")
    for part in expected:
        assert part.replace("{files}", str(files)) in done.err
    assert not any(tmp_path.iterdir()) and everything_in(files) == before


def test_a_memory_larger_than_what_is_free(script, files, tmp_path, monkeypatch):
    data = dataloader.load(f"npz:{files}/good.npz")
    monkeypatch.setattr(pretraining.Settings, "load_data", lambda *_, **__: data)
    monkeypatch.setattr("dataloader.memory.free_memory", lambda: 100_000)
    arguments = (*SMALL, f"--dataset=npz:{files}/good.npz", f"--train_dir={tmp_path / 'run'}")
    done = script(*arguments, "--batch_size=16")
    assert done.status == 2 and done.err.count("\n") == 1
    for part in ("the temporal memory of 36 images and 4 tasks needs", "--memory_dtype float16"):
        assert part in done.err
    done = script(*arguments, "--batch_size=16", "--ensemble=weights", "--targets=", "--dry_run")
    assert (done.status, done.err) == (0, "")
    assert not any(tmp_path.iterdir())


def test_from_python_a_plan_is_printed_and_several_seeds_are_refused(files, tmp_path, capsys):
    settings = pretraining.Settings(
        dataset=f"npz:{files}/good.npz", batch_size=16, epochs=1, targets="", dry_run=True,
        net="MobileNet_student", train_dir=str(tmp_path / "run"),
    )
    assert pretrain_tte.train(settings) == {}
    assert str(tmp_path / "run") in capsys.readouterr().out
    with pytest.raises(UserError, match="one run, and seeds is 2"):
        pretrain_tte.train(dataclasses.replace(settings, seeds=2))
    assert not any(tmp_path.iterdir())


def plan_of(files, **changed):
    """Settings of a run of three tasks, and its data."""
    settings = pretraining.Settings(**{
        "dataset": f"npz:{files}/good.npz", "net": "MobileNet_student",
        "net_options": ("width=8", "first=8"), "tasks": "rotation,instance,inpainting",
        "targets": "", "batch_size": 12, "epochs": 8, **changed,
    }).spelled()
    return settings, settings.load_data(needs_classes=False)


def test_the_seed_decides_weights_and_order_and_is_that_of_the_views(files):
    def beginning(seed):
        settings, data = plan_of(files, seed=seed)
        encoder = pretrain_tte.make_encoder(settings, data)
        batches = pretrain_tte.training_batches(settings, data)
        return encoder.model.get_weights(), [np.array(batch["index"]) for batch in batches.take(3)]

    for first, again, other in zip(*map(beginning, (3, 3, 4)), strict=True):
        assert all(map(np.array_equal, first, again))
        assert not all(map(np.array_equal, first, other))
    assert pretrain_tte.make_model(*plan_of(files, seed=3)).seed == 3


def unit_vectors(images, tasks, width):
    """Vectors of length 1."""
    found = np.random.default_rng(0).normal(size=(images, tasks, width)).astype("float32")
    return tf.constant(found / np.linalg.norm(found, axis=-1, keepdims=True))


def test_the_model_trains_as_set(files):
    chosen = {"regularizer_weight": 0.3, "tasks_per_image": 2, "weight_decay": 0.02}
    temporal = {
        "memory_decay": 0.8, "memory_dtype": "float16", "ensemble_temperature": 0.3,
        "ensemble_weight": 0.7,
    }
    settings, data = plan_of(files, hyper_parameters=temporal, **chosen)
    model = pretrain_tte.make_model(settings, data)
    assert {name: getattr(model, name) for name in chosen} == chosen
    memory = model.ensemble.memory
    assert (memory.decay, memory.memory.dtype) == (0.8, "float16")
    assert memory.memory.shape[0] == len(data.train)
    weights = [float(model.ensemble.weight(tf.constant(epoch))) for epoch in range(8)]
    # The largest from a quarter of the epochs on.
    np.testing.assert_allclose(weights[2:], 0.7, rtol=1e-6)
    assert 0 < weights[1] < 0.69
    embeddings = unit_vectors(3, 2, memory.memory.shape[-1])
    index, tasks = tf.constant([4, 0, 9]), tf.constant([[0, 1], [1, 2], [0, 2]])
    memory.update(index, embeddings, tasks)
    loss, _ = model.ensemble.loss(embeddings, index, tf.constant(7), tasks)
    ensemble = tf.math.l2_normalize(tf.reduce_mean(embeddings, axis=1), axis=-1)
    logits = np.einsum("btd,jd->btj", embeddings, ensemble) / 0.3
    own = np.einsum("btb->bt", logits)
    expected = np.mean(np.log(np.exp(logits).sum(axis=-1)) - own)
    np.testing.assert_allclose(loss, 0.7 * expected, rtol=2e-3)  # the memory is in float16


@pytest.mark.parametrize("flip", [True, False])
def test_images_are_changed_as_set_before_the_tasks_and_in_them(files, monkeypatch, flip):
    settings, data = plan_of(files, flip=flip, crop_padding=3)
    found = {}
    monkeypatch.setattr(dataloader, "training_batches", lambda *_, **named: found.update(named))
    monkeypatch.setattr(
        pretrain_tte, "MultiTask", lambda encoder, tasks, images, **_: found.update(images=images)
    )
    pretrain_tte.training_batches(settings, data)
    pretrain_tte.make_model(settings, data)
    assert found["augmentation"] == dataloader.Augmentation(flip, 0.0, 3)
    assert found["epochs"] == 8
    assert found["images"].flip is flip


def test_the_optimizer_is_as_set(files, monkeypatch):
    settings, _ = plan_of(
        files, optimizer="sgd", momentum=0.7, learning_rate=0.02, schedule="cosine",
        warmup_epochs=2.0, jit_compile=True, regularizer="none", ensemble="none",
    )
    work = pretrain_tte.prepare(settings)
    monkeypatch.setattr(pretrain_tte.training, "fit", lambda *_, **named: named)
    member = SimpleNamespace(team=SimpleNamespace(is_chief=False))
    named = pretrain_tte.fit(settings, work, member)
    assert (named["last_epoch"], named["steps_per_epoch"]) == (8, 3)  # 36 images
    optimizer = work.model.optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov) == (0.7, True)
    assert work.model.jit_compile is True
    for step, rate in ((0, 0.02 / 6), (6, 0.02), (15, 0.01), (24, 0.0)):
        optimizer.iterations.assign(step)
        np.testing.assert_allclose(float(optimizer.learning_rate), rate, rtol=1e-5, atol=1e-9)


def test_dry_run_tells_the_memorys_size(script, files, tmp_path):
    arguments = (*SMALL, f"--dataset=npz:{files}/good.npz", f"--train_dir={tmp_path / 'run'}",
                 "--batch_size=16", "--dry_run")
    for dtype, size in (("float32", 4), ("float16", 2)):
        done = script(*arguments, f"--memory_dtype={dtype}")
        assert (done.status, done.err) == (0, "")
        # 36 images, 4 tasks, 128 numbers; a count of 8 bytes an image.
        expected = 36 * (4 * 128 * size + 8)
        paths = (str(tmp_path), str(files))  # which are not broken
        lines = [line for line in done.out.splitlines() if not any(map(line.count, paths))]
        assert max(map(len, lines)) <= 80
        words = " ".join(done.out.split())
        assert f"temporal memory {expected:,} bytes" in words
        for part in (f"{tmp_path / 'run'} (new)", "36 training images without labels",
                     "jigsaw (discriminative, 4 x 9x9)", "instance_temperature=0.5",
                     "triplet, weight"):
            assert part in words
    assert not any(tmp_path.iterdir())


def test_default_settings_are_named_after_what_runs():
    settings = pretraining.Settings()
    names = {
        (): "digits-VGG_stride_student-TTE-0",
        (("regularizer", "none"), ("ensemble", "none")): "digits-VGG_stride_student-plain_sum-0",
        (("ensemble", "none"), ("seed", 3)): "digits-VGG_stride_student-triplet-3",
        (("tasks", "Rotation"), ("regularizer", "none"), ("ensemble", "none")):
            "digits-VGG_stride_student-rotation-0",
        (("dataset", "npz:a/b.npz"),): "npz_a_b.npz-MobileNet_student-TTE-0",
        (("encoder_model", "a/b.keras"), ("seeds", 3)): "digits-b-TTE-3seeds",
        (("train_classes", "seen"),): "digits-VGG_stride_student-TTE-seen-0",
        (("tasks", "jigsaw,rotation"), ("regularizer", "relational")):
            "digits-VGG_stride_student-TTE-tasks=jigsaw+rotation-regularizer=relational-0",
        (("balance", "gradnorm"), ("ensemble", "none")):
            "digits-VGG_stride_student-triplet-balance=gradnorm-0",
        (("tasks_per_image", 4),): "digits-VGG_stride_student-TTE-0",
        (("tasks_per_image", 2),): "digits-VGG_stride_student-TTE-tasks_per_image=2-0",
    }
    for changed, name in names.items():
        spelled = dataclasses.replace(settings, **dict(changed)).spelled()
        assert spelled.folder() == Path("runs") / name
        assert None not in (spelled.epochs, spelled.batch_size, spelled.learning_rate)


def test_preset_of_essl():
    """Dangovski et al., ICLR 2022: the contrastive loss and 0.4 times that of rotation."""
    with own_flags(pretraining.define):
        flags.FLAGS(["pretrain_tte.py", f"--flagfile={ROOT / 'presets' / 'ESSL.flags'}"])
        settings = pretraining.given_settings()
    tasks = settings.create("tasks")
    assert [(task.name, task.weight) for task in tasks] == [("instance", 1.0), ("rotation", 0.4)]
    assert (settings.balance, settings.regularizer, settings.ensemble) == ("none",) * 3


def test_settings_are_the_same_however_they_are_written():
    """In parentheses, as hyper-parameters by flag, or left to the defaults."""
    written = [
        {"tasks": "rotation,jigsaw(tiles=3)", "balance": "gradnorm(interval=10)"},
        {"tasks": "Rotation, jigsaw", "balance": "GradNorm",
         "hyper_parameters": {"jigsaw_tiles": 3, "gradnorm_interval": "10"}},
        {"tasks": "rotation(weight=1),jigsaw(tiles=3)", "balance": "gradnorm",
         "hyper_parameters": {"jigsaw_tiles": 2, "gradnorm_interval": 10, "instance_jitter": 0.1}},
    ]
    first, *others = [compared(pretraining.Settings(**each).spelled()) for each in written]
    assert first["hyper_parameters"]["jigsaw_tiles"] == 3
    assert first["hyper_parameters"]["gradnorm_interval"] == 10
    assert all(other == first for other in others)
    again = pretraining.Settings(**written[0]).spelled().spelled()
    assert compared(again) == first
    with pytest.raises(UserError, match="jigsaw_tilse.*did you mean 'jigsaw_tiles'"):
        pretraining.Settings(hyper_parameters={"jigsaw_tilse": 3}).spelled()


def test_a_run_from_python_is_that_of_the_command_line(script, files, tmp_path, eagerly):
    words = (
        FEW_LAYERS.format(files=files), f"--dataset=npz:{files}/good.npz", "--batch_size=16",
        "--epochs=1", "--targets=", "--tasks=rotation(weight=0.5),instance",
        "--instance_jitter=0.2", "--regularizer=none",
    )
    done = script(*words, f"--train_dir={tmp_path / 'command'}")
    assert (done.status, done.err) == (0, "")
    summary = pretrain_tte.train(pretrain_tte.Settings(
        encoder_model=f"{files}/own.keras", dataset=f"npz:{files}/good.npz", batch_size=16,
        epochs=1, targets="", tasks="rotation,instance", regularizer="none",
        hyper_parameters={"rotation_weight": 0.5, "instance_jitter": 0.2},
        train_dir=str(tmp_path / "python"),
    ))
    stated = json.loads((tmp_path / "command" / "summary.json").read_text())
    for task, metrics in stated["held_out"].items():
        assert summary["held_out"][task] == pytest.approx(metrics, rel=1e-4)
    names = ("command", "python")
    written = [json.loads((tmp_path / name / "settings.json").read_text()) for name in names]
    assert written[0] == written[1]
    weights = [nets.load_encoder(tmp_path / name).model.get_weights() for name in names]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    again = script(*words, f"--train_dir={tmp_path / 'python'}")
    assert "is finished" in again.out


@pytest.mark.parametrize(
    ("given", "divisor"), [({}, 1.0), ({"encoder_preprocessing": "tf"}, 127.5)]
)
def test_an_encoder_of_ones_own_gets_the_images_that_it_takes(files, tmp_path, given, divisor):
    image = keras.Input((SIZE, SIZE, 3))
    scaled = keras.layers.Rescaling(1 / 255)(image)
    keras.Model(image, keras.layers.Conv2D(4, 3)(scaled)).save(tmp_path / "scales.keras")
    settings = pretrain_tte.Settings(
        encoder_model=f"{tmp_path}/scales.keras", dataset=f"npz:{files}/good.npz", **given
    ).spelled()
    encoder = pretrain_tte.make_encoder(settings, dataloader.load(settings.dataset))
    assert encoder.standardize.deviation == (divisor,) * 3


def test_an_encoder_for_images_of_any_size_is_counted_at_the_datas(files, tmp_path):
    image = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(4, 3, padding="same")(image)
    keras.Model(image, maps).save(tmp_path / "any.keras")
    settings = pretrain_tte.Settings(
        encoder_model=f"{tmp_path}/any.keras", dataset=f"npz:{files}/good.npz"
    ).spelled()
    data = dataloader.load(settings.dataset)
    facts = pretrain_tte.run_facts(settings, data, pretrain_tte.make_encoder(settings, data))
    assert facts["flops"] == 2 * SIZE * SIZE * 4 * 9 * 3


def test_what_is_printed_fits_into_80_columns(script, files, tmp_path, eagerly):
    done = script(
        FEW_LAYERS.format(files=files), f"--dataset=npz:{files}/good.npz", "--batch_size=16",
        "--epochs=2", "--targets=classification", *QUICK_TARGETS, "--balance=none",
        "--regularizer=relational", "--tasks=rotation,instance,reconstruction",
        f"--train_dir={tmp_path / 'run'}",
    )
    assert (done.status, done.err) == (0, "")
    paths = (str(tmp_path), str(files))  # which are not broken
    lines = [line for line in done.out.splitlines() if not any(path in line for path in paths)]
    assert max(map(len, lines)) <= 80 and "[1] TTE(tasks=rotation+instance" in done.out


def test_seen_classes_are_the_only_ones_that_the_tasks_see(script, files, tmp_path, eagerly):
    data = dataloader.load(f"npz:{files}/good.npz")
    images = pretrain_tte.pretext_images(pretraining.Settings(train_classes="seen"), data)
    assert set(images.train.labels) | set(images.validation.labels) == {0, 1}
    expected = data.train.images(np.flatnonzero(data.train.labels < 2))
    np.testing.assert_array_equal(images.train.images(range(len(images.train))), expected)
    assert images.test is data.test
    assert pretrain_tte.pretext_images(pretraining.Settings(), data) is data
    done = script(
        FEW_LAYERS.format(files=files), f"--dataset=npz:{files}/good.npz", "--batch_size=4",
        "--train_classes=seen", "--epochs=1", "--targets=classification",
        "--tasks=reconstruction,rotation", *QUICK_TARGETS, f"--train_dir={tmp_path / 'run'}",
    )
    assert (done.status, done.err) == (0, "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    # 2 tasks, 128 numbers of 4 bytes; a count of 8 bytes an image.
    assert summary["memory_bytes"] == len(expected) * (2 * 128 * 4 + 8)


@pytest.mark.parametrize(("count", "classes"), [(2000, 10), (100, 10), (513, 3)])
def test_held_out_images_are_of_all_classes_also_of_data_sorted_by_class(count, classes):
    labels = np.sort(np.arange(count) % classes)
    split = dataloader.Split.whole(
        dataloader.MemoryImages(np.zeros([count, 1, 1, 1], np.uint8)), labels
    )
    rows = split.spread(pretrain_tte.HELD_OUT_IMAGES)
    assert len(rows) == min(count, 512) and (np.diff(rows) > 0).all()
    counts = np.bincount(labels[rows], minlength=classes)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("batch_size", "replicas", "measured"), [
    (256, 1, 64), (96, 2, 48), (16, 1, 32), (64, 8, 32),
])
def test_gradients_are_measured_on_no_more_images_than_a_device_trains_on(
    monkeypatch, batch_size, replicas, measured
):
    monkeypatch.setattr(pretrain_tte.devices, "replicas", lambda strategy: replicas)
    settings = pretraining.Settings(batch_size=batch_size)
    assert pretrain_tte.measured_images(settings, None) == measured


def test_held_out_batches_are_about_equal(files):
    data = dataloader.load(f"npz:{files}/good.npz")
    work = pretrain_tte.Work(None, data, None, tf.distribute.get_strategy())
    for count, sizes in ((40, [40]), (65, [33, 32]), (129, [43, 43, 43])):
        split = data.train.take(np.arange(count) % len(data.train))
        batches, steps = pretrain_tte.shared(work, split)
        assert [len(batch["index"]) for batch in batches.take(steps)] == sizes


def test_a_run_whose_weights_are_no_numbers_is_refused(script, files, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_tte, "fit", diverge)
    refused = script(
        f"--dataset=npz:{files}/good.npz", "--tasks=rotation", "--regularizer=none",
        "--ensemble=none", "--epochs=1", "--batch_size=8", "--targets=", "--validation_fraction=0",
        f"--train_dir={tmp_path}/run",
    )
    assert refused.status == 2 and "training diverged" in refused.err
    assert not (tmp_path / "run" / "encoder.keras").exists()


def diverge(settings, work, folder):
    weight = work.model.network.trainable_variables[0]
    weight.assign(tf.fill(weight.shape, math.nan))
    return {"history": []}


@pytest.mark.parametrize(("flip", "expected"), [(None, True), (False, False)])
def test_target_tasks_mirror_images_where_tasks_do(files, flip, expected):
    settings = pretraining.Settings(
        dataset=f"npz:{files}/good.npz", batch_size=8, flip=flip
    ).spelled()
    work = pretrain_tte.prepare(settings)
    assert work.material.data.default_flip == work.images.default_flip == expected


def test_a_given_encoder_is_scored_with_its_own_batch_statistics(files, tmp_path):
    data = dataloader.load(f"npz:{files}/good.npz")
    image = keras.Input(data.image_shape)
    normalise = keras.layers.BatchNormalization()
    maps = normalise(keras.layers.Conv2D(2, 3)(image))
    normalise.moving_mean.assign([3, -4])
    keras.Model(image, keras.layers.GlobalAveragePooling2D()(maps)).save(tmp_path / "own.keras")
    settings = pretraining.Settings(encoder_model=f"{tmp_path}/own.keras")
    (mean,) = moving_means(pretrain_tte.untrained_encoder(settings, data))
    np.testing.assert_array_equal(mean, [3, -4])


def test_a_new_encoder_is_scored_with_batch_statistics_of_the_images_that_tasks_see(
    files, tmp_path
):
    content = dict(np.load(files / "good.npz"))
    content["x_train"][content["y_train"] >= 2] = 255  # of classes that are not seen
    np.savez(tmp_path / "other.npz", **content)
    data, other = (
        dataloader.load(f"npz:{path}", validation_fraction=0)
        for path in (files / "good.npz", tmp_path / "other.npz")
    )
    other = dataclasses.replace(
        other, channel_mean=data.channel_mean, channel_deviation=data.channel_deviation
    )
    for classes, are_equal in (("seen", True), ("all", False)):
        settings = pretraining.Settings(
            net="MobileNet_student", net_options=("width=8", "first=8"), train_classes=classes
        )
        one, two = (
            moving_means(pretrain_tte.untrained_encoder(settings, each)) for each in (data, other)
        )
        assert np.array_equal(np.concatenate(one), np.concatenate(two)) == are_equal


def moving_means(encoder):
    return [
        layer.moving_mean.numpy() for layer in encoder.model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


# In processes of their own

EPOCHS, STEPS = 3, 6
METHOD = "TTE(ensemble=both)"


@pytest.fixture(scope="module")
def deterministic(files):
    """The words of a run of few layers, as each of the processes traces them."""
    return (
        FEW_LAYERS.format(files=files), "--dataset=digits", f"--epochs={EPOCHS}",
        f"--train_images={40 * STEPS}", "--batch_size=40", "--image_size=20", "--deterministic",
        "--ensemble=both", "--targets=classification", "--fine_tuning_steps=2", "--fractions=0.1",
    )


def test_help_has_every_flag_once_under_its_group(tmp_path):
    out, found = flags_by_group(SCRIPT, tmp_path)
    assert out.startswith(pretrain_tte.__doc__.strip().splitlines()[0])
    expected = {
        field.name: field.metadata["group"]
        for field in dataclasses.fields(pretraining.Settings) if field.metadata
    }
    for kind in pretraining.KINDS.values():
        expected.update(dict.fromkeys(kind.flags(), kind.group))
    assert found == expected


@pytest.fixture(scope="module")
def finished(tmp_path_factory, deterministic):
    """A run from nothing to its end: folder, out and err."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    process = start(SCRIPT, *deterministic, f"--train_dir={folder}", stdout=subprocess.PIPE)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return SimpleNamespace(folder=folder, out=out, err=err)


def without_collapse(err: str) -> str:
    """What a run writes to stderr, without the warning that embeddings have not spread yet: after
    six steps they are close to its threshold, on whose side depends on the number of threads."""
    pattern = r"^warning: after epoch \d+ embeddings have collapsed, or are not spread yet: .*\n"
    return re.sub(pattern, "", err, flags=re.MULTILINE)


@pytest.mark.slow
def test_what_is_printed(finished):
    assert without_collapse(finished.err) == ""
    lines = finished.out.splitlines()
    what = f"own with {METHOD} on 240 images"
    words = " ".join(finished.out.split())
    assert words.startswith(f"pre-training {what} in {finished.folder} temporal memory: ")
    assert f"temporal memory: {240 * (4 * 128 * 4 + 8):,} bytes" in lines
    last = rf"pre-train {EPOCHS}/{EPOCHS}  loss .* ensemble .* rotation .* images/s"
    assert re.search(last, " ".join(lines))
    for name in (METHOD, "as given", "pixels"):
        assert any(line.startswith(f"{name} ") and re.search(r"\d\d\.\d\d", line) for line in lines)
    assert "linear probe" in finished.out and "k-NN" in finished.out


@pytest.mark.slow
def test_what_a_run_leaves(finished):
    written = {
        str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    (events,), (pictures,) = (
        finished.folder.glob(f"{part}events*") for part in ("logs/", "logs/pictures/")
    )
    assert written == {
        "settings.json", "data.json", "networks.json", "history.csv", "summary.json", "curves.png",
        "bias.png", "encoder.keras",
        "targets.json", "targets.png", "export/1/saved_model.pb", "export/1/fingerprint.pb",
        "export/1/variables/variables.index", "export/1/variables/variables.data-00000-of-00001",
        f"logs/{events.name}", f"logs/pictures/{pictures.name}",
        *(f"checkpoints/00000{epoch}-000000.npz" for epoch in (EPOCHS - 1, EPOCHS)),
    }
    for picture in ("curves.png", "bias.png", "targets.png"):
        pixels = imread(finished.folder / picture)
        assert min(pixels.shape[:2]) > 300 and pixels[..., :3].std() > 0.05


@pytest.mark.slow
def test_history_and_logs_have_every_figure_of_each_epoch(finished):
    rows = read_history(finished.folder / "history.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    columns = {"loss", "regularizer_loss", "ensemble_loss", "ensemble_distance", "ensemble_weight",
               "val_rotation_accuracy", "val_jigsaw_accuracy", "val_instance_retrieval_accuracy",
               "val_reconstruction_squared_error"}
    for place, task in enumerate(TASKS):
        columns |= {f"{task}_{what}" for what in (
            "loss", "factor", "gradient_norm", "deviation", "effective_rank")}
        columns |= {f"val_{task}_loss", *(f"cosine_{task}_{b}" for b in TASKS[place + 1 :])}
    for row in rows:
        assert columns < set(row)
        assert all(np.isfinite(value) for key, value in row.items() if key != "stage")
    assert rows[0]["ensemble_weight"] == rows[0]["ensemble_loss"] == 0
    assert rows[2]["ensemble_weight"] >= rows[1]["ensemble_weight"] > 0
    (file,) = (finished.folder / "logs").glob("events*")
    events = EventAccumulator(str(file)).Reload()
    for tag, column in (("train/rotation_loss", "rotation_loss"),
                        ("train/cosine_rotation_jigsaw", "cosine_rotation_jigsaw"),
                        ("validation/jigsaw_accuracy", "val_jigsaw_accuracy")):
        values = [tf.make_ndarray(event.tensor_proto) for event in events.Tensors(tag)]
        assert np.allclose(values, [row[column] for row in rows], rtol=1e-6)
    (file,) = (finished.folder / "logs" / "pictures").iterdir()
    pictures = EventAccumulator(str(file)).Reload().Tensors("reconstruction")
    assert [event.step for event in pictures] == [1, 2, 3]
    png = tf.make_ndarray(pictures[0].tensor_proto)[2]
    assert tf.io.decode_png(png).shape == (20, 60, 3)  # view, result and truth


@pytest.mark.slow
def test_the_summary_and_what_it_is_of(finished):
    summary = json.loads((finished.folder / "summary.json").read_text())
    data = dataloader.load("digits", image_size=(20, 20), train_images=240)
    assert {key: summary[key] for key in ("kind", "net", "options", "image_shape", "tasks")} == {
        "kind": "tte", "net": "own", "options": [],
        "image_shape": [20, 20, 3], "tasks": list(TASKS),
    }
    assert np.allclose(summary["preprocessing"]["mean"], data.channel_mean)
    assert summary["views"] == 8
    assert summary["settings"]["hyper_parameters"]["reconstruction_masked"] == 0.25
    for task in TASKS:
        assert set(summary["held_out"][task]) == {"loss", pretext.TASKS.get(task).metric}
        assert summary["bias"][f"{task}_gradient_norm"] > 0
    targets = json.loads((finished.folder / "targets.json").read_text())["targets"]
    assert set(targets) == set(summary["targets"]) == {METHOD, "as given", "pixels"}
    for name, figures in targets.items():
        for figure, found in figures["classification"].items():
            assert found["values"] == [summary["targets"][name]["classification"][figure]]


@pytest.mark.slow
def test_the_encoder_has_the_statistics_of_clean_training_images(finished):
    """The first batch normalisation's, in NumPy, of all training images; and the average of
    weights, which the checkpoint has."""
    encoder = nets.load_encoder(finished.folder)
    assert encoder.name == "own"
    data = dataloader.load("digits", image_size=(20, 20), train_images=240)
    standard = encoder.standardize(data.train.images(range(240)))
    first = keras.Model(encoder.model.inputs[0], encoder.model.get_layer("one").output)
    maps = first(standard).numpy().astype(np.float64)
    layer = next(
        each for each in encoder.model.layers if isinstance(each, keras.layers.BatchNormalization)
    )
    np.testing.assert_allclose(layer.moving_mean, maps.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(layer.moving_variance, maps.var((0, 1, 2)), rtol=1e-3, atol=1e-4)
    _, groups = arrays.load(finished.folder / f"checkpoints/{EPOCHS:06d}-000000.npz")
    kernel = encoder.model.get_layer("one").kernel.numpy()
    same_shape = [v for v in groups["model"].values() if v.shape == kernel.shape]
    assert len(same_shape) == 2  # the weights and their average
    assert [np.array_equal(each, kernel) for each in same_shape].count(True) == 1
    assert not np.array_equal(same_shape[0], kernel)  # the weights as they were trained


FRESH_PROCESS = """
import json, sys
import keras, numpy as np, tensorflow as tf
path, about = sys.argv[1], json.load(open(sys.argv[1] + "/summary.json"))["preprocessing"]
encoder = keras.models.load_model(path + "/encoder.keras")
served = tf.saved_model.load(path + "/export/1")
serve = served.signatures["serving_default"]
for count in (1, 7):
    images = np.random.default_rng(count).integers(0, 256, (count, 20, 20, 3)).astype(np.uint8)
    answer = serve(image=tf.constant(images))
    scaled = (images - np.float32(about["mean"])) / np.float32(about["deviation"])
    own = encoder(scaled, training=False).numpy()
    assert list(answer) == ["embedding"] and answer["embedding"].dtype == tf.float32
    assert own.shape[0] == count and np.abs(answer["embedding"].numpy() - own).max() <= 1e-5
print("as it should be")
"""


@pytest.mark.slow
def test_encoder_and_export_work_without_this_repository(finished, tmp_path):
    assert_alone(FRESH_PROCESS, finished.folder, tmp_path)


@pytest.mark.slow
def test_the_export_scores_as_the_encoder_does(finished):
    served = nets.ExportedEncoder(finished.folder / "export" / "1")
    encoder = nets.load_encoder(finished.folder)
    test = dataloader.load("digits", image_size=(20, 20)).test.images(range(50))
    np.testing.assert_allclose(
        served(test)["embedding"], encoder(test)["embedding"], atol=1e-4, rtol=1e-4
    )


@pytest.mark.slow
def test_a_finished_run_is_left_alone(script, finished, deterministic):
    before = with_times(finished.folder)
    same = ("--tasks=Reconstruction,rotation,JIGSAW,instance", f"--train_dir={finished.folder}")
    done = script(*deterministic, *same)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"{finished.folder} is finished; --overwrite would start it anew\n")
    assert "linear probe" in done.out
    done = script(*deterministic, *same, "--epochs=4", "--instance_jitter=0.1")
    assert (done.status, done.out) == (2, "") and done.err.count("\n") == 1
    for part in ("epochs: 3 -> 4", "hyper_parameters.instance_jitter: 0.5 -> 0.1", "--overwrite"):
        assert part in done.err
    assert with_times(finished.folder) == before


@pytest.mark.slow
def test_killed_and_gone_on_with_is_never_killed(finished, deterministic, tmp_path):
    folder = tmp_path / "run"

    def begin():
        # A checkpoint after each step.
        return start(
            SCRIPT,
            *deterministic, f"--train_dir={folder}", "--checkpoint_minutes=1e-9",
            stdout=subprocess.DEVNULL, python=warm_python(),
        )

    place = "checkpoints/000000-00000[2-5].npz"  # the balance is still being found
    assert stop_at(begin(), folder, place, signal.SIGKILL) == (-signal.SIGKILL, "")
    place = "checkpoints/000001-00000[2-5].npz"
    status, err = stop_at(begin(), folder, place, signal.SIGTERM)
    err = without_collapse(err)
    assert status == 143 and err.startswith("interrupted (SIGTERM) after") and err.count("\n") == 1
    assert not (folder / "summary.json").exists()
    process = begin()
    err = process.communicate(timeout=300)[1]
    assert (process.returncode, without_collapse(err)) == (0, "")
    of_it = [f"checkpoints/{EPOCHS:06d}-000000.npz"]
    assert_same_run(finished.folder, folder, of_it, "encoder.keras")


@pytest.mark.slow
def test_on_two_devices(files, tmp_path):
    """An odd batch, a balance that measures, and an average: all that is done between steps too."""
    command = [
        warm_python(), str(ROOT / "tests" / "two_devices.py"), "pretrain_tte",
        FEW_LAYERS.format(files=files), f"--dataset=npz:{files}/good.npz", "--batch_size=15",
        "--epochs=1", "--targets=", "--tasks=reconstruction,rotation", "--ensemble=both",
        "--balance=gradnorm", "--gradnorm_interval=2", "--strategy=mirrored",
        f"--train_dir={tmp_path / 'run'}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = read_history(tmp_path / "run" / "history.csv")
    assert all(np.isfinite(value) for key, value in row.items() if key != "stage")
    assert nets.load_encoder(tmp_path / "run").name == "own"


# Runs through: each a tiny epoch


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        (SMALL, ["--tasks=rotation", "--regularizer=none", "--ensemble=none",
                 "--validation_fraction=0"]),
        ([FEW_LAYERS], ["--tasks=inpainting,colorization", "--regularizer=relational",
                        "--memory_dtype=float16", "--mixed_precision", "--export_features"]),
        ([FEW_LAYERS], ["--balance=gradnorm", "--gradnorm_interval=1", "--ensemble=weights",
                        "--optimizer=sgd", "--tasks=rotation,instance",
                        "--instance_temperature=0.2"]),
        (SMALL, ["--dataset=npz:{files}/grey.npz", "--regularizer=none", "--balance=none",
                 "--flip"]),
        ([FEW_LAYERS], ["--crop_padding=2", "--tasks=rotation,instance"]),
    ],
    ids=lambda words: words[0],
)
def test_runs_through(script, files, tmp_path, monkeypatch, eagerly, network, arguments):
    # Which takes long; `test_what_a_run_leaves` looks at the pictures.
    monkeypatch.setattr(pretrain_tte.report, "draw_curves", lambda *_: None)
    folder = tmp_path / "run"
    given = (*network, f"--dataset=npz:{files}/good.npz", *arguments)
    done = script(
        *(argument.replace("{files}", str(files)) for argument in given),
        "--batch_size=16", "--epochs=1", "--targets=", f"--train_dir={folder}",
    )
    assert (done.status, done.err) == (0, ""), done.err
    (row,) = read_history(folder / "history.csv")
    assert all(np.isfinite(value) for key, value in row.items() if key != "stage")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["targets"] == {} and not (folder / "targets.json").exists()
    encoder = nets.load_encoder(folder)
    shape = tuple(summary["image_shape"])
    some = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    found = nets.ExportedEncoder(folder / "export" / "1")(some)
    assert set(found) == {"embedding"} | {
        name for name in ("features",) if "--export_features" in arguments
    }
    tolerance = 0.05 if "--mixed_precision" in arguments else 1e-4
    expected = encoder(some)["embedding"].numpy()
    assert np.abs(found["embedding"] - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.slow
def test_all_targets_and_the_way_on_from_an_encoder(script, files, tmp_path, eagerly):
    common = (
        f"--dataset=npz:{files}/good.npz", "--batch_size=16", "--epochs=1", *QUICK_TARGETS,
        "--tasks=rotation,instance",
    )
    method = "TTE(tasks=rotation+instance)"
    network = ("--net=VGG_stride_student", "--net_options=width=8")  # few layers to trace
    done = script(*network, *common, f"--train_dir={tmp_path / 'first'}")
    assert (done.status, done.err) == (0, "")
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    assert set(summary["targets"][method]) == {"classification", "detection", "clustering"}
    assert set(summary["targets"]["random"]) == set(summary["targets"][method])
    assert set(summary["targets"]["pixels"]) == {"classification", "clustering"}
    done = script(
        *common, f"--encoder_model={tmp_path / 'first'}", f"--train_dir={tmp_path / 'second'}",
        "--targets=classification",
    )
    assert (done.status, done.err) == (0, "")
    again = json.loads((tmp_path / "second" / "summary.json").read_text())
    assert again["net"] == "VGG_stride_student" and set(again["targets"]) == {
        method, "as given", "pixels"
    }
    # What it began with is what the first run ended with.
    assert again["targets"]["as given"]["classification"]["linear_probe"] == (
        summary["targets"][method]["classification"]["linear_probe"]
    )


def test_several_seeds_in_the_folder_of_one(script, files, tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.open({"seed": 0})
        folder.finish({})
    arguments = (f"--dataset=npz:{files}/good.npz", "--tasks=rotation,instance", "--seeds=2",
                 f"--train_dir={tmp_path / 'run'}", "--dry_run")
    done = script(*arguments)
    assert done.status == 2 and "holds a run with other settings" in done.err
    done = script(*arguments, "--overwrite")
    assert (done.status, done.err) == (0, "")


def test_one_failed_seed_of_two_leaves_a_table_of_the_other(script, files, tmp_path, monkeypatch):
    """The runs themselves are left out."""

    def execute(outcomes, describe, *_):
        for outcome in outcomes:
            if outcome.run.seed == 1:
                outcome.fail("no space left on device")
                continue
            figures = {"linear_probe": 0.625, "five_nn": 0.5}
            with RunFolder(outcome.run.folder) as folder:
                folder.open(outcome.run.settings, networks=outcome.run.networks())
                folder.finish({
                    "method": outcome.run.group, "dataset": "good", "held_out": {},
                    "parameters": 1, "images_per_second": 1.0, "seconds": 1.0, "targets": {
                        outcome.run.group: {"classification": figures},
                        "pixels": {"classification": {**figures, "linear_probe": 0.25}},
                    },
                })
            outcome.finish()
            assert describe(outcome.summary) == "linear probe 62.50 %"

    monkeypatch.setattr(pretrain_tte, "execute", execute)
    folder = tmp_path / "runs"
    done = script(
        f"--dataset=npz:{files}/good.npz", "--tasks=rotation,instance", "--seeds=2",
        "--targets=classification", f"--train_dir={folder}",
    )
    assert (done.status, done.err) == (1, "")
    method = json.loads((folder / "seed0/summary.json").read_text())["method"]
    assert done.out.splitlines()[-1] == (
        f"failed: {method}, seed 1: no space left on device (see {folder / 'seed1' / LOG})"
    )
    targets = json.loads((folder / "targets.json").read_text())["targets"]
    for name, value in ((method, 0.625), ("pixels", 0.25)):
        found = targets[name]["classification"]["linear_probe"]
        assert found["values"] == [value] and found["mean"] == value
        assert re.search(rf"^{re.escape(name)} +{100 * value:.2f}$", done.out, re.MULTILINE)


@pytest.mark.slow
def test_several_seeds(script, files, tmp_path, warm_children):
    arguments = (
        FEW_LAYERS.format(files=files), f"--dataset=npz:{files}/good.npz", "--batch_size=16",
        "--epochs=1", "--tasks=rotation,instance", "--targets=classification", *QUICK_TARGETS,
        "--seeds=2", f"--train_dir={tmp_path / 'runs'}", "--instance_jitter=0.2",
    )
    done = script(*arguments, "--dry_run")
    assert done.status == 0 and done.out.count("waiting: TTE(tasks=rotation+instance), seed") == 2
    assert not any(tmp_path.iterdir())
    done = script(*arguments)
    assert (done.status, done.err) == (0, ""), done.out
    targets = json.loads((tmp_path / "runs" / "targets.json").read_text())["targets"]
    for seed in range(2):
        summary = json.loads((tmp_path / "runs" / f"seed{seed}" / "summary.json").read_text())
        assert summary["seed"] == seed
        assert summary["settings"]["hyper_parameters"]["instance_jitter"] == 0.2
        for name, figures in summary["targets"].items():
            for figure, value in figures["classification"].items():
                assert targets[name]["classification"][figure]["values"][seed] == value
    assert re.search(r"TTE\(.*\) +\d+\.\d+ ± \d+\.\d+", done.out)


def test_seeds_of_different_data_are_not_averaged(script, files, tmp_path):
    words = (
        f"--dataset=npz:{files}/good.npz", "--tasks=rotation,instance", "--seeds=2",
        "--targets=classification", f"--train_dir={tmp_path}",
    )
    settings = pretraining.Settings(
        dataset=f"npz:{files}/good.npz", tasks="rotation,instance", seeds=2,
        targets="classification", train_dir=str(tmp_path),
    ).spelled()
    join(RunFolder(tmp_path), pretrain_tte.SEEDS_SETTINGS, pretrain_tte.SEEDS_REPORTS, False)
    for seed, count in ((0, 40), (1, 44)):
        own = pretrain_tte.seed_run(settings, seed)
        folder = RunFolder(own.folder)
        with folder:
            folder.open(own.settings)
            folder.keep_facts(DATA, {"training images": count})
    done = script(*words)
    assert done.status == 2 and "the data have changed" in done.err, done.err
    assert "training images: 44 -> 40" in done.err or "training images: 40 -> 44" in done.err


def test_colours_are_looked_for_in_all_classes(files, tmp_path, monkeypatch):
    """The first class of a folder may be of scans."""
    monkeypatch.setattr(pretrain_tte, "CHECKED_IMAGES", 10)
    colours = images(40)
    colours[:20] = images(20, channels=1).repeat(3, axis=-1)
    save_data(tmp_path / "scans.npz", x_train=colours, y_train=np.arange(40) // 10)
    settings = pretraining.Settings(
        dataset=f"npz:{tmp_path}/scans.npz", tasks="colorization,rotation", batch_size=16,
        targets="", encoder_model=f"{files}/own.keras", net=None, dry_run=True,
    )
    pretrain_tte.train(settings)


def test_pixels_that_do_not_fit_in_memory_are_left_out(monkeypatch, capsys):
    encoder, data = small.encoder(), small.data()
    settings = pretraining.Settings(targets="clustering(metric_steps=0,restarts=1)").spelled()
    monkeypatch.setattr(pretrain_tte, "untrained_encoder", lambda settings, data: encoder)
    monkeypatch.setattr("dataloader.memory.free_memory", lambda: 10**6)
    scores = pretrain_tte.score_targets(settings, Material(data, None), encoder)
    assert "pixels" not in scores and len(scores) == 2
    assert "pixels are left out: the pixels of 164 images of 16x16x3" in capsys.readouterr().out
