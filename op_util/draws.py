"""Random numbers for each image, computed as a hash of seed, use, epoch and image index.

TensorFlow's stateless generators take one seed for a whole tensor. Here each row has its own, so an
image gets the same numbers in any batch, on any replica or thread, and after a restart.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_MASK = (1 << 32) - 1
_DIGITS = 24  # bits of a float32's significand


def _mixed(word: tf.Tensor) -> tf.Tensor:
    """A bijection of 32-bit words, held in int64. Each output bit depends on all input bits.

    It uses xor-shifts and odd multipliers, like the finalizer of MurmurHash3. Both multipliers are
    below 2^31, so no product overflows int64.
    """
    word = tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, _word(16)))
    word = tf.bitwise.bitwise_and(word * 0x21F0AAAD, _word(_MASK))
    word = tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, _word(15)))
    word = tf.bitwise.bitwise_and(word * 0x735A2D97, _word(_MASK))
    return tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, _word(15)))


def _word(value: int) -> tf.Tensor:
    return tf.constant(value, tf.int64)


def _absorbed(state: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Hash both halves of a 64-bit `number` into `state`."""
    for half in (number, tf.bitwise.right_shift(number, _word(32))):
        state = _mixed(tf.bitwise.bitwise_xor(state, tf.bitwise.bitwise_and(half, _word(_MASK))))
    return state


def uniform_draws(
    seed: int, stream: int, epoch: Any, index: tf.Tensor, draws: int
) -> tf.Tensor:
    """Uniform random numbers for each image that depend only on the arguments.

    Args:
        seed: the run's seed.
        stream: a number for each use; different uses get different random numbers.
        epoch: integer scalar, a Python number or a tensor.
        index: integers ``[B]``, each image's position in the data.
        draws: how many numbers each image needs.

    Returns:
        float32 ``[B, draws]`` in [0, 1), multiples of 2^-24.
    """
    state = _word(0x5EED)
    for number in (seed, stream, epoch):
        state = _absorbed(state, tf.cast(number, tf.int64))
    rows = _absorbed(state, tf.cast(index, tf.int64))
    columns = tf.range(1, draws + 1, dtype=tf.int64)
    words = _mixed(_mixed(tf.bitwise.bitwise_xor(rows[:, None], columns)))
    return tf.cast(tf.bitwise.right_shift(words, _word(32 - _DIGITS)), tf.float32) * 2.0**-_DIGITS
