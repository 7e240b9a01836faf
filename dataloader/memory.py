"""Whether a data set fits into memory, asked before it is read."""

from __future__ import annotations

import psutil

from registry import UserError


def free_memory() -> int:
    """Bytes that can be had without swapping."""
    return psutil.virtual_memory().available


def check_memory(needed: int, what: str, advice: str) -> None:
    """Raise UserError where `needed` bytes are more than half of the free memory.

    Half, because when tf.data optimises a pipeline it copies what the pipeline reads from, once
    (TensorFlow 2.21).

    Args:
        needed: bytes.
        what: what needs them, for the message.
        advice: what to do about it.
    """
    free = free_memory()
    if needed > free / 2:
        raise UserError(
            f"{what} needs {needed / 2**30:.1f} GiB, more than half of the "
            f"{free / 2**30:.1f} GiB of free memory: {advice}"
        )
