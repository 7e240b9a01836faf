"""ResNet: residual blocks of two 3x3 convolutions, as for CIFAR (He et al., CVPR 2016, 4.2).

Not of the papers ported here: the residual networks that distillation is compared on in most of the
literature. A 3x3 convolution of w filters, then three groups of n blocks with widths w, 2w
(stride 2) and 4w (stride 2): 6n + 2 layers with weights. Batch normalisation after every
convolution, ReLU after each but a block's last, whose ReLU follows the sum with the shortcut. The
shortcut has no weights (their option A): every second pixel, and zeros for the new channels.

- teacher: 32 layers, w = 16. 0.46M parameters as printed in the paper for 10 classes.
- student: 8 layers, w = 16.

Others, such as RepDistiller, put a 1x1 convolution into the shortcut of a group's first block.

Taps are the first convolution's output after its ReLU (`block0`) and those of the three groups
(`block1` ... `block3`). The last one is the embedding, averaged over positions.
"""

from __future__ import annotations

import keras

from registry import UserError

from .layers import check_count, logits_layer, normalised_convolution, pad_channels
from .registration import declare_pair, register

_GROUPS = ("block0", "block1", "block2", "block3")
# Halved twice, an image of 4x4 pixels still leaves a position of its own.
_MINIMUM_SIZE = 4


def _shortcut(maps: keras.KerasTensor, width: int, strides: int, name: str) -> keras.KerasTensor:
    """Every pixel or every second one, between channels of zeros."""
    if strides > 1:
        maps = keras.layers.MaxPooling2D(1, strides, padding="same", name=f"{name}_pixels")(maps)
    return pad_channels(maps, width)


def _block(
    maps: keras.KerasTensor, width: int, strides: int, name: str, output: str
) -> keras.KerasTensor:
    """`output` names the last ReLU."""
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
    """ResNet's student. Arguments as of `teacher`."""
    return _resnet(image, classes, depth, width)


declare_pair("ResNet", teacher="ResNet_teacher", student="ResNet_student")
