"""Detection data sets of tensorflow-datasets, for example ``voc/2007``."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from dataloader.memory import check_memory
from dataloader.resizing import resized
from dataloader.scenes import SceneRequest, Scenes, SceneSplit, register_scenes
from dataloader.tfds import builder_of, damaged, in_order, prepare
from registry import UserError

DEFAULT_SIZE = (160, 160)
OBJECTS = "objects"


@register_scenes("tfds", argument="NAME")
def tfds_scenes(request: SceneRequest) -> Scenes:
    """A data set with ``image`` and ``objects`` (``bbox``, ``label``).

    It is read from `request.data_dir`, and downloaded to it if necessary.
    ``train`` and ``validation`` are for training, ``test`` is for testing. Without ``test``,
    ``train`` is for training and ``validation`` for testing. A ``test`` split without a box, whose
    annotations are kept secret, is passed over.
    """
    builder = builder_of(request.argument, request.data_dir)
    labels = _label_feature(builder)
    prepare(builder)
    parts = [name for name in ("train", "validation", "test") if name in builder.info.splits]
    if parts[-1:] == ["test"] and not _has_boxes(builder, "test"):
        parts.pop()
    if len(parts) < 2 or parts[0] != "train":
        raise UserError(
            f"data set {builder.name!r} has the splits {', '.join(builder.info.splits)}; expected "
            "train, and test or validation with boxes"
        )
    size = request.size or DEFAULT_SIZE
    return Scenes(
        name=request.argument,
        class_names=tuple(labels.names),
        train=_read(builder, "+".join(parts[:-1]), size),
        test=_read(builder, parts[-1], size),
    )


def _label_feature(builder: Any) -> Any:
    """The objects' ClassLabel. Raises UserError if the data set has no boxes."""
    import tensorflow_datasets as tfds  # takes seconds, and most runs do not need it

    features = builder.info.features
    if "image" in features and OBJECTS in features:
        inner = getattr(features[OBJECTS], "feature", {})
        kinds = {"bbox": tfds.features.BBoxFeature, "label": tfds.features.ClassLabel}
        if all(name in inner and isinstance(inner[name], kind) for name, kind in kinds.items()):
            return inner["label"]
    raise UserError(
        f"data set {builder.name!r} of tensorflow-datasets has no {OBJECTS} with bbox and label; "
        "expected a detection data set, for example voc/2007"
    )


def _has_boxes(builder: Any, split: str) -> bool:
    """Whether an image of `split` has a box. Images are not decoded for it."""
    import tensorflow_datasets as tfds

    dataset = builder.as_dataset(
        split=split, decoders=tfds.decode.PartialDecoding({OBJECTS: {"bbox"}})
    )
    try:
        return any(len(example[OBJECTS]["bbox"]) for example in dataset)
    except tf.errors.OpError as error:
        raise damaged(builder, error) from error


def _read(builder: Any, split: str, size: tuple[int, int]) -> SceneSplit:
    """The images of `split`, in the order of the data set's files."""
    count = sum(builder.info.splits[name].num_examples for name in split.split("+"))
    check_memory(
        count * size[0] * size[1] * 3, f"data set {builder.name!r} ({count} images of {size})",
        "give a smaller --scene_size",
    )
    images, boxes, labels, difficult = [], [], [], []
    scale = np.array([size[1], size[0], size[1], size[0]], np.float32)

    def example(features: dict[str, Any]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        image = features["image"]
        if image.shape[-1] == 1:
            image = tf.image.grayscale_to_rgb(image)
        return resized(image, size), features[OBJECTS]

    dataset = builder.as_dataset(split=split, read_config=in_order())
    try:
        for image, objects in dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE):
            top, left, bottom, right = objects["bbox"].numpy().reshape(-1, 4).T
            found = np.stack([left, top, right, bottom], axis=1) * scale
            good = (found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1])
            # COCO's boxes around crowds need not be found, as VOC's difficult objects.
            easy = tf.zeros([len(found)], tf.bool)
            hard = objects.get("is_difficult", objects.get("is_crowd", easy)).numpy()
            images.append(image.numpy())
            boxes.append(found[good].astype(np.float32))
            labels.append(objects["label"].numpy()[good].astype(np.int32))
            difficult.append(hard[good].astype(bool))
    except tf.errors.OpError as error:
        raise damaged(builder, error) from error
    return SceneSplit(np.stack(images), boxes, labels, difficult)
