"""Seeds, determinism, numeric policy and the distribution strategy of a process."""

from __future__ import annotations

import keras
import tensorflow as tf

from registry import UserError

STRATEGIES = ("auto", "none", "mirrored")


def prepare(seed: int, deterministic: bool = False, mixed_precision: bool = False) -> None:
    """Set up the process; call it once, before any network or data set is made.

    Args:
        seed: 0 .. 2**32 - 1, for Python, NumPy, TensorFlow and Keras alike.
        deterministic: the same command gives the same bits again on the same machine and number
            of threads. Operations that have no deterministic form then raise an error instead of
            going on. Costs time.
        mixed_precision: compute in bfloat16, keep variables in float32 (``mixed_bfloat16``).

    Raises:
        UserError: `seed` out of range.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed} is out of range; expected 0 .. {2**32 - 1}")
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    # Set both ways: a process that runs several trainings must not keep the policy of the last.
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed_precision else "float32")


def strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The distribution strategy called `name`, in whose scope the networks are to be built.

    Args:
        name: ``"none"``: one device. ``"mirrored"``: all GPUs, or all logical CPU devices where
            several were configured, or the one device that there is. ``"auto"``: mirrored where
            there are several GPUs, else none.

    Raises:
        UserError: another name.
    """
    if name not in STRATEGIES:
        raise UserError(f"unknown strategy {name!r}; expected one of {', '.join(STRATEGIES)}")
    gpus = tf.config.list_logical_devices("GPU")
    if name == "none" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    # NCCL is for GPUs; asked for on CPUs it only warns and does what is written here.
    reduction = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([device.name for device in devices], reduction)


def replicas(chosen: tf.distribute.Strategy) -> int:
    """On how many devices a step of `chosen` runs at once."""
    return chosen.num_replicas_in_sync
