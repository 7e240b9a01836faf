"""From the raw images of a batch to what a network takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import tensorflow as tf

from registry import UserError


@dataclass(frozen=True)
class Standardize:
    """``(image - mean) / deviation`` for each channel.

    Attributes:
        mean, deviation: one number a channel, in units of 0..255, in the order of the result.
        size: (height, width) to resize to (bilinear, antialiased); None: as the images are.
        reverses: whether channels are reversed first: red, green, blue become blue, green, red.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    size: tuple[int, int] | None = None
    reverses: bool = False

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        """From ``[B, H, W, C]`` of any number type in 0..255 to float32."""
        image = tf.cast(image, tf.float32)
        if self.size is not None and tuple(image.shape[1:3]) != self.size:
            image = tf.image.resize(image, self.size, antialias=True)
        if self.reverses:
            image = tf.reverse(image, axis=[-1])
        mean, deviation = (tf.constant(each, tf.float32) for each in (self.mean, self.deviation))
        return (image - mean) / deviation

    def for_channels(self, channels: int) -> Standardize:
        """The same for a network of another number of channels: a grey image's numbers for each of
        its colours, or the colours' average for a grey image."""
        if 1 not in (channels, len(self.mean)):
            return self
        mean, deviation = (
            (sum(each) / len(each),) * channels for each in (self.mean, self.deviation)
        )
        return replace(self, mean=mean, deviation=deviation)


_KNOWN = {
    "none": lambda channels: ((0.0,) * channels, (1.0,) * channels),
    "unit": lambda channels: ((0.0,) * channels, (255.0,) * channels),
    "tf": lambda channels: ((127.5,) * channels, (127.5,) * channels),
    # ImageNet's statistics, red, green, blue.
    "torch": lambda channels: ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    # ImageNet's means, blue, green, red.
    "caffe": lambda channels: ((103.939, 116.779, 123.68), (1.0,) * 3),
}
_REVERSED, COLOURED = ("caffe",), ("torch", "caffe")
PREPROCESSING = ("data", *_KNOWN)


def named_preprocessing(
    name: str, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> Standardize:
    """A preprocessing that networks are often trained with.

    Args:
        name: ``"data"``: by the images' own statistics; ``"none"``: 0..255 as they are;
            ``"unit"``: to 0..1; ``"tf"``: to -1..1; ``"torch"``: by ImageNet's channel statistics;
            ``"caffe"``: to blue, green, red, less ImageNet's means. The last two are for three
            channels.
        mean, deviation: the images' own, one number a channel.

    Raises:
        UserError: ``"torch"`` or ``"caffe"`` with other than three channels.
    """
    channels = len(mean)
    if name in COLOURED and channels != 3:
        raise UserError(f"preprocessing {name} is for 3 channels, not {channels}: choose another")
    if name == "data":
        return Standardize(mean, deviation)
    return Standardize(*_KNOWN[name](channels), reverses=name in _REVERSED)
