"""Each format: written, run again by its own interpreter, and compared with the SavedModel."""

import dataclasses
import importlib.util
import re
import textwrap
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
import plugins
from experiment.export import formats  # noqa: F401 (registers them)
from experiment.export.format import FORMATS, UnfitError, check_distinct, refusal
from experiment.run.export import check_export, named_classification
from nets.quantization import FakeQuantize
from registry import UserError
from tests.experiment.export.networks import NAMES, images, material

pytestmark = pytest.mark.usefixtures("warm_children")

TEST = images(1000, seed=2)


@pytest.fixture(scope="module")
def made():
    return material()


@pytest.fixture(scope="module")
def expected(made, tmp_path_factory):
    """The SavedModel's probabilities, after it was compared with the student itself."""
    path = tmp_path_factory.mktemp("saved") / "1"
    FORMATS.get("saved_model")().convert(made, path)
    outputs = named_classification(NAMES)
    check_export(path, made.student, TEST, prepare=made.preprocessing, outputs=outputs)
    loaded = tf.saved_model.load(path)
    return loaded.signatures["serving_default"](image=tf.constant(TEST))["probabilities"].numpy()


def needed(name):
    """The format, or the test is left out where its packages are not installed."""
    form = FORMATS.get(name)()
    for module in form.packages:
        pytest.importorskip(module, reason="pip install -r requirements-export.txt")
    return form


@pytest.mark.parametrize(
    "name", [name for name in FORMATS.names() if FORMATS.get(name).source == "student"]
)
def test_a_file_gives_the_probabilities_of_the_saved_model(name, made, expected, tmp_path):
    form = needed(name)
    file = tmp_path / form.file.replace("/", "-")
    form.convert(made, file)
    # TensorFlow has begun with as many threads as it chose, which 0 stands for.
    predict = form.open(file, 0 if form.runtime == "tensorflow" else 1)
    found = predict(TEST)
    assert found.dtype == "float32" and found.shape == (1000, 4)
    if form.tolerance is None:
        assert np.mean(found.argmax(1) == expected.argmax(1)) >= 0.95
        np.testing.assert_allclose(found, expected, atol=0.15)
    else:
        np.testing.assert_allclose(found, expected, atol=min(form.tolerance, 2e-3))
    np.testing.assert_allclose(predict(TEST[:1]), found[:1], atol=0.01)  # any number of images


def test_a_saved_model_is_measured_by_black_images_too(made, tmp_path):
    form = needed("saved_model")
    form.convert(made, tmp_path / "1")
    predict = form.open(tmp_path / "1", 0)
    black = TEST[:3] * 0
    np.testing.assert_allclose(predict(black), predict(black[:1]).repeat(3, 0), atol=1e-5)
    assert black.max() == 0, "they are left as they are"
    seen = predict(np.concatenate([black, TEST[:1]]))
    np.testing.assert_allclose(predict(black), seen[:3], atol=0.02)


def test_a_network_trained_in_whole_numbers_answers_in_int8_as_it_was_trained(made, tmp_path):
    form = needed("litert-qat")
    learned = nets.quantize(made.student, [made.preprocessing(made.calibration)])
    for layer in learned.layers:  # ranges that calibration would not find
        if isinstance(layer, FakeQuantize):
            layer.set_weights([np.float32(1.3) * weight for weight in layer.get_weights()])
    expected = tf.nn.softmax(learned(made.preprocessing(TEST))).numpy()
    form.convert(made.with_student(learned), tmp_path / form.file)
    found = form.open(tmp_path / form.file, 1)(TEST)
    same = np.mean(found.argmax(1) == expected.argmax(1))
    assert same >= 0.97
    assert np.abs(found - expected).mean() < 0.01


def test_a_network_with_its_own_preprocessing_answers_in_int8_as_it_was_trained(tmp_path):
    """Channels reversed and scaled, as with pretrained weights of `keras.applications`."""
    form = needed("litert-qat")
    scaling = keras.layers.Rescaling([0.01, 0.02, 0.03], [-1.0, -2.0, -1.5])
    made = material(first=lambda image: scaling(keras.ops.flip(image, axis=-1)))
    made = dataclasses.replace(made, preprocessing=nets.Standardize((0.0,) * 3, (1.0,) * 3))
    learned = nets.quantize(made.student, [made.preprocessing(made.calibration)])
    expected = tf.nn.softmax(learned(made.preprocessing(TEST))).numpy()
    before = tf.nn.softmax(made.student(made.preprocessing(TEST), training=False)).numpy()
    form.convert(made.with_student(learned), tmp_path / form.file)
    found = form.open(tmp_path / form.file, 1)(TEST)
    assert len(set(before.argmax(1))) > 1
    assert np.mean(found.argmax(1) == expected.argmax(1)) >= 0.97
    assert np.mean(found.argmax(1) == before.argmax(1)) >= 0.95
    assert np.abs(found - expected).mean() < 0.01


