"""Training from cached outputs of the teacher equals training from outputs computed anew."""

import dataclasses
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import train_w_distill
from distillers.distiller import Distiller
from distillers.registration import METHODS
from experiment.run.interruption import Interrupted
from experiment.run.teacher_cache import KEY, TEACHER
from registry import UserError
from settings import teacher_cache
from settings.distillation import Settings
from settings.networks import create_method
from settings.run_setup import compile_for, prepare, taught_batches
from settings.teacher_cache import fill_cache, make_key, plan_cache
from tests.virtual_devices import compared

CLASSES, IMAGES, EPOCHS = 4, 44, 2
TAPS = ("tap1", "tap2")
KEPT = (
    "CC", "CRD", "DIST", "DKD", "Hard_logits", "LogitStd", "MLKD", "PKT", "RKD", "RLD",
    "Soft_logits", "SRD", "TTM", "WKD_L", "WTTM",
)


def network(name, width):
    keras.utils.set_random_seed(width)
    image = maps = keras.Input((8, 8, 3))
    for tap in TAPS:
        maps = keras.layers.Conv2D(width, 3, 2, "same", use_bias=False)(maps)
        maps = keras.layers.BatchNormalization()(maps)
        maps = keras.layers.ReLU(name=tap)(maps)
    embedding = keras.layers.GlobalAveragePooling2D()(maps)
    return keras.Model(image, keras.layers.Dense(CLASSES, name="logits")(embedding), name=name)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    random = np.random.default_rng(0)
    labels = np.arange(IMAGES) % CLASSES
    images = random.integers(0, 256, (IMAGES, 8, 8, 3), np.uint8)
    np.savez(
        folder / "data.npz", x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8]
    )
    network("teacher", 12).save(folder / "teacher.keras")
    network("other_teacher", 13).save(folder / "other.keras")
    network("student", 6).save(folder / "student.keras")
    return folder


@pytest.fixture
def make_settings(files, tmp_path):
    def make(**changed):
        given = {
            "Distillation": "Soft_logits", "dataset": f"npz:{files}/data.npz", "epochs": EPOCHS,
            "batch_size": 16, "crop_padding": 2, "validation_fraction": 0.0, "recipe": "paper",
            "teacher_model": f"{files}/teacher.keras", "teacher_taps": TAPS,
            "student_model": f"{files}/student.keras", "student_taps": TAPS,
            "cache_teacher": True, "cache_dir": str(tmp_path / "cache"),
        }
        return Settings(**{**given, **changed}).spelled()

    return make


def train(setup):
    """The student's weights after a run, and its logs."""
    distiller = setup.distiller
    distiller.enter(distiller.parts(EPOCHS)[0])
    compile_for(setup, EPOCHS)
    history = distiller.fit(
        taught_batches(setup), epochs=EPOCHS, steps_per_epoch=setup.steps, shuffle=False, verbose=0
    )
    return distiller.student.get_weights(), history.history


