"""Runs a script of this repository on two virtual CPU devices.

    python two_devices.py MODULE --FLAG=VALUE ...
"""

import importlib
import sys

from experiment.command import quiet  # noqa: F401 (before TensorFlow)

# isort: split
from experiment.command.main import run
from tests.virtual_devices import split_cpu

split_cpu(2)
script = importlib.import_module(sys.argv.pop(1))
run(script.main, script.read_settings(script.__doc__))
