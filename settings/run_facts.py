"""What a recipe is chosen by, looked up in the data and the networks without reading all images."""

from __future__ import annotations

from collections.abc import Iterator

import keras

import nets
from nets.keras_graph import all_layers
from settings import known
from settings.distillation import Settings
from settings.networks import check_exists
from settings.recipes import Facts

_ANY_CLASSES = 2  # what is looked up does not depend on the classes


def find_facts(settings: Settings) -> Facts:
    """The facts of a run.

    Raises:
        UserError: there are no such data or networks.
    """
    outline = settings.outline_data()
    student = _student(settings, outline.image_shape)
    return Facts(
        images=outline.train_images,
        image_size=outline.image_shape[:2],
        normalised=all(
            is_normalised(network)
            for network in (student, *_teachers_that_learn(settings, outline.image_shape))
        ),
        pretrained=settings.student_init is not None or has_trained_weights(student),
    )


def _student(settings: Settings, image_shape: tuple[int, int, int]) -> keras.Model:
    if settings.student_model is None or known.is_application(settings.student_model):
        options = nets.parse_options(settings.student_options)
        return nets.build(settings.student_name(), image_shape, _ANY_CLASSES, **options)
    check_exists("student", settings.student_model)
    return nets.load(settings.student_model).model


def _teachers_that_learn(
    settings: Settings, image_shape: tuple[int, int, int]
) -> Iterator[keras.Model]:
    """The teacher, where the method trains it beside the student. One that is trained first has a
    run and a recipe of its own."""
    if not any(known.methods().get(name).trains_teacher for name, _ in settings.methods()):
        return
    if settings.teacher_model_is_trained():
        check_exists("teacher", settings.teacher_model)
        yield nets.load(settings.teacher_model).model
    else:
        options = nets.parse_options(settings.teacher_options)
        yield nets.build(settings.teacher_name(), image_shape, _ANY_CLASSES, **options)


def is_normalised(model: keras.Model) -> bool:
    """Whether a network has batch normalisation."""
    return any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in all_layers(model)
    )


def has_trained_weights(model: keras.Model) -> bool:
    """Whether a network looks trained. Keras' layers begin with biases, offsets and moving means of
    zero; training changes them. A network without any of these counts as untrained."""
    return any(
        keras.ops.any(variable != 0)
        for variable in model.variables
        if variable.path.endswith(("/bias", "/beta", "/moving_mean"))
    )
