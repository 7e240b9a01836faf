"""Counts against counts by hand, for kinds of layers that foreign models have."""

import keras
import pytest

import nets
from registry import UserError


def model(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


def test_parameters_hold_statistics_but_not_the_state_of_dropout():
    counted = nets.count_parameters(
        model(
            (8,),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
        )
    )
    assert counted == 8 * 4 + 4 + 4 * 4


@pytest.mark.parametrize(
    ("shape", "layer", "multiply_adds"),
    [
        ((8,), keras.layers.Dense(4), 8 * 4),
        ((8, 8, 3), keras.layers.Conv2D(4, 3), 6 * 6 * 9 * 3 * 4),
        ((8, 8, 3), keras.layers.Conv2D(4, (1, 5), padding="same"), 8 * 8 * 5 * 3 * 4),
        ((8, 8, 6), keras.layers.Conv2D(4, 3, groups=2), 6 * 6 * 9 * 3 * 4),
        ((8, 8, 3), keras.layers.DepthwiseConv2D(3, depth_multiplier=2), 6 * 6 * 9 * 6),
        ((8, 8, 3), keras.layers.Conv2DTranspose(4, 2, strides=2), 8 * 8 * 4 * 3 * 4),
        ((8, 3), keras.layers.Conv1D(4, 3), 6 * 3 * 3 * 4),
        ((4, 8, 8, 3), keras.layers.Conv3D(4, 2), 3 * 7 * 7 * 8 * 3 * 4),
        ((7, 8), keras.layers.Dense(4), 7 * 8 * 4),
        ((7, 8), keras.layers.EinsumDense("...x,xy->...y", output_shape=4), 7 * 8 * 4),
    ],
)
def test_flops_by_hand(shape, layer, multiply_adds):
    assert nets.count_flops(model(shape, layer)) == 2 * multiply_adds


def test_flops_of_attention():
    tokens = keras.Input((7, 8))
    attended = keras.layers.MultiHeadAttention(2, 5, flash_attention=False)(tokens, tokens)
    projections = 4 * 7 * 8 * 10
    scores_and_mixing = 2 * 2 * 7 * 7 * 5
    assert nets.count_flops(keras.Model(tokens, attended)) == 2 * (projections + scores_and_mixing)


def test_flops_of_a_nested_model_with_two_inputs():
    inner = model((8,), keras.layers.Dense(4))
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    outer = keras.Model({"a": a, "b": b}, keras.layers.Add()([inner(a), inner(b)]))
    assert nets.count_flops(outer) == 2 * 2 * 8 * 4


def test_flops_of_a_model_for_images_of_any_size():
    any_size = model((None, None, 3), keras.layers.Conv2D(4, 3))
    assert nets.count_flops(any_size, (8, 6)) == 2 * 6 * 4 * 9 * 3 * 4
    # A fixed side stays.
    assert nets.count_flops(model((8, None, 3), keras.layers.Conv2D(4, 3)), (5, 5)) == (
        2 * 6 * 3 * 9 * 3 * 4
    )
    assert nets.known_flops(any_size) is None
    assert nets.known_flops(any_size, (8, 6)) == nets.count_flops(any_size, (8, 6))
    assert nets.known_flops(model((5, 3), keras.layers.LSTM(4)), (8, 8)) is None


def test_flops_that_are_not_fixed_are_refused():
    with pytest.raises(UserError, match="size of its input"):
        nets.count_flops(model((None, None, 3), keras.layers.Conv2D(4, 3)))
    with pytest.raises(UserError, match="loops or branches"):
        nets.count_flops(model((5, 3), keras.layers.LSTM(4)))
    with pytest.raises(UserError, match="functional"):
        nets.count_flops(keras.Sequential([keras.layers.Dense(3)]))
