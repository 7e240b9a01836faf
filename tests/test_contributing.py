"""The examples of CONTRIBUTING.md do what it says, each as one new file."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import dataloader
import distillers
import nets
import plugins
import pretext
import targets
from dataloader.loading import sources
from distillers.registration import METHODS
from experiment.report import scoreboard
from nets import registration
from pretext import BALANCES, REGULARIZERS, TASKS, Images
from registry import UserError
from settings.evaluation import Settings as EvaluationSettings
from settings.pretraining import Settings as PretrainingSettings
from targets import TARGETS, Material
from tests.pretext.models import batches, encoder, multi_task
from tests.targets import small

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLES = dict(re.findall(r"`(\w+(?:/\w+)+\.py)`:\n\n```python\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Add an example to its package for the time of a test, as a file in another folder."""
    for registry in (METHODS, TASKS, BALANCES, REGULARIZERS, TARGETS, sources,
                     registration._networks, registration._pairs):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    before = set(sys.modules)

    def add_example(package, module):
        folder = package.__name__.replace(".", "/")
        (tmp_path / f"{module}.py").write_text(EXAMPLES[f"{folder}/{module}.py"])
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        importlib.import_module(f"{package.__name__}.{module}")

    yield add_example
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_there_are_eight_examples():
    assert len(EXAMPLES) == 8


@pytest.fixture
def networks():
    def network(name, width):
        image = keras.Input((8, 8, 3))
        maps = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(image)
        maps = keras.layers.Conv2D(6, 3, padding="same", name="tap")(maps)
        logits = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(maps))
        return keras.Model(image, logits, name=name)

    keras.utils.set_random_seed(0)
    return network("large", 8), network("small", 4)


def test_method(add, networks):
    add(distillers, "cwd")
    assert len(EXAMPLES["distillers/cwd.py"].splitlines()) < 60
    assert "CWD" in distillers.names()
    teacher, student = networks
    distiller = distillers.Distiller(
        student,
        distillers.create("CWD(temperature=2)"),
        teacher,
        teacher_outputs=nets.outputs_of(teacher, ["tap"]),
        student_outputs=nets.outputs_of(student, ["tap"]),
        main_loss="none",
        weight_decay=0.0,
    )
    distiller.compile(keras.optimizers.SGD(0.1))
    image = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
    before = student.get_weights()
    history = distiller.fit(image, np.full(8, -1), batch_size=8, epochs=5, verbose=0).history
    assert history["distillation_loss"][-1] < history["distillation_loss"][0]
    # A bias of the tap is nothing to a softmax over positions; the last two make the logits.
    pairs = zip(student.get_weights(), before, strict=True)
    moved = [not np.allclose(now, then, atol=1e-5) for now, then in pairs]
    assert moved == [True, True, True, False, False, False]
    with pytest.raises(UserError, match="temprature.*temperature"):
        distillers.create("CWD(temprature=2)")


def test_the_methods_own_test(add):
    add(distillers, "cwd")
    tests = {}
    exec(EXAMPLES["tests/distillers/test_cwd.py"], tests)
    names = [name for name in tests if name.startswith("test_")]
    assert len(names) == 2
    for name in names:
        tests[name]()


