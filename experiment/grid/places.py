"""Where a run's process works: on all that there is, or on some of the cores and one GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from free_memory import MOST, free_memory
from processors import usable_cores
from registry import UserError

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Place:
    """Where a process works.

    Attributes:
        cores: the numbers of the cores to which it is pinned; empty: to none.
        environment: variables that are set for it.
    """

    cores: tuple[int, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def divide(workers: int, gpus: int = 0) -> list[Place]:
    """Places for several processes at once: each has its own part of the cores that this process
    may use, of the memory that is free now and, where there are GPUs, one of them. Where there are
    fewer GPUs than processes they are shared, and TensorFlow takes only as much of their memory as
    it needs.

    Args:
        workers: how many processes.
        gpus: how many GPUs TensorFlow sees in this process.

    Raises:
        UserError: there are fewer cores.
    """
    if workers == 1:
        return [Place()]
    cores = usable_cores()
    if workers > len(cores):
        raise UserError(
            f"--workers is {workers}, and this process may use {len(cores)} cores; give at most "
            f"{len(cores)}"
        )
    bounds = [number * len(cores) // workers for number in range(workers + 1)]
    parts = [tuple(cores[begin:end]) for begin, end in zip(bounds, bounds[1:], strict=False)]
    if not hasattr(os, "sched_setaffinity"):
        parts = [()] * workers
    names = _gpu_names(gpus)
    growing = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"} if workers > len(names) else {}
    memory = {MOST: str(free_memory() // workers)}
    return [
        Place(part, memory | ({_VISIBLE: names[number % len(names)], **growing} if names else {}))
        for number, part in enumerate(parts)
    ]


def _gpu_names(count: int) -> list[str]:
    """What CUDA calls the GPUs that this process sees."""
    given = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    return (given or list(map(str, range(count))))[:count]
