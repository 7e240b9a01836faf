"""On how many threads TensorFlow computes in this process."""

from __future__ import annotations

import tensorflow as tf


def use_threads(threads: int) -> None:
    """Compute on so many threads. Raises RuntimeError where TensorFlow has begun with another
    number, which cannot be changed any more."""
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
