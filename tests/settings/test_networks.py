"""Networks of a person's own as they come from their files."""

import keras
import numpy as np

from settings.networks import load_to_train


def test_a_network_of_float16_is_trained_in_the_precision_of_the_run(tmp_path, caplog):
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, activation="relu", dtype="mixed_float16")(image)
    scores = keras.layers.Dense(5, dtype="float32")(keras.layers.Flatten(dtype="float32")(maps))
    model = keras.Model(image, scores)
    model.save(tmp_path / "half.keras")
    loaded = load_to_train(str(tmp_path / "half.keras"))
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    (record,) = caplog.records
    assert record.getMessage().endswith("it is trained in float32")
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(loaded(images), model(images), rtol=0.02, atol=0.02)
