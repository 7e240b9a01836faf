"""The kind of device that operations run on, by which algorithms are chosen."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Literal, get_args

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

Device = Literal["CPU", "GPU", "XLA"]

_assumed_device: contextvars.ContextVar[Device | None] = contextvars.ContextVar(
    "assumed_device", default=None
)


def device_of(tensor: tf.Tensor) -> Device:
    """The kind of device that operations on `tensor` run on, which decides the algorithm.

    Returns:
        ``"XLA"`` inside a function with ``jit_compile=True`` on any device, and on a TPU.
        Otherwise ``"GPU"`` or ``"CPU"``: the tensor's device; in a graph, the device it was
        explicitly placed on, or else a GPU if there is one. `assume_device` overrides all of this.
    """
    assumed = _assumed_device.get()
    if assumed is not None:
        return assumed
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return "XLA"
    placed = tf.DeviceSpec.from_string(tensor.device or "").device_type
    if placed is None:
        placed = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return {"GPU": "GPU", "TPU": "XLA"}.get(placed, "CPU")


@contextlib.contextmanager
def assume_device(device: Device) -> Iterator[None]:
    """Within this context, `device_of` returns `device`.

    Tests use it to run the GPU path on a CPU, and benchmarks to compare the paths. Graphs keep the
    path they were traced with.

    Raises:
        ValueError: `device` is not a `Device`.
    """
    if device not in get_args(Device):
        raise ValueError(f"device is {device!r}; expected one of {', '.join(get_args(Device))}")
    token = _assumed_device.set(device)
    try:
        yield
    finally:
        _assumed_device.reset(token)
