"""Defaults that depend on a network's structure."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import distillers
from distillers import OFD
from distillers.structure import has_normalization
from nets import feature_extractor
from tests.distillers.models import network, outputs
from tests.transformer import transformer


def features(normalised):
    model = network(1, "student", normalised=normalised)
    return feature_extractor(model, outputs(model)).output


def test_normalisation_is_found_before_the_features():
    assert has_normalization(features(True)["maps"])
    assert not has_normalization(features(False))
    assert has_normalization([tf.zeros([1, 2])])  # of no network that is known
    inner = network(1, "inner")
    image = keras.Input((8, 8, 3))
    assert has_normalization(keras.layers.Dense(2)(inner(image)))
    # In a transformer's blocks, which are layers within a layer.
    assert has_normalization(transformer().outputs)


def test_a_default_weight_fits_the_student_and_is_reported():
    teacher = features(True)["maps"]
    with_it, without = (OFD().build(teacher, features(kind)["maps"]) for kind in (True, False))
    assert with_it.stages[0].weight == 1e-3 and with_it.notes == ()
    assert without.stages[0].weight == 1e-4
    assert "weight 0.0001 (with normalisation layers in the student it would be 0.001" in (
        without.notes[0]
    )
    chosen = OFD(weight=7).build(teacher, features(False)["maps"])
    assert chosen.stages[0].weight == 7 and chosen.notes == ()
    np.testing.assert_equal(OFD().distillation_weight, 1e-3)


@pytest.mark.parametrize(
    ("name", "usual", "other"),
    [("DKD", 1, 0.1), ("MLKD", 0.9, 0.1), ("RLD", 1, 0.1), ("TTM", 45, 10), ("WKD_L", 1, 0.1)],
)
def test_losses_of_logits_weigh_less_without_normalisation(name, usual, other):
    teacher, method = features(True)["logits"], distillers.create(name)
    losses = [method.build(teacher, features(kind)["logits"]) for kind in (True, False)]
    assert [loss.stages[0].weight for loss in losses] == [usual, other]
    assert method.distillation_weight == usual


def test_simkd_weighs_less_without_normalisation():
    teacher = features(True)
    losses = [distillers.create("SimKD").build(teacher, features(kind)) for kind in (True, False)]
    assert [loss.stages[0].weight for loss in losses] == [1.0, 0.2]
    assert losses[0].notes == () and "weight 0.2 (with norm" in losses[1].notes[-1]
