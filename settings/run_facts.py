"""What a recipe is chosen by, looked up in the data and the networks without reading all images."""

from __future__ import annotations

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
    student = _network("student", settings, outline.image_shape)
    learning = [student]
    # A teacher that is trained first has a run and a recipe of its own.
    if any(known.methods().get(name).trains_teacher for name, _ in settings.methods()):
        learning.append(_network("teacher", settings, outline.image_shape))
    return Facts(
        images=outline.train_images,
        image_size=outline.image_shape[:2],
        normalised=all(map(has_batch_normalization, learning)),
        pretrained=settings.is_pretrained("student") or settings.student_init is not None
        or has_trained_weights(student),
    )


def _network(
    role: str, settings: Settings, image_shape: tuple[int, int, int]
) -> keras.Model:
    """The ``"teacher"`` or the ``"student"``, with any number of classes."""
    model = getattr(settings, f"{role}_model")
    options = nets.parse_options(getattr(settings, f"{role}_options"))
    if settings.is_pretrained(role):
        weights = getattr(settings, f"{role}_weights")
        return nets.load_library_network(model, weights, image_shape, _ANY_CLASSES, options).model
    if model is None or known.is_application(model):
        name = settings.student_name() if role == "student" else settings.teacher_name()
        return nets.build(name, image_shape, _ANY_CLASSES, **options)
    check_exists(role, model)
    return nets.load(model).model


def has_batch_normalization(model: keras.Model) -> bool:
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
