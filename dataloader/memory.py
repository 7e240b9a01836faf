"""Check that a data set fits into memory before reading it."""

from __future__ import annotations

import psutil

from registry import UserError


def free_memory() -> int:
    """Bytes available without swapping."""
    return psutil.virtual_memory().available


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
