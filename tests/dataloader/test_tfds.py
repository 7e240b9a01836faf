"""tensorflow-datasets without a network: a tiny set written to a folder of its own."""

import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

import dataloader
import dataloader.tfds
from dataloader import records
from registry import UserError

COUNTS = {"train": 12, "test": 6}
COUNTS_WITHOUT_TEST = {"train": 12}


def picture(split, number, shape=(8, 8, 3)):
    random = np.random.default_rng([len(split), number])
    return random.integers(0, 256, shape).astype(np.uint8)


class TinyPictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Two classes of 8x8 pictures; the labels alternate."""

    VERSION = tfds.core.Version("1.0.0")
    image_shape = (8, 8, 3)
    counts = COUNTS

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=self.image_shape, encoding_format="png"),
                "label": tfds.features.ClassLabel(names=["ant", "bee"]),
                "score": np.float32,
            }
        )
        return self.dataset_info_from_configs(
            features=features, supervised_keys=self.keys, disable_shuffling=True
        )

    keys = ("image", "label")

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.counts}

    def _generate_examples(self, split):
        for number in range(self.counts[split]):
            shape = tuple(size or 6 + number for size in self.image_shape)
            image = picture(split, number, shape)
            yield number, {"image": image, "label": number % 2, "score": 0.5}


class MixedPictures(TinyPictures, skip_registration=True):
    """Of several sizes, and without a test split."""

    image_shape = (None, 8, 3)
    counts = COUNTS_WITHOUT_TEST


class ValidatedPictures(TinyPictures, skip_registration=True):
    """With images for validation."""

    counts = {"train": 20, "validation": 6, "test": 4}


class SecretPictures(TinyPictures, skip_registration=True):
    """Test images whose labels are kept secret, as those of ImageNet."""

    counts = {"train": 20, "validation": 6, "test": 4}

    def _generate_examples(self, split):
        for number, example in super()._generate_examples(split):
            yield number, example | ({"label": -1} if split == "test" else {})


class ScoredPictures(TinyPictures, skip_registration=True):
    """Not a classification set."""

    keys = ("image", "score")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    sets = (TinyPictures, MixedPictures, ValidatedPictures, SecretPictures, ScoredPictures)
    for builder in sets:
        builder(data_dir=folder).download_and_prepare()
    if records.is_installed():
        SecretPictures(data_dir=folder / "by_index").download_and_prepare(
            file_format=records.FORMAT
        )
    return folder


def test_images_and_labels_come_out_as_they_went_in(data_dir):
    data = dataloader.load("tiny_pictures", data_dir=data_dir, validation_fraction=0)
    assert data.name == "tiny_pictures" and data.class_names == ("ant", "bee")
    for name, split in (("train", data.train), ("test", data.test)):
        images = [picture(name, number) for number in range(COUNTS[name])]
        np.testing.assert_array_equal(split.images(range(len(split))), images)
        assert split.labels.tolist() == [number % 2 for number in range(COUNTS[name])]


def test_several_sizes_and_no_test_split(data_dir):
    data = dataloader.load("mixed_pictures", data_dir=data_dir, validation_fraction=0)
    assert data.image_shape == (6, 8, 3)
    assert len(data.train) == 10 and len(data.test) == 2
    small = dataloader.load("mixed_pictures", data_dir=data_dir, image_size=(4, 5))
    assert small.image_shape == (4, 5, 3)


def test_a_sets_own_images_for_validation(data_dir):
    data = dataloader.load("validated_pictures", data_dir=data_dir)
    assert [len(data.train), len(data.validation), len(data.test)] == [20, 6, 4]
    np.testing.assert_array_equal(data.validation.images([5])[0], picture("validation", 5))
    about = dataloader.outline("validated_pictures", data_dir=data_dir)
    assert about.train_images == 20 and about.has_validation
    without = dataloader.load("validated_pictures", data_dir=data_dir, validation_fraction=0)
    assert [len(without.train), len(without.validation)] == [20, 0]


@pytest.mark.parametrize("kept", ["in_order", "by_index"])
def test_test_images_without_labels_are_passed_over(data_dir, kept):
    if kept == "by_index" and not records.is_installed():
        pytest.skip("needs array_record")
    where = data_dir / "by_index" if kept == "by_index" else data_dir
    data = dataloader.load("secret_pictures", data_dir=where, validation_fraction=0)
    assert [len(data.train), len(data.validation), len(data.test)] == [20, 0, 6]
    np.testing.assert_array_equal(data.test.images([5])[0], picture("validation", 5))
    about = dataloader.outline("secret_pictures", data_dir=where, validation_fraction=0)
    assert about.train_images == 20 and not about.has_validation


def test_not_a_classification_set(data_dir):
    with pytest.raises(UserError, match="is not one of uint8 images with one class"):
        dataloader.load("scored_pictures", data_dir=data_dir)


def test_too_large_for_the_memory(data_dir, monkeypatch):
    monkeypatch.setattr("dataloader.memory.free_memory", lambda: 2000)
    with pytest.raises(UserError, match=r"18 images of 8x8x3.*more than half"):
        dataloader.load("tiny_pictures", data_dir=data_dir)


def test_damaged_files(data_dir, tmp_path):
    copy = shutil.copytree(data_dir / "tiny_pictures", tmp_path / "tiny_pictures")
    file = next(copy.rglob("*train*record*"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="'tiny_pictures' in .* is damaged") as caught:
        dataloader.load("tiny_pictures", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.fixture
def no_network(monkeypatch):
    import requests

    def head(*args, **options):
        raise requests.ConnectionError("no route")

    monkeypatch.setattr("requests.head", head)


@pytest.mark.parametrize("name", ["cifar100", "CIFAR-100"])
def test_no_network(name, tmp_path, no_network):
    with pytest.raises(UserError, match="'cifar100' is not in .*cannot be downloaded") as caught:
        dataloader.load(name, data_dir=tmp_path / "absent")
    assert "\n" not in str(caught.value) and "data_dir" in str(caught.value)
    assert not (tmp_path / "absent").exists()


def test_nearest_name():
    with pytest.raises(UserError, match="unknown data set 'cifr100' .did you mean 'cifar100'"):
        dataloader.load("cifr100")
    with pytest.raises(UserError, match="svhn_cropped/full"):
        dataloader.load("svhn_cropped/full")


def test_published_statistics_and_flips(data_dir, monkeypatch):
    mean, deviation = dataloader.tfds.PUBLISHED["cifar100"]
    assert mean == (129.38, 124.11, 112.48) and deviation == (68.21, 65.43, 70.46)
    monkeypatch.setitem(dataloader.tfds.PUBLISHED, "tiny_pictures", ((1.0,) * 3, (2.0,) * 3))
    data = dataloader.load("tiny_pictures", data_dir=data_dir)
    assert data.channel_mean == (1.0,) * 3 and data.channel_deviation == (2.0,) * 3
    assert data.train.fill == (1,) * 3 and data.default_flip
    known = set(tfds.list_builders(with_community_datasets=False))
    assert "svhn_cropped" in dataloader.tfds.NOT_MIRRORED
    assert set(dataloader.tfds.NOT_MIRRORED) <= known
