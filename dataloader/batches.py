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
"""The two streams of random numbers of `_stream_seed`."""

PHOTOGRAPH, OPERATIONS, MIXING = 0, 1, 2
"""The streams of `_further_seed`. MIXING is last: `mixing.draw` also uses the three after it."""

FURTHER = 16
"""The number of streams that `_further_seed` reserves for each epoch."""

# Nothing here is control flow that depends on a tensor, and looking for some takes long.
_not_converted = tf.autograph.experimental.do_not_convert


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Number of batches of `batch_size` in `split`, the last and partial one included.

    Raises:
        UserError: `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}; expected at least 1")
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
    # As many batches at once as there are cores, 16 at most. TensorFlow's own tuning of that number
    # delays the end: its thread can miss that it is to stop, and then sleeps on for up to a minute
    # (seen with TensorFlow 2.21 where threads share a core).
    options.autotune.enabled = False
    # What a worker reads is decided here (see `_parts`), and not guessed by TensorFlow.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
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
        planned: ``index`` of the images and their ``draws``; ``more`` of `_Parts.of`; where images
            are mixed, ``mixtures`` and ``others_draws``, those of the other images.
    """
    index = planned["index"]
    images = _augmented(augmentation, split.images(index), planned["draws"], split.fill)
    labels = tf.gather(split.label_tensor, index)
    made = {"image": images, "label": labels, "index": index, **planned["more"]}
    if augmentation.mixes:
        mixtures, draws = planned["mixtures"], planned["others_draws"]
        others = _augmented(augmentation, split.images(mixtures.other), draws, split.fill)
        made["image"], made["share"] = mixing.mix(images, others, mixtures)
        made["other_label"] = tf.gather(split.label_tensor, mixtures.other)
    return made


class _Parts:
    """How batches are shared out over all devices of all workers: a device gets images that follow
    each other, and at most one more than another. Of a batch that has fewer images than there are
    devices, each gets all.

    Args:
        context: which worker this is; None: batches stay whole.
    """

    def __init__(self, context: tf.distribute.InputContext | None):
        self.all = context.num_replicas_in_sync if context else 1
        self.here = self.all // context.num_input_pipelines if context else 1
        self._first = self.here * context.input_pipeline_id if context else 0
        self._are_shared = context is not None

    def of(
        self, number: tf.Tensor, batch_size: int, images: int
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """Where a part begins and ends among an epoch's images, and what its batch has to say of
        it: of several workers ``copies``.

        Args:
            number: of the part, counted over an epoch's steps and this worker's devices, int64.
            batch_size: of the whole batch.
            images: of the epoch.
        """
        start = number // self.here * batch_size
        size = tf.minimum(start + batch_size, images) - start
        if not self._are_shared:
            return start, start + size, {}
        part = self._first + number % self.here
        is_scarce = size < self.all
        begin = tf.where(is_scarce, 0 * size, size * part // self.all)
        end = tf.where(is_scarce, size, size * (part + 1) // self.all)
        copies = tf.where(is_scarce, self.all, 1)
        return start + begin, start + end, {"copies": copies}


def training_batches(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    epochs: int,
    augmentation: Augmentation,
    start_epoch: int = 0,
    start_step: int = 0,
    context: tf.distribute.InputContext | None = None,
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
        context: which of several workers this is. Each batch is then the parts that this worker's
            devices take, one element each, and only their images are read. The elements have
            ``copies`` too, an int32 scalar: 1, or the number of all devices where there are fewer
            images than these, and each device is given all of them.

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

    parts = _Parts(context)

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
        def plan(number: tf.Tensor) -> dict[str, Any]:
            begin, end, more = parts.of(number, batch_size, count)
            index = order[begin:end]
            planned = {"index": index, "draws": draws.rows(index), "more": more}
            if mixtures is not None:
                mixed = mixing.rows(mixtures, index)
                planned |= {"mixtures": mixed, "others_draws": draws.rows(mixed.other)}
            return planned

        return tf.data.Dataset.range(first * parts.here, steps * parts.here).map(plan)

    @_not_converted
    def batch(planned: dict[str, Any]) -> dict[str, tf.Tensor]:
        return _batch(split, augmentation, planned)

    total = max(0, (epochs - start_epoch) * steps - start_step) * parts.here
    return (
        tf.data.Dataset.range(start_epoch, max(epochs, start_epoch))
        .flat_map(epoch_plan)
        .apply(tf.data.experimental.assert_cardinality(total))
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(_options())
    )


def evaluation_batches(
    split: Split, batch_size: int, context: tf.distribute.InputContext | None = None
) -> tf.data.Dataset:
    """The images of `split` once, in order and as they are.

    Args:
        split: what to show; an empty one gives no batch.
        batch_size: images a batch; the last may be partial.
        context: as in `training_batches`.

    Returns:
        A dataset of dicts, see above, of known cardinality.

    Raises:
        UserError: `batch_size` is less than 1.
    """
    count, parts = len(split), _Parts(context)

    @_not_converted
    def batch(number: tf.Tensor) -> dict[str, tf.Tensor]:
        begin, end, more = parts.of(number, batch_size, count)
        index = tf.range(begin, end)
        images, labels = split.images(index), tf.gather(split.label_tensor, index)
        return {"image": images, "label": labels, "index": index, **more}

    return (
        tf.data.Dataset.range(steps_per_epoch(split, batch_size) * parts.here)
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(_options())
    )
