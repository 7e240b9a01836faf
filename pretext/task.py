"""What every pretext task is: views of an image, a neck, a head, a loss and a held-out metric.

The encoder is shared by all tasks and is no part of them. A task makes *views* of an image, which
the encoder turns into maps; its *neck* makes of these a vector h of a width that all tasks have in
common; its *head* reads h and nothing else; its *loss* compares what the head gives with the task's
own *target*, which needs no label.

    inputs, target = task.views(images, uniform)     # the model standardizes and encodes `inputs`
    h = task.embed([encoder(view) for view in inputs])
    output = task.predict(h)
    loss, score = task.loss(output, target), task.score(output, target)
    e = normalise(W task.vector(h))                  # for regularizer and ensemble

Where an image's loss depends on the others of its batch (`couples_samples`), `loss` and `score` are
to be given `output` and `target` of the *global* batch, gathered by the caller
(`op_util.replicas.gather`), who divides the loss by the number of replicas. No task gathers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


@dataclasses.dataclass(eq=False)
class Task:
    """A pretext task for images of one shape, one instance a run.

    A task is a dataclass that extends this one: its further fields are its hyper-parameters, each
    with a default. It overrides all methods that raise NotImplementedError.

    Args:
        image_shape: (height, width, channels) of the images.
        minimum_size: the least height and width that the encoder takes, in pixels.

    Attributes:
        name: as it is registered.
        paper: where the task comes from.
        kind: ``"generative"`` or ``"discriminative"``.
        metric: name of the held-out metric that `score` gives.
        metric_rises: whether a larger metric is a better one.
        couples_samples: whether an image's loss and score depend on the others of the batch.
        layers: neck and head, made in `build`, with names of their own (``"rotation_neck"``).

    Raises:
        UserError: the task cannot work on such images.
    """

    name = ""
    paper = ""
    kind = "discriminative"
    metric = "accuracy"
    metric_rises = True
    couples_samples = False

    image_shape: tuple[int, int, int]
    minimum_size: int = 1

    def __post_init__(self) -> None:
        self.layers: list[keras.layers.Layer] = []
        self.check()

    def check(self) -> None:
        """Raise UserError where the task cannot work on images of `image_shape`, or where a
        hyper-parameter makes no sense."""

    def check_images(self, images: np.ndarray) -> None:
        """Raise UserError where the task has nothing to learn from a sample of the training images,
        uint8 ``[n, H, W, C]``."""

    @property
    def view_count(self) -> int:
        """How many views of each image the encoder sees."""
        return 1

    @property
    def view_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of each of the views."""
        return self.image_shape

    @property
    def draws(self) -> int:
        """How many random numbers `views` takes for an image."""
        raise NotImplementedError

    def views(self, images: tf.Tensor, uniform: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
        """What the encoder is shown, and what the task wants to know.

        A function of its arguments: the same random numbers make the same views.

        Args:
            images: float32 ``[B, H, W, C]`` in 0..1.
            uniform: float32 ``[B, draws]`` in [0, 1).

        Returns:
            `view_count` float32 tensors ``[B, *view_shape]`` in 0..1, and the target: a structure
            of tensors ``[B, ...]``.
        """
        raise NotImplementedError

    def build(self, feature_shape: Sequence[int], width: int) -> None:
        """Make and build neck and head.

        Args:
            feature_shape: (h, w, D) of the encoder's last map for one view.
            width: of h.
        """
        raise NotImplementedError

    def embed(self, features: Sequence[tf.Tensor], training: bool = False) -> tf.Tensor:
        """The neck: h, float32 ``[B, width]`` (``[B, views, width]`` where the views are compared
        with each other), of the encoder's last maps ``[B, h, w, D]``, one for each view."""
        raise NotImplementedError

    def vector(self, h: tf.Tensor) -> tf.Tensor:
        """An image's h, ``[B, width]``: the mean over its views where `embed` gives several."""
        return h if h.shape.rank == 2 else tf.reduce_mean(h, axis=1)

    def predict(self, h: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The head: float32 ``[B, ...]`` of what `embed` gives, and of nothing else."""
        raise NotImplementedError

    def loss(self, output: tf.Tensor, target: Any) -> tf.Tensor:
        """The loss, a float32 scalar, mean over the batch, of what `predict` and `views` give."""
        raise NotImplementedError

    def score(self, output: tf.Tensor, target: Any) -> tf.Tensor:
        """The held-out metric of each image, float32 ``[B]``; its mean is the task's figure."""
        raise NotImplementedError

    def pictures(self, inputs: Sequence[tf.Tensor], output: tf.Tensor, target: Any) -> Any:
        """What a generative task made, to look at: float32 ``[B, H, 3 W, C]`` in 0..1, the view,
        the task's result and the truth side by side. None where there is nothing to see."""
        return None
