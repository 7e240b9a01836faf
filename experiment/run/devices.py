"""Seeds, determinism, numeric policy and the distribution strategy of a process."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework import config

from experiment.run.workers import ALONE, Team
from registry import UserError

STRATEGIES = ("auto", "none", "mirrored", "multi_worker")
START_SECONDS = 120.0
_SHARED = tf.distribute.MultiWorkerMirroredStrategy


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
        _run_one_operation_at_a_time()
    # Set both ways: a process that runs several trainings must not keep the policy of the last.
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed_precision else "float32")


def _run_one_operation_at_a_time() -> None:
    """Let TensorFlow run one operation at a time; each may still use all threads.

    `tf.add_n`, which sums a gradient's parts, adds into the first buffer that nothing else needs
    any more. With three parts or more the order of the sum, and so its rounding, depends on which
    operations have ended by then. TensorFlow's own determinism does not cover that.
    """
    try:
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # it has computed something already
        if os.environ.get("TF_NUM_INTEROP_THREADS") != "1":
            warnings.warn(
                "deterministic, but TensorFlow has already started to run operations in parallel: "
                "sums may differ in the last bit. Start this before anything is computed, "
                "or set TF_NUM_INTEROP_THREADS=1",
                stacklevel=3,
            )


@contextlib.contextmanager
def callers_settings() -> Iterator[None]:
    """Restore afterwards what `prepare` sets for the whole process, Keras' dtype policy and
    TensorFlow's determinism: whoever trains from Python keeps their own."""
    policy, was_deterministic = keras.config.dtype_policy(), config.is_op_determinism_enabled()
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        if not was_deterministic:
            config.disable_op_determinism()


def strategy(name: str = "auto", team: Team = ALONE) -> tf.distribute.Strategy:
    """The distribution strategy called `name`, in whose scope the networks are to be built.

    Call it before anything is computed: TensorFlow connects to other workers at its start only.

    Args:
        name: ``"none"``: one device. ``"mirrored"``: all GPUs, or all logical CPU devices where
            several were configured, or the one device that there is. ``"auto"``: mirrored where
            there are several GPUs, else none. ``"multi_worker"``: the devices of all workers; auto
            where there is one worker.
        team: the workers.

    Raises:
        UserError: another name, or TensorFlow has computed before.
    """
    if name not in STRATEGIES:
        raise UserError(f"unknown strategy {name!r}; expected one of {', '.join(STRATEGIES)}")
    if team.size > 1:
        return _of_workers(team)
    name = "auto" if name == "multi_worker" else name
    gpus = tf.config.list_logical_devices("GPU")
    if name == "none" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    # NCCL is for GPUs; asked for on CPUs it only warns and does what is written here.
    reduction = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([device.name for device in devices], reduction)


def _of_workers(team: Team) -> tf.distribute.Strategy:
    """The strategy that spans all workers, once a first sum over them has come out."""
    gpus = len(tf.config.list_physical_devices("GPU"))
    team.require_same({"GPUs": gpus})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(team.addresses)}),
        task_type="worker", task_id=team.index, rpc_layer="grpc", num_accelerators={"GPU": gpus},
    )
    silent = f"worker {team.index}: TensorFlow did not reach the other workers"
    with team.time_limit(START_SECONDS, silent):
        try:
            chosen = _SHARED(resolver)
        except RuntimeError as error:
            raise UserError(
                f"multi_worker has to be the first thing that TensorFlow does ({error}); train in "
                "a new process"
            ) from error
        # Each worker knows how many batches there are: nobody has to be asked at each step
        # whether some are left.
        chosen.extended.experimental_enable_get_next_as_optional = False
        workers = chosen.reduce(tf.distribute.ReduceOp.SUM, tf.ones(()), axis=None)
    if int(workers) != team.size:
        raise RuntimeError(f"a sum over {team.size} workers found {int(workers)} of them")
    return chosen


def replicas(chosen: tf.distribute.Strategy) -> int:
    """On how many devices of this process a step of `chosen` runs at once."""
    if not tf.distribute.has_strategy() and chosen is tf.distribute.get_strategy():
        return 1  # TensorFlow's default strategy knows no devices
    return len(chosen.extended.worker_devices)


def shared_out(
    chosen: tf.distribute.Strategy,
    batches: Callable[[tf.distribute.InputContext | None], tf.data.Dataset],
) -> Any:
    """The batches that `Model.fit` and `Model.evaluate` of a model in the scope of `chosen` take.

    Args:
        batches: makes them; of several workers it is told which one this is, and gives the parts
            of the global batches that this worker's devices take, one after the other. TensorFlow
            then has nothing to split, neither files nor batches.
    """
    if not isinstance(chosen, _SHARED):
        return batches(None)
    return chosen.distribute_datasets_from_function(batches)
