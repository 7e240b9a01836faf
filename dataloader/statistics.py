"""Mean and deviation of each channel."""

from __future__ import annotations

import numpy as np

from dataloader.data import MemoryImages, Split

CHUNK = 2000
"""Images looked at in one go."""

FILE_SAMPLE = 2000
"""Images looked at where each has to be read from a file."""


def channel_statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels of all images of `split`.

    Exact for images in memory; of images in files an evenly spaced sample of at most 2,000 is
    read. The deviation of a channel that is constant is given as 1, so that it can be divided by.

    Returns:
        (mean, deviation), a float in 0..255 a channel each.
    """
    count = len(split)
    sample = count if isinstance(split.store, MemoryImages) else min(count, FILE_SAMPLE)
    rows = np.linspace(0, count - 1, sample).round().astype(np.int64)
    channels = split.image_shape[-1]
    histogram = np.zeros([channels, 256], np.int64)
    for start in range(0, sample, CHUNK):
        images = split.images(rows[start : start + CHUNK]).numpy()
        for channel in range(channels):
            histogram[channel] += np.bincount(images[..., channel].ravel(), minlength=256)
    values = np.arange(256)
    mean = histogram @ values / histogram.sum(1)
    variance = (histogram * (values - mean[:, None]) ** 2).sum(1) / histogram.sum(1)
    deviation = np.where(variance > 0, np.sqrt(variance), 1.0)
    return tuple(mean.tolist()), tuple(deviation.tolist())
