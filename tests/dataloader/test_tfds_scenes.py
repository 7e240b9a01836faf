"""Detection sets of tensorflow-datasets, by a tiny one in a folder of its own."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import dataloader
from registry import UserError

COUNTS = {"train": 3, "validation": 2, "test": 2}
BOX = (0.25, 0.1, 0.75, 0.6)  # top, left, bottom, right


class TinyScenes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A white box on black in pictures of several sizes."""

    VERSION = tfds.core.Version("1.0.0")
    counts = COUNTS
    flag = "is_difficult"
    disable_shuffling = True

    def _info(self):
        features = tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "objects": tfds.features.Sequence({
                "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                self.flag: np.bool_,
            }),
        })
        return self.dataset_info_from_configs(
            features=features, disable_shuffling=self.disable_shuffling
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.counts}

    def _generate_examples(self, split):
        for number in range(self.counts[split]):
            height, width = 40, 60 + 20 * number
            image = np.zeros([height, width, 3], np.uint8)
            top, left, bottom, right = np.round(np.multiply(BOX, [height, width] * 2)).astype(int)
            image[top:bottom, left:right] = 255
            objects = [{"bbox": tfds.features.BBox(*BOX), "label": number % 2,
                        self.flag: number == 1}]
            yield number, {"image": image, "objects": objects}


class OneSplit(TinyScenes, skip_registration=True):
    counts = {"train": 3}


class Crowds(TinyScenes, skip_registration=True):
    flag = "is_crowd"  # as COCO calls it


class SecretScenes(TinyScenes, skip_registration=True):
    """The test images' boxes are kept secret, as those of COCO."""

    def _generate_examples(self, split):
        for number, example in super()._generate_examples(split):
            yield number, example | ({"objects": []} if split == "test" else {})


class SecretTest(SecretScenes, skip_registration=True):
    counts = {"train": 3, "test": 2}


class ManyFiles(TinyScenes, skip_registration=True):
    """Shuffled, as most sets are, with boxes of different widths."""

    counts = {"train": 40, "test": 2}
    disable_shuffling = False

    def _generate_examples(self, split):
        for number, example in super()._generate_examples(split):
            box = tfds.features.BBox(0.0, 0.0, 1.0, 0.5 + number / 100)
            yield number, example | {"objects": [example["objects"][0] | {"bbox": box}]}


class NoBoxes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """No detection set."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {"image": tfds.features.Image(shape=(8, 8, 3), encoding_format="png")}
        )
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"image": np.zeros([8, 8, 3], np.uint8)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for builder in (TinyScenes, OneSplit, Crowds, SecretScenes, SecretTest, NoBoxes):
        builder(data_dir=folder).download_and_prepare()
    ManyFiles(data_dir=folder).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=2)
    )
    return folder


def test_boxes_lie_where_the_picture_has_them(data_dir):
    scenes = dataloader.load_scenes("tiny_scenes", size=(80, 100), data_dir=data_dir)
    assert scenes.class_names == ("cat", "dog") and scenes.image_shape == (80, 100, 3)
    assert len(scenes.train) == 5 and len(scenes.test) == 2  # training with validation
    for split in (scenes.train, scenes.test):
        for image, boxes in zip(split.images, split.boxes, strict=True):
            np.testing.assert_allclose(boxes, [[10, 20, 60, 60]], atol=1e-4)
            white = np.argwhere(image[..., 0] > 127)
            np.testing.assert_allclose(white.min(0), [20, 10], atol=1)
            np.testing.assert_allclose(white.max(0) + 1, [60, 60], atol=1)
    assert [labels.tolist() for labels in scenes.test.labels] == [[0], [1]]
    assert [hard.tolist() for hard in scenes.test.difficult] == [[False], [True]]


def test_crowds_need_not_be_found(data_dir):
    scenes = dataloader.load_scenes("crowds", size=(32, 32), data_dir=data_dir)
    assert [hard.tolist() for hard in scenes.test.difficult] == [[False], [True]]


def test_test_images_without_boxes_are_passed_over(data_dir):
    scenes = dataloader.load_scenes("secret_scenes", size=(32, 32), data_dir=data_dir)
    assert len(scenes.train) == 3 and len(scenes.test) == 2 and scenes.test.objects == 2


def test_scenes_are_in_the_order_of_the_files(data_dir):
    scenes = dataloader.load_scenes("many_files", size=(32, 32), data_dir=data_dir)
    files = sorted(map(str, data_dir.glob("many_files/*/*train.tfrecord*")))
    edges = []
    for content in tf.data.TFRecordDataset(files):
        features = tf.train.Example.FromString(content.numpy()).features.feature
        edges.append(features["objects/bbox"].float_list.value[3])
    assert len(files) == 2 and len(edges) == 40
    np.testing.assert_allclose([boxes[0, 2] / 32 for boxes in scenes.train.boxes], edges)


def test_what_the_set_settles_itself_is_refused(data_dir):
    with pytest.raises(UserError, match="'tiny_scenes' takes no names of classes: only voc:DIR"):
        dataloader.load_scenes("tiny_scenes", class_names=("cat",), data_dir=data_dir)
    with pytest.raises(UserError, match="'tiny_scenes' takes no number of faulty images"):
        dataloader.load_scenes("tiny_scenes", max_bad=0, data_dir=data_dir)


def test_other_sets_are_refused(data_dir):
    with pytest.raises(UserError, match="no objects with bbox and label"):
        dataloader.load_scenes("no_boxes", data_dir=data_dir)
    with pytest.raises(UserError, match="has the splits train; expected"):
        dataloader.load_scenes("one_split", data_dir=data_dir)
    with pytest.raises(UserError, match="has the splits train, test; expected.*with boxes"):
        dataloader.load_scenes("secret_test", data_dir=data_dir)
