"""Batches of a split as a `tf.data.Dataset`: dicts of ``image``, ``label`` and ``index``.

``image`` is uint8 [B,H,W,C], ``label`` int32 [B] (-1 = unlabelled), ``index`` int64 [B]: the place
in the split, which says the same image in every epoch and after a restart. Where images are mixed
there are ``other_label`` and ``share`` too, see `mixing`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from dataloader import mixing, photographs, randaugment
from dataloader.augmentation import DRAWS, Augmentation, augment
from dataloader.data import Split
from registry import UserError

ORDER, AUGMENT = 0, 1
"""Streams of random numbers."""

PHOTOGRAPH, OPERATIONS, MIXING = 0, 1, 2
"""Further streams, of which the last has several."""

FURTHER = 16
"""At most so many further streams."""

# Nothing here is control flow that depends on a tensor, and looking for some takes long.
_not_converted = tf.autograph.experimental.do_not_convert


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Number of batches of `batch_size` in `split`, the last and partial one included.

    Raises:
        UserError: `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: at least 1 expected")
    return -(-len(split) // batch_size)


def _stream_seed(seed: int, epoch: tf.Tensor, stream: int) -> tf.Tensor:
    """The seed (int64 [2]) of a stream of random numbers in an epoch (int64 scalar)."""
    return tf.stack([tf.constant(seed, tf.int64), 2 * epoch + stream])


def _further_seed(seed: int, epoch: tf.Tensor, stream: int) -> tf.Tensor:
    """Likewise of the further streams; none is one of `_stream_seed`, as the second word is
    negative."""
    return tf.stack([tf.constant(seed, tf.int64), stream - FURTHER * (epoch + 1)])


def _order(seed: int, epoch: tf.Tensor, count: int) -> tf.Tensor:
    """The order of the images in an epoch: a permutation of 0..count-1, int64 [count]."""
    keys = tf.random.stateless_uniform(
        [count], _stream_seed(seed, epoch, ORDER), minval=None, maxval=None, dtype=tf.int64
    )
    return tf.cast(tf.argsort(keys, stable=True), tf.int64)


class _Draws(NamedTuple):
    """The augmentation's random numbers of images, a row each, float32 in [0, 1); those that it
    does not need have no columns.

    Attributes:
        moves: for flip, rotation and shift.
        photograph: for crop and jitter.
        operations: for RandAugment.
    """

    moves: tf.Tensor
    photograph: tf.Tensor
    operations: tf.Tensor

    def rows(self, index: tf.Tensor) -> _Draws:
        """Those of the images `index`."""
        return _Draws(*(tf.gather(part, index) for part in self))


def _draws(augmentation: Augmentation, seed: int, epoch: tf.Tensor, count: int) -> _Draws:
    """Those of every image in an epoch."""
    is_photograph = bool(augmentation.random_resized_crop or augmentation.color_jitter)
    columns = is_photograph * (photographs.CROP_DRAWS + photographs.JITTER_DRAWS)
    operations = augmentation.randaugment[0] * randaugment.DRAWS
    uniform = tf.random.stateless_uniform
    return _Draws(
        uniform([count, DRAWS], _stream_seed(seed, epoch, AUGMENT)),
        uniform([count, columns], _further_seed(seed, epoch, PHOTOGRAPH)),
        uniform([count, operations], _further_seed(seed, epoch, OPERATIONS)),
    )


def _augmented(
    augmentation: Augmentation, images: tf.Tensor, draws: _Draws, fill: tuple[int, ...]
) -> tf.Tensor:
    """Images after all of the augmentation but mixing, uint8 [B,H,W,C]."""
    of_crop = draws.photograph[:, : photographs.CROP_DRAWS]
    of_jitter = draws.photograph[:, photographs.CROP_DRAWS :]
    if augmentation.random_resized_crop:
        images = photographs.crop(images, augmentation.random_resized_crop, of_crop)
    images = augment(augmentation, images, draws.moves, fill)
    number, magnitude = augmentation.randaugment
    if number:
        images = randaugment.randaugment(images, magnitude, draws.operations, fill)
    if augmentation.color_jitter:
        images = photographs.jitter(images, augmentation.color_jitter, of_jitter)
    return images


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # There are no files to share out between workers; said so, TensorFlow does not look for them.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return options


def _check_sizes(split: Split, batch_size: int, augmentation: Augmentation) -> None:
    count = len(split)
    if batch_size > count:
        raise UserError(
            f"batch of {batch_size} images, but there are only {count} training images: "
            f"choose a batch size of at most {count}"
        )
    if augmentation.crop_padding >= min(split.image_shape[:2]):
        raise UserError(
            f"crop padding of {augmentation.crop_padding} pixels, but the images are only "
            f"{split.image_shape[0]}x{split.image_shape[1]}: choose a smaller padding"
        )


def _batch(
    split: Split, augmentation: Augmentation, planned: dict[str, Any]
) -> dict[str, tf.Tensor]:
    """A batch as it is given.

    Args:
        planned: ``index`` of the images and their ``draws``; where images are mixed, ``mixtures``
            and ``others_draws``, those of the other images.
    """
    index = planned["index"]
    images = _augmented(augmentation, split.images(index), planned["draws"], split.fill)
    made = {"image": images, "label": tf.gather(split.label_tensor, index), "index": index}
    if augmentation.mixes:
        mixtures, draws = planned["mixtures"], planned["others_draws"]
        others = _augmented(augmentation, split.images(mixtures.other), draws, split.fill)
        made["image"], made["share"] = mixing.mix(images, others, mixtures)
        made["other_label"] = tf.gather(split.label_tensor, mixtures.other)
    return made


def training_batches(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    epochs: int,
    augmentation: Augmentation,
    start_epoch: int = 0,
    start_step: int = 0,
) -> tf.data.Dataset:
    """All epochs' batches one after the other, shuffled and augmented.

    An epoch shows every image once, in `steps_per_epoch` batches of which the last may be
    partial. Its order is a function of (seed, epoch), an image's augmentation one of (seed, epoch,
    index) alone: neither threads nor the batch size nor a restart change them. Started at
    (start_epoch, start_step) it gives exactly the batches that a full run gives from there on.

    Args:
        split: what to show.
        batch_size: images a batch (the global batch under a distribution strategy).
        seed: of order and augmentation, a 64-bit integer.
        epochs: number of epochs, counted from epoch 0.
        augmentation: what happens to images.
        start_epoch, start_step: the first batch to give, counted from 0.

    Returns:
        A dataset of dicts, see above, of known cardinality.

    Raises:
        UserError: `batch_size` is less than 1 or larger than the split, or the padding of the
            augmentation is not smaller than the image.
    """
    count, steps = len(split), steps_per_epoch(split, batch_size)
    _check_sizes(split, batch_size, augmentation)
    if not 0 <= start_step <= steps or start_epoch < 0:
        raise ValueError(f"start at epoch {start_epoch}, step {start_step} of {steps}")

    @_not_converted
    def epoch_plan(epoch: tf.Tensor) -> tf.data.Dataset:
        order = _order(seed, epoch, count)
        draws = _draws(augmentation, seed, epoch, count)
        mixtures = None
        if augmentation.mixes:
            mixtures = mixing.draw(
                augmentation.mixup, augmentation.cutmix, count, _further_seed(seed, epoch, MIXING)
            )
        first = tf.where(epoch == start_epoch, tf.constant(start_step, tf.int64), 0)

        @_not_converted
        def plan(step: tf.Tensor) -> dict[str, Any]:
            index = order[step * batch_size : (step + 1) * batch_size]
            planned = {"index": index, "draws": draws.rows(index)}
            if mixtures is not None:
                mixed = mixing.rows(mixtures, index)
                planned |= {"mixtures": mixed, "others_draws": draws.rows(mixed.other)}
            return planned

        return tf.data.Dataset.range(first, steps).map(plan)

    @_not_converted
    def batch(planned: dict[str, Any]) -> dict[str, tf.Tensor]:
        return _batch(split, augmentation, planned)

    total = max(0, (epochs - start_epoch) * steps - start_step)
    return (
        tf.data.Dataset.range(start_epoch, max(epochs, start_epoch))
        .flat_map(epoch_plan)
        .apply(tf.data.experimental.assert_cardinality(total))
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(_options())
    )


def evaluation_batches(split: Split, batch_size: int) -> tf.data.Dataset:
    """The images of `split` once, in order and as they are.

    Args:
        split: what to show; an empty one gives no batch.
        batch_size: images a batch; the last may be partial.

    Returns:
        A dataset of dicts, see above, of known cardinality.

    Raises:
        UserError: `batch_size` is less than 1.
    """
    count = len(split)

    @_not_converted
    def batch(step: tf.Tensor) -> dict[str, tf.Tensor]:
        index = tf.range(step * batch_size, tf.minimum((step + 1) * batch_size, count))
        images = split.images(index)
        return {"image": images, "label": tf.gather(split.label_tensor, index), "index": index}

    return (
        tf.data.Dataset.range(steps_per_epoch(split, batch_size))
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(_options())
    )
