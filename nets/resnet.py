"""ResNet: residual blocks of two 3x3 convolutions, as for CIFAR (He et al., CVPR 2016, 4.2).

Most of the distillation literature compares methods on these networks; they are not from the papers
ported here. A 3x3 convolution with w filters is followed by three groups of n blocks with widths w,
2w (stride 2) and 4w (stride 2): 6n + 2 layers with weights. Every convolution is followed by batch
normalisation and ReLU, but in a block's last one the ReLU comes after adding the shortcut. The
shortcut has no weights (their option A): it takes every second pixel and pads new channels with
zeros.

- teacher: 32 layers, w = 16. 0.46M parameters, as stated in the paper for 10 classes.
- student: 8 layers, w = 16.

Other implementations, for example RepDistiller, use a 1x1 convolution in the shortcut of a group's
first block.

The taps are the outputs of the first convolution (`block0`) and of the three groups (`block1` ...
`block3`), each after its ReLU. The embedding is the last tap, averaged over positions.
"""

from __future__ import annotations

import keras

from registry import UserError

from .layers import check_count, logits_layer, normalised_convolution, pad_channels
from .registration import declare_pair, register

_GROUPS = ("block0", "block1", "block2", "block3")
# Two strides of 2 reduce 4x4 pixels to one position.
_MINIMUM_SIZE = 4


def _shortcut(maps: keras.KerasTensor, width: int, strides: int, name: str) -> keras.KerasTensor:
    """Every pixel, or with stride 2 every second one, padded with zero channels to `width`."""
    if strides > 1:
        maps = keras.layers.MaxPooling2D(1, strides, padding="same", name=f"{name}_pixels")(maps)
    return pad_channels(maps, width)


def _block(
    maps: keras.KerasTensor, width: int, strides: int, name: str, output: str
) -> keras.KerasTensor:
    """A residual block; `output` names its last ReLU."""
    residual = normalised_convolution(maps, width, 3, f"{name}_conv1", strides)
    residual = keras.layers.ReLU(name=f"{name}_relu1")(residual)
    residual = normalised_convolution(residual, width, 3, f"{name}_conv2")
    shortcut = _shortcut(maps, width, strides, name)
    return keras.layers.ReLU(name=output)(
        keras.layers.Add(name=f"{name}_sum")([shortcut, residual])
    )


def _resnet(
    image: keras.KerasTensor, classes: int, depth: int, width: int
) -> keras.KerasTensor:
    check_count("ResNet", "depth", depth)
    check_count("ResNet", "width", width)
    if depth < 8 or depth % 6 != 2:
        raise UserError(f"network ResNet: depth must be 8, 14, 20, ... (6n + 2), not {depth}")
    blocks = (depth - 2) // 6
    maps = keras.layers.ReLU(name="block0")(normalised_convolution(image, width, 3, "conv0"))
    for i, group in enumerate(_GROUPS[1:]):
        for block in range(1, blocks + 1):
            strides = 2 if i and block == 1 else 1
            name = f"{group}_unit{block}"
            output = group if block == blocks else f"{name}_relu2"
            maps = _block(maps, width * 2**i, strides, name, output)
    return logits_layer(classes)(keras.layers.GlobalAveragePooling2D(name="pooled")(maps))


@register("ResNet_teacher", taps=_GROUPS, embedding="block3", minimum_size=_MINIMUM_SIZE)
def teacher(
    image: keras.KerasTensor, classes: int, *, depth: int = 32, width: int = 16
) -> keras.KerasTensor:
    """ResNet's teacher.

    Args:
        image: ``[B, H, W, C]``, at least 4x4 pixels.
        classes: number of classes.
        depth: number of layers with weights: 8, 14, 20 and so on.
        width: filters of the first convolution (w above).
    """
    return _resnet(image, classes, depth, width)


@register("ResNet_student", taps=_GROUPS, embedding="block3", minimum_size=_MINIMUM_SIZE)
def student(
    image: keras.KerasTensor, classes: int, *, depth: int = 8, width: int = 16
) -> keras.KerasTensor:
    """ResNet's student. Takes the same arguments as `teacher`."""
    return _resnet(image, classes, depth, width)


declare_pair("ResNet", teacher="ResNet_teacher", student="ResNet_student")
