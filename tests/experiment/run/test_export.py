import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
from experiment.run import export
from experiment.run.folder import RunFolder
from registry import UserError

MEAN, DEVIATION = (120.0, 110.0, 100.0), (60.0, 50.0, 70.0)

# A fresh process that has neither this repository nor Keras layers of ours.
LOAD = """
import sys, numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
serve = loaded.signatures["serving_default"]
images = np.load(sys.argv[2])
(name, spec), = serve.structured_input_signature[1].items()
assert (name, spec.dtype, spec.shape.as_list()) == ("image", tf.uint8, [None, 8, 8, 3]), spec
one = serve(image=tf.constant(images[:1]))
answer = serve(image=tf.constant(images))
assert one["classes"].shape == (1,)
assert answer["classes"].dtype == tf.int32 and answer["probabilities"].dtype == tf.float32
numbers = sum(int(np.prod(variable.shape)) for variable in loaded.weights)
np.savez(sys.argv[3], numbers=numbers, **{key: value.numpy() for key, value in answer.items()})
"""


def network(policy):
    """A nested model with batch normalisation and dropout, of moving statistics that matter."""
    keras.utils.set_random_seed(1)
    body = keras.Sequential([
        keras.layers.Input((8, 8, 3)),
        keras.layers.Conv2D(4, 3, use_bias=False, dtype=policy),
        keras.layers.BatchNormalization(dtype=policy),
        keras.layers.Activation("relu", dtype=policy),
    ], name="body")
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D(dtype=policy)(body(inputs))
    x = keras.layers.Dropout(0.5, dtype=policy)(x)
    model = keras.Model(inputs, keras.layers.Dense(5, dtype=policy)(x))
    model.get_layer("body").layers[1].moving_mean.assign([0.3, -0.2, 0.1, 0.5])
    model.get_layer("body").layers[1].moving_variance.assign([2.0, 0.5, 1.5, 0.7])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def in_numpy(model, images):
    """Probabilities in float64, by the definition of every layer."""
    kernel, gamma, beta, mean, variance, dense, bias = (
        np.float64(variable.numpy()) for variable in model.variables if variable.dtype == "float32"
    )
    x = (images - np.array(MEAN)) / np.array(DEVIATION)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    x = np.einsum("nhwcij,ijcd->nhwd", windows, kernel)
    x = np.maximum((x - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 0)
    logits = x.mean((1, 2)) @ dense + bias
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.slow
def test_served_in_a_fresh_process(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    model = network("mixed_bfloat16")
    with RunFolder(tmp_path / "run") as folder:
        folder.open({})
        directory = folder.directory("export/1", *export.FILES)
        for _ in range(2):  # the second replaces the first
            export.export_saved_model(
                model, directory, image_shape=(8, 8, 3), mean=MEAN, deviation=DEVIATION
            )
        assert [entry.name for entry in directory.parent.iterdir()] == ["1"]
    subprocess.run(
        [sys.executable, "-c", LOAD, directory, tmp_path / "images.npy", tmp_path / "answer.npz"],
        cwd=tmp_path, check=True, capture_output=True,
        env={"PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    answer = np.load(tmp_path / "answer.npz")
    expected = in_numpy(model, images)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    np.testing.assert_array_equal(answer["classes"], expected.argmax(1))
    assert answer["numbers"] == sum(int(np.prod(v.shape)) for v in model.variables)
    with RunFolder(tmp_path / "run") as folder:
        folder.open({"other": 1}, overwrite=True)
        assert not (tmp_path / "run" / "export").exists()


def test_other_outputs_and_mistakes(tmp_path):
    model = network("float32")
    arguments = {"image_shape": (8, 8, 3), "mean": MEAN, "deviation": DEVIATION}
    with pytest.raises(ValueError, match="one a channel"):
        export.export_saved_model(model, tmp_path / "1", **{**arguments, "mean": (1.0,)})
    with pytest.raises(ValueError, match=r"shape \(8, 8, 3\), not \(9, 8, 3\)"):
        export.export_saved_model(model, tmp_path / "1", **{**arguments, "image_shape": (9, 8, 3)})
    assert not (tmp_path / "1").exists()
    export.export_saved_model(
        model, tmp_path / "1", **arguments, outputs=lambda values: {"embedding": values}
    )
    import tensorflow as tf
    serve = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    assert list(serve.structured_outputs) == ["embedding"]


def test_channels_are_reversed_before_they_are_standardised(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    export.export_saved_model(
        model, tmp_path / "1", image_shape=(8, 8, 3), mean=MEAN, deviation=DEVIATION,
        reverses=True, outputs=lambda values: {"embedding": values},
    )
    serve = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    expected = (IMAGES[..., ::-1] - np.array(MEAN)) / DEVIATION
    found = serve(image=IMAGES)["embedding"]
    np.testing.assert_allclose(found, expected.reshape(len(IMAGES), -1), rtol=1e-5, atol=1e-5)


def exported(tmp_path, model, **changes):
    arguments = {"image_shape": (8, 8, 3), "mean": MEAN, "deviation": DEVIATION, **changes}
    export.export_saved_model(model, tmp_path / "1", **arguments)
    return tmp_path / "1"


IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
STANDARDIZE = nets.Standardize(MEAN, DEVIATION)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_an_export_that_answers_as_the_model_passes(tmp_path, policy):
    model = network(policy)
    found = export.check_export(
        exported(tmp_path, model), model, IMAGES, prepare=STANDARDIZE, batch_size=7
    )
    assert found.images == 20
    assert found.difference < (1e-5 if policy == "float32" else 0.1)
    expected = in_numpy(model, IMAGES).argmax(1)
    scored = np.asarray(model(STANDARDIZE(IMAGES), training=False), np.float32).argmax(1)
    assert found.agreement == (1 if policy == "float32" else np.mean(expected == scored))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_an_export_that_answers_otherwise_is_refused(tmp_path, policy):
    model = network(policy)
    for variable in model.trainable_variables:  # answers that are far from even
        variable.assign(4 * variable)
    directory = exported(tmp_path, model, mean=(0.0,) * 3, deviation=(1.0,) * 3)
    with pytest.raises(UserError, match="does not answer as .* 20 images .*same class"):
        export.check_export(directory, model, IMAGES, prepare=STANDARDIZE)


def test_an_embedding_that_is_not_finite_is_no_answer(tmp_path):
    model = network("float32")
    directory = exported(tmp_path, model, outputs=lambda values: {"embedding": values})
    model.variables[-1].assign([np.nan] * 5)
    with pytest.raises(UserError, match="does not answer as the model"):
        export.check_export(
            directory, model, IMAGES, prepare=STANDARDIZE,
            outputs=lambda values: {"embedding": values},
        )


def test_adapted_normalization_is_exported(tmp_path):
    normal = keras.layers.Normalization()
    normal.adapt(IMAGES.astype("float32"))
    model = keras.Sequential([
        keras.Input((8, 8, 3)), normal, keras.layers.Flatten(), keras.layers.Dense(4)
    ])
    raw = nets.Standardize((0.0,) * 3, (1.0,) * 3)
    directory = exported(tmp_path, model, mean=raw.mean, deviation=raw.deviation)
    found = export.check_export(directory, model, IMAGES, prepare=raw)
    assert found.agreement == 1 and found.difference < 1e-4


def test_names_of_the_classes_travel_with_the_export(tmp_path):
    """As the signature's output ``names``, and in ``classes.txt``."""
    model, names = network("float32"), ("un", "deux", "trois", "quatre", "cinq œufs")
    export.export_saved_model(
        model, tmp_path / "1", image_shape=(8, 8, 3), mean=MEAN, deviation=DEVIATION,
        outputs=export.named_classification(names), class_names=names,
    )
    images = np.random.default_rng(3).integers(0, 256, (6, 8, 8, 3), dtype="uint8")
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    answer = served(image=tf.constant(images))
    found = [name.decode() for name in answer["names"].numpy()]
    assert found == [names[number] for number in answer["classes"].numpy()]
    lines = (tmp_path / "1" / "classes.txt").read_text(encoding="utf-8").splitlines()
    assert tuple(lines) == names


def test_float_images_are_refused(tmp_path):
    """TensorFlow casts NumPy's floats to uint8 by itself: those in 0..1 become black."""
    model = network("float32")
    export.export_saved_model(
        model, tmp_path / "1", image_shape=(8, 8, 3), mean=MEAN, deviation=DEVIATION
    )
    serve = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    images[0] = 0  # one that is black among others is none of them
    assert serve(image=images)["classes"].shape == (3,)
    for scaled in (images / 255, (images / 255).astype("float32"), images // 255):
        with pytest.raises(tf.errors.InvalidArgumentError, match="multiply floats in 0..1 by 255"):
            serve(image=scaled)
    with pytest.raises(tf.errors.InvalidArgumentError, match="uint8"):
        serve(image=tf.constant(images / 255, tf.float32))
    same = {"prepare": lambda image: (tf.cast(image, tf.float32) - MEAN) / DEVIATION}
    assert export.check_export(tmp_path / "1", model, images, **same).images == 3
    assert export.check_export(tmp_path / "1", model, images * 0, **same).images == 0
