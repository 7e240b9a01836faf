"""VGG: plain 3x3 convolutions with bias and ReLU, no batch normalisation.

The paper's networks (Lee, Kim and Song, ECCV 2018) for CIFAR-100's 32x32 images:

- teacher: 2x64, 2x128, 3x256, 3x512 convolutions with 2x2 max-pooling after each group, then fully
  connected layers of 1024, 1024 and the classes. 10.9M parameters, 576.3M FLOPs, 64.44 % top-1.
- student: 1x64, 1x128, 1x256, 1x512 convolutions with the same pooling, then fully connected layers
  of 1024 and the classes. 3.8M parameters, 121.3M FLOPs; 61.37 % alone, 64.54 % with FSP, 65.05 %
  with SSKD_SVD.
- student of VGG_stride: the same with convolutions of stride 2 and no pooling. 3.8M parameters,
  15.6M FLOPs in the paper (33.6M by `nets.count_flops`, which is 16.8M multiply-adds); 54.17 %
  alone, 61.15 % with SSKD_SVD.

The taps are the four pooled maps (`pool1` ... `pool4`); in the stride student, the outputs of the
four convolutions after their ReLU. The last tap is also the embedding. A variant in the paper's
published code also taps the last hidden layer: `fc2` of the teacher, `fc1` of the student.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from .layers import check_count, check_fraction, logits_layer
from .registration import declare_pair, register

_HIDDEN = 1024
_POOLS = ("pool1", "pool2", "pool3", "pool4")
_CONVOLUTIONS = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1")
# Four strides of 2 reduce 16x16 pixels to one position.
_MINIMUM_SIZE = 16


def _convolution(width: int, name: str, strides: int = 1) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(
        width,
        3,
        strides=strides,
        padding="same",
        activation="relu",
        kernel_initializer="he_normal",
        name=name,
    )


def _widths(first: int) -> tuple[int, ...]:
    """The channels of the four groups; each has twice as many as the one before."""
    check_count("VGG", "width", first)
    return tuple(first * 2**group for group in range(4))


def _pooled_convolutions(
    image: keras.KerasTensor, repeats: Sequence[int], width: int
) -> keras.KerasTensor:
    maps = image
    for block, (channels, repeat) in enumerate(zip(_widths(width), repeats, strict=True), start=1):
        for i in range(1, repeat + 1):
            maps = _convolution(channels, f"block{block}_conv{i}")(maps)
        # "same" rounds odd sizes up, as convolutions of stride 2 do. So the maps of VGG_stride's
        # teacher and student have equal sizes for every image size.
        maps = keras.layers.MaxPooling2D(2, padding="same", name=f"pool{block}")(maps)
    return maps


def _classifier(
    maps: keras.KerasTensor, classes: int, hidden_layers: int, dropout: float
) -> keras.KerasTensor:
    check_fraction("VGG", "dropout", dropout)
    features = keras.layers.Flatten(name="flatten")(maps)
    for i in range(1, hidden_layers + 1):
        features = keras.layers.Dense(
            _HIDDEN, activation="relu", kernel_initializer="he_normal", name=f"fc{i}"
        )(features)
        if dropout:
            features = keras.layers.Dropout(dropout, name=f"dropout{i}")(features)
    return logits_layer(classes)(features)


@register("VGG_teacher", taps=_POOLS, embedding="pool4", minimum_size=_MINIMUM_SIZE)
def teacher(
    image: keras.KerasTensor, classes: int, *, dropout: float = 0.5, width: int = 64
) -> keras.KerasTensor:
    """VGG's teacher.

    Args:
        image: ``[B, H, W, C]``, at least 16x16 pixels.
        classes: number of classes.
        dropout: share of the fully connected hidden units to drop in training, in [0, 1).
        width: channels of the first group; each further group has twice as many as the one before.
    """
    maps = _pooled_convolutions(image, (2, 2, 3, 3), width)
    return _classifier(maps, classes, hidden_layers=2, dropout=dropout)


@register("VGG_student", taps=_POOLS, embedding="pool4", minimum_size=_MINIMUM_SIZE)
def student(
    image: keras.KerasTensor, classes: int, *, dropout: float = 0.5, width: int = 64
) -> keras.KerasTensor:
    """VGG's student. Takes the same arguments as `teacher`."""
    maps = _pooled_convolutions(image, (1, 1, 1, 1), width)
    return _classifier(maps, classes, hidden_layers=1, dropout=dropout)


@register(
    "VGG_stride_student",
    taps=_CONVOLUTIONS,
    embedding="block4_conv1",
    minimum_size=_MINIMUM_SIZE,
)
def stride_student(
    image: keras.KerasTensor, classes: int, *, dropout: float = 0.5, width: int = 64
) -> keras.KerasTensor:
    """VGG_stride's student. Takes the same arguments as `teacher`."""
    maps = image
    for channels, name in zip(_widths(width), _CONVOLUTIONS, strict=True):
        maps = _convolution(channels, name, strides=2)(maps)
    return _classifier(maps, classes, hidden_layers=1, dropout=dropout)


declare_pair("VGG", teacher="VGG_teacher", student="VGG_student")
declare_pair("VGG_stride", teacher="VGG_teacher", student="VGG_stride_student")
