"""Runs a script of this repository on two virtual CPU devices.

    python two_devices.py MODULE --FLAG=VALUE ...
"""

import importlib
import sys

from experiment import quiet  # noqa: F401 (before TensorFlow)

# isort: split
import tensorflow as tf

from experiment.main import run

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
script = importlib.import_module(sys.argv.pop(1))
script.define()
run(script.main)
