"""Check that a data set fits into memory before reading it, and decide where its images stay."""

from __future__ import annotations

import math
from collections.abc import Sequence

from free_memory import free_memory
from registry import UserError

MEMORY_SHARE = 0.25
"""Of the free memory, that images are decoded into without being asked to."""

BATCH = 128
"""Images that there has to be memory for, whatever is done with them."""


_PIXELS = 500 * 32 * 32


def images_at_once(image_shape: Sequence[int]) -> int:
    """The batch size for inference: 500 images of 32x32, fewer of larger ones.

    Args:
        image_shape: (height, width, channels), or height and width alone.
    """
    return max(1, min(500, _PIXELS // (image_shape[0] * image_shape[1])))


def check_memory(needed: int, what: str, advice: str) -> None:
    """Raise UserError if `needed` bytes exceed half of the free memory.

    Half, because tf.data copies the data once when it optimises a pipeline (TensorFlow 2.21).

    Args:
        needed: bytes.
        what: what needs them, for the message.
        advice: what the user can do, for the message.
    """
    free = free_memory()
    if needed > free / 2:
        raise UserError(
            f"{what} needs {needed / 2**30:.1f} GiB, more than half of the "
            f"{free / 2**30:.1f} GiB of free memory: {advice}"
        )


def is_for_memory(in_memory: str, count: int, shape: tuple[int, int, int], name: str) -> bool:
    """Decide whether to hold images in memory, where they can be read from disk just as well.

    Args:
        in_memory: ``yes``, ``no`` or ``auto``: if they take up to `MEMORY_SHARE` of what is free.
        count: number of images.
        shape: (height, width, channels) of each, uint8.
        name: of the data set, for messages.

    Raises:
        UserError: the memory does not suffice for a batch, or for all images with ``yes``.
    """
    size = "x".join(map(str, shape))
    batch, all_images = BATCH * math.prod(shape), count * math.prod(shape)
    check_memory(batch, f"{name} ({BATCH} images of {size})", "give a smaller --image_size")
    if in_memory == "yes":
        check_memory(
            all_images, f"{name} ({count} images of {size})",
            "give a smaller --image_size, or --in_memory no",
        )
    return in_memory == "yes" or (
        in_memory == "auto" and all_images <= MEMORY_SHARE * free_memory()
    )
