"""Timing several functions in one process, so that their ratios hold while the machine drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf


def medians(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Milliseconds of each function, the median over `rounds` in which all take their turn, in a
    new order each time. The functions give tensors (or None), in any structure."""
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
    """Until the device has computed `result`."""
    for tensor in tf.nest.flatten(result):
        if tensor is not None:
            tensor.numpy()
