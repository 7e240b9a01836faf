"""Mean and standard deviation of each channel, and checks for images of a single colour."""

from __future__ import annotations

import numpy as np

from dataloader.data import Split


def channel_statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels of `split`.

    If the store sets `statistics_sample`, an evenly spaced sample of that many images is used. The
    deviation of a constant channel is reported as 1, to make it safe to divide by.

    Returns:
        (mean, deviation), each with one float in 0..255 per channel.
    """
    rows = split.spread(split.store.statistics_sample)
    channels = split.image_shape[-1]
    histogram = np.zeros([channels, 256], np.int64)
    for images in split.in_chunks(rows):
        for channel in range(channels):
            histogram[channel] += np.bincount(images[..., channel].ravel(), minlength=256)
    values = np.arange(256)
    mean = histogram @ values / histogram.sum(1)
    variance = (histogram * (values - mean[:, None]) ** 2).sum(1) / histogram.sum(1)
    deviation = np.where(variance > 0, np.sqrt(variance), 1.0)
    return tuple(mean.tolist()), tuple(deviation.tolist())


def are_constant(images: np.ndarray) -> np.ndarray:
    """Whether each image of uint8 [N,H,W,C] has a single colour, bool [N]."""
    return (images == images[:, :1, :1]).all((1, 2, 3))


def all_constant(split: Split) -> bool:
    """Whether every image of `split` has a single colour; stops soon after one that has not."""
    step = 64
    return all(
        are_constant(split.images(range(start, min(start + step, len(split)))).numpy()).all()
        for start in range(0, len(split), step)
    )
