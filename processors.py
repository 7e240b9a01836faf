"""Which processors this process may use."""

from __future__ import annotations

import os
from collections.abc import Sequence


def usable_cores() -> Sequence[int]:
    """The numbers of the cores that this process may use: a cluster job often has only some of its
    host's."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)
