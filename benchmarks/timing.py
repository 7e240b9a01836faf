"""Time several functions alternately, so their ratios hold even if the machine's speed drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf


def medians(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median time of each function in milliseconds.

    Args:
        functions: functions by name. They return tensors (or None) in any structure.
        rounds: number of timings. Each round times all functions, in a new random order.
    """
    for function in functions.values():
        for _ in range(2):
            _wait_for(function())
    times: dict[str, list[float]] = {name: [] for name in functions}
    random = np.random.default_rng(0)
    for _ in range(rounds):
        for name in random.permutation(list(functions)):
            began = time.perf_counter()
            _wait_for(functions[name]())
            times[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def _wait_for(result: Any) -> None:
    """Wait until the device has computed `result`."""
    for tensor in tf.nest.flatten(result):
        if tensor is not None:
            tensor.numpy()
