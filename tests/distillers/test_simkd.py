"""SimKD against NumPy; what it trains, and the model that it deploys."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
from distillers import Distiller, Trains
from distillers.simkd import SimKD
from registry import UserError
from tests.distillers.harness import make_distiller, run_method_test
from tests.distillers.models import CLASSES, batch, larger_network, network, outputs


def features_of(seed, shape, dtype="float32", classes=CLASSES):
    random = np.random.default_rng(seed)
    tap = tf.constant(random.normal(size=shape), dtype)
    return {"maps": [tf.zeros([3, 9, 9, 2]), tap], "logits": tf.zeros([3, classes])}


def built(teacher, student, **hyper_parameters):
    """With statistics and scales that are not those of the start."""
    keras.utils.set_random_seed(0)
    loss = SimKD(**hyper_parameters).build(teacher, student)
    random = np.random.default_rng(1)
    for layer in loss.layers[1::2]:
        for variable in layer.variables:
            variable.assign(random.uniform(0.5, 1.5, size=variable.shape))
    return loss


def projected(loss, maps, training):
    """1x1, 3x3 and 1x1 convolution, each normalised and cut at 0, in float64."""
    maps = np.array(maps, np.float64)
    for convolution, norm in zip(loss.layers[::2], loss.layers[1::2], strict=True):
        kernel = np.array(convolution.kernel, np.float64)
        reach = kernel.shape[0] // 2
        padded = np.pad(maps, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
        made = np.zeros((*maps.shape[:3], kernel.shape[3]))
        for y, x in np.ndindex(kernel.shape[:2]):
            made += padded[:, y : y + maps.shape[1], x : x + maps.shape[2]] @ kernel[y, x]
        gamma, beta, mean, variance = (np.array(v, np.float64) for v in norm.variables)
        if training:
            mean, variance = made.mean(axis=(0, 1, 2)), made.var(axis=(0, 1, 2))
        maps = np.maximum(gamma * (made - mean) / np.sqrt(variance + 1e-3) + beta, 0)
    return maps


@pytest.mark.parametrize("training", [False, True])
def test_loss(training):
    teacher, student = features_of(2, (3, 4, 5, 8)), features_of(3, (3, 4, 5, 3))
    loss = built(teacher, student)
    assert [layer.kernel.shape[2:] for layer in loss.layers[::2]] == [(3, 4), (4, 4), (4, 8)]
    expected = projected(loss, student["maps"][1], training)
    expected = np.mean((expected - teacher["maps"][1]) ** 2)
    noted = np.array(loss.layers[1].moving_mean)
    found = loss.compute_loss(teacher, student, training=training)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.array_equal(noted, loss.layers[1].moving_mean) != training


def test_maps_are_compared_at_the_smaller_size():
    teacher, student = features_of(4, (3, 4, 4, 8)), features_of(5, (3, 2, 2, 3))
    loss = built(teacher, student, factor=4.0)
    ours = projected(loss, student["maps"][1], training=False)
    smaller = np.reshape(teacher["maps"][1], (3, 2, 2, 2, 2, 8)).mean(axis=(2, 4))
    np.testing.assert_allclose(
        loss.compute_loss(teacher, student), np.mean((ours - smaller) ** 2), rtol=1e-5
    )
    teacher, student = features_of(6, (3, 2, 2, 8)), features_of(7, (3, 4, 4, 3))
    loss = built(teacher, student)
    smaller = np.reshape(student["maps"][1], (3, 2, 2, 2, 2, 3)).mean(axis=(2, 4))
    expected = np.mean((projected(loss, smaller, training=False) - teacher["maps"][1]) ** 2)
    np.testing.assert_allclose(loss.compute_loss(teacher, student), expected, rtol=1e-5)
    assert loss.notes[0].startswith("last tap ") and "compared at 2x2" in loss.notes[0]


def test_training():
    """Of the encoder and the projector."""
    distiller = run_method_test(SimKD())
    (stage,) = distiller.distillation_losses[0].stages
    assert (stage.trains, stage.taps, stage.main_weight) == (Trains.TO_TAPS, (-1,), 1)
    assert len(stage.layers) == 6


def test_the_main_loss_is_that_of_the_deployed_model():
    """In training mode, and not at all with the paper's loss alone."""
    # A student without batch normalisation has the same features in both modes.
    student, teacher = network(1, "student", normalised=False), network(2, "teacher")
    for weight in (0.0, 0.5):
        distiller = Distiller(
            student, SimKD(weight=1.0, main_weight=weight), teacher, weight_decay=0.0,
            student_outputs=outputs(student), teacher_outputs=outputs(teacher),
        )
        distiller.compile(keras.optimizers.SGD(1e-9))
        data = batch(3)
        (loss,) = distiller.distillation_losses
        student_features = distiller.student_features(data["image"])
        logits = loss.logits(loss.projected(student_features, training=True))
        entropy = keras.losses.sparse_categorical_crossentropy(
            data["label"], logits, from_logits=True
        )
        data_set = tf.data.Dataset.from_tensors(data)
        logs = distiller.fit(data_set, verbose=0, shuffle=False).history
        expected = logs["distillation_loss"][0] + weight * float(tf.reduce_mean(entropy))
        assert logs["loss"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_statistics_of_the_projector_move_once_a_step(weight):
    """However many losses and logs need what it projects."""
    # A student without batch normalisation has the same features in both modes.
    student, teacher = network(1, "student", normalised=False), network(2, "teacher")
    distiller = Distiller(
        student, SimKD(main_weight=weight), teacher, weight_decay=0.0,
        student_outputs=outputs(student), teacher_outputs=outputs(teacher),
    )
    distiller.compile(keras.optimizers.SGD(1e-9))
    convolution, norm = distiller.distillation_losses[0].layers[:2]
    norm.moving_mean.assign(before := np.random.default_rng(0).normal(size=norm.moving_mean.shape))
    data = batch(3)
    deep = distiller.student_features(data["image"])["maps"][-1].numpy()
    made = deep @ np.array(convolution.kernel)[0, 0]
    distiller.fit(tf.data.Dataset.from_tensors(data), verbose=0, shuffle=False)
    expected = norm.momentum * before + (1 - norm.momentum) * made.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-5)


