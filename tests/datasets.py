"""Data sets of tests."""

import tensorflow as tf


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Without TensorFlow's tuning of how many threads read, whose own thread may sleep up to a
    minute before it ends (see `dataloader.batches`)."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
