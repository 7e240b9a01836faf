"""The base class of pretext tasks: views of an image, a neck, a head, a loss, a held-out metric.

All tasks share the encoder. A task makes *views* of an image, which the encoder turns into feature
maps. The task's *neck* turns the maps into a vector h of the same width for all tasks. Its *head*
reads only h. Its *loss* compares the head's output with the task's own *target*, which needs no
labels.

    views = task.views(images)                          # how to make views of such images
    neck, head = task.build(images, feature_shape, width)
    inputs, target = views(batch, uniform)              # the model standardizes and encodes them
    h = task.embed(neck, [encoder(view) for view in inputs])
    output = task.predict(head, h)
    loss, score = task.loss(output, target), task.score(output, target)
    e = normalise(W task.vector(h))                     # for regularizer and ensemble

If an image's loss depends on the other images of its batch (`couples_samples`), `loss` and `score`
get the `output` and `target` of the *global* batch. The caller gathers them
(`replicas.global_batch`) and divides the loss by the number of replicas.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from plugins import Plugin, option
from pretext.heads import pooled

Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Images:
    """The images that tasks work on.

    Attributes:
        shape: (height, width, channels).
        minimum_size: smallest height and width that the encoder takes, in pixels.
        flip: whether mirroring an image keeps its meaning.
    """

    shape: Shape
    minimum_size: int = 1
    flip: bool = True


@dataclasses.dataclass(frozen=True)
class Views:
    """How a task makes views of images.

    The same random numbers give the same views, so views depend neither on the batch nor on the
    device, and are the same after a restart.

    Attributes:
        shape: (height, width, channels) of each view.
        draws: how many random numbers each image needs.
        make: takes float32 images ``[B, H, W, C]`` in 0..1 and random numbers, float32
            ``[B, draws]`` in [0, 1). Returns `count` float32 views ``[B, *shape]`` in 0..1 and the
            target, a structure of tensors ``[B, ...]``.
        count: views per image.
    """

    shape: Shape
    draws: int
    make: Callable[[tf.Tensor, tf.Tensor], tuple[list[tf.Tensor], Any]]
    count: int = 1

    def __call__(self, images: tf.Tensor, uniform: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
        """The views and the target, see `make`."""
        return self.make(images, uniform)


class Task(Plugin):
    """A pretext task. Its fields are its hyper-parameters; it is immutable.

    A task overrides all methods that raise NotImplementedError.

    Args:
        weight: weight of this task's loss in the sum, multiplied by the balance's factor.

    Attributes:
        kind: ``"generative"`` or ``"discriminative"``.
        metric: name of the held-out metric that `score` returns.
        metric_rises: whether a larger metric is better.
        couples_samples: whether an image's loss and score depend on other images of the batch.
    """

    kind: ClassVar[str] = "discriminative"
    metric: ClassVar[str] = "accuracy"
    metric_rises: ClassVar[bool] = True
    couples_samples: ClassVar[bool] = False

    weight: float = option(1.0, "weight of this task's loss in the sum", minimum=0)

    def views(self, images: Images) -> Views:
        """How to make views of such images.

        Raises:
            UserError: the task cannot work on them.
        """
        raise NotImplementedError

    def check_images(self, sample: np.ndarray) -> None:
        """Raise UserError if the task cannot learn from these images.

        Args:
            sample: some training images, uint8 ``[n, H, W, C]``.
        """

    def build(
        self, images: Images, feature_shape: Sequence[int], width: int
    ) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        """Create and build a new neck and head, with unique names, for example "rotation_neck".

        Args:
            images: the images that the views are made from.
            feature_shape: (h, w, D) of the encoder's last map for one view.
            width: the width of h.
        """
        raise NotImplementedError

    def embed(
        self, neck: keras.layers.Layer, features: Sequence[tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """h, float32 ``[B, width]``; ``[B, views, width]`` if views are compared with each other.

        Args:
            neck: the neck from `build`.
            features: the encoder's last maps ``[B, h, w, D]``, one for each view.
            training: whether this is a training step.
        """
        return neck(pooled(features[0]), training=training)

    def vector(self, h: tf.Tensor) -> tf.Tensor:
        """One h per image, ``[B, width]``: the mean over its views if `embed` returns several."""
        return h if h.shape.rank == 2 else tf.reduce_mean(h, axis=1)

    def predict(self, head: keras.layers.Layer, h: tf.Tensor, training: bool = False) -> Any:
        """The head's output for h, float32 ``[B, ...]`` or a structure of such tensors."""
        return head(h, training=training)

    def loss(self, output: Any, target: Any) -> tf.Tensor:
        """The loss, averaged over the batch, a float32 scalar of at least 0."""
        raise NotImplementedError

    def score(self, output: Any, target: Any) -> tf.Tensor:
        """The held-out metric of each image, float32 ``[B]``."""
        raise NotImplementedError

    def pictures(self, inputs: Sequence[tf.Tensor], output: Any, target: Any) -> Any:
        """Pictures of a generative task's results, float32 ``[B, H, 3 W, C]`` in 0..1.

        Each shows the view, the result and the original side by side. None for other tasks.
        """
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class BuiltTask:
    """A task with its views for the given images, and its neck and head."""

    task: Task
    views: Views
    neck: keras.layers.Layer
    head: keras.layers.Layer

    def embed(self, features: Sequence[tf.Tensor], training: bool = False) -> tf.Tensor:
        """See `Task.embed`."""
        return self.task.embed(self.neck, features, training)

    def predict(self, h: tf.Tensor, training: bool = False) -> Any:
        """See `Task.predict`."""
        return self.task.predict(self.head, h, training)


def build_task(
    task: Task, images: Images, feature_shape: Callable[[Shape], Sequence[int]], width: int
) -> BuiltTask:
    """Build `task` with a new neck and head.

    Args:
        task: the task.
        images: the images that it works on.
        feature_shape: returns (h, w, D) of the encoder's last map for views of a given shape.
        width: the width of h.

    Raises:
        UserError: the task cannot work on such images.
        ValueError: neck or head is not built.
    """
    views = task.views(images)
    neck, head = task.build(images, feature_shape(views.shape), width)
    for layer in (neck, head):
        if not layer.built:  # its variables would come too late to be trained
            raise ValueError(f"{task.name}: layer {layer.name!r} is not built: call its build")
    return BuiltTask(task, views, neck, head)
