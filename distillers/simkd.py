"""SimKD: the student's encoder learns to feed the teacher's own classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from distillers.checks import describe
from distillers.loss import Loss, Stage, Trains
from distillers.method import Method, with_context
from distillers.reading import LastMap, Logits, as_taps, smaller_size
from distillers.registration import register
from nets.copying import copy_model
from nets.layers import batch_normalization
from op_util.pooling import resized
from plugins import option
from registry import UserError


def reuse_loss(teacher: tf.Tensor, projected: tf.Tensor) -> tf.Tensor:
    """``||f_teacher - P(f_student)||^2`` (equation 2), a mean over batch and features.

    Args:
        teacher: last maps ``[B, H, W, D]``.
        projected: the student's last maps through the projector P, of the same shape.
    """
    return tf.reduce_mean(tf.square(projected - teacher))


class Projector:
    """P: a bottleneck of 1x1, 3x3 and 1x1 convolutions, each with batch normalisation and ReLU.

    Args:
        inputs, inner, outputs: channels of the student's map, within, and of the teacher's map.
        size: height and width at which the maps are compared; the student's is brought to it.

    Attributes:
        layers: convolutions and normalisations in turn, built, float32.
    """

    def __init__(self, inputs: int, inner: int, outputs: int, size: tuple[int, int]):
        self.layers: list[keras.layers.Layer] = []
        self._size = size
        for number, (channels, kernel) in enumerate(((inner, 1), (inner, 3), (outputs, 1)), 1):
            name = f"projector{number}"
            convolution = keras.layers.Conv2D(
                channels, kernel, padding="same", use_bias=False, kernel_initializer="he_normal",
                dtype="float32", name=name,
            )
            normalization = batch_normalization(f"{name}_normalization", dtype="float32")
            convolution.build((None, None, None, inputs))
            normalization.build((None, None, None, channels))
            self.layers += [convolution, normalization]
            inputs = channels

    def __call__(self, maps: Any, training: bool | None) -> Any:
        """The student's last map ``[B, H, W, D]``, real or symbolic, as the teacher's, float32.

        Args:
            training: whether to normalise by the batch; None: as the model that it is a part of.
        """
        maps = resized(keras.ops.cast(maps, "float32"), self._size, up="repeat")
        for convolution, normalization in zip(self.layers[::2], self.layers[1::2], strict=True):
            maps = keras.ops.relu(normalization(convolution(maps), training=training))
        return maps


@register("SimKD")
class SimKD(Method):
    """Chen, Mei, Zhang, Wang, Feng & Chen, "Knowledge distillation with the reused teacher
    classifier", CVPR 2022.

    The student's last map, through a projector, is matched to the teacher's. The deployed model is
    the student up to its last tap, the projector, and a copy of what the teacher has after its last
    tap, which is not trained. The student's own classifier is neither trained nor used.

    The teacher's classifier has to need no more than its last tap. So for a transformer that
    classifies by its class token, which is no part of the map, the last tap is the layer that gives
    that token, ``[B, D]``: a map of one position.

    The projector ends in a ReLU (see `Projector`), so the teacher's last tap should come after one.
    Where the last maps differ in size, the loss compares them at the smaller, and the teacher's
    classifier gets the size that it was built for.

    Departure: the paper's only loss is that of the maps (``main_weight=0``). In runs of some ten
    epochs it leaves many students far behind those that are trained alone. So by default the
    deployed model learns the labels too.

    Args:
        factor: the teacher's channels per channel within the bottleneck (the paper's 2).
        weight: of the loss. None: 1, as in the paper, or 0.2 for a student without normalisation
            layers, which in short runs learns less at 1.
        main_weight: weight of the deployed model's cross-entropy.
    """

    paper = "Chen et al., CVPR 2022, arXiv 2203.14001"
    reads = (LastMap(sizes="adapted", vectors=True), Logits())
    usual_weight = 1.0
    weight_without_normalization = 0.2
    extras = ("projected",)

    factor: float = option(2.0, above=0)
    weight: float | None = option(None, above=0)
    main_weight: float = option(1.0, minimum=0)

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        notes = self.check_features(teacher, student)
        theirs, ours = as_taps(teacher["maps"])[-1], as_taps(student["maps"])[-1]
        channels, size = theirs.shape[-1], smaller_size(theirs, ours)
        inner = round(channels / self.factor)
        if inner < 1:
            raise UserError(
                f"SimKD: factor {self.factor} leaves none of the teacher's {channels} channels in "
                f"the bottleneck; expected at most {channels}"
            )
        projector = Projector(ours.shape[-1], inner, channels, size)
        classify = _reused_classifier(theirs, teacher["logits"])

        def project(maps: Any, training: bool | None) -> Any:
            return projector(_as_map(maps), training)

        def project_last_map(student: Any, *, training: bool = False) -> tf.Tensor:
            return project(as_taps(student["maps"])[-1], training)

        def loss(
            teacher: Any, student: Any, *, training: bool, projected: tf.Tensor | None = None
        ) -> tf.Tensor:
            theirs = resized(_as_map(teacher["maps"]), size, up="repeat")
            if projected is None:
                projected = project(student["maps"], training)
            return reuse_loss(theirs, tf.cast(projected, theirs.dtype))

        def deploy(student: keras.Model) -> keras.Model:
            logits = classify(project(ours, training=None))
            return _deployed(student, ours, logits)

        weight, weight_notes = self.weight_for(student)
        notes += weight_notes
        stage = Stage(
            loss=with_context(loss, self.name, {"projected": lambda: None}), weight=weight,
            main_weight=self.main_weight, trains=Trains.TO_TAPS, taps=(-1,),
            layers=projector.layers,
        )
        return Loss(
            self, [stage], layers=projector.layers, notes=notes, deploy=deploy,
            projected=project_last_map, logits=classify,
        )


def _deployed(student: keras.Model, last_tap: Any, logits: Any) -> keras.Model:
    """The model from the student's input to `logits`, ``STUDENT_with_teacher_classifier``."""
    inputs = keras.utils.get_source_inputs(last_tap)
    return keras.Model(
        inputs[0] if len(inputs) == 1 else inputs, logits,
        name=f"{student.name}_with_teacher_classifier",
    )


