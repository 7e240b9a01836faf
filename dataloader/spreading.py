"""Evenly spread rows of a set."""

from __future__ import annotations

import numpy as np


def spread(count: int, most: int | None) -> np.ndarray:
    """At most `most` of the numbers 0 to ``count - 1``, evenly spread, int64; None: all of them."""
    chosen = count if most is None else min(count, most)
    return np.linspace(0, count - 1, chosen).round().astype(np.int64)
