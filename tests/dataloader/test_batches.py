"""Batches are a function of seed, epoch and index: tested by comparing runs."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import dataloader
from dataloader import Augmentation, MemoryImages, Split
from registry import UserError
from tests.warm_python import warm_python

COUNT = 21
PAPER = Augmentation(flip=True)


@pytest.fixture(scope="module")
def split():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, [40, 10, 12, 3]).astype(np.uint8)
    whole = Split.whole(MemoryImages(images), random.integers(-1, 5, [40]))
    return whole.take(random.permutation(40)[:COUNT])


def run(split, batch_size=8, augmentation=PAPER, **options):
    options = {"seed": 5, "epochs": 3, **options}
    batches = dataloader.training_batches(
        split, batch_size, augmentation=augmentation, **options
    )
    found = list(batches.as_numpy_iterator())
    assert len(found) == batches.cardinality()
    return found


def same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys() == {"image", "label", "index"}
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


def test_no_thread_of_tensorflow_has_to_be_waited_for_in_the_end(split):
    """See `dataloader.batches._options`: what is added to the batches later is not tuned either."""
    for batches in (
        dataloader.training_batches(split, 8, seed=0, epochs=1, augmentation=PAPER),
        dataloader.evaluation_batches(split, 8),
    ):
        assert batches.map(lambda batch: batch).options().autotune.enabled is False


def test_each_epoch_shows_every_image_once_in_another_order(split):
    assert dataloader.steps_per_epoch(split, 8) == 3
    batches = run(split)
    assert [len(batch["index"]) for batch in batches] == [8, 8, 5] * 3
    assert [batches[0][key].dtype for key in ("image", "label", "index")] == [
        np.uint8, np.int32, np.int64,
    ]  # fmt: skip
    orders = [np.concatenate([b["index"] for b in batches[i : i + 3]]) for i in (0, 3, 6)]
    for order in orders:
        assert sorted(order) == list(range(COUNT))
    assert len({tuple(order) for order in orders}) == 3
    for batch in batches:
        np.testing.assert_array_equal(batch["label"], split.labels[batch["index"]])


def test_index_leads_to_the_image(split):
    for batch in run(split, augmentation=Augmentation.none(), epochs=1):
        np.testing.assert_array_equal(batch["image"], split.images(batch["index"]))


@pytest.mark.parametrize("epoch, step", [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (2, 2)])
def test_started_anywhere_it_goes_on_as_a_full_run(split, epoch, step):
    same(run(split, start_epoch=epoch, start_step=step), run(split)[3 * epoch + step :])


def test_started_at_the_end_it_gives_nothing(split):
    assert run(split, start_epoch=3) == []
    assert run(split, start_epoch=2, start_step=3) == []


def test_augmentation_depends_on_seed_epoch_and_index_alone(split):
    def by_epoch_and_index(batch_size):
        steps = -(-COUNT // batch_size)
        return {
            (number // steps, int(index)): image.tobytes()
            for number, batch in enumerate(run(split, batch_size))
            for index, image in zip(batch["index"], batch["image"], strict=True)
        }

    images = by_epoch_and_index(8)
    assert images == by_epoch_and_index(21) == by_epoch_and_index(4)
    # 81 shifts, two sides and any angle: hardly ever twice the same.
    assert len(set(images.values())) > 0.95 * len(images)


def test_augmented_images_are_those_of_the_drawn_numbers(split):
    """In every epoch some are mirrored, some not; and all shifts occur."""
    flips = run(split, 21, Augmentation(flip=True, rotation_degrees=0, crop_padding=0), epochs=20)
    mirrored = 0
    for batch in flips:
        plain = split.images(batch["index"]).numpy()
        is_mirrored = (batch["image"] == plain[:, :, ::-1]).all((1, 2, 3))
        is_plain = (batch["image"] == plain).all((1, 2, 3))
        assert (is_mirrored != is_plain).all()
        mirrored += is_mirrored.sum()
    assert 0.4 < mirrored / (20 * COUNT) < 0.6


def test_seeds_differ_and_large_ones_work(split):
    orders = {
        tuple(np.concatenate([batch["index"] for batch in run(split, seed=seed, epochs=1)]))
        for seed in (0, 1, 2**31, 2**62)
    }
    assert len(orders) == 4


def test_evaluation_is_in_order_and_plain(split):
    batches = list(dataloader.evaluation_batches(split, 8).as_numpy_iterator())
    assert np.concatenate([batch["index"] for batch in batches]).tolist() == list(range(COUNT))
    for batch in batches:
        np.testing.assert_array_equal(batch["image"], split.images(batch["index"]))
        np.testing.assert_array_equal(batch["label"], split.labels[batch["index"]])
    assert list(dataloader.evaluation_batches(split.take(np.arange(0)), 8)) == []
    assert len(list(dataloader.evaluation_batches(split, 100))) == 1


@pytest.mark.parametrize(("workers", "devices"), [(2, 1), (3, 2)])
def test_workers_share_out_the_batches_of_one(split, workers, devices):
    """Batches of 8, 8 and 5 images; of the last, six devices each get all."""
    contexts = [tf.distribute.InputContext(workers, own, workers * devices)
                for own in range(workers)]
    whole = run(split, start_step=1)
    parts = [run(split, start_step=1, context=context) for context in contexts]
    assert {len(own) for own in parts} == {devices * len(whole)}
    for step, batch in enumerate(whole):
        own = [part for each in parts for part in each[step * devices : (step + 1) * devices]]
        sizes = [len(part["index"]) for part in own]
        if len(batch["index"]) < workers * devices:
            assert {part.pop("copies") for part in own} == {workers * devices}
            same(own, [batch] * len(own))
        else:
            assert {part.pop("copies") for part in own} == {1}
            assert max(sizes) - min(sizes) <= 1
            joined = {key: np.concatenate([part[key] for part in own]) for key in batch}
            same([joined], [batch])
    held_out = [dataloader.evaluation_batches(split, 8, context) for context in contexts]
    seen = [list(each.as_numpy_iterator()) for each in held_out]
    assert sum(len(part["index"]) / part["copies"] for own in seen for part in own) == COUNT


def test_a_worker_reads_its_own_images_alone(split):
    class Noted(MemoryImages):
        def fetch(self, rows):
            return tf.numpy_function(self.note, [rows], tf.uint8)

        def note(self, rows):
            read.extend(rows.tolist())
            return self._tensor.numpy()[rows]

    read: list[int] = []
    noted = replace(split, store=Noted(split.store.fetch(tf.range(40)).numpy()))
    batches = run(noted, epochs=1, context=tf.distribute.InputContext(2, 1, 2))
    own = np.concatenate([batch["index"] for batch in batches])
    assert len(own) == 11 and sorted(read) == sorted(split.rows[own])


def test_fill_colour_is_painted_outside(split):
    bright = replace(split.take(np.arange(4)), fill=(11, 22, 33))
    shifts = Augmentation(flip=False, rotation_degrees=0, crop_padding=9)
    images = np.concatenate([batch["image"] for batch in run(bright, 4, shifts, epochs=5)])
    assert (images == (11, 22, 33)).all(-1).mean() > 0.2


def test_mistakes_are_named(split):
    with pytest.raises(UserError, match="batch of 22 images.*only 21"):
        run(split, 22)
    with pytest.raises(UserError, match="at least 1"):
        run(split, 0)
    with pytest.raises(UserError, match="at least 1"):
        dataloader.evaluation_batches(split, -3)
    with pytest.raises(UserError, match="padding of 10 pixels.*10x12"):
        run(split, 8, Augmentation(flip=False, crop_padding=10))


REPLICAS = """
import numpy as np
import dataloader
from experiment.run import devices
from tests.virtual_devices import split_cpu
split_cpu({count})
split = dataloader.load("digits", train_images=150).train
batches = dataloader.training_batches(
    split, 64, seed=3, epochs=2, augmentation=dataloader.Augmentation(
        flip=True, random_resized_crop=0.3, color_jitter=0.2, mixup=0.2, cutmix=1.0))
strategy = devices.strategy("mirrored")
shared = list(strategy.experimental_distribute_dataset(batches))
plain = list(batches)
assert len(shared) == len(plain) == 6
for ours, theirs in zip(plain, shared):
    for key in ours:
        parts = strategy.experimental_local_results(theirs[key])
        assert len(parts) == {count}
        np.testing.assert_array_equal(ours[key], np.concatenate(parts))
"""


@pytest.mark.parametrize("count", [2, 4])
def test_replicas_share_the_batches_of_one_device(count):
    environment = {**os.environ, "PYTHONPATH": str(Path(dataloader.__file__).parents[1])}
    program = [warm_python(), "-c", REPLICAS.format(count=count)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
