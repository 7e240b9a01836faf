"""The student alone: fine-tuning trains its classifier first."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from distillers import Distiller, create
from distillers.stages import Part
from registry import UserError
from tests.distillers.models import batch, network


def test_the_classifier_is_trained_first_and_then_everything():
    student = network(1, "student")
    distiller = Distiller(student, create("None(head_share=0.3)"))
    parts = distiller.parts(10)
    assert [(p.stage.name, p.first, p.last, p.begins_anew) for p in parts] == [
        ("classifier", 0, 3, True), ("all", 3, 10, True)
    ]
    classifier = {v.path for v in student.get_layer("scores").variables}
    before = values(student)
    train(distiller, parts[0])
    middle = values(student)
    # Nor are the statistics of batch normalisation touched: the features are what they were.
    assert changed(before, middle) == classifier
    train(distiller, parts[1])
    assert changed(middle, values(student)) == set(middle)


def train(distiller: Distiller, part: Part):
    distiller.enter(part)
    distiller.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    distiller.optimizer.build(distiller.variables_ever_trained())
    data = tf.data.Dataset.from_tensors(batch(3))
    distiller.fit(data, initial_epoch=part.first, epochs=part.first + 1, verbose=0, shuffle=False)


def values(model):
    return {variable.path: np.array(variable) for variable in model.variables}


def changed(before, after):
    return {path for path in before if not np.array_equal(before[path], after[path])}


def test_a_student_without_a_classifier_is_refused():
    student = network(1, "student")
    features = keras.Model(student.input, student.get_layer("embedding").output)
    with pytest.raises(UserError, match="does not end in a layer that gives logits"):
        Distiller(features, create("None(head_share=0.3)")).variables_to_train()
    with pytest.raises(UserError, match="None: head_share must be from 0 to 0.9"):
        create("None(head_share=1)")
