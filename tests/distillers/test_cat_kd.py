"""CAT_KD against a loop, and against what class activation maps mean."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import distillers
import nets
from distillers.cat_kd import class_activations
from nets import feature_extractor
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.models import network, outputs

CAT_KD = distillers.get("CAT_KD")
CLASSIFIERS = {
    f"{name}_classifier": np.random.default_rng(seed).normal(size=(5, channels))
    for seed, (name, channels) in enumerate({"teacher": 6, "student": 3}.items())
}


def features(seed):
    random = np.random.default_rng(seed)
    return [
        {"maps": [tf.constant(random.normal(size=(2, 4, 6, channels)))], "logits": tf.zeros([2, 5])}
        for channels in (6, 3)
    ]


def by_loop(teacher, student, normalize):
    """At resolution 2 of maps of 4x6 positions."""
    losses = []
    for theirs, ours in zip(teacher, student, strict=True):
        for c in range(5):
            maps = []
            for image, name in ((theirs, "teacher"), (ours, "student")):
                cam = image @ CLASSIFIERS[f"{name}_classifier"][c]
                cam = cam.reshape(2, 2, 2, 3).mean(axis=(1, 3))
                maps.append(cam / np.linalg.norm(cam) if normalize else cam)
            losses.append(np.mean((maps[0] - maps[1]) ** 2))
    return np.mean(losses)


@pytest.mark.parametrize("normalize", [True, False])
def test_loss_equals_a_loop(normalize):
    teacher, student = features(0)
    found = CAT_KD(normalize=normalize).compute_loss(teacher, student, **CLASSIFIERS)
    expected = by_loop(teacher["maps"][0].numpy(), student["maps"][0].numpy(), normalize)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def built(student, teacher, **options):
    models = [feature_extractor(model, outputs(model)) for model in (teacher, student)]
    method = CAT_KD(**options)
    return method.build(*(method.select(model.output) for model in models)), models


def test_average_of_an_activation_map_is_the_logit_without_its_offset():
    model = network(1, "student")
    found = feature_extractor(model, outputs(model))(np.random.default_rng(0).normal(
        size=(3, 8, 8, 3)
    ))
    kernel, offset = (tf.constant(w) for w in model.get_layer("scores").get_weights())
    activations = class_activations(found["maps"][-1], tf.transpose(kernel), 2)
    np.testing.assert_allclose(
        tf.reduce_mean(activations, axis=2) + offset, found["logits"], rtol=1e-4, atol=1e-5
    )


def test_classifiers_are_found_and_the_students_learns():
    student, teacher = network(1, "student"), network(2, "teacher", width=2)
    loss, models = built(student, teacher)
    image = np.random.default_rng(1).normal(size=(3, 8, 8, 3))
    with tf.GradientTape(persistent=True) as tape:
        given = [model(image) for model in models]
        found = loss.compute_loss(*map(loss.method.select, given))
    kernels = [model.get_layer("scores").kernel for model in (teacher, student)]
    expected = CAT_KD().compute_loss(
        *map(loss.method.select, given),
        teacher_classifier=tf.transpose(kernels[0].value),
        student_classifier=tf.transpose(kernels[1].value),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert tape.gradient(found, kernels[0].value) is None
    assert np.any(tape.gradient(found, kernels[1].value))


@pytest.mark.parametrize("name", ["ResNet", "MobileNet", "ResNeXt"])
def test_our_networks_with_pooling_have_activation_maps(name):
    models = [nets.build(network, (32, 32, 3), 10) for network in nets.pair(name)]
    method = CAT_KD()
    method.build(*(
        method.select(feature_extractor(m, nets.outputs_of(m)).output) for m in models
    ))


def test_networks_without_activation_maps_are_refused():
    with pytest.raises(UserError, match="the teacher.*'pool4' is not followed so"):
        student = network(1, "student")
        vgg = nets.build("VGG_student", (32, 32, 3), 6)
        method = CAT_KD()
        method.build(*(
            method.select(feature_extractor(m, o).output)
            for m, o in ((vgg, nets.outputs_of(vgg)), (student, outputs(student)))
        ))
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(6, 3, name="deep")(image)
    averaged = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU(name="later")(maps))
    model = keras.Model(image, keras.layers.Dense(6)(averaged), name="student")
    method, student = CAT_KD(), nets.outputs_of(model, taps=["deep"])
    features = feature_extractor(model, student).output
    with pytest.raises(UserError, match="in the teacher.*'deep' is not followed so"):
        method.build(method.select(features), method.select(features))


def test_what_makes_no_sense_is_refused():
    teacher, student = features(1)
    with pytest.raises(UserError, match="CAT_KD needs teacher_classifier"):
        CAT_KD().compute_loss(teacher, student)
    swapped = dict(zip(CLASSIFIERS, reversed(CLASSIFIERS.values()), strict=True))
    with pytest.raises(UserError, match=r"last map's 6 channels, not one of shape \(5, 3\)"):
        CAT_KD().compute_loss(teacher, student, **swapped)
    with pytest.raises(UserError, match="6 logits, the student 5"):
        CAT_KD().compute_loss({**teacher, "logits": tf.zeros([2, 6])}, student, **CLASSIFIERS)
    for wrong in ({"resolution": 0}, {"normalize": "x"}, {"weight": 0.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            CAT_KD(**wrong)


def test_training():
    run_method_test(CAT_KD())
