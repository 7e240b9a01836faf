"""ResNeXt against the paper's table and counts by hand."""

import math

import numpy as np
import pytest

import nets
from registry import UserError


def parameters_by_hand(paths):
    total = 27 * 64 + 4 * 64
    for inputs, outputs in [(64, 64), (64, 128), (128, 256)]:
        path = inputs * 64 + 4 * 64 + 9 * 64 * 64 + 4 * 64
        total += paths * path + paths * 64 * outputs + 4 * outputs
    return total + 256 * 100 + 100


@pytest.mark.parametrize(
    ("name", "paths", "printed"),
    [("ResNeXt_teacher", 4, "0.66"), ("ResNeXt_student", 2, "0.34")],
)
def test_parameters_are_the_papers(name, paths, printed):
    counted = nets.count_parameters(nets.build(name))
    assert counted == parameters_by_hand(paths)
    assert f"{counted / 1e6:.2f}" == printed


def test_parameters_of_the_published_codes_paths():
    model = nets.build("ResNeXt_teacher", paths=8)
    assert nets.count_parameters(model) == parameters_by_hand(8)
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert f"{trainable / 1e6:.2f}" == "1.28"


@pytest.mark.parametrize(("name", "paths"), [("ResNeXt_teacher", 4), ("ResNeXt_student", 2)])
def test_flops_are_twice_the_multiply_adds(name, paths):
    multiply_adds = 1024 * 27 * 64 + 256 * 100
    for inputs, outputs, before, after in [
        (64, 64, 1024, 1024),
        (64, 128, 1024, 256),
        (128, 256, 256, 64),
    ]:
        path = before * inputs * 64 + after * 9 * 64 * 64
        multiply_adds += paths * path + after * paths * 64 * outputs
    counted = nets.count_flops(nets.build(name))
    assert counted == 2 * multiply_adds
    if name == "ResNeXt_teacher":
        # The paper's 547.3 holds a little more than convolutions and matrix products.
        assert counted / 1e6 == pytest.approx(547.3, rel=1e-2)


@pytest.mark.parametrize("name", nets.pair("ResNeXt"))
@pytest.mark.parametrize(("size", "sizes"), [(32, (32, 32, 16, 8)), (5, (5, 5, 3, 2))])
def test_taps_are_the_first_convolution_and_the_blocks(name, size, sizes):
    model = nets.build(name, (size, size, 3))
    outputs = nets.outputs_of(model)
    assert [model.get_layer(tap).output.shape for tap in outputs.taps] == [
        (None, side, side, width) for side, width in zip(sizes, (64, 64, 128, 256), strict=True)
    ]
    image = np.random.default_rng(0).normal(size=(1, size, size, 3)).astype("float32")
    assert all(np.min(tap) >= 0 for tap in nets.feature_extractor(model, outputs)(image)["maps"])


def test_shortcut_is_the_pooled_map_between_zero_channels():
    """With the transition's batch norm at zero a block gives its shortcut alone."""
    model = nets.build("ResNeXt_student", (8, 8, 3))
    model.get_layer("block2_transition_bn").gamma.assign(np.zeros(128))
    image = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    maps = nets.feature_extractor(model, nets.outputs_of(model))(image)["maps"]
    before, after = np.asarray(maps[1]), np.asarray(maps[2])
    pooled = before.reshape(2, 4, 2, 4, 2, 64).mean(axis=(2, 4))
    np.testing.assert_allclose(after[..., 32:96], pooled, atol=1e-6)
    assert not after[..., :32].any() and not after[..., 96:].any()


def test_bad_sizes_are_refused():
    with pytest.raises(UserError, match=r"4x4.*32x3"):
        nets.build("ResNeXt_teacher", (32, 3, 3))
    with pytest.raises(UserError, match="paths.*1.5"):
        nets.build("ResNeXt_teacher", paths=1.5)
