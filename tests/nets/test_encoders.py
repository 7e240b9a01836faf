"""Encoders of registered and of any other networks, from files and exports."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
from registry import UserError
from tests.read_by_keras import read_by_keras

STANDARDIZE = nets.Standardize((100.0,) * 3, (50.0,) * 3)


def images(size=(16, 16), count=5, channels=3, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, [count, *size, channels]).astype(np.uint8)


def network(name="MobileNet_student", size=(16, 16), **options):
    if name.startswith("MobileNet"):
        options = {"width": 8, "first": 4, **options}
    return nets.build(name, (*size, 3), 5, **options)


def own(classifier=True):
    image = keras.Input((16, 16, 3))
    maps = keras.layers.Conv2D(6, 3, strides=2, padding="same", name="first")(image)
    maps = keras.layers.Conv2D(7, 3, strides=2, padding="same", name="second")(maps)
    hidden = keras.layers.Dense(9, name="hidden")(keras.layers.Flatten(name="flat")(maps))
    output = keras.layers.Dense(4, name="scores")(hidden) if classifier else hidden
    return keras.Model(image, output, name="own")


def layer_output(model, name, batch):
    return keras.Model(model.input, model.get_layer(name).output)(batch, training=False).numpy()


@pytest.mark.parametrize("name", nets.names())
def test_a_registered_network_gives_its_declared_embedding(name):
    model = network(name)
    encoder = nets.encoder_of(model, STANDARDIZE)
    found = encoder(images())
    expected = layer_output(
        model, nets.outputs_of(model).embedding, (images().astype(np.float32) - 100) / 50
    )
    np.testing.assert_allclose(found["features"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["embedding"], expected.mean((1, 2)), rtol=1e-4, atol=1e-5)
    assert found["embedding"].dtype == tf.float32
    assert encoder.name == name and encoder.image_shape == (16, 16, 3)


def test_any_other_model_gives_its_last_map_or_the_layer_that_is_named():
    model = own()
    batch = (images().astype(np.float32) - 100) / 50
    maps = layer_output(model, "second", batch)
    plain = nets.encoder_of(model, STANDARDIZE)(images())
    np.testing.assert_allclose(plain["features"], maps, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(plain["embedding"], maps.mean((1, 2)), rtol=1e-4, atol=1e-5)
    named = nets.encoder_of(model, STANDARDIZE, "hidden")(images())
    np.testing.assert_allclose(named["features"], maps, rtol=1e-5, atol=1e-5)
    expected = layer_output(model, "hidden", batch)
    np.testing.assert_allclose(named["embedding"], expected, rtol=1e-4, atol=1e-5)
    first = nets.encoder_of(model, STANDARDIZE, "first")(images())
    assert first["features"].shape == (5, 8, 8, 6)


def test_a_model_that_keras_itself_read_in_a_new_process(tmp_path):
    """Its own cast is named as the one that is added."""
    image = keras.Input((16, 16, 3))
    narrow = keras.ops.cast(image, "bfloat16")
    maps = keras.layers.Conv2D(4, 3, name="maps", dtype="bfloat16")(narrow)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled", dtype="bfloat16")(maps)
    model = read_by_keras(keras.Model(image, pooled, name="own"), tmp_path)
    encoder = nets.encoder_of(model, STANDARDIZE, "pooled")
    given = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    expected = tf.cast(model(given), tf.float32)
    np.testing.assert_array_equal(encoder.model(given)["embedding"], expected)


def test_a_pooled_map_that_keeps_its_dimensions_is_no_map():
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(6, 3, padding="same")(image)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D(keepdims=True)(maps))
    assert nets.encoder_of(model, STANDARDIZE)(images((8, 8)))["features"].shape == (5, 8, 8, 6)


@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV3Small", "EfficientNetB0"])
def test_the_map_is_the_one_before_the_pooling_of_keras_applications(name):
    """MobileNet and MobileNetV3 convolve pooled maps, EfficientNet multiplies maps by them."""
    model = nets.build(f"keras.applications:{name}", (64, 64, 3), 7)
    encoder = nets.encoder_of(model, STANDARDIZE)
    without = getattr(keras.applications, name)(
        weights=None, input_shape=(64, 64, 3), include_top=False
    )
    assert encoder.model.output["features"].shape == without.output_shape
    assert encoder.model.output["embedding"].shape == (None, without.output_shape[-1])


def test_images_of_another_size_are_resized_and_grey_ones_repeated():
    encoder = nets.encoder_of(network(), STANDARDIZE)
    large = images((30, 20))
    resized = tf.image.resize(tf.cast(large, tf.float32), (16, 16), antialias=True)
    np.testing.assert_allclose(
        encoder(large)["embedding"], encoder(resized)["embedding"], rtol=1e-5, atol=1e-6
    )
    grey = images(channels=1)
    np.testing.assert_allclose(
        encoder(grey)["embedding"], encoder(grey.repeat(3, axis=-1))["embedding"], rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: keras.Sequential([keras.layers.Dense(3)]), "functional"),
        (lambda: keras.Sequential([keras.Input((7,)), keras.layers.Dense(3)]), "input of images"),
        (
            lambda: keras.Sequential(
                [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
            ),
            "no feature map",
        ),
    ],
)
def test_what_is_no_encoder_is_refused(build, message):
    with pytest.raises(UserError, match=message):
        nets.encoder_of(build(), STANDARDIZE)


def test_an_unknown_embedding_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'hidden'"):
        nets.encoder_of(own(), STANDARDIZE, "hiden")


# Files


def tte_run(path, encoder):
    path.mkdir()
    model = keras.Model(
        encoder.model.input, encoder.model.output["embedding"], name=encoder.model.name
    )
    model.save(path / "encoder.keras")
    summary = {"kind": "tte", "preprocessing": {"mean": [100] * 3, "deviation": [50] * 3}}
    (path / "summary.json").write_text(json.dumps(summary))
    return path


@pytest.mark.parametrize("model", [network(), own()], ids=lambda model: model.name)
@pytest.mark.parametrize("embedding", [None, "last"])
def test_a_tte_run_comes_back_as_it_was_saved(tmp_path, model, embedding):
    if embedding:
        embedding = "hidden" if model.name == "own" else "stage2"
    encoder = nets.encoder_of(model, STANDARDIZE, embedding)
    loaded = nets.load_encoder(tte_run(tmp_path / "run", encoder))
    assert loaded.name == encoder.name and loaded.standardize == encoder.standardize
    for key, value in encoder(images()).items():
        np.testing.assert_array_equal(loaded(images())[key], value)


def test_a_distillation_run_and_a_plain_model(tmp_path):
    model = own()
    (tmp_path / "run").mkdir()
    model.save(tmp_path / "run" / "student.keras")
    (tmp_path / "run" / "summary.json").write_text(
        json.dumps({"preprocessing": {"mean": [1] * 3, "deviation": [2] * 3}})
    )
    loaded = nets.load_encoder(tmp_path / "run", STANDARDIZE)
    assert loaded.standardize.mean == (1.0,) * 3  # what the run says, not the fallback
    model.save(tmp_path / "own.keras")
    assert nets.load_encoder(tmp_path / "own.keras", STANDARDIZE).standardize.mean == (100.0,) * 3
    plain = nets.load_encoder(tmp_path / "own.keras")
    extremes = np.stack([np.zeros([16, 16, 3]), np.full([16, 16, 3], 255)]).astype(np.uint8)
    np.testing.assert_allclose(plain.standardize(extremes)[:, 0, 0, 0], [-1, 1])


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="none does not exist"):
        nets.load_encoder(tmp_path / "none")


# Copies


def test_a_copy_has_variables_of_its_own():
    encoder = nets.encoder_of(network(), STANDARDIZE)
    before = encoder(images())["embedding"].numpy()
    copy = nets.copy_encoder(encoder)
    np.testing.assert_array_equal(copy(images())["embedding"], before)
    for variable in copy.model.variables:
        variable.assign(variable + 1)
    np.testing.assert_array_equal(encoder(images())["embedding"], before)


@pytest.mark.parametrize("name", nets.names())
def test_a_copy_for_larger_images_has_larger_maps(name):
    encoder = nets.encoder_of(network(name, (32, 32)), STANDARDIZE)
    height, width, channels = encoder(images((32, 32)))["features"].shape[1:]
    wide = nets.copy_encoder(encoder, (32, 96))
    assert wide.image_shape == (32, 96, 3)
    assert wide(images((32, 96)))["features"].shape == (5, height, 3 * width, channels)


def test_what_a_copy_sees_in_a_larger_image_is_what_the_original_sees():
    encoder = nets.encoder_of(own(), STANDARDIZE)
    left, middle, right = images(count=3)
    wide = nets.copy_encoder(encoder, (16, 48))
    together = wide(np.concatenate([left, middle, right], axis=1)[None])["features"][0]
    alone = encoder(middle[None])["features"][0]
    # Two 3x3 convolutions of stride 2: a cell sees 7 pixels from its own first one on, so the last
    # column of a part sees into the next.
    np.testing.assert_allclose(together[:, 4:7], alone[:, :3], rtol=1e-4, atol=1e-5)
    assert np.abs(together[:, 7] - alone[:, 3]).max() > 1e-2


def test_a_network_that_is_tied_to_its_size_is_refused():
    encoder = nets.encoder_of(own(), STANDARDIZE, "hidden")
    with pytest.raises(UserError, match="cannot take images of 32x32, only of 16x16"):
        nets.copy_encoder(encoder, (32, 32))


# Exports


def test_an_export_gives_what_the_encoder_gives(tmp_path):
    from experiment.run.export import export_saved_model

    encoder = nets.encoder_of(network(), STANDARDIZE)
    embedder = keras.Model(encoder.model.input, encoder.model.output["embedding"])
    export_saved_model(
        embedder, tmp_path / "export" / "1", image_shape=(16, 16, 3), mean=(100,) * 3,
        deviation=(50,) * 3, outputs=lambda embedding: {"embedding": embedding},
    )
    export = nets.ExportedEncoder(tmp_path / "export" / "1")
    assert export.image_shape == (16, 16, 3)
    np.testing.assert_allclose(
        export(images())["embedding"], encoder(images())["embedding"], rtol=1e-5, atol=1e-6
    )


def test_what_is_no_export_of_an_encoder_is_refused(tmp_path):
    from experiment.run.export import export_saved_model

    with pytest.raises(UserError, match="not a SavedModel"):
        nets.ExportedEncoder(tmp_path)
    export_saved_model(
        network(), tmp_path / "1", image_shape=(16, 16, 3), mean=(100,) * 3, deviation=(50,) * 3
    )
    with pytest.raises(UserError, match="gives classes, probabilities"):
        nets.ExportedEncoder(tmp_path / "1")


def test_moving_statistics_of_a_trainable_copy_follow_soon():
    image = keras.Input((8, 8, 3))
    maps = keras.layers.BatchNormalization(momentum=0.999, name="slow")(image)
    maps = keras.layers.BatchNormalization(momentum=0.8, name="fast")(maps)
    encoder = nets.encoder_of(keras.Model(image, maps), nets.Standardize((0.0,) * 3, (1.0,) * 3))
    copy = nets.trainable_copy(encoder).model
    assert [copy.get_layer(name).momentum for name in ("slow", "fast")] == [0.9, 0.8]
    assert encoder.model.get_layer("slow").momentum == 0.999