def test_pretext_task(add):
    add(pretext.tasks, "context")
    views = plugins.create(TASKS, "Context").views(Images((20, 24, 3)))
    images = np.random.default_rng(0).random((16, 20, 24, 3), dtype=np.float32)
    uniform = (np.arange(16, dtype=np.float32) / 16)[:, None]
    (middle, other), place = views(images, uniform)
    np.testing.assert_array_equal(middle, images[:, 6:12, 8:16])
    np.testing.assert_array_equal(place, np.arange(16) // 2)
    for i, cell in enumerate(place.numpy()):
        row, column = divmod(cell if cell < 4 else cell + 1, 3)  # the fifth is the middle
        expected = images[i, 6 * row : 6 * row + 6, 8 * column : 8 * column + 8]
        np.testing.assert_array_equal(other[i], expected)
    with pytest.raises(UserError, match="at least 24"):
        plugins.create(TASKS, "context").views(Images((20, 24, 3), 8))
    model = multi_task(("rotation", "context"), own_encoder=encoder(normalised=False))
    model.compile(keras.optimizers.Adam(1e-2))
    data = batches(8, 8).repeat(20)
    history = model.fit(data, epochs=1, verbose=0, shuffle=False).history
    assert history["context_loss"][0] < 0.8 * np.log(8)
    settings = PretrainingSettings(tasks="context,rotation", hyper_parameters={"context_weight": 2})
    assert settings.spelled().create("tasks")[0].weight == 2


def test_balance(add):
    add(pretext.balances, "inverse")
    model = multi_task(("rotation", "jigsaw"), balance="inverse(least=0.1)", regularizer="none")
    model.compile(keras.optimizers.SGD(0.0))
    logs = model.fit(batches(8, 8), epochs=1, verbose=0, shuffle=False).history
    losses = [logs[f"{name}_loss"][0] for name in ("rotation", "jigsaw")]
    np.testing.assert_allclose(model.balance.current(), 1 / np.array(losses), rtol=1e-5)
    assert logs["loss"][0] == pytest.approx(2, rel=1e-5)
    with pytest.raises(UserError, match="least must be above 0"):
        plugins.create(BALANCES, "inverse(least=0)")


def test_regularizer(add):
    add(pretext.regularizers, "agreement")
    e = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    expected = np.mean([((row - row.mean(0)) ** 2).sum(1).mean() for row in e])
    np.testing.assert_allclose(plugins.create(REGULARIZERS, "agreement")(e), expected, rtol=1e-5)
    model = multi_task(("rotation", "jigsaw"), regularizer="agreement")
    model.compile(keras.optimizers.SGD(0.05))
    logs = model.fit(batches(8, 8), epochs=2, verbose=0, shuffle=False).history
    assert logs["regularizer_loss"][0] > 0
    with pytest.raises(UserError, match="--regularizer agreement .*at least 2"):
        PretrainingSettings(tasks="rotation", regularizer="agreement", ensemble="none").spelled()


def test_target(add):
    add(targets, "spread")
    (target,) = EvaluationSettings(
        encoder=("pixels",), targets="spread", hyper_parameters={"share": 0.5}
    ).spelled().create_targets()
    data = small.data()
    found = target.score(targets.raw_pixels(data.image_shape), Material(data), seed=0).metrics
    vectors = data.test.images(range(len(data.test))).numpy().reshape(len(data.test), -1) / 255.0
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    values = np.sort(np.linalg.eigvalsh(np.cov(vectors.T)))[::-1]
    needed = 1 + np.sum(np.cumsum(values) / values.sum() < 0.5)
    assert found["dimensions"] == pytest.approx(needed / vectors.shape[1])
    text = scoreboard.table(scoreboard.summarized({"pixels": [{"spread": found}]}), TARGETS)
    assert "dimensions" in text and "90 % of its variance" in text
    with pytest.raises(UserError, match="did you mean 'share'"):
        EvaluationSettings(encoder=("pixels",), targets="spread(shar=1)").spelled()


def test_network(add):
    add(nets, "all_cnn")
    teacher, student = (nets.build(name, (16, 12, 1), 10) for name in nets.pair("AllCNN"))
    stages = [(1, 96, 3), (96, 192, 3), (192, 192, 3)]
    counted = sum(9 * (i * o + (n - 1) * o * o) + n * o for i, o, n in stages) + 192 * 10 + 10
    assert nets.count_parameters(teacher) == counted
    shapes = [(None, 8, 6, 96), (None, 4, 3, 192), (None, 4, 3, 192)]
    for model in (teacher, student):
        features = nets.feature_extractor(model, nets.outputs_of(model))
        assert [tap.shape for tap in features.output["maps"]] == shapes


def idx(array):
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def test_data_source(add, tmp_path):
    add(dataloader, "idx")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (20, 6, 5)).astype(np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 2
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    data = dataloader.load(f"idx:{tmp_path}", validation_fraction=0.2)
    assert (len(data.train), len(data.validation), data.image_shape) == (16, 4, (6, 5, 1))
    np.testing.assert_array_equal(data.test.images(tf.range(20))[..., 0], images)
    np.testing.assert_array_equal(data.test.labels, labels)
    for damaged in (b"", b"\0\0\x08", b"\0\0\x0d\x01", idx(images)[:-1], idx(images)[:10]):
        (tmp_path / "t10k-images-idx3-ubyte").write_bytes(damaged)
        with pytest.raises(UserError, match="t10k-images-idx3-ubyte"):
            dataloader.load(f"idx:{tmp_path}")
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images[1:]))
    with pytest.raises(UserError, match="19 t10k images but 20 labels"):
        dataloader.load(f"idx:{tmp_path}")


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_in_style(name):
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", name, "-"]
    checked = subprocess.run(
        command, input=EXAMPLES[name], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
