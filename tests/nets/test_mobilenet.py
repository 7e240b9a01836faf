"""MobileNet against the paper's table and counts by hand."""

import math

import numpy as np
import pytest

import nets
from registry import UserError


def normalised(channels):
    return 4 * channels


def parameters_by_hand(blocks, first, width):
    total = 27 * first + normalised(first)
    inputs = first
    for factor in blocks:
        outputs = factor * width
        total += 9 * inputs + normalised(inputs) + inputs * outputs + normalised(outputs)
        inputs = outputs
    return total + inputs * 100 + 100


TEACHER, STUDENT = (1, 2, 2, 4, 4, 8, 8), (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("name", "blocks", "counted"),
    [("MobileNet_teacher", TEACHER, "2.23"), ("MobileNet_student", STUDENT, "0.82")],
)
def test_parameters_of_the_papers_size(name, blocks, counted):
    model = nets.build(name)
    assert nets.count_parameters(model) == parameters_by_hand(blocks, first=64, width=128)
    assert f"{nets.count_parameters(model) / 1e6:.2f}" == counted


@pytest.mark.parametrize(
    ("name", "blocks", "trainable"),
    [("MobileNet_teacher", TEACHER, "0.59"), ("MobileNet_student", STUDENT, "0.23")],
)
def test_parameters_of_the_published_codes_width(name, blocks, trainable):
    model = nets.build(name, width=64, first=32)
    assert nets.count_parameters(model) == parameters_by_hand(blocks, first=32, width=64)
    weights = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert f"{weights / 1e6:.2f}" == trainable


@pytest.mark.parametrize(
    ("name", "blocks", "positions"),
    [
        ("MobileNet_teacher", TEACHER, (1024, 256, 256, 64, 64, 16, 16)),
        ("MobileNet_student", STUDENT, (1024, 256, 64, 16)),
    ],
)
def test_flops_are_twice_the_multiply_adds(name, blocks, positions):
    multiply_adds, inputs = 1024 * 27 * 64, 64
    for factor, here in zip(blocks, positions, strict=True):
        multiply_adds += here * (9 * inputs + inputs * factor * 128)
        inputs = factor * 128
    assert nets.count_flops(nets.build(name)) == 2 * (multiply_adds + inputs * 100)


@pytest.mark.parametrize("name", nets.pair("MobileNet"))
@pytest.mark.parametrize(("size", "sizes"), [(32, (32, 16, 8, 4)), (9, (9, 5, 3, 2))])
def test_taps_are_the_ends_of_the_width_stages(name, size, sizes):
    model = nets.build(name, (size, size, 3))
    outputs = nets.outputs_of(model)
    maps = [model.get_layer(tap).output.shape for tap in outputs.taps]
    assert maps == [
        (None, side, side, width)
        for side, width in zip(sizes, (128, 256, 512, 1024), strict=True)
    ]
    assert outputs.embedding == outputs.taps[-1]


def test_depthwise_kernels_have_he_scale_of_their_nine_inputs():
    model = nets.build("MobileNet_teacher")
    kernels = [layer.kernel for layer in model.layers if layer.name.endswith("_depthwise")]
    assert len(kernels) == 7
    for kernel in kernels:
        assert np.std(kernel) == pytest.approx(np.sqrt(2 / 9), rel=0.1)


def test_every_convolution_is_normalised_as_in_the_paper():
    model = nets.build("MobileNet_student")
    norms = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
    convolutions = [layer for layer in model.layers if "Conv2D" in type(layer).__name__]
    assert len(norms) == len(convolutions) == 9
    assert {(norm.momentum, norm.epsilon, norm.synchronized) for norm in norms} == {
        (0.9, 1e-3, False)
    }
    assert not any(layer.use_bias for layer in convolutions)


def test_inference_uses_the_moving_averages():
    model = nets.build("MobileNet_student", width=8, first=8)
    images = np.random.default_rng(0).normal(size=(6, 32, 32, 3)).astype("float32")
    together = model(images, training=False)
    apart = np.concatenate([model(images[i : i + 1], training=False) for i in range(6)])
    np.testing.assert_allclose(together, apart, atol=1e-5)


def test_bad_sizes_are_refused():
    with pytest.raises(UserError, match=r"8x8.*7x7"):
        nets.build("MobileNet_teacher", (7, 7, 3))
    with pytest.raises(UserError, match="width.*0"):
        nets.build("MobileNet_teacher", width=0)
