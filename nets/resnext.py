"""ResNeXt: residual blocks of parallel bottleneck paths.

The paper's networks (Lee, Kim and Song, ECCV 2018) for CIFAR-100's 32x32 images have a 3x3
convolution with 64 filters, then three blocks of widths 64, 128 (stride 2) and 256 (stride 2). In a
block, `paths` parallel paths of a 1x1 and a 3x3 convolution with 64 filters are concatenated and
passed through a 1x1 convolution. Every convolution is followed by batch normalisation and ReLU, but
in a block's last one the ReLU comes after adding the shortcut: 2x2 average pooling and zero-padded
channels.

- teacher: 4 paths. 0.66M parameters, 547.3M FLOPs in the paper (542.6M by `nets.count_flops`,
  which counts only convolutions and matrix products), 66.58 % top-1. The paper's published code
  has 8 paths: 1.28M trainable parameters (1.29M with batch-norm statistics).
- student: 2 paths. 0.34M parameters, 247.6M FLOPs in the paper (273.1M by `nets.count_flops`);
  64.00 % alone, 63.60 % with FSP, 65.43 % with SSKD_SVD.

The taps are the outputs of the first convolution (`block0`) and of the three blocks (`block1` ...
`block3`), each after its ReLU. The embedding is the last tap, averaged over positions.
"""

from __future__ import annotations

import keras

from .layers import check_count, logits_layer, normalised_convolution, pad_channels
from .registration import declare_pair, register

_BLOCKS = ("block0", "block1", "block2", "block3")
_PATH_WIDTH = 64
# Two strides of 2 reduce 4x4 pixels to one position.
_MINIMUM_SIZE = 4


def _path(maps: keras.KerasTensor, strides: int, name: str) -> keras.KerasTensor:
    maps = normalised_convolution(maps, _PATH_WIDTH, 1, f"{name}_conv1")
    maps = keras.layers.ReLU(name=f"{name}_relu1")(maps)
    maps = normalised_convolution(maps, _PATH_WIDTH, 3, f"{name}_conv2", strides)
    return keras.layers.ReLU(name=f"{name}_relu2")(maps)


def _shortcut(maps: keras.KerasTensor, width: int, strides: int, name: str) -> keras.KerasTensor:
    if strides > 1:
        maps = keras.layers.AveragePooling2D(strides, padding="same", name=f"{name}_pool")(maps)
    return pad_channels(maps, width)


def _block(
    maps: keras.KerasTensor, width: int, strides: int, paths: int, name: str
) -> keras.KerasTensor:
    joined = [_path(maps, strides, f"{name}_path{i}") for i in range(1, paths + 1)]
    if paths > 1:
        joined = [keras.layers.Concatenate(name=f"{name}_paths")(joined)]
    residual = normalised_convolution(joined[0], width, 1, f"{name}_transition")
    shortcut = _shortcut(maps, width, strides, name)
    return keras.layers.ReLU(name=name)(
        keras.layers.Add(name=f"{name}_sum")([shortcut, residual])
    )


def _resnext(image: keras.KerasTensor, classes: int, paths: int) -> keras.KerasTensor:
    check_count("ResNeXt", "paths", paths)
    maps = keras.layers.ReLU(name="block0")(normalised_convolution(image, 64, 3, "conv0"))
    for name, width, strides in zip(_BLOCKS[1:], (64, 128, 256), (1, 2, 2), strict=True):
        maps = _block(maps, width, strides, paths, name)
    return logits_layer(classes)(keras.layers.GlobalAveragePooling2D(name="pooled")(maps))


@register("ResNeXt_teacher", taps=_BLOCKS, embedding="block3", minimum_size=_MINIMUM_SIZE)
def teacher(image: keras.KerasTensor, classes: int, *, paths: int = 4) -> keras.KerasTensor:
    """ResNeXt's teacher.

    Args:
        image: ``[B, H, W, C]``, at least 4x4 pixels.
        classes: number of classes.
        paths: number of parallel paths per block.
    """
    return _resnext(image, classes, paths)


@register("ResNeXt_student", taps=_BLOCKS, embedding="block3", minimum_size=_MINIMUM_SIZE)
def student(image: keras.KerasTensor, classes: int, *, paths: int = 2) -> keras.KerasTensor:
    """ResNeXt's student. Takes the same arguments as `teacher`."""
    return _resnext(image, classes, paths)


declare_pair("ResNeXt", teacher="ResNeXt_teacher", student="ResNeXt_student")
