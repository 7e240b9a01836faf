"""MobileNet: depthwise separable convolutions, batch normalisation and ReLU after each.

The paper's networks (Lee, Kim and Song, ECCV 2018) for CIFAR-100's 32x32 images have a 3x3
convolution, then separable blocks of these widths (s2 = stride 2):

- teacher: w | 2w s2, 2w | 4w s2, 4w | 8w s2, 8w. Paper: 2.3M parameters, 98.4M FLOPs,
  57.85 % top-1. With w = 128 and 64 filters in the first convolution, we count 2.23M.
- student: w | 2w s2 | 4w s2 | 8w s2. Paper: 0.82M parameters, 37.8M FLOPs; 56.15 % alone,
  56.53 % with FSP, 58.15 % with SSKD_SVD.

The paper's parameter counts correspond to ``width=128, first=64``, the default. The paper's
published code uses ``width=64, first=32``: 0.59M and 0.23M trainable parameters (0.60M and 0.24M
with batch-norm statistics). The paper counts these FLOPs differently from those of its VGG
networks: `nets.count_flops` gives 175.8M (teacher) and 73.1M (student) for the default networks.

The taps are the outputs of the four stages (`stage1` ... `stage4`, separated by bars above) after
their last ReLU. There teacher and student have the same channels and sizes, and there the published
code compares them. The embedding is the last tap, averaged over positions. The published code
normalises with the batch's statistics even in the teacher and in validation; here inference uses
the moving averages.
"""

from __future__ import annotations

import keras

from .layers import batch_normalization, check_count, logits_layer
from .registration import declare_pair, register

_STAGES = ("stage1", "stage2", "stage3", "stage4")
# Three strides of 2 reduce 8x8 pixels to one position.
_MINIMUM_SIZE = 8


def _normalised(maps: keras.KerasTensor, name: str, output: str | None = None):
    """Batch normalisation and ReLU; `output` names the ReLU."""
    maps = batch_normalization(f"{name}_bn")(maps)
    return keras.layers.ReLU(name=output or f"{name}_relu")(maps)


def _separable(
    maps: keras.KerasTensor, width: int, strides: int, name: str, output: str | None
) -> keras.KerasTensor:
    depthwise = keras.layers.DepthwiseConv2D(
        3,
        strides=strides,
        padding="same",
        use_bias=False,
        # Each output sums over 3x3 inputs of one channel. Keras computes a depthwise kernel's
        # fan-in as 9 x channels; its "fan_out" is the 9 that He's rule requires.
        depthwise_initializer=keras.initializers.VarianceScaling(2.0, "fan_out"),
        name=f"{name}_depthwise",
    )
    maps = _normalised(depthwise(maps), f"{name}_depthwise")
    pointwise = keras.layers.Conv2D(
        width, 1, use_bias=False, kernel_initializer="he_normal", name=f"{name}_pointwise"
    )
    return _normalised(pointwise(maps), f"{name}_pointwise", output)


def _mobilenet(
    image: keras.KerasTensor, classes: int, width: int, first: int, deep_blocks: int
) -> keras.KerasTensor:
    """`deep_blocks`: number of separable blocks in every stage except the first, which has one."""
    check_count("MobileNet", "width", width)
    check_count("MobileNet", "first", first)
    convolution = keras.layers.Conv2D(
        first, 3, padding="same", use_bias=False, kernel_initializer="he_normal", name="conv0"
    )
    maps = _normalised(convolution(image), "conv0")
    for i, stage in enumerate(_STAGES):
        blocks = deep_blocks if i else 1
        for block in range(1, blocks + 1):
            strides = 2 if i and block == 1 else 1
            output = stage if block == blocks else None
            maps = _separable(maps, width * 2**i, strides, f"{stage}_block{block}", output)
    return logits_layer(classes)(keras.layers.GlobalAveragePooling2D(name="pooled")(maps))


@register("MobileNet_teacher", taps=_STAGES, embedding="stage4", minimum_size=_MINIMUM_SIZE)
def teacher(
    image: keras.KerasTensor, classes: int, *, width: int = 128, first: int = 64
) -> keras.KerasTensor:
    """MobileNet's teacher.

    Args:
        image: ``[B, H, W, C]``, at least 8x8 pixels.
        classes: number of classes.
        width: channels of the first separable block (w above).
        first: filters of the first convolution.
    """
    return _mobilenet(image, classes, width, first, deep_blocks=2)


@register("MobileNet_student", taps=_STAGES, embedding="stage4", minimum_size=_MINIMUM_SIZE)
def student(
    image: keras.KerasTensor, classes: int, *, width: int = 128, first: int = 64
) -> keras.KerasTensor:
    """MobileNet's student. Takes the same arguments as `teacher`."""
    return _mobilenet(image, classes, width, first, deep_blocks=1)


declare_pair("MobileNet", teacher="MobileNet_teacher", student="MobileNet_student")
