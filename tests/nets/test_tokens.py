"""Tokens of transformers as maps, and taps at blocks within layers."""

import numpy as np
import pytest

import nets
from registry import UserError
from tests.transformer import transformer


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (196, (224, 224), (0, 14, 14)),
        (197, (224, 224), (1, 14, 14)),  # ViT: a class token
        (198, (224, 224), (2, 14, 14)),  # DeiT: and one for the teacher
        (261, (224, 224), (5, 16, 16)),  # DINOv2: and four registers
        (65, (32, 32), (1, 8, 8)),
        (33, (32, 64), (1, 4, 8)),
        (50, (32, 32), None),  # 7 x 7 do not divide 32
        (3, (32, 32), (2, 1, 1)),
    ],
)
def test_the_grid_of_known_transformers(count, size, expected):
    assert nets.token_grid(count, size) == expected


def test_patches_come_row_by_row_and_others_are_dropped():
    tokens = np.arange(2 * 9 * 3, dtype="float32").reshape(2, 9, 3)
    maps = np.asarray(nets.tokens_to_maps(tokens, (8, 16)))
    assert maps.shape == (2, 2, 4, 3)
    for row in range(2):
        for column in range(4):
            np.testing.assert_array_equal(maps[:, row, column], tokens[:, 1 + 4 * row + column])
    with pytest.raises(UserError, match="9 tokens do not form a grid.*with 0 tokens before"):
        nets.tokens_to_maps(tokens, (8, 16), prefix=0)


IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")


def test_taps_at_blocks_are_maps_of_what_the_blocks_give():
    model = transformer()
    taps = ["patches", "encoder/0", "encoder/block_1", "encoder/2/dense", "encoder"]
    outputs = nets.outputs_of(model, taps)
    extractor = nets.feature_extractor(model, outputs)
    features = extractor(IMAGES)
    encoder = model.get_layer("encoder")
    tokens = model.get_layer("sequence")(model.get_layer("patches")(IMAGES))
    tokens = np.concatenate([np.repeat(encoder.first, 4, 0), tokens], axis=1)
    first = encoder.blocks[0](tokens)
    second = encoder.blocks[1](first)
    mixed = encoder.blocks[2].mix(second)
    hidden = encoder.blocks[2].dense(encoder.blocks[2].second_norm(mixed))
    for found, expected in zip(
        features["maps"][1:], [first, second, hidden, encoder.final(mixed + hidden)], strict=True
    ):
        assert found.shape == (4, 4, 4, 6)
        expected = np.asarray(expected)[:, 1:].reshape(4, 4, 4, 6)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features["logits"], model(IMAGES), rtol=1e-4, atol=1e-5)
    assert {id(w) for w in extractor.weights} == {id(w) for w in model.weights}
    np.testing.assert_allclose(
        model(IMAGES), nets.copy_model(model)(IMAGES), rtol=1e-4, atol=1e-5
    )


def test_opened_layers_train_and_stay_as_they_were():
    import tensorflow as tf

    model = transformer()
    extractor = nets.feature_extractor(model, nets.outputs_of(model, ["encoder/1"]))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(extractor(IMAGES, training=True)["maps"][0]))
    blocks = model.get_layer("encoder").blocks
    gradients = tape.gradient(loss, [block.dense.kernel for block in blocks])
    assert gradients[0] is not None and gradients[1] is not None and gradients[2] is None
    assert all("call" not in vars(block) for block in blocks)
    dropped = np.asarray(extractor(IMAGES, training=True)["maps"][0])
    assert np.abs(dropped - extractor(IMAGES)["maps"][0]).max() > 1e-3


def test_blocks_that_are_not_there_are_told():
    model = transformer()
    for name in ("encoder/3", "encoder/block_7", "encoder/0/gate", "scores/0"):
        with pytest.raises(UserError, match="holds no layer"):
            nets.outputs_of(model, [name])
