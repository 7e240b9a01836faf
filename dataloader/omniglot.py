"""Omniglot's handwritten characters from one numpy archive."""

from __future__ import annotations

import numpy as np

from dataloader.data import MemoryImages, Split
from dataloader.loading import Request, Source, register
from dataloader.npz import Archive
from dataloader.resizing import resized_array
from registry import UserError

KEYS = ("images", "y", "drawer")
TEST_SHARE = 0.25
"""The share of drawers for testing, the last ones. No drawer is in both training and test set."""


@register("omniglot", argument="FILE")
def omniglot(request: Request) -> Source:
    """``omniglot:FILE``: drawings of characters (Lake, Salakhutdinov & Tenenbaum, "Human-level
    concept learning through probabilistic program induction", Science 2015).

    The archive contains `images`, uint8 [N,H,W] in 0..1 (1 is ink) or 0..255; `y`, integers [N];
    `drawer`, integers [N] (who drew the image); and optionally `classes`, strings. The drawings of
    the last quarter of the drawers are the test images.
    """
    archive = Archive(request.argument, KEYS)
    images = archive.images("images")
    if images.max() <= 1:
        images = images * np.uint8(255)
    labels = archive.labels("y", images)
    drawers = archive.labels("drawer", images)
    known = np.unique(drawers)
    if len(known) < 2:
        raise UserError(
            f"{archive.file} has one drawer; expected at least two, to test on another drawer"
        )
    test = np.isin(drawers, known[-max(1, round(TEST_SHARE * len(known))):])
    store = MemoryImages(resized_array(images, request.image_size))
    everything = Split.whole(store, labels)
    return Source(
        name=f"omniglot:{archive.file}",
        class_names=archive.class_names(labels),
        train=everything.take(np.flatnonzero(~test)),
        test=everything.take(np.flatnonzero(test)),
        default_flip=False,
    )