@pytest.mark.parametrize("larger", ["neither", "teacher", "student"])
def test_deployed_model(larger):
    """Student's encoder, projector and the teacher's classifier, of weights of its own."""
    make = {True: larger_network, False: network}
    teacher, student = make[larger == "teacher"](2, "t"), make[larger == "student"](1, "s")
    distiller = Distiller(
        student, SimKD(), teacher,
        student_outputs=outputs(student), teacher_outputs=outputs(teacher), weight_decay=0.0,
    )
    distiller.compile(keras.optimizers.SGD(0.1))
    distiller.fit(tf.data.Dataset.from_tensors(batch(3)), verbose=0, shuffle=False)
    deployed, (loss,) = distiller.deployed, distiller.distillation_losses
    image = batch(4)["image"]
    ours = distiller.student_features(image)["maps"][1].numpy()
    if larger == "student":
        ours = ours.reshape(8, 2, 2, 2, 2, -1).mean(axis=(2, 4))
    # Both classifiers average over positions, so that repeating them changes nothing.
    pooled = projected(loss, ours, training=False).mean(axis=(1, 2))
    kernel, bias = (np.array(v) for v in teacher.get_layer("scores").variables)
    np.testing.assert_allclose(deployed(image), pooled @ kernel + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(distiller(image), deployed(image), rtol=1e-4, atol=1e-5)
    logits = loss.logits(loss.projected(distiller.student_features(image)))
    np.testing.assert_allclose(logits, deployed(image), rtol=1e-4, atol=1e-5)
    encoder = keras.Model(student.input, student.get_layer("deep").output)
    parts = [nets.count_parameters(encoder), kernel.size, bias.size]
    parts += [int(np.prod(v.shape)) for layer in loss.layers for v in layer.variables]
    assert nets.count_parameters(deployed) == sum(parts)
    shared = {id(v) for v in teacher.variables} & {id(v) for v in deployed.variables}
    assert not shared
    saved = {id(v) for v in distiller.variables}
    ours = [*student.variables, *(v for layer in loss.layers for v in layer.variables)]
    assert {id(v) for v in ours} <= saved
    copies = {id(v) for v in deployed.variables} - {id(v) for v in ours}
    assert len(copies) == 2 and not copies & saved
    assert not copies & {id(v) for v in deployed.trainable_variables}


def test_deployed_model_is_saved_and_loaded(tmp_path):
    student, teacher = larger_network(1, "student"), network(2, "teacher")
    deployed = Distiller(
        student, SimKD(), teacher,
        student_outputs=outputs(student), teacher_outputs=outputs(teacher),
    ).deployed
    deployed.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras", safe_mode=True)
    image = batch(5)["image"]
    np.testing.assert_allclose(loaded(image), deployed(image), rtol=1e-5, atol=1e-6)
    assert deployed.name == "student_with_teacher_classifier"


def test_sizes_that_do_not_divide():
    """The teacher's classifier gets the size that it was built for."""
    def flat(size, name):
        image = keras.Input((size, size, 3))
        maps = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="shallow")(image)
        maps = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="deep")(maps)
        maps = keras.layers.Flatten()(maps)
        return keras.Model(image, keras.layers.Dense(CLASSES, name="scores")(maps), name=name)

    for ours, theirs in ((8, 5), (5, 8)):
        student, teacher = flat(ours, "student"), flat(theirs, "teacher")
        features = (
            nets.feature_extractor(model, outputs(model)).output for model in (teacher, student)
        )
        loss = SimKD().build(*features)
        assert loss.deploy(student)(tf.zeros([2, ours, ours, 3])).shape == (2, CLASSES)
        found = loss.compute_loss(*(
            {"maps": [tf.ones([2, size, size, 6])], "logits": tf.zeros([2, CLASSES])}
            for size in (theirs, ours)
        ))
        assert np.isfinite(found)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("training", [False, True])
