"""What a method's stages train, as seen by what changes in a step of training."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from distillers import Distiller
from tests.distillers.models import CLASSES, TAPS, batch, network, outputs


def larger_network(seed, name):
    """As `models.network`, but its taps are twice as large and of 8 and 12 channels."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(8, 3, padding="same", activation="softplus", name="shallow")(image)
    maps = keras.layers.AveragePooling2D(2)(maps)
    maps = keras.layers.Conv2D(12, 3, padding="same", activation="softplus", name="deep")(maps)
    maps = keras.layers.GlobalAveragePooling2D(name="embedding")(maps)
    return keras.Model(image, keras.layers.Dense(CLASSES, name="scores")(maps), name=name)


def check_gradients(method, student=None, teacher=None, rate=0.1):
    """Train a step in each stage of a method, and compare which variables have changed with what
    the stage declares: no other one may, and each has to by more than rounding.

    Args:
        student, teacher: networks with the taps `models.TAPS`; None: small ones whose taps agree.

    Returns:
        The distiller.
    """
    student = student or network(1, "student")
    teacher = teacher or network(2, "teacher", width=2)
    distiller = Distiller(
        student, method, teacher, weight_decay=0.0, samples=8,
        student_outputs=outputs(student), teacher_outputs=outputs(teacher),
    )
    data = tf.data.Dataset.from_tensors(batch(3))
    for stage in method.stages:
        distiller.start_stage(stage)
        distiller.compile(keras.optimizers.SGD(rate))
        expected = _trained(method, stage, student, teacher)
        everything = [*student.variables, *teacher.variables]
        everything += [variable for layer in method.layers for variable in layer.variables]
        before = [np.array(variable) for variable in everything]
        distiller.fit(data, verbose=0, shuffle=False)
        for variable, value in zip(everything, before, strict=True):
            changed = not np.array_equal(np.array(variable), value)
            about = f"{variable.path} in stage {stage.name}"
            assert np.all(np.isfinite(np.array(variable))), about
            if variable.trainable:
                assert changed == (id(variable) in expected), about
            elif any(variable is other for other in teacher.variables):
                assert not changed or method.trains_teacher, about
            elif any(variable is other for other in student.variables):
                assert not changed or stage.trains != "nothing", about
    return distiller


def _trained(method, stage, student, teacher):
    """Identities of the variables that a stage declares."""
    variables = []
    if stage.trains == "all":
        variables += student.trainable_variables
        variables += teacher.trainable_variables if method.trains_teacher else []
    elif stage.trains == "taps":
        numbers = range(len(TAPS)) if stage.taps is None else stage.taps
        for number in numbers:
            part = keras.Model(student.input, student.get_layer(TAPS[number]).output)
            variables += part.trainable_variables
    if stage.distillation_loss:
        for layer in method.layers:
            if stage.layers is None or layer.name in stage.layers:
                variables += layer.trainable_variables
    return {id(variable) for variable in variables}
