"""Teacher and student as the losses see them: as features of preprocessed images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from distillers.method import Method
from distillers.sum import Sum
from nets import (
    Outputs,
    computes_in_float16,
    embedding_layer,
    feature_extractor,
    find_classifier,
    gives_probabilities,
    output_layer_of,
    outputs_of,
)
from registry import UserError

Preprocessing = Callable[[tf.Tensor], tf.Tensor]


class Network:
    """A network with its preprocessing.

    Args:
        model: functional, from preprocessed images to logits.
        outputs: the layers that provide its features.
        preprocessing: converts a batch's images to the model's input; None leaves them unchanged.

    Attributes:
        model: as given.
        features: a model that returns maps, embedding, logits and outputs.
        preprocess: the preprocessing.
        outputs: as given.
    """

    def __init__(
        self, model: keras.Model, outputs: Outputs, preprocessing: Preprocessing | None = None
    ):
        self.model = model
        self.outputs = outputs
        self.features = feature_extractor(model, outputs)
        self.preprocess = preprocessing or (lambda image: image)

    def __call__(self, image: tf.Tensor, training: bool = False) -> dict[str, Any]:
        """The maps, embedding, logits and outputs for a batch's images."""
        return self.features(self.preprocess(image), training=training)


def check_networks(
    method: Method | Sum, student: keras.Model, teacher: keras.Model | None, main_loss: str
) -> None:
    """Raise UserError if these networks cannot be trained with this method."""
    if main_loss not in ("cross_entropy", "none"):
        raise UserError(f"main_loss must be cross_entropy or none, not {main_loss!r}")
    if method.needs_teacher and teacher is None:
        raise UserError(f"{method.name} needs a teacher, but none was given")
    if main_loss == "none" and not method.needs_teacher:
        raise UserError("without a main loss and without a teacher there is nothing to learn")
    reading = [each.name for each in method.members if each.needs_labels()]
    if main_loss == "none" and reading:
        raise UserError(
            f"{reading[0]} learns from labels, and --main_loss none does without any: leave "
            "--main_loss out, or give another method"
        )
    learns = any(member.trains_teacher for member in method.members)
    for network in (student, teacher) if learns else (student,):
        if computes_in_float16(network):
            raise UserError(
                f"{network.name!r} computes in float16, for which losses would have to be scaled: "
                "train nets.copy_model(network, dtype=\"mixed_bfloat16\"), or with \"float32\""
            )
    method.validate_model_compatibility(teacher, student)
    if teacher is None or not method.needs_teacher:
        return
    ours = {id(variable) for variable in student.variables}
    shared = [v.path for v in teacher.variables if id(v) in ours]
    if shared:
        raise UserError(
            f"teacher and student share variables ({shared[0]}), so training the student would "
            "change the teacher: give the student its own layers"
        )


def read_networks(
    method: Method | Sum,
    student: keras.Model,
    teacher: keras.Model | None,
    outputs: tuple[Outputs | None, Outputs | None],
    preprocessing: tuple[Preprocessing | None, Preprocessing | None],
) -> tuple[Network, Network | None]:
    """Make the student and the teacher provide the features that the method reads.

    Args:
        method: the method or sum.
        student, teacher: the models; a method without a teacher ignores it.
        outputs: the outputs of student and teacher. None uses those that the registered network
            declares or the method asks for.
        preprocessing: the preprocessing of student and teacher; None means no preprocessing.

    Raises:
        UserError: the layers to read must be named, or a model outputs probabilities where logits
            are needed.
    """
    wanted: tuple[Any, Any] = (None, None)
    for member in method.members if method.needs_teacher else ():
        named = member.taps(teacher, student)
        wanted = tuple(one or other for one, other in zip(wanted, named, strict=True))
    _check_logits("student", student)
    ours = outputs[0] or _default_outputs(method, student, wanted[1])
    read = Network(student, ours, preprocessing[0])
    if not method.needs_teacher:
        return read, None
    theirs = outputs[1] or _default_outputs(method, teacher, wanted[0])
    if method.does_read("logits"):
        _check_logits("teacher", teacher, theirs)
    return read, Network(teacher, theirs, preprocessing[1])


def _default_outputs(
    method: Method | Sum, model: keras.Model, taps: tuple[str, ...] | None
) -> Outputs:
    """The declared outputs, or those at `taps`. If the method reads no maps, taps are optional: the
    embedding is then what the classifier is given, or the output of a model without one."""
    if taps is not None or method.does_read("maps"):
        return outputs_of(model, taps)
    try:
        return outputs_of(model)
    except UserError:
        embedding = method.does_read("embedding")
        last = embedding_layer(model) if embedding else output_layer_of(model.outputs[0])
        return outputs_of(model, taps=(last,))


def classifier_layer(student: keras.Model) -> keras.Layer:
    """The layer that makes a student's logits. Raises UserError where that is no one layer."""
    found = find_classifier(student)
    if found is None:
        raise UserError(
            f"the student {student.name!r} does not end in a layer that gives logits (a Dense), "
            "which a stage of this method trains alone: end it in such a layer, or leave out that "
            "stage"
        )
    return found.layer


def _check_logits(network: str, model: keras.Model, outputs: Outputs | None = None) -> None:
    """Raise UserError if a network outputs probabilities where logits are expected."""
    elsewhere = outputs is not None and outputs.logits != output_layer_of(model.outputs[0])
    if gives_probabilities(model) and not elsewhere:
        raise UserError(
            f"the {network} {model.name!r} ends in a softmax, but must output logits: remove the "
            "softmax from the last layer, or use nets.without_softmax(model)"
        )