def test_int8_takes_raw_bytes_and_computes_in_whole_numbers(made, tmp_path):
    form = needed("litert-int8")
    from ai_edge_litert.interpreter import Interpreter

    form.convert(made, tmp_path / form.file)
    interpreter = Interpreter(str(tmp_path / form.file))
    interpreter.allocate_tensors()
    (image,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (image["dtype"], image["quantization"]) == (np.uint8, (1.0, 0))
    assert (out["dtype"], out["quantization"]) == (np.uint8, (1 / 256, 0))
    kinds = {np.dtype(each["dtype"]).kind for each in interpreter.get_tensor_details()}
    assert kinds == {"i", "u"}


def test_images_that_have_to_be_shrunk_need_no_operation_that_formats_lack(tmp_path):
    form = needed("litert")
    larger = material(raw_size=40)
    form.convert(larger, tmp_path / form.file)
    raw = images(20, 40)
    expected = tf.nn.softmax(larger.student(larger.preprocessing(raw), training=False))
    np.testing.assert_allclose(form.open(tmp_path / form.file, 1)(raw), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["litert", "litert-int8"])
def test_operations_without_a_kernel_are_named(name, tmp_path):
    form = needed(name)
    with pytest.raises(UnfitError, match="no built-in kernel for Erfinv.*onnx"):
        form.convert(material(last=keras.ops.erfinv), tmp_path / form.file)


def test_what_int8_leaves_in_floating_point_is_refused(tmp_path):
    form = needed("litert-int8")

    def sorted_vector(vector):
        return keras.ops.sort(vector, axis=-1)

    with pytest.raises(UnfitError, match="still floating point|no built-in kernel"):
        form.convert(material(last=sorted_vector), tmp_path / form.file)


@pytest.mark.parametrize(("text", "unfit"), [("No space left on device", False), ("odd", True)])
def test_a_full_disk_is_no_refusal_of_the_network(text, unfit):
    assert isinstance(refusal(RuntimeError(text), "onnx"), UnfitError) == unfit


def test_missing_packages_are_named_with_the_command(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else found(name)
    )
    with pytest.raises(UserError, match="onnx needs .*onnxruntime.*: pip install .*onnxruntime"):
        FORMATS.get("onnx")().check_packages()


def test_settings_of_formats_are_checked():
    with pytest.raises(UserError, match="calibration_images must be at least 100, not 20"):
        plugins.create(FORMATS, "litert-int8(calibration_images=20)")
    with pytest.raises(UserError, match="given twice"):
        check_distinct([FORMATS.get("onnx")(), FORMATS.get("onnx")(opset=15)])
    form = FORMATS.get("onnx")(opset=15)
    assert plugins.create(FORMATS, form.specification()).opset == 15
    assert plugins.create(FORMATS, FORMATS.get("onnx")().specification()).opset is None


@pytest.mark.parametrize("opset", [None, 13])
def test_onnx_is_of_the_version_as_set(opset, tmp_path):
    asked = {}

    class Model:
        def __call__(self, images):
            asked["images"] = images.shape

        def export(self, path, **given):
            asked.update(given, path=path)

    made = SimpleNamespace(serving_model=Model, image_shape=(16, 16, 3))
    FORMATS.get("onnx")(opset=opset).convert(made, tmp_path / "student.onnx")
    assert asked == {
        "images": (1, 16, 16, 3), "path": str(tmp_path / "student.onnx"), "format": "onnx",
        "opset_version": opset, "verbose": False,
    }


def lines_of_the_guide(first):
    guide = (Path(__file__).parents[3] / "docs/guides/serving.md").read_text()
    (lines,) = re.findall(rf"^    {re.escape(first)}\n(?:(?:    .*)?\n)*", guide, re.MULTILINE)
    return textwrap.dedent(lines)


@pytest.mark.parametrize(("name", "first"), [
    ("litert-int8", "from ai_edge_litert.interpreter import Interpreter"),
    ("onnx", "import onnxruntime"),
])
def test_the_guides_lines_read_the_file(name, first, made, tmp_path, monkeypatch, capsys):
    form = needed(name)
    form.convert(made, tmp_path / form.file)
    monkeypatch.chdir(tmp_path)
    expected, names = form.open(tmp_path / form.file, 1)(TEST[:20]), {"images": TEST[:20]}
    capsys.readouterr()
    exec(lines_of_the_guide(first), names)
    if name == "onnx":
        np.testing.assert_allclose(names["probabilities"], expected, atol=1e-6)
    else:
        found = np.array(re.findall(r"\d+", capsys.readouterr().out), int)
        np.testing.assert_array_equal(found, expected.argmax(1))