def assert_same(one, other):
    for a, b in zip(*map(tf.nest.flatten, (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


def round_outputs(monkeypatch):
    """Let the teacher be run in each step, and its outputs be rounded to float16."""
    run_teacher = Distiller._features_to_learn_from

    def rounded(self, batch):
        assert not batch.teacher
        return tf.nest.map_structure(
            lambda feature: tf.cast(tf.cast(feature, tf.float16), tf.float32),
            run_teacher(self, batch),
        )

    monkeypatch.setattr(Distiller, "_features_to_learn_from", rounded)


@pytest.mark.parametrize("method", ["Soft_logits", "RKD+DKD"])
def test_same_bits_as_with_outputs_computed_anew(make_settings, monkeypatch, method):
    setup = fill_cache(prepare(make_settings(Distillation=method)))
    teacher = setup.teacher.model
    teacher.set_weights([np.full_like(value, np.nan) for value in teacher.get_weights()])
    kept = train(setup)  # the teacher is not asked
    assert all(np.isfinite(value).all() for value in tf.nest.flatten(kept))
    round_outputs(monkeypatch)
    assert_same(kept, train(prepare(make_settings(Distillation=method, cache_teacher=False))))


@pytest.mark.parametrize("changed", [{}, {"mixup": 0.4}, {"mixed_precision": True}], ids=str)
def test_outputs_are_those_to_the_augmented_images(make_settings, changed):
    setup = fill_cache(prepare(make_settings(**changed)))
    keras.config.set_dtype_policy("float32")
    batches = list(taught_batches(setup))
    assert len(batches) == EPOCHS * setup.steps
    for batch in batches:
        expected = setup.distiller.teacher_features(batch["image"])["logits"]
        np.testing.assert_allclose(batch[TEACHER]["logits"], expected, rtol=1e-3, atol=1e-4)


def test_a_run_goes_on_in_the_middle_of_an_epoch(make_settings):
    setup = fill_cache(prepare(make_settings()))
    whole = list(taught_batches(setup).as_numpy_iterator())
    rest = list(taught_batches(setup, epoch=1, step=1).as_numpy_iterator())
    assert_same(whole[setup.steps + 1 :], rest)


def test_further_runs_find_what_is_there(make_settings, capsys, monkeypatch):
    first = fill_cache(prepare(make_settings(cache_outputs=("embedding",))))
    said = " ".join(capsys.readouterr().out.split())
    assert "outputs: embedding and logits of 44 images in 2 epochs, 2.82 kB in" in said
    assert "computing all of them takes about" in said
    assert (first.cache.folder / KEY).exists()
    computed = []
    compute = teacher_cache.compute
    monkeypatch.setattr(teacher_cache, "compute", lambda setup, planned: (
        computed.append(planned.missing), compute(setup, planned)
    ))
    for method in ("RKD", "DKD+Soft_logits", "CRD"):
        again = fill_cache(prepare(make_settings(Distillation=method)))
        assert again.cache.folder == first.cache.folder
        assert "computed before" in capsys.readouterr().out
    assert not computed
    fill_cache(prepare(make_settings(epochs=3, learning_rate=0.5)))
    assert computed == [[2]]


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1}, {"batch_size": 15}, {"crop_padding": 1}, {"train_images": 40},
        {"teacher_model": "{files}/other.keras"}, {"teacher_preprocessing": "tf"},
        {"teacher_taps": ("tap1",), "student_taps": ("tap1",)}, {"cutmix": 1.0},
        {"dataset": "npz:{files}/brighter.npz"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_changes_the_outputs_has_another_key(make_settings, files, changed):
    if "brighter" in str(changed) and not (files / "brighter.npz").exists():
        content = dict(np.load(files / "data.npz"))
        content["x_train"][5, 3, 3, 0] ^= 1  # the least that can change
        np.savez(files / "brighter.npz", **content)
    changed = {
        name: each.format(files=files) if isinstance(each, str) else each
        for name, each in changed.items()
    }
    one, other = (make_key(prepare(make_settings(**each))) for each in ({}, changed))
    for key in (one, other):
        key["data"].pop("name")
    assert one != other


def test_a_networks_fingerprint_is_of_what_it_computes():
    def network(activation, epsilon=1e-3):
        image = keras.Input((4, 4, 3))
        x = keras.layers.Conv2D(2, 3, activation=activation, kernel_initializer="ones")(image)
        inner = keras.Sequential([
            keras.Input(x.shape[1:]), keras.layers.BatchNormalization(epsilon=epsilon)
        ])
        return keras.Model(image, keras.layers.GlobalAveragePooling2D()(inner(x)))

    fingerprint = teacher_cache.network_fingerprint
    assert fingerprint(network("relu")) == fingerprint(network("relu")), "names are others"
    assert fingerprint(network("relu")) != fingerprint(network("elu"))
    assert fingerprint(network("relu")) != fingerprint(network("relu", 1e-2))


@pytest.mark.parametrize(("one", "other"), [
    (lambda x: x / 255.0, lambda x: x / 127.5),
    (lambda x: x / 255.0, lambda x: x / 255.0 - 1.0),
    (lambda x: x * np.arange(3.0), lambda x: x * np.arange(1, 4.0)),
    (lambda x: keras.ops.relu(x) - x, lambda x: x - keras.ops.relu(x)),
    (lambda x: keras.layers.Subtract()([keras.layers.ReLU()(x), x]),
     lambda x: keras.layers.Subtract()([x, keras.layers.ReLU()(x)])),
    (lambda x: keras.layers.ReLU(dtype="mixed_bfloat16")(x), lambda x: keras.layers.ReLU()(x)),
    (lambda x: keras.Sequential([keras.Input((4, 4, 3)), keras.layers.ReLU(max_value=6)])(x),
     lambda x: keras.Sequential([keras.Input((4, 4, 3)), keras.layers.ReLU(max_value=5)])(x)),
    (lambda x: keras.layers.Normalization(mean=np.ones(3), variance=np.ones(3))(x),
     lambda x: keras.layers.Normalization(mean=np.zeros(3), variance=np.ones(3))(x)),
], ids=["operation", "another", "array", "order", "wiring", "dtype", "inner model", "state"])
def test_a_networks_fingerprint_is_of_its_whole_graph(one, other, tmp_path):
    def network(function):
        image = keras.Input((4, 4, 3))
        return keras.Model(image, keras.layers.GlobalAveragePooling2D()(function(image)))

    fingerprint = teacher_cache.network_fingerprint
    assert fingerprint(network(one)) == fingerprint(network(one)), "names are others"
    assert fingerprint(network(one)) != fingerprint(network(other))
    network(one).save(tmp_path / "one.keras")
    again = [keras.saving.load_model(tmp_path / "one.keras") for _ in range(2)]
    assert fingerprint(again[0]) == fingerprint(again[1])


def test_interrupted_outputs_go_on(make_settings, monkeypatch, capsys):
    setup = prepare(make_settings(epochs=4))
    outputs_of_epoch = teacher_cache._outputs_of_epoch

    def kill_in_the_second(setup, planned, epoch, signals):
        finished = [n for n in range(4) if planned.cache.has("logits", n)]
        for number, batch in enumerate(outputs_of_epoch(setup, planned, epoch, signals)):
            if finished and number == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(teacher_cache, "_outputs_of_epoch", kill_in_the_second)
        with pytest.raises(Interrupted):
            fill_cache(setup)
    assert "rerun the same command (without --overwrite) to resume" in capsys.readouterr().err
    planned = plan_cache(setup)
    assert len(planned.missing) == 3
    assert not list(planned.cache.folder.rglob(".partial-*"))
    kept = fill_cache(setup).cache
    assert kept.missing(["logits"], 4) == []
    assert "computing 3 epochs of them takes" in capsys.readouterr().out


def test_a_dry_run_says_the_size_and_writes_nothing(make_settings, tmp_path, capsys):
    settings = make_settings(train_dir=str(tmp_path / "run"), dry_run=True)
    assert train_w_distill.train(settings) == {}
    said = capsys.readouterr().out
    assert "logits of 44 images in 2 epochs, 704 bytes in" in said and "images/s (measured" in said
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_refused_before_anything_is_written(make_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=703))
    with pytest.raises(UserError, match="take 704 bytes, and .*cache has 703 bytes free"):
        train_w_distill.train(make_settings(train_dir=str(tmp_path / "run")))
    assert list(tmp_path.iterdir()) == []


# Which methods


def test_methods_that_need_the_teacher_itself_are_refused_by_name():
    accepted = set()
    for name in METHODS.names():
        if METHODS.get(name).name != name:
            continue
        try:
            create_method(Settings(Distillation=name, cache_teacher=True))
            accepted.add(name)
        except UserError as error:
            assert f"but {name} " in str(error)
    assert accepted == {*KEPT, "None"}


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("Soft_logits+FSP", "but FSP reads maps: leave out --cache_teacher or this method"),
        ("DML", "but DML trains the teacher"),
    ],
)
def test_all_of_a_sum_must_do_with_the_outputs(method, reason):
    with pytest.raises(UserError, match=reason):
        create_method(Settings(Distillation=method, cache_teacher=True))


def test_the_flag_determines_a_run_that_has_a_teacher(make_settings):
    def determining(**changed):
        settings = make_settings(**changed)
        return train_w_distill.determining_settings(settings, create_method(settings))

    assert determining() != determining(cache_teacher=False)
    assert determining() == determining(cache_dir="elsewhere", cache_outputs=("embedding",))
    alone = {"Distillation": "None"}
    assert determining(**alone) == determining(**alone, cache_teacher=False)
    settings = dataclasses.replace(make_settings(), teacher_model=None)
    of_teacher = settings.of_teacher("teacher")
    assert not of_teacher.cache_teacher and of_teacher.cache_dir is None


@pytest.mark.slow
def test_two_devices_train_as_one(tmp_path):
    found = compared(Path(__file__).with_name("two_devices.py"), 2, [str(tmp_path)])
    figures = found[str(tmp_path)]
    assert figures["moved"] > 1e-3 and figures["apart"] < 1e-5
