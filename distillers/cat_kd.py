"""CAT_KD: class attention transfer, the student sees each class where the teacher sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from distillers.classifiers import check_pooled, classifier_kernel
from distillers.loss import Combination, Loss
from distillers.method import Method
from distillers.reading import LastMap, Logits, as_taps
from distillers.registration import register
from op_util.pooling import adaptive_average_pool
from op_util.vectors import unit_vectors
from plugins import option
from registry import UserError


def class_activations(maps: tf.Tensor, classifier: tf.Tensor, resolution: int) -> tf.Tensor:
    """Class activation maps, ``sum over channels of weight * map``, averaged to
    ``resolution x resolution`` positions: ``[B, classes, positions]``.

    Args:
        maps: ``[B, H, W, D]``, whose average over positions is classified.
        classifier: ``[classes, D]``.
        resolution: positions a side.
    """
    pooled = adaptive_average_pool(maps, (resolution, resolution))
    rows = tf.reshape(pooled, [-1, resolution**2, maps.shape[-1]])
    return tf.einsum("bpd,cd->bcp", rows, classifier)


def activation_loss(teacher: tf.Tensor, student: tf.Tensor, normalize: bool) -> tf.Tensor:
    """The mean of ``(student - teacher)^2``, each class's map divided by its length first if
    `normalize`.

    Args:
        teacher, student: `class_activations`, ``[B, classes, positions]``.
    """
    if normalize:
        teacher, student = unit_vectors(teacher), unit_vectors(student)
    return tf.reduce_mean(tf.square(student - teacher))


@register("CAT_KD")
class CAT_KD(Method):  # noqa: N801 (the paper's name)
    """Guo, Yan, Li & Lin, "Class attention transfer based knowledge distillation", CVPR 2023: the
    `activation_loss` of the last maps.

    Networks have to end in GlobalAveragePooling2D of the last tap and a dense layer. Defaults are
    those of the authors' code for VGG13 to MobileNetV2 on CIFAR-100; with networks of one family
    they do not normalise, and weigh by 0.7 to 15. Departures: they drop the classifiers' biases
    from the networks; here only the activation maps leave them out. The gradient is clipped (see
    `Combination.CLIP`); the authors add the losses.

    Args:
        resolution: positions a side to which activation maps are averaged.
        normalize: whether each class's map is divided by its length.
        weight: beta, of this loss, next to the main loss.
        clip: the largest norm of this loss's gradient, as a multiple of the main task's; 1e9 adds
            the losses unclipped, as the authors do.
    """

    paper = "Guo et al., CVPR 2023, arXiv 2304.12777"
    reads = (LastMap(), Logits())
    combination = Combination.CLIP
    extras = ("teacher_classifier", "student_classifier")

    resolution: int = option(2, minimum=1)
    normalize: bool = option(True)
    weight: float = option(15.0, above=0)
    clip: float = option(1.0, above=0)

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        kernels = {}
        for network, features in (("teacher", teacher), ("student", student)):
            kernel = classifier_kernel(self.name, network, features["logits"])
            check_pooled(self.name, network, as_taps(features["maps"])[-1], features["logits"])
            kernels[f"{network}_classifier"] = kernel
        return self.make_loss(teacher, student, extras=kernels)

    def loss(
        self,
        teacher: Mapping[str, tf.Tensor],
        student: Mapping[str, tf.Tensor],
        *,
        teacher_classifier: tf.Tensor,
        student_classifier: tf.Tensor,
    ) -> tf.Tensor:
        theirs = self._activations("teacher", teacher["maps"], teacher_classifier)
        ours = self._activations("student", student["maps"], student_classifier)
        return activation_loss(tf.stop_gradient(theirs), ours, self.normalize)

    def _activations(self, network: str, maps: tf.Tensor, classifier: tf.Tensor) -> tf.Tensor:
        if classifier.shape[1] != maps.shape[-1]:
            raise UserError(
                f"CAT_KD needs {network}_classifier [classes, channels] of the last map's "
                f"{maps.shape[-1]} channels, not one of shape {tuple(classifier.shape)}"
            )
        return class_activations(maps, tf.cast(classifier, maps.dtype), self.resolution)
