"""Object detection: the encoder as the backbone of a light detector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

import nets
from dataloader import Scenes, SceneSplit
from plugins import option
from registry import UserError
from targets.average_precision import average_precision
from targets.boxes import Found, encode
from targets.detector import Detector
from targets.embeddings import Representation, images_at_once
from targets.target import TARGETS, Material, Score, Target
from targets.training import Trainer


@TARGETS.register("detection")
class Detection(Target):
    """Mean average precision of a light detector with the encoder as its backbone.

    Args:
        detection_steps: training steps of the detector.
        train_encoder: train the encoder along with the detector.
    """

    needs_scenes = True
    needs_maps = True
    columns = {"map_50": "mAP@0.5", "map": "COCO mAP"}
    ranked = ("map_50",)
    explanation = "Mean average precision of a light detector on the encoder"

    detection_steps: int = option(600, minimum=1)
    train_encoder: bool = option(False)

    def score(self, encoder: Representation, material: Material, seed: int) -> Score:
        detections = detect(
            encoder, material.scenes, seed=seed, steps=self.detection_steps,
            trains_encoder=self.train_encoder,
        )
        return Score(detections.metrics(), detections)


@dataclass(frozen=True, eq=False)
class Detections:
    """A detector's results on the test scenes.

    Attributes:
        scenes: the data.
        found: the detections, one entry per test scene.
    """

    scenes: Scenes
    found: list[Found]

    def metrics(self) -> dict[str, float]:
        """``map_50`` and ``map``, see `average_precision`."""
        return average_precision(self.scenes.test, self.found, len(self.scenes.class_names))


def detection(encoder: nets.Encoder, scenes: Scenes, **options: object) -> dict[str, float]:
    """Train a detector on the encoder and return its metrics, ``map_50`` and ``map``.

    Args:
        encoder: the backbone; it is not changed.
        scenes: the scenes to train and test the detector on.
        **options: see `detect`.
    """
    return detect(encoder, scenes, **options).metrics()


def detect(
    encoder: nets.Encoder,
    scenes: Scenes,
    *,
    seed: int = 0,
    steps: int = 600,
    learning_rate: float = 2e-3,
    batch_size: int = 16,
    trains_encoder: bool = False,
) -> Detections:
    """Train a detector on the training scenes and run it on the test scenes.

    Args:
        encoder: the backbone; a copy of it is used.
        scenes: the data.
        seed: random seed for the decoder's initial weights and the order of the scenes.
        steps: training steps.
        learning_rate: the initial learning rate, decayed along a cosine.
        batch_size: scenes per step.
        trains_encoder: train the encoder too. False trains the decoder and its heads only, to
            measure what the encoder already knows.

    Raises:
        UserError: the encoder has no feature maps, or cannot take images of the scenes' size.
    """
    check_backbone(encoder)
    size = scenes.image_shape[:2]
    detector = Detector(
        encoder, size, len(scenes.class_names), trains_encoder=trains_encoder, seed=seed
    )
    trainer = Trainer(detector.loss, detector.trained, detector.state, steps)
    trainer.train(_batches(scenes, detector, min(batch_size, len(scenes.train)), seed),
                  learning_rate)
    images, at_once = scenes.test.images, images_at_once(scenes.image_shape)
    found = [
        each
        for start in range(0, len(images), at_once)
        for each in detector.find(images[start : start + at_once])
    ]
    return Detections(scenes, found)


def check_backbone(encoder: Representation) -> None:
    """Raise UserError unless a detector can be built on `encoder`."""
    if not isinstance(encoder, nets.Encoder):
        raise UserError(
            f"{encoder.name} cannot be a detector's backbone, which must be a network with "
            "feature maps: give a run folder, a .keras file or random:NET"
        )


def _batches(
    scenes: Scenes, detector: Detector, batch_size: int, seed: int
) -> Iterator[tuple[tf.Tensor, ...]]:
    """Endless batches of images and their maps.

    Each epoch shuffles the scenes and drops the last ones if they do not fill a batch.
    """
    split, epoch = scenes.train, 0
    while True:
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(split))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            rows = order[start : start + batch_size]
            mirrored = scenes.flip & (random.random(len(rows)) < 0.5)
            yield _batch(split, rows, mirrored, detector, len(scenes.class_names))
        epoch += 1


def _batch(
    split: SceneSplit, rows: np.ndarray, mirrored: np.ndarray, detector: Detector, classes: int
) -> tuple[tf.Tensor, ...]:
    """The images, heat maps, sizes, offsets and centres of the scenes in `rows`."""
    width = split.images.shape[2]
    images, maps = [], []
    for row, mirror in zip(rows, mirrored, strict=True):
        image, boxes = split.images[row], split.boxes[row]
        if mirror:
            image = image[:, ::-1]
            boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]],
                             axis=1)
        images.append(image)
        maps.append(encode(boxes, split.labels[row], image_size=detector.image_size,
                           grid=detector.grid, classes=classes))
    return tuple(map(tf.convert_to_tensor, (
        np.stack(images),
        *(np.stack([getattr(each, name) for each in maps])
          for name in ("heat", "sizes", "offsets", "centres")),
    )))
