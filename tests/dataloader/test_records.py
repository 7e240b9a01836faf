"""Sets of tensorflow-datasets in ArrayRecord files, beside the same sets in TFRecord files."""

import importlib.util
import json
import resource
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import dataloader
from dataloader import Augmentation, MemoryImages
from dataloader.records import RecordImages
from registry import UserError
from tests.virtual_devices import compared

COUNTS = {"train": 50, "test": 7}
SHARDS = 3
MOVED = Augmentation(flip=True, crop_padding=2)
CROPPED_AND_MIXED = Augmentation(
    flip=True, crop_padding=2, random_resized_crop=0.5, color_jitter=0.4, mixup=0.2
)


class Photographs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """JPEGs of several sizes, shuffled, in several files."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=["ant", "bee"]),
        })
        return self.dataset_info_from_configs(
            features=features, supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split):
        random = np.random.default_rng(len(split))
        for number in range(COUNTS[split]):
            colours = random.integers(0, 256, (3, 3, 3))
            picture = np.kron(colours, np.ones((4, 4 + number % 3, 1))).astype(np.uint8)
            yield number, {"image": picture, "label": int(colours.sum()) % 2}


def prepared(folder, file_format):
    config = tfds.download.DownloadConfig(num_shards=SHARDS)
    Photographs(data_dir=folder / file_format).download_and_prepare(
        file_format=file_format, download_config=config
    )
    return folder / file_format


@pytest.fixture(scope="module")
def by_index(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("sets"), "array_record")


@pytest.fixture(scope="module")
def in_order(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("sets"), "tfrecord")


@pytest.fixture
def copied(by_index, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(by_index, tmp_path / "copy")


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


def load(data_dir, in_memory="no", **options):
    options = {"image_size": (16, 16), "validation_fraction": 0.2, **options}
    return dataloader.load("photographs", data_dir=data_dir, in_memory=in_memory, **options)


def batches(data, **options):
    options = {"seed": 3, "epochs": 2, "augmentation": MOVED, **options}
    return list(dataloader.training_batches(data.train, 8, **options))


def require_same(found, expected):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def files_of(data_dir, split="train"):
    files = sorted(data_dir.rglob(f"*{split}.array_record*"))
    assert len(files) == SHARDS
    return files


def test_the_same_batches_bit_for_bit_as_in_memory(by_index, in_order):
    disk, memory, records = load(by_index), load(by_index, "yes"), load(in_order, "auto")
    assert isinstance(disk.train.store, RecordImages) and not disk.is_in_memory
    assert isinstance(memory.train.store, MemoryImages) and memory.is_in_memory
    assert isinstance(records.train.store, MemoryImages)
    expected = batches(memory, augmentation=CROPPED_AND_MIXED)
    for data in (disk, records):
        assert data.facts() == memory.facts() and data.train.fill == memory.train.fill
        assert data.channel_deviation == memory.channel_deviation
        assert data.train.fingerprint == memory.train.fingerprint
        require_same(batches(data, augmentation=CROPPED_AND_MIXED), expected)
        require_same(*(
            list(dataloader.evaluation_batches(split, 3)) for split in (data.test, memory.test)
        ))


def test_images_are_those_of_tensorflow_datasets_in_the_order_of_the_files(by_index, in_order):
    """By its own reader, which gives arrays that it decodes by another library."""
    builder = tfds.builder("photographs", data_dir=by_index)
    source = builder.as_data_source("train")
    data = load(by_index, image_size=None, validation_fraction=0)
    assert data.class_names == ("ant", "bee")
    assert data.train.labels.tolist() == [each["label"] for each in source]
    assert data.image_shape == source[0]["image"].shape
    same = [row for row, each in enumerate(source) if each["image"].shape == data.image_shape]
    assert 10 < len(same) < COUNTS["train"]
    images = data.train.images(same).numpy().astype(int)
    for image, row in zip(images, same, strict=True):
        assert np.abs(image - source[row]["image"]).mean() < 10  # two JPEG decoders
    outline = dataloader.outline("photographs", data_dir=by_index, validation_fraction=0)
    assert (outline.train_images, outline.image_shape) == (COUNTS["train"], data.image_shape)
    other = dataloader.outline("photographs", data_dir=in_order, validation_fraction=0)
    assert other == outline


def test_a_run_goes_on_in_the_middle_of_an_epoch(by_index):
    expected = batches(load(by_index, "yes"))
    require_same(batches(load(by_index), start_epoch=1, start_step=2), expected[7:])


def test_labels_and_parts_are_chosen_as_in_memory(by_index):
    options = {"train_images": 30, "labelled_per_class": 4, "seed": 5}
    disk, memory = load(by_index, **options), load(by_index, "yes", **options)
    np.testing.assert_array_equal(disk.train.labels, memory.train.labels)
    np.testing.assert_array_equal(disk.train.rows, memory.train.rows)
    np.testing.assert_array_equal(disk.validation.rows, memory.validation.rows)
    require_same(batches(disk), batches(memory))


def test_each_worker_reads_its_part_of_a_batch(by_index):
    data, whole = load(by_index), batches(load(by_index, "yes"))
    parts = [
        batches(data, context=tf.distribute.InputContext(2, worker, 2)) for worker in range(2)
    ]
    for first, second, batch in zip(*parts, whole, strict=True):
        for key in batch:
            joined = np.concatenate([first[key], second[key]])
            np.testing.assert_array_equal(joined, batch[key])


@pytest.mark.slow
def test_two_devices_share_the_batches_in_memory(by_index):
    found, = compared(Path(__file__).with_name("two_replicas.py"), 2, [str(by_index)]).values()
    assert found["different"] == 0 and found["largest"] > 200
    assert (found["batches"], found["devices"]) == (2 * 6, 2)


def test_auto_holds_in_memory_what_takes_up_to_a_quarter(by_index, in_order, monkeypatch):
    needed = sum(COUNTS.values()) * 16 * 16 * 3
    monkeypatch.setattr("dataloader.memory.BATCH", 4)
    monkeypatch.setattr("dataloader.memory.free_memory", lambda: 4 * needed)
    assert load(by_index, "auto").is_in_memory
    monkeypatch.setattr("dataloader.memory.free_memory", lambda: 4 * needed - 1)
    assert not load(by_index, "auto").is_in_memory
    assert load(in_order, "auto").is_in_memory
    monkeypatch.setattr("dataloader.memory.free_memory", lambda: 2 * needed - 1)
    with pytest.raises(UserError, match="57 images of 16x16x3.*or --in_memory no"):
        load(by_index, "yes")
    with pytest.raises(UserError, match="57 images of 16x16x3.*another --data_dir"):
        load(in_order, "auto")


def test_a_set_that_is_there_in_both_formats_is_read_by_index(by_index, in_order, tmp_path):
    both = shutil.copytree(in_order, tmp_path / "both")
    description = next(both.rglob("dataset_info.json"))
    for file in by_index.rglob("*.array_record*"):
        shutil.copy(file, description.parent)
    info = json.loads(description.read_text())
    description.write_text(json.dumps(info | {"alternativeFileFormats": ["array_record"]}))
    data = load(both)
    assert isinstance(data.train.store, RecordImages)
    require_same(batches(data), batches(load(in_order, "yes")))


def test_a_set_that_is_not_there_is_prepared_to_be_read_by_index(tmp_path, monkeypatch):
    builder = Photographs(data_dir=tmp_path)
    monkeypatch.setattr("dataloader.tfds.builder_of", lambda name, data_dir: builder)
    assert isinstance(load(tmp_path).train.store, RecordImages)
    assert list(tmp_path.rglob("*train.array_record*"))


def test_files_without_an_index_are_read_into_memory_only(in_order):
    with pytest.raises(UserError, match="is in tfrecord files.*--in_memory auto, or another --d"):
        load(in_order)


def test_without_the_package(by_index, in_order, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "array_record" else find(name)
    )
    for data_dir, in_memory in ((by_index, "auto"), (in_order, "no")):
        with pytest.raises(UserError, match="pip install array_record"):
            load(data_dir, in_memory)
    assert load(in_order, "auto").is_in_memory


@pytest.mark.parametrize("damage", ["cut off", "empty", "gone", "one byte", "other format"])
def test_a_damaged_file_is_named_at_the_start(copied, damage):
    file = files_of(copied)[1]
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "one byte":
        content[300] ^= 1
        file.write_bytes(content)
    else:
        wrong = {"cut off": content[:-100], "empty": b"", "other format": bytes(100_000)}
        file.write_bytes(wrong[damage])
    with pytest.raises(UserError, match=f"'photographs': .*{file.name} cannot be read") as caught:
        load(copied)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_damaged_after_the_start_is_named(copied):
    data = load(copied)
    file = files_of(copied, "test")[2]
    file.write_bytes(b"")
    with pytest.raises(UserError, match=f"{file.name} cannot be read"), \
            dataloader.naming_damage(*data.splits):
        data.test.images(range(len(data.test)))
    assert len(data.train.images(range(8))) == 8


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path, monkeypatch):
    def broken(self, split):
        yield 0, {"image": np.zeros([8, 8, 3], np.uint8), "label": 0}
        yield 1, {"image": tf.io.encode_jpeg(np.zeros([8, 8, 3], np.uint8)).numpy()[:40],
                  "label": 1}

    monkeypatch.setattr(Photographs, "_generate_examples", broken)
    Photographs(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    with pytest.raises(UserError, match="train.array_record.* cannot be read"):
        load(tmp_path, "yes", validation_fraction=0)


def test_a_missing_split(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Photographs, "_split_generators",
        lambda self, manager: {"test": self._generate_examples("test")},
    )
    Photographs(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    with pytest.raises(UserError, match="has no split 'train', only 'test'"):
        load(tmp_path)


def test_labels_of_many_images_are_read_once(copied, caches, monkeypatch):
    monkeypatch.setattr("dataloader.records.LABELS_KEPT", 10)
    expected = load(copied, validation_fraction=0).train.labels
    file, = caches.rglob("labels-train-*.json")  # the test split is small
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | {"labels": [1 - label for label in kept["labels"]]}))
    np.testing.assert_array_equal(load(copied, validation_fraction=0).train.labels, 1 - expected)
    touched = files_of(copied)[0]
    touched.write_bytes(touched.read_bytes())
    np.testing.assert_array_equal(load(copied, validation_fraction=0).train.labels, expected)
    file.write_text("{")
    np.testing.assert_array_equal(load(copied, validation_fraction=0).train.labels, expected)


def test_as_many_files_as_there_are_may_be_open(by_index, monkeypatch):
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 2, most))
        assert len(batches(load(by_index))) == 10
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > psutil.Process().num_fds() + SHARDS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (now, most))
    monkeypatch.setattr("dataloader.records.SPARE_FILES", 10 * most)
    monkeypatch.setattr("resource.getrlimit", lambda which: (100, most))
    with pytest.raises(UserError, match=f"has 3 files, but a process may open only {most}"):
        load(by_index)
