"""scikit-learn's handwritten digits: real, small, and on every machine that has scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from dataloader.data import MemoryImages, Split
from dataloader.loading import Request, Source, register
from dataloader.resizing import resized_array
from dataloader.splitting import rows_for_testing

DEFAULT_SIZE = (32, 32)
TEST_SHARE = 0.2
TEST_SEED = 0
"""The test images are the same whatever the seed of the other splits."""


@register("digits")
def digits(request: Request) -> Source:
    """1,797 grey images of 8x8 pixels and 10 classes (Alpaydin & Kaynak 1998, the test part of
    UCI's optical digits), as 32x32x3 by default. A fixed stratified fifth is for testing."""
    found = load_digits()
    # 0..16 as published, 0..255 here.
    grey = (found.images * (255 / 16)).astype(np.float32)
    images = resized_array(grey[..., None], request.image_size or DEFAULT_SIZE).repeat(3, axis=-1)
    everything = Split.whole(MemoryImages(images), found.target)
    test = rows_for_testing(found.target, TEST_SHARE, TEST_SEED)
    return Source(
        name="digits",
        class_names=tuple(str(digit) for digit in found.target_names),
        train=everything.take(np.setdiff1d(np.arange(len(images)), test)),
        test=everything.take(test),
        default_flip=False,
    )
