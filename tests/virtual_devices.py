"""One CPU as several devices: a process of its own each, since strategies of different sizes clash.

A script ends in ``compare_all(compare)``; a test calls ``compared(script, replicas, names)``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import tensorflow as tf
from tensorflow.python.ops import custom_gradient

from experiment.run import devices
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[1]


def split_cpu(count: int) -> None:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * count
    )


def compare_all(compare: Callable[[tf.distribute.Strategy, str], dict[str, Any]]) -> None:
    """Print, as JSON, what `compare` finds for each name; the process is given
    ``REPLICAS NAME ...``.

    A sum over replicas has a gradient of its own, for which TensorFlow walks through all that was
    summed in search of variables. There are none to find, as all variables are those of layers, and
    it takes a third of the time.
    """
    replicas = int(sys.argv[1])
    split_cpu(replicas)
    strategy = devices.strategy("mirrored")
    assert strategy.num_replicas_in_sync == replicas
    with mock.patch.object(custom_gradient, "_get_dependent_variables", lambda *_, **__: []):
        print(json.dumps({name: compare(strategy, name) for name in sys.argv[2:]}))


def compared(script: Path, replicas: int, names: Sequence[str]) -> dict[str, Any]:
    """What `script` printed in a process of its own, by name."""
    done = subprocess.run(
        [warm_python(), script, str(replicas), *names],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert sorted(found) == sorted(names)
    return found
