"""What holds for the hyper-parameters of every registered method."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
from distillers import Combination, Context
from distillers.registration import METHODS
from plugins import field_types
from registry import UserError
from tests.distillers.models import batch, larger_network, network, outputs

IMAGES = 8
NAMES = [name for name in METHODS.names() if METHODS.get(name).name == name]
FIELDS = [(name, field) for name in NAMES for field in METHODS.get(name).hyper_parameters()]

# Fields that matter only beside a value of another field that is not its default.
BESIDE = {
    ("AB", "temperature"): {"alpha": 0.5},
    ("CC", "gamma"): {"definition": "paper"},
    ("CC", "order"): {"definition": "paper"},
    ("FSP", "init_share"): {"staged": True},
}
# Two values, where those of `two_values` would not do.
VALUES = {
    ("CAT_KD", "resolution"): (1, 2),  # the student's last map has no more positions
    ("CRD", "negatives"): (3, 6),  # of 8 images
    ("CRD", "samples"): (8, 12),
    ("FitNet", "hint_tap"): (1, 2),
    ("KD_EID", "candidates"): (1, 3),
    ("KD_SVD", "candidates"): (1, 3),
    ("KD_SVD", "num_dfv"): (1, 2),
}
# Fields of which two values do the same.
WITHOUT_EFFECT = {
    ("KD_SVD", "solver"): "the solvers differ in time: singular vectors are the same to rounding",
    ("SSKD_SVD", "solver"): "as of KD_SVD",
}
# Values that these networks do not allow: their taps differ in size and channels, and the student's
# last one is 2x2.
REFUSED = {
    **{(name, "adapter"): ("none",) for name in ("FSP", "KD_EID", "KD_SVD", "MHGD", "SSKD_SVD")},
    ("SRD", "projector"): ("none",),
    ("WKD_F", "grid"): (2,),
    ("WKD_F", "projector"): ("none",),
}
PARTS = ("AB", "FitNet", "Hard_logits", "Soft_logits")  # alpha and 1 - alpha


@functools.cache
def networks():
    """Teacher and student, each as symbolic features and as those of a batch."""
    found = []
    for model in (larger_network(2, "teacher"), network(1, "student")):
        extractor = nets.feature_extractor(model, outputs(model))
        found.append((extractor.output, extractor(batch(3, IMAGES)["image"], training=True)))
    return found


def make(name, **given):
    keras.utils.set_random_seed(1)
    return METHODS.get(name)(**given)


def build(method):
    keras.utils.set_random_seed(1)
    if not method.needs_teacher:
        return method.build()
    symbolic = (method.select(features) for features, _ in networks())
    has_samples = getattr(method, "samples", 0) > 0
    return method.build(*symbolic, samples=None if has_samples else IMAGES)


@functools.cache
def effects(name, given):
    """All that a method does for two networks, as texts and arrays, the hyper-parameters that are
    `given` being pairs; None: it refuses them."""
    method = make(name, **dict(given))
    try:
        built = build(method)
    except UserError:
        return None
    data, found = batch(3, IMAGES), []
    context = Context(
        labels=tf.constant(data["label"]), indices=tf.constant(data["index"]),
        epoch=tf.constant(2), training=True,
    )
    for stage in built.stages:
        found.append(f"{stage.name} {stage.trains} {stage.taps} {stage.combination}")
        found.append(
            f"{stage.share} {stage.weight} {stage.warmup} {stage.main_weight} {stage.clip}"
        )
        if stage.loss is None:
            continue
        teacher, student = (method.select(features) for _, features in networks())
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss, _ = built.compute(teacher, student, context, stage)
        gradients = tape.gradient(loss, tf.nest.flatten(student))
        found += [loss, *(gradient for gradient in gradients if gradient is not None)]
    found += [variable for layer in built.layers for variable in layer.variables]
    found = [each if isinstance(each, str) else np.array(each, np.float64) for each in found]
    assert all(isinstance(each, str) or np.isfinite(each).all() for each in found)
    return found


def same(one, other):
    """Whether two `effects` are the same but for rounding."""
    if one is None or other is None or len(one) != len(other):
        return one is other
    return all(map(same_part, one, other))


def same_part(one, other):
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str) and one == other
    if one.shape != other.shape:
        return False
    return np.linalg.norm(one - other) <= 1e-3 * np.linalg.norm(one)


def values(name, field):
    """Two values of a field, or all its choices."""
    if (name, field) in VALUES:
        return VALUES[name, field]
    declared = METHODS.get(name).hyper_parameters()[field]
    default, choices = declared.default, declared.metadata["choices"]
    return choices or two_values(field_types(METHODS.get(name))[field], default)


def two_values(kind, default):
    if kind is bool:
        return False, True
    if kind is int:
        return default, default // 2 if default > 1 else default + 1
    if kind == tuple[float, ...]:
        return default, default[:-1]
    return default, 0.3 if default is None else default / 2 or 0.5


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_every_hyper_parameter_matters(name, field):
    """Another value changes a stage, a loss, its gradient or the method's own variables."""
    beside, default = BESIDE.get((name, field), {}), METHODS.get(name).hyper_parameters()[field]
    found, refused = [], []
    for value in values(name, field):
        given = beside if value == default.default else {**beside, field: value}
        found.append(effects(name, tuple(sorted(given.items()))))
        if found[-1] is None:
            refused.append(value)
    assert tuple(refused) == REFUSED.get((name, field), ())
    if (name, field) in WITHOUT_EFFECT:
        assert all(same(found[0], other) for other in found[1:])
        return
    for number, one in enumerate(found):
        assert not any(same(one, other) for other in found[:number]), values(name, field)


def test_the_exceptions_are_hyper_parameters():
    assert {*BESIDE, *VALUES, *WITHOUT_EFFECT, *REFUSED} <= set(FIELDS)


def fields_called(*endings):
    return [(name, field) for name, field in FIELDS if field.endswith(endings)]


@pytest.mark.parametrize(("name", "field"), fields_called("_share"))
def test_the_first_of_two_stages_has_the_share_of_the_epochs(name, field):
    stages = build(make(name, **{**BESIDE.get((name, field), {}), field: 0.35})).stages
    assert [stage.share for stage in stages] == [0.35, 0.65]


@pytest.mark.parametrize("name", [name for name, _ in fields_called("clip")])
def test_one_stage_is_clipped_as_given(name):
    method = make(name, clip=0.7)
    clipped = [
        stage.clip for stage in build(method).stages
        if (stage.combination or method.combination) is Combination.CLIP
    ]
    assert clipped == [0.7]


@pytest.mark.parametrize("name", [name for name, field in FIELDS if field == "weight"])
def test_the_last_stage_has_the_weight_as_given(name):
    method = make(name, weight=0.7)
    assert method.distillation_weight == build(method).stages[-1].weight == 0.7


@pytest.mark.parametrize("name", [name for name, _ in fields_called("main_weight")])
def test_the_main_loss_has_the_label_weight(name):
    method = make(name, main_weight=0.7)
    assert method.main_weight == build(method).stages[-1].main_weight == 0.7


@pytest.mark.parametrize("name", [name for name, _ in fields_called("warmup")])
def test_the_weight_grows_over_the_warm_up(name):
    assert build(make(name, warmup=0.7)).stages[-1].warmup == 0.7


@pytest.mark.parametrize("name", PARTS)
def test_the_main_loss_has_what_alpha_leaves(name):
    last = build(make(name, alpha=0.7)).stages[-1]
    np.testing.assert_allclose([last.weight, last.main_weight], [0.7, 0.3])
