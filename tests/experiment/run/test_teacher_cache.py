"""Files of a teacher's outputs: written whole, read by epoch and index, added to batches."""

import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from experiment.run import folder
from experiment.run.teacher_cache import (
    ABANDONED,
    KEY,
    TEACHER,
    TeacherCache,
    key_folder,
    size_text,
)
from registry import UserError

IMAGES, WIDTHS, BATCH = 7, {"logits": 3, "embedding": 2}, 3
STEPS = 3  # of an epoch


@pytest.fixture
def cache(tmp_path):
    return TeacherCache(tmp_path / "key", IMAGES, WIDTHS)


def value(epoch, name):
    """Of every image, float16 [images, width]; no two numbers are equal."""
    width = WIDTHS[name]
    numbers = np.arange(IMAGES * width).reshape(IMAGES, width)
    return (100 * epoch + numbers + 0.5 * (name == "logits")).astype(np.float16)


def order(epoch):
    return np.random.default_rng(epoch).permutation(IMAGES)


def batches_of(epoch):
    for first in range(0, IMAGES, BATCH):
        index = order(epoch)[first : first + BATCH]
        yield index, {name: value(epoch, name)[index].astype(np.float32) for name in WIDTHS}


def everything(cache):
    return sorted(p.relative_to(cache.folder).as_posix() for p in cache.folder.rglob("*.npy"))


def test_rows_are_in_the_order_of_the_indices(cache):
    cache.write(1, batches_of(1))
    assert everything(cache) == ["embedding/epoch_0001.npy", "logits/epoch_0001.npy"]
    for name in WIDTHS:
        found = np.load(cache.path(name, 1))
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, value(1, name))
    assert cache.missing(WIDTHS, epochs=3) == [0, 2]
    content = sum(np.load(cache.path(name, 1)).nbytes for name in WIDTHS)
    assert cache.size(epochs=1) == content


def test_an_epoch_that_is_cut_off_leaves_nothing(cache):
    def cut_off():
        yield next(batches_of(0))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.write(0, cut_off())
    assert everything(cache) == []


def test_an_epoch_has_each_image_once(cache):
    index, found = next(batches_of(0))
    for batches in ([(index, found)], [*batches_of(0), (index, found)]):
        with pytest.raises(RuntimeError, match="each image once"):
            cache.write(0, batches)
    assert everything(cache) == []


@pytest.mark.parametrize("damage", ["empty", "cut", "of another width"])
def test_a_damaged_file_is_computed_again(cache, damage):
    cache.write(0, batches_of(0))
    file = cache.path("logits", 0)
    if damage == "of another width":
        np.save(file, np.zeros([IMAGES, 4], np.float16))
    else:
        file.write_bytes(file.read_bytes()[: 0 if damage == "empty" else -2])
    assert cache.missing(["embedding"], 1) == []
    assert cache.missing(WIDTHS, 1) == [0]
    cache.write(0, batches_of(0))
    np.testing.assert_array_equal(np.load(file), value(0, "logits"))


def test_two_processes_may_write_the_same(cache, monkeypatch):
    def while_another_writes():
        first, *rest = batches_of(0)
        yield first
        with monkeypatch.context() as patch:
            patch.setattr(folder.os, "getpid", lambda: -1)
            cache.write(0, batches_of(0))
        yield from rest

    cache.write(0, while_another_writes())
    assert len(everything(cache)) == 2
    np.testing.assert_array_equal(np.load(cache.path("logits", 0)), value(0, "logits"))


def test_what_killed_processes_left_is_removed_once_it_is_old(cache):
    old, new = (cache.folder / "logits" / f"{folder.PARTIAL}host-{n}-epoch" for n in (1, 2))
    old.parent.mkdir(parents=True)
    for file in (old, new):
        file.touch()
    os.utime(old, (0, old.stat().st_mtime - ABANDONED - 1))
    cache.begin({"seed": 3})
    assert not old.exists() and new.exists()
    assert '"seed": 3' in (cache.folder / KEY).read_text()


def test_what_float16_cannot_hold_is_refused(cache):
    def large(number):
        for index, found in batches_of(0):
            found["logits"][0] = number
            yield index, found

    with pytest.raises(UserError, match="logits reach 7e.04, more than float16 holds"):
        cache.write(0, large(7e4))
    cache.write(0, large(np.inf))  # as the teacher says
    assert np.isinf(np.load(cache.path("logits", 0))).any()


def test_a_full_disk_is_refused_before(cache, monkeypatch):
    needed = cache.size(epochs=4)
    usage = SimpleNamespace(free=needed)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    cache.check_room(4)
    usage.free = needed - 1
    with pytest.raises(UserError, match="in 4 epochs take 280 bytes, .* has 279 bytes free: give"):
        cache.check_room(4)
    assert not cache.folder.exists()


def test_sizes_in_words():
    assert [size_text(n) for n in (0, 999, 1000, 2_585_600, 3e9, 5e15)] == [
        "0 bytes", "999 bytes", "1 kB", "2.59 MB", "3 GB", "5e+03 TB",
    ]


def test_a_key_has_a_folder_of_its_own():
    key = {"seed": 1, "images": {"size": (8, 8), "fill": (0,)}}
    same = {"images": {"fill": [0], "size": [8, 8]}, "seed": 1}
    other = {"seed": 1, "images": {"size": (8, 8), "fill": (1,)}}
    assert key_folder("top", key) == key_folder("top", same) != key_folder("top", other)


# Reading

EPOCHS = 3


def dataset(epoch=0, step=0, parts=1):
    """Indices from a step of an epoch on; a batch is cut in several elements."""
    found = []
    for one in range(EPOCHS):
        for number in range(STEPS):
            if (one, number) >= (epoch, step):
                index = order(one)[number * BATCH : (number + 1) * BATCH]
                found += np.array_split(index, parts)

    def give():
        yield from ({"index": index} for index in found)

    signature = {"index": tf.TensorSpec([None], tf.int64)}
    made = tf.data.Dataset.from_generator(give, output_signature=signature)
    return made.apply(tf.data.experimental.assert_cardinality(len(found)))


@pytest.mark.parametrize(
    ("epoch", "step", "parts"), [(0, 0, 1), (1, 2, 1), (2, 2, 1), (1, 1, 2), (3, 0, 1)]
)
def test_batches_get_the_outputs_of_their_epoch_and_images(cache, epoch, step, parts):
    for one in range(EPOCHS):
        cache.write(one, batches_of(one))
    data = cache.add_to(
        dataset(epoch, step, parts), ["logits"], epochs=EPOCHS, steps=STEPS, epoch=epoch, step=step
    )
    assert data.element_spec[TEACHER]["logits"] == tf.TensorSpec([None, 3], tf.float32)
    found = list(data.as_numpy_iterator())
    assert len(found) == (EPOCHS * STEPS - epoch * STEPS - step) * parts
    for place, batch in enumerate(found):
        shown = epoch + (step + place // parts) // STEPS
        np.testing.assert_array_equal(
            batch[TEACHER]["logits"], value(shown, "logits")[batch["index"]]
        )