def _reused_classifier(last_tap: Any, logits: Any) -> Callable[[Any], Any]:
    """From a projected map ``[B, h, w, D]``, real or symbolic, to the logits of a frozen copy of
    what the teacher has after its last tap.

    Args:
        last_tap, logits: the teacher's. Where they are not symbolic, there is nothing to copy, and
            calling the classifier raises UserError.
    """
    if not isinstance(last_tap, keras.KerasTensor):
        return _refuse_to_classify
    classifier, shape = _copied_classifier(last_tap, logits), tuple(last_tap.shape[1:])

    def classify(projected: Any) -> Any:
        if len(shape) == 1:
            return classifier(keras.ops.reshape(projected, (-1, *shape)), training=False)
        return classifier(resized(projected, shape[:2], up="repeat"), training=False)

    return classify


def _as_map(tap: Any) -> Any:
    """A vector ``[B, D]``, real or symbolic, as a map of one position; maps as they are."""
    return keras.ops.reshape(tap, (-1, 1, 1, tap.shape[-1])) if len(tap.shape) == 2 else tap


def _refuse_to_classify(projected: Any) -> Any:
    raise UserError(
        "SimKD reuses the teacher's classifier, for which it has to be built from the symbolic "
        "outputs of the networks' layers"
    )


def _copied_classifier(last_tap: keras.KerasTensor, logits: keras.KerasTensor) -> keras.Model:
    """What a network has between two of its tensors, in layers and weights of its own, frozen.

    Raises:
        UserError: the logits need more than the tap.
    """
    try:
        shared = keras.Model(last_tap, logits)
    except ValueError as error:
        raise UserError(
            f"SimKD reuses what the teacher has after its last tap, but its logits do not come "
            f"from {describe(last_tap)} alone: name another layer as the last tap"
        ) from error
    copy = copy_model(shared)
    copy.trainable = False
    copy.name = "teacher_classifier"
    return copy
