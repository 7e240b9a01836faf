"""Loads TensorFlow without its messages about itself.

    from experiment.command import quiet  # isort: split
    import keras

Import it after the command line is read, and before anything that imports TensorFlow. On every
start TensorFlow prints how it was built and which drivers it did not find, and at each export which
files it wrote, and its warnings repeat errors that are raised as well: errors get lost among these
lines. Errors stay.
``TF_CPP_MIN_LOG_LEVEL=0`` in the environment brings everything back.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from absl import flags

from held_stderr import held_stderr

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")
# What is written before TensorFlow has read its log level: I0000 00:00:1795353344.092422 ...
_ABOUT_ITSELF = re.compile(
    rb"I\d{4} |WARNING: All log messages before absl::InitializeLog|To enable the following instr"
)
_NO_DRIVER = re.compile(rb".*failed call to cuInit")


def has_gpu_driver() -> bool:
    """Whether an NVIDIA driver is installed, working or not."""
    return any(Path(driver).exists() for driver in _DRIVERS)


def _matters(line: bytes) -> bool:
    """Whether a line is neither about TensorFlow itself nor about a driver that there is not."""
    is_missing_driver = _NO_DRIVER.match(line) and not has_gpu_driver()
    return not _ABOUT_ITSELF.match(line) and not is_missing_driver


def _level() -> str:
    """Errors; of several workers nothing: each connection that ends is an error to
    TensorFlow, in several lines, and where one is lost it also raises one."""
    strategy = flags.FLAGS["strategy"].value if "strategy" in flags.FLAGS else None
    return "3" if strategy == "multi_worker" else "2"


def _load() -> None:
    if os.environ.setdefault(_LEVEL, _level()) == "0":
        return
    with held_stderr(_matters):
        import tensorflow as tf

        tf.config.list_physical_devices()  # looks for drivers
    logging.getLogger("tensorflow").setLevel(logging.WARNING)


_load()
