"""Transformers teach convolutional networks, and the other way round."""

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

import nets
from distillers import Distiller, create
from nets.copying import global_policy
from tests import reference
from tests.distillers.harness import IMAGES, check_changes, train_stage
from tests.distillers.models import CLASSES, TAPS, batch, network
from tests.transformer import transformer

METHODS = ("SSKD_SVD", "AT", "RKD", "SimKD", "ReviewKD", "Soft_logits", "Hard_logits")
VIT_TAPS = ("encoder/0", "encoder")


def vit(seed, name, width=12):
    keras.utils.set_random_seed(seed)
    return transformer(CLASSES, width, name)


def distiller_of(method, teacher, student, taps):
    """Taps are the teacher's and the student's."""
    return Distiller(
        student, create(method), teacher, weight_decay=0.0, samples=IMAGES,
        teacher_outputs=nets.outputs_of(teacher, taps[0]),
        student_outputs=nets.outputs_of(student, taps[1]),
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_transformer_teaches_a_convolutional_network(method):
    """The classifier that SimKD reuses needs the class token, which is no part of the map."""
    theirs = (*VIT_TAPS, "token") if method == "SimKD" else VIT_TAPS
    distiller = distiller_of(method, vit(2, "teacher"), network(1, "student"), (theirs, TAPS))
    for number in range(len(distiller.stages)):
        check_changes(distiller, train_stage(distiller, number, rate=0.01))
    if method == "SSKD_SVD":
        assert [layer.kernel.shape[2:] for layer in distiller.method_layers] == [(6, 12), (10, 12)]
    images = batch(5)["image"]
    assert distiller.predict(images, verbose=0).shape == (len(images), CLASSES)


@pytest.mark.parametrize("method", METHODS)
def test_a_convolutional_network_teaches_a_transformer(method):
    """Every variable learns, but for SimKD the classifier, which it does not use."""
    student = vit(1, "student")
    distiller = distiller_of(method, network(2, "teacher"), student, (TAPS, VIT_TAPS))
    for number in range(len(distiller.stages)):
        trained = train_stage(distiller, number, rate=0.01)
    saved = zip(distiller.saved_variables(), trained.before, trained.after, strict=False)
    changed = {id(variable) for variable, before, after in saved
               if not np.array_equal(before, after)}
    expected = [v for layer in distiller.method_layers for v in layer.trainable_variables]
    expected += student.trainable_variables
    kept = student.get_layer("scores").variables if method == "SimKD" else []
    unreached = {id(variable) for variable in kept}
    missing = [v.path for v in expected if id(v) not in changed | unreached]
    assert not missing and not changed & unreached
    images = batch(5)["image"]
    assert distiller.predict(images, verbose=0).shape == (len(images), CLASSES)


@pytest.mark.parametrize("solver", ["auto", "svd"])
def test_sskd_svd_of_tokens_is_that_of_their_matrices(solver):
    """Against NumPy: blocks by hand, without the class token, and their singular vectors."""
    with global_policy("float64"):
        teacher, student = vit(2, "teacher"), vit(3, "student")
    images = batch(4)["image"].astype("float64")
    taps = ("encoder/0", "encoder/1", "encoder/2")
    features = [nets.feature_extractor(model, nets.outputs_of(model, taps))(images)["maps"]
                for model in (teacher, student)]
    found = create("SSKD_SVD", solver=solver, num_dfv=2).compute_loss(*features)
    expected = reference.sskd_svd(*(blocks_by_hand(m, images) for m in (teacher, student)), 2)
    assert found.dtype == tf.float64
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def blocks_by_hand(model, images):
    """What each of the encoder's blocks gives for the patches ``[B, 16, D]``, in NumPy."""
    encoder = model.get_layer("encoder")
    kernel, bias = values(model.get_layer("patches"))
    squares = images.reshape(len(images), 4, 2, 4, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    patches = np.einsum("bijxyc,xycd->bijd", squares, kernel) + bias
    first = np.broadcast_to(encoder.first, (len(images), 1, bias.size))
    tokens = np.concatenate([first, patches.reshape(len(images), 16, -1)], axis=1)
    given = []
    for block in encoder.blocks:
        query, key, value, output = (v[:, 0] if v.shape[1] == 1 else v[0]
                                     for v in values(block.attention))
        normal = normalised(block.norm, tokens)
        scores = np.exp((normal @ query) @ (normal @ key).swapaxes(1, 2) / bias.size**0.5)
        mixed = scores / scores.sum(-1, keepdims=True) @ (normal @ value) @ output
        tokens = tokens + mixed
        dense, shift = values(block.dense)
        hidden = normalised(block.second_norm, tokens) @ dense + shift
        tokens = tokens + hidden * (1 + scipy.special.erf(hidden / 2**0.5)) / 2
        given.append(tokens[:, 1:])
    return given


def normalised(layer, tokens):
    scale, offset = values(layer)
    centred = tokens - tokens.mean(-1, keepdims=True)
    return centred / np.sqrt(tokens.var(-1, keepdims=True) + layer.epsilon) * scale + offset


def values(layer):
    return [np.array(variable, np.float64) for variable in layer.variables]