def test_gradient_is_finite(dtype, training):
    """Also at maps without any variance."""
    teacher, student = features_of(8, (3, 4, 5, 8), dtype), features_of(9, (3, 4, 5, 3), dtype)
    built_loss = built(teacher, student)
    for maps in (student["maps"][1], tf.zeros_like(student["maps"][1])):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            student["maps"][1] = maps + 0
            loss = built_loss.compute_loss(teacher, student, training=training)
        assert loss.dtype == tf.float32 and np.isfinite(loss)
        assert np.all(np.isfinite(tf.cast(tape.gradient(loss, maps), tf.float32)))


def test_mixed_precision():
    distiller = make_distiller(SimKD(), policies=("mixed_bfloat16", "mixed_bfloat16"))
    logits = distiller.predict(batch(5)["image"], verbose=0)
    assert logits.dtype == np.float32 and np.all(np.isfinite(logits))


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="SimKD: factor must be above 0"):
        SimKD(factor=0.0)
    teacher, student = features_of(10, (3, 4, 5, 8)), features_of(11, (3, 4, 5, 3))
    with pytest.raises(UserError, match="factor 100.0 leaves none of the teacher.s 8 channels"):
        SimKD(factor=100.0).build(teacher, student)
    with pytest.raises(UserError, match="the teacher has 6 logits, the student 5"):
        SimKD().build(teacher, features_of(11, (3, 4, 5, 3), classes=5))
    with pytest.raises(UserError, match="a map or a vector; the teacher's is a sequence"):
        SimKD().build(features_of(10, (3, 9, 8)), features_of(11, (3, 8)))
    with pytest.raises(UserError, match="symbolic"):
        built(teacher, student).deploy(network(1, "student"))
    with pytest.raises(UserError, match="SimKD has layers of its own"):
        SimKD().compute_loss(teacher, student)


def test_the_last_layer_of_a_model_within_the_teacher_may_be_the_last_tap():
    def nested(seed, name):
        keras.utils.set_random_seed(seed)
        within = keras.Input((8, 8, 3))
        maps = keras.layers.Conv2D(6, 3, strides=2, name="deep")(within)
        inner = keras.Model(within, maps, name="backbone")
        image = keras.Input((8, 8, 3))
        pooled = keras.layers.GlobalAveragePooling2D()(inner(image))
        return keras.Model(image, keras.layers.Dense(CLASSES, name="scores")(pooled), name=name)

    teacher, student = nested(2, "teacher"), nested(1, "student")
    read = [nets.outputs_of(model, taps=["backbone/deep"]) for model in (student, teacher)]
    distiller = Distiller(
        student, SimKD(), teacher, student_outputs=read[0], teacher_outputs=read[1]
    )
    distiller.compile(keras.optimizers.SGD(0.1))
    assert np.isfinite(distiller.train_on_batch(batch(0), return_dict=True)["loss"])


def test_a_classifier_that_needs_more_than_the_last_tap_is_refused():
    image = keras.Input((8, 8, 3))
    shallow = keras.layers.Conv2D(4, 3, padding="same", name="shallow")(image)
    deep = keras.layers.Conv2D(4, 3, padding="same", name="deep")(shallow)
    both = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([shallow, deep]))
    teacher = keras.Model(image, keras.layers.Dense(CLASSES, name="scores")(both), name="teacher")
    student = network(1, "student")
    with pytest.raises(UserError, match="its logits do not come from deep, .* alone"):
        Distiller(
            student, SimKD(), teacher,
            student_outputs=outputs(student), teacher_outputs=outputs(teacher),
        )
