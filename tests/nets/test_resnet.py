"""ResNet against the parameters printed by He et al. (2016, table 6) and counts by hand."""

import math

import numpy as np
import pytest

import nets
from registry import UserError


@pytest.mark.parametrize(
    ("depth", "printed"), [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85")]
)
def test_parameters_are_the_papers(depth, printed):
    model = nets.build("ResNet_teacher", classes=10, depth=depth)
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert f"{trainable / 1e6:.2f}" == printed


@pytest.mark.parametrize(("name", "depth"), [("ResNet_teacher", 32), ("ResNet_student", 8)])
def test_flops_are_twice_the_multiply_adds(name, depth):
    blocks = (depth - 2) // 6
    multiply_adds = 1024 * 27 * 16 + 64 * 100
    for before, width, pixels in [(16, 16, 1024), (16, 32, 256), (32, 64, 64)]:
        multiply_adds += pixels * 9 * width * (before + (2 * blocks - 1) * width)
    assert nets.count_flops(nets.build(name)) == 2 * multiply_adds


@pytest.mark.parametrize("name", nets.pair("ResNet"))
@pytest.mark.parametrize(("size", "sizes"), [(32, (32, 32, 16, 8)), (5, (5, 5, 3, 2))])
def test_taps_are_the_first_convolution_and_the_groups(name, size, sizes):
    model = nets.build(name, (size, size, 3))
    outputs = nets.outputs_of(model)
    assert [model.get_layer(tap).output.shape for tap in outputs.taps] == [
        (None, side, side, width) for side, width in zip(sizes, (16, 16, 32, 64), strict=True)
    ]
    image = np.random.default_rng(0).normal(size=(1, size, size, 3)).astype("float32")
    assert all(np.min(tap) >= 0 for tap in nets.feature_extractor(model, outputs)(image)["maps"])


def test_shortcut_is_every_second_pixel_between_zero_channels():
    """With the second convolution's batch norm at zero a block gives its shortcut alone."""
    model = nets.build("ResNet_student", (8, 8, 3))
    model.get_layer("block2_unit1_conv2_bn").gamma.assign(np.zeros(32))
    image = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    maps = nets.feature_extractor(model, nets.outputs_of(model))(image)["maps"]
    before, after = np.asarray(maps[1]), np.asarray(maps[2])
    np.testing.assert_allclose(after[..., 8:24], before[:, ::2, ::2], atol=1e-6)
    assert not after[..., :8].any() and not after[..., 24:].any()


def test_bad_sizes_are_refused():
    with pytest.raises(UserError, match=r"4x4.*32x3"):
        nets.build("ResNet_teacher", (32, 3, 3))
    for depth in (2, 10, 32.0):
        with pytest.raises(UserError, match="depth must be"):
            nets.build("ResNet_student", depth=depth)
