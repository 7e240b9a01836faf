"""VGG: plain 3x3 convolutions with bias and ReLU, no batch normalisation.

The paper's networks (Lee, Kim and Song, ECCV 2018), for CIFAR-100's 32x32 images:

- teacher: 2x64, 2x128, 3x256, 3x512 convolutions, 2x2 max-pooling after each group, then fully
  connected 1024, 1024 and the classes. 10.9M parameters, 576.3M FLOPs, 64.44 % top-1.
- student: 1x64, 1x128, 1x256, 1x512, pooled likewise, then 1024 and the classes. 3.8M
  parameters, 121.3M FLOPs; 61.37 % alone, 64.54 % with FSP, 65.05 % with SSKD_SVD.
- student of VGG_stride: the same with convolutions of stride 2 and no pooling. 3.8M parameters,
  15.6M FLOPs in the paper (33.6M by `nets.count_flops`, that is 16.8M multiply-adds); 54.17 %
  alone, 61.15 % with SSKD_SVD.

Taps are the four pooled maps (`pool1` ... `pool4`), in the stride student the four convolutions'
outputs after their ReLU. The last tap is the embedding too. A variant in the paper's published
code taps the last hidden layer as well: `fc2` of the teacher, `fc1` of the student.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from .layers import check_count, check_fraction, logits_layer
from .registration import declare_pair, register

_HIDDEN = 1024
_POOLS = ("pool1", "pool2", "pool3", "pool4")
_CONVOLUTIONS = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1")
# Halved four times, an image of 16x16 pixels still leaves a position of its own.
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
    """The channels of the four groups, doubled from one to the next."""
    check_count("VGG", "width", first)
    return tuple(first * 2**group for group in range(4))


def _pooled_convolutions(
    image: keras.KerasTensor, repeats: Sequence[int], width: int
) -> keras.KerasTensor:
    maps = image
    for block, (channels, repeat) in enumerate(zip(_widths(width), repeats, strict=True), start=1):
        for i in range(1, repeat + 1):
            maps = _convolution(channels, f"block{block}_conv{i}")(maps)
        # "same" rounds odd sizes up, as convolutions of stride 2 do: teacher and student of
        # VGG_stride have maps of one size whatever the image's.
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
        dropout: share of the fully connected hidden units that training drops, in [0, 1).
        width: channels of the first group, doubled with each further one.
    """
    maps = _pooled_convolutions(image, (2, 2, 3, 3), width)
    return _classifier(maps, classes, hidden_layers=2, dropout=dropout)


@register("VGG_student", taps=_POOLS, embedding="pool4", minimum_size=_MINIMUM_SIZE)
def student(
    image: keras.KerasTensor, classes: int, *, dropout: float = 0.5, width: int = 64
) -> keras.KerasTensor:
    """VGG's student. Arguments as of `teacher`."""
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
    """VGG_stride's student. Arguments as of `teacher`."""
    maps = image
    for channels, name in zip(_widths(width), _CONVOLUTIONS, strict=True):
        maps = _convolution(channels, name, strides=2)(maps)
    return _classifier(maps, classes, hidden_layers=1, dropout=dropout)


declare_pair("VGG", teacher="VGG_teacher", student="VGG_student")
declare_pair("VGG_stride", teacher="VGG_teacher", student="VGG_stride_student")
