"""What a training step does, against gradients and updates by hand."""

import dataclasses

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

import distillers
import nets
from distillers import (
    FSP,
    SSKD_SVD,
    Combination,
    Distiller,
    Loss,
    Method,
    NoDistillation,
    Reduction,
    SoftLogits,
    Stage,
    Trains,
)
from distillers.method import with_context
from distillers.reading import Embedding
from nets.copying import global_policy
from registry import UserError
from tests.distillers.models import CLASSES, TAPS, batch, larger_network, network, outputs

RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.01


def distiller_of(method, *, student=None, teacher=None, graph=False, **options):
    """A compiled one; tests in which it matters that the step is a graph ask for that. Tracing
    takes longer than a few steps do, and sums, clips and every method run as graphs elsewhere
    (`test_data_parallel.py`, `test_alternatives.py`)."""
    student = student or network(1, "student")
    teacher = teacher or network(2, "teacher", width=2)
    distiller = Distiller(
        student,
        method,
        teacher,
        student_outputs=outputs(student),
        teacher_outputs=outputs(teacher),
        **options,
    )
    distiller.compile(
        keras.optimizers.SGD(RATE, momentum=MOMENTUM, nesterov=True), run_eagerly=not graph
    )
    return distiller


def values(variables):
    return [np.array(variable) for variable in variables]


def assert_same(variables, before):
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)


@pytest.mark.parametrize("method", ["RKD", "PKT", "CC", "SP+RKD"])
def test_what_reads_embeddings_reads_what_the_classifier_is_given(method):
    student, teacher = network(1, "student"), network(2, "teacher", width=2)
    taps = {} if "SP" not in method else {
        "student_outputs": outputs(student), "teacher_outputs": outputs(teacher)
    }
    distiller = Distiller(student, distillers.create(method), teacher, **taps)
    found = distiller.teacher_outputs
    assert (found.embedding, found.logits) == (TAPS[-1] if taps else "embedding", "scores")


def test_two_teachers_that_differ_in_their_classifier_alone_teach_the_same_by_embeddings():
    losses = []
    for factor in (1.0, -3.0):
        teacher = network(2, "teacher", width=2)
        scores = teacher.get_layer("scores")
        scores.kernel.assign(factor * scores.kernel)
        distiller = Distiller(network(1, "student"), distillers.create("RKD"), teacher)
        distiller.compile(keras.optimizers.SGD(RATE), run_eagerly=True)
        logs = distiller.train_on_batch(batch(3), return_dict=True)
        losses.append(float(logs["distillation_loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0] > 0


def test_embeddings_of_a_network_that_averages_its_logits_are_the_averaged_features():
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(5, 3, activation="relu", name="last")(image)
    scores = keras.layers.Conv2D(CLASSES, 1, name="scores")(maps)
    teacher = keras.Model(image, keras.layers.GlobalAveragePooling2D()(scores))
    found = Distiller(network(1, "student"), distillers.create("RKD"), teacher).teacher_outputs
    assert found.embedding == "last"
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    features = nets.feature_extractor(teacher, found)(images)
    np.testing.assert_allclose(
        features["embedding"], np.mean(keras.Model(image, maps)(images), (1, 2)), rtol=1e-5
    )


class Squares(Method):
    """Half the squared distance of the hidden features, summed over the batch."""

    reads = Embedding()
    reduction = Reduction.SUM
    combination = Combination.CLIP
    strength: float = 3.0
    clip: float = 1.0

    def loss(self, teacher, student):
        return self.strength * tf.reduce_sum(tf.square(student - teacher)) / 2


class OneAnImage(Method):
    """A loss that someone forgot to average over the batch."""

    reads = Embedding()

    def loss(self, teacher, student):
        return tf.reduce_mean(tf.square(student - teacher), axis=-1)


class ByHand:
    """Two linear layers on flat images, and their updates in NumPy and float64."""

    def __init__(self, method, main_loss="cross_entropy"):
        keras.utils.set_random_seed(3)
        self.models = [self.network(name) for name in ("student", "teacher")]
        student, teacher = self.models
        self.weights = [np.array(w, np.float64) for w in student.get_weights()]
        self.theirs = [np.array(w, np.float64) for w in teacher.get_weights()]
        self.velocity = [np.zeros_like(w) for w in self.weights]
        self.method = method
        self.main_loss = main_loss
        self.distiller = Distiller(
            student, method, teacher, main_loss=main_loss, weight_decay=DECAY,
            student_outputs=self.outputs(student), teacher_outputs=self.outputs(teacher),
        )
        self.distiller.compile(keras.optimizers.SGD(RATE, momentum=MOMENTUM, nesterov=True))

    @staticmethod
    def network(name):
        image = keras.Input((2, 2, 3))
        flat = keras.layers.Flatten()(image)
        hidden = keras.layers.Dense(5, bias_initializer="normal", name="hidden")(flat)
        return keras.Model(image, keras.layers.Dense(CLASSES, name="scores")(hidden), name=name)

    @staticmethod
    def outputs(model):
        return nets.outputs_of(model, taps=["hidden"])

    @staticmethod
    def forward(weights, x):
        hidden = x @ weights[0] + weights[1]
        return hidden, hidden @ weights[2] + weights[3]

    def gradients(self, x, label):
        """Of the main and of the distillation loss, weights not applied; None: not reached."""
        hidden, logits = self.forward(self.weights, x)
        their_hidden, their_logits = self.forward(self.theirs, x)
        labelled = label >= 0
        at_logits = softmax(logits, axis=1)
        at_logits[np.arange(len(x)), np.maximum(label, 0)] -= 1
        at_logits *= labelled[:, None] / max(labelled.sum(), 1)
        main = self.backward(x, hidden, at_logits)
        if isinstance(self.method, SoftLogits):
            t = self.method.temperature
            at_logits = t * (softmax(logits / t, axis=1) - softmax(their_logits / t, axis=1))
            return main, self.backward(x, hidden, at_logits / len(x))
        if isinstance(self.method, Squares):
            at_hidden = self.method.strength * (hidden - their_hidden)
            return main, [x.T @ at_hidden, at_hidden.sum(axis=0), None, None]
        return main, [None] * 4

    def backward(self, x, hidden, at_logits):
        at_hidden = at_logits @ self.weights[2].T
        return [x.T @ at_hidden, at_hidden.sum(0), hidden.T @ at_logits, at_logits.sum(0)]

    def step(self, x, label, epoch):
        main, distillation = self.gradients(x, label)
        for i, (g0, g1) in enumerate(zip(main, distillation, strict=True)):
            reached = self.main_loss != "none" or g1 is not None
            g0 = self.method.main_weight * g0 if self.main_loss != "none" else np.zeros_like(g0)
            g0 = g0 + DECAY * self.weights[i] if i in (0, 2) and reached else g0  # kernels
            g1 = np.zeros_like(g0) if g1 is None else self.method.distillation_weight * g1
            if self.method.combination is Combination.CLIP and self.main_loss != "none":
                bound = self.method.clip * np.linalg.norm(g0) / (1 + np.exp(-epoch))
                g1 = g1 * min(1, bound / max(np.linalg.norm(g1), 1e-300))
            gradient = g0 + g1
            self.velocity[i] = MOMENTUM * self.velocity[i] - RATE * gradient
            self.weights[i] = self.weights[i] + MOMENTUM * self.velocity[i] - RATE * gradient


@pytest.mark.parametrize(
    ("method", "main_loss"),
    [
        (NoDistillation(), "cross_entropy"),
        (SoftLogits(), "cross_entropy"),
        (SoftLogits(), "none"),
        (Squares(), "cross_entropy"),
        (Squares(clip=0.3), "cross_entropy"),
        (Squares(strength=0.1), "none"),
    ],
)
def test_updates_by_hand(method, main_loss):
    """Weight decay on kernels, unlabelled images, the clip of each epoch, Nesterov's momentum."""
    known = ByHand(method, main_loss)
    random = np.random.default_rng(4)
    x = random.normal(size=(12, 2, 2, 3)).astype("float32")
    label = random.integers(0, CLASSES, 12).astype("int32")
    label[[1, 2, 7]] = -1
    label[8:] = -1  # a batch without any label
    data = tf.data.Dataset.from_tensor_slices({"image": x, "label": label}).batch(4)
    history = known.distiller.fit(data, epochs=3, verbose=0)
    for epoch in range(3):
        for rows in (slice(0, 4), slice(4, 8), slice(8, 12)):
            known.step(x[rows].reshape(4, -1).astype(float), label[rows], epoch)
    for found, expected in zip(known.models[0].get_weights(), known.weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    if method.combination is Combination.CLIP and main_loss != "none":
        assert 0 < history.history["clip_share"][0] < 1


def test_logged_figures_are_means_over_images():
    distiller = distiller_of(SoftLogits(), weight_decay=0.0, graph=True)
    distiller.optimizer.learning_rate = 0.0
    for layer in distiller.student.layers:  # so that training and evaluation see the same
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    data = batch(5, 21, unlabelled=(2, 9, 20))
    logs = distiller.fit(
        tf.data.Dataset.from_tensor_slices(data).batch(8), verbose=0,
        validation_data=tf.data.Dataset.from_tensor_slices(data).batch(21),
    ).history
    logits = distiller.predict(data["image"], verbose=0)
    theirs = distiller.teacher(data["image"], training=False).numpy()
    labelled = data["label"] >= 0
    cross_entropy = -log_softmax(logits, axis=1)[np.arange(21), np.maximum(data["label"], 0)]
    p = softmax(theirs / 4, axis=1)
    divergence = 16 * np.sum(p * (np.log(p) - log_softmax(logits / 4, axis=1)), axis=1)
    hits = logits.argmax(axis=1) == data["label"]
    within = np.any(np.argsort(-logits, axis=1)[:, :5] == data["label"][:, None], axis=1)
    for prefix in ("", "val_"):
        found = {name: logs[prefix + name][0] for name in ("main_loss", "accuracy", "top5")}
        np.testing.assert_allclose(found["main_loss"], cross_entropy[labelled].mean(), rtol=1e-5)
        np.testing.assert_allclose(found["accuracy"], hits[labelled].mean(), rtol=1e-5)
        np.testing.assert_allclose(found["top5"], within[labelled].mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["distillation_loss"][0], divergence.mean(), rtol=1e-4)
    assert not any(name.startswith("val_dist") for name in logs)


def test_one_forward_pass_of_each_network_a_step():
    student, teacher = network(1, "student", counted=True), network(2, "teacher", counted=True)
    distiller = distiller_of(SSKD_SVD(), student=student, teacher=teacher, graph=True)

    def calls():
        return [int(model.get_layer("calls").calls) for model in (student, teacher)]

    data = tf.data.Dataset.from_tensors(batch(6))
    before = calls()
    distiller.fit(data.repeat(3), epochs=2, verbose=0)
    assert np.subtract(calls(), before).tolist() == [6, 6]
    before = calls()
    distiller.evaluate(data.repeat(2), verbose=0)
    assert np.subtract(calls(), before).tolist() == [2, 0]


def test_teacher_is_not_touched_and_not_saved(tmp_path):
    teacher = network(2, "teacher", width=2)
    distiller = distiller_of(FSP(), teacher=teacher)
    before = values(teacher.variables)
    data = tf.data.Dataset.from_tensors(batch(7)).repeat(3)
    distiller.fit(data, verbose=0, validation_data=data)
    assert_same(teacher.variables, before)
    owned = {id(variable) for variable in distiller.variables}
    assert not owned & {id(variable) for variable in teacher.variables}
    assert {id(variable) for variable in distiller.student.variables} <= owned
    distiller.save_weights(tmp_path / "all.weights.h5")
    saved = []
    with h5py.File(tmp_path / "all.weights.h5") as file:
        file.visititems(
            lambda _, item: saved.append(np.array(item)) if isinstance(item, h5py.Dataset) else None
        )
    kernels = [value for value in values(distiller.student.variables) if value.ndim > 1]
    assert all(any(np.array_equal(kernel, one) for one in saved) for kernel in kernels)
    kernels = [value for value in before if value.ndim > 1]
    assert not any(np.array_equal(kernel, one) for one in saved for kernel in kernels)


def test_evaluate_and_predict_change_nothing():
    distiller = distiller_of(SSKD_SVD())
    data = tf.data.Dataset.from_tensors(batch(8))
    distiller.fit(data.repeat(2), epochs=2, verbose=0)
    kept = [*distiller.student.variables, *distiller.optimizer.variables, distiller.epoch]
    kept += distiller.teacher.variables
    before = values(kept)
    first = distiller.evaluate(data.repeat(2), verbose=0, return_dict=True)
    logits = distiller.predict(batch(8)["image"], verbose=0)
    assert first == distiller.evaluate(data.repeat(2), verbose=0, return_dict=True)
    assert_same(kept, before)
    assert int(distiller.epoch) == 1
    np.testing.assert_allclose(
        logits, distiller.student(batch(8)["image"], training=False), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("method", [FSP(), SoftLogits(), None])
def test_pairs_of_arrays_as_batches(method):
    data = batch(9, 16)
    distiller = distiller_of(method)
    history = distiller.fit(data["image"], data["label"], batch_size=8, epochs=2, verbose=0)
    again = distiller_of(method)
    dicts = tf.data.Dataset.from_tensor_slices(data).batch(8)
    other = again.fit(data["image"], data["label"][:, None], batch_size=8, epochs=2, verbose=0,
                      shuffle=False)
    in_order = distiller_of(method).fit(dicts, epochs=2, verbose=0)
    for name, losses in in_order.history.items():
        np.testing.assert_allclose(other.history[name], losses, rtol=1e-4, err_msg=name)
    assert np.isfinite(history.history["main_loss"]).all()


def test_preprocessing_of_each_network():
    student, teacher = network(1, "student"), network(2, "teacher")
    distiller = distiller_of(
        SoftLogits(), student=student, teacher=teacher,
        student_preprocessing=lambda image: tf.cast(image, tf.float32) / 255,
        teacher_preprocessing=lambda image: tf.cast(image, tf.float32) / 100 - 1,
    )
    image = np.random.default_rng(10).integers(0, 256, (8, 8, 8, 3)).astype("uint8")
    np.testing.assert_allclose(
        distiller.predict(image, verbose=0), student(image / 255.0, training=False), rtol=1e-4,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        distiller.teacher_features(tf.constant(image))["logits"],
        teacher(image / 100.0 - 1, training=False), rtol=1e-4, atol=1e-6,
    )


def test_a_bad_image_of_the_teacher_does_no_harm():
    """A sample without a finite teacher is as one that is not there, for the distillation."""
    def unless_marked(image):
        return tf.where(image[:, :1, :1, :1] > 90, np.nan, image)

    data = batch(11)
    data["image"][3, 0, 0, 0] = 100.0
    distiller = distiller_of(SSKD_SVD(), teacher_preprocessing=unless_marked)
    history = distiller.fit(tf.data.Dataset.from_tensors(data), epochs=2, verbose=0)
    np.testing.assert_allclose(history.history["dropped_share"], [1 / 8] * 2, rtol=1e-6)
    assert all(np.all(np.isfinite(value)) for value in values(distiller.student.variables))


def test_stage_that_trains_what_leads_to_the_taps():
    class Staged(SSKD_SVD):
        def build(self, teacher, student, *, samples=None):
            loss = with_context(self.loss, self.name)
            first = Stage("first", 0.5, loss=loss, main_weight=0, trains=Trains.TO_TAPS)
            return Loss(self, [first, Stage("second", 0.5, new_optimizer=True)])

    distiller = distiller_of(Staged(), graph=True)
    data = tf.data.Dataset.from_tensors(batch(12)).repeat(2)
    scores = distiller.student.get_layer("scores")
    before = values(distiller.student.trainable_variables)
    first, second = distiller.parts(2)
    distiller.enter(first)
    logs = distiller.fit(data, verbose=0).history
    assert_same(scores.variables, before[-2:])
    for variable, value in zip(distiller.student.trainable_variables[:-2], before, strict=False):
        assert np.any(np.array(variable) != value), variable.path
    assert "distillation_loss" in logs and "clip_share" not in logs
    distiller.enter(second)
    distiller.compile(keras.optimizers.SGD(RATE))
    logs = distiller.fit(data, verbose=0).history
    assert np.any(np.array(scores.kernel) != before[-2])
    assert set(logs) == {"loss", "main_loss", "accuracy", "top5", "skipped_steps"}


def test_fit_goes_on_where_it_stopped():
    """Two fits of an epoch each, the second beginning with epoch 1, are as one of two."""
    data = tf.data.Dataset.from_tensors(batch(13)).repeat(2)
    whole, parts = distiller_of(SSKD_SVD()), distiller_of(SSKD_SVD())
    whole.fit(data, epochs=2, verbose=0)
    parts.fit(data, epochs=1, verbose=0)
    parts.fit(data, epochs=2, initial_epoch=1, verbose=0)
    for one, other in zip(whole.student.variables, parts.student.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [SSKD_SVD, SoftLogits])
def test_mixed_bfloat16(method):
    with global_policy("mixed_bfloat16"):
        student = network(1, "student")
        last = keras.layers.Dense(CLASSES, dtype="float32", name="logits")
        student = keras.Model(student.input, last(student.layers[-2].output), name="student")
        distiller = distiller_of(method(), student=student)
    assert student.get_layer("deep").compute_dtype == "bfloat16"
    before = values(student.trainable_variables)
    history = distiller.fit(tf.data.Dataset.from_tensors(batch(14)), epochs=2, verbose=0)
    assert np.isfinite(history.history["distillation_loss"]).all()
    assert history.history["distillation_loss"][0] > 0
    assert distiller.predict(batch(14)["image"], verbose=0).dtype == np.float32
    for variable, value in zip(student.trainable_variables, before, strict=True):
        assert variable.dtype == "float32" and np.all(np.isfinite(variable))
        assert np.any(np.array(variable) != value)


def test_compiled_by_xla_when_asked_for():
    """SSKD_SVD's loss so compiled is tested with the method; a whole step takes a minute."""
    data = tf.data.Dataset.from_tensors(batch(15)).repeat(3)
    weights = []
    for jit_compile in (False, True):
        distiller = distiller_of(SoftLogits())
        assert not distiller.jit_compile
        distiller.compile(keras.optimizers.SGD(RATE, momentum=MOMENTUM), jit_compile=jit_compile)
        assert distiller.jit_compile == jit_compile
        distiller.fit(data, verbose=0)
        weights.append(np.concatenate([np.ravel(w) for w in distiller.student.get_weights()]))
    assert np.linalg.norm(weights[1] - weights[0]) < 1e-4 * np.linalg.norm(weights[0])


def test_a_loss_is_one_number():
    """Its gradient would be the sum over the batch, whatever the method says."""
    distiller = distiller_of(OneAnImage())
    data = batch(0)
    with pytest.raises(UserError, match=r"OneAnImage gives a loss of shape \(8,\); expected one"):
        distiller.fit(data["image"], data["label"], batch_size=8, verbose=0)


def test_what_does_not_fit_is_refused():
    student, teacher = network(1, "student"), network(2, "teacher")
    with pytest.raises(UserError, match="SSKD_SVD needs a teacher"):
        Distiller(student, SSKD_SVD(), student_outputs=outputs(student))
    with pytest.raises(UserError, match="taps must be named"):
        Distiller(student, SSKD_SVD(), teacher)
    with pytest.raises(UserError, match="main_loss must be .* not 'hinge'"):
        Distiller(student, main_loss="hinge")
    with pytest.raises(UserError, match="nothing to learn"):
        Distiller(student, main_loss="none")
    deeper = dataclasses.replace(outputs(teacher), taps=("shallow", "scores"))
    with pytest.raises(UserError, match="tap 2 has 6 in the teacher.* and 10 in the student"):
        Distiller(
            student, SSKD_SVD(adapter="none"), teacher, student_outputs=outputs(student),
            teacher_outputs=deeper,
        )
    one_less = dataclasses.replace(outputs(teacher), taps=("shallow",))
    with pytest.raises(UserError, match="teacher has 1, the student 2"):
        Distiller(
            student, SSKD_SVD(), teacher, student_outputs=outputs(student), teacher_outputs=one_less
        )


@pytest.mark.parametrize("method", ["DKD", "RLD", "WKD_L", "SSKD_SVD+DKD"])
def test_methods_that_need_labels_are_refused_without_any(method):
    with pytest.raises(UserError, match=f"{method.split('+')[-1]} learns from labels"):
        distiller_of(distillers.create(method), main_loss="none")


def test_without_a_main_loss_no_method_is_told_a_label():
    told = {}
    for main_loss in ("cross_entropy", "none"):
        method = distillers.create("CRD(negatives=3)")
        distiller = distiller_of(method, main_loss=main_loss, samples=8)
        distiller.train_on_batch(batch(0))
        (memory,) = [v for v in distiller.variables if v.path.endswith("labels")]
        told[main_loss] = np.array(memory)
    np.testing.assert_array_equal(told["cross_entropy"], batch(0)["label"])
    np.testing.assert_array_equal(told["none"], -1)


def test_what_nothing_changes_cannot_be_taught():
    student = network(1, "student")
    for layer in student.layers[:-1]:
        layer.trainable = False
    with pytest.raises(UserError, match="AT compares layers .* all frozen .*tap later layers"):
        distiller_of(distillers.get("AT")(), student=student)
    distiller_of(SoftLogits(), student=student)


def test_an_adapter_alone_does_not_let_a_frozen_student_learn():
    student = network(1, "student")
    for layer in student.layers[:-1]:
        layer.trainable = False
    with pytest.raises(UserError, match="SSKD_SVD compares layers .* all frozen"):
        distiller_of(SSKD_SVD(), student=student, teacher=larger_network(2, "teacher"))


def test_fit_before_compile_is_refused():
    distiller = Distiller(network(1, "student"))
    with pytest.raises(UserError, match=r"call compile\(\) before fit"):
        distiller.fit(batch(0)["image"], batch(0)["label"])


def test_a_student_of_two_outputs_is_scored_by_its_logits():
    student = network(1, "student")
    two = keras.Model(
        student.input, [student.get_layer("embedding").output, student.output], name="two"
    )
    distiller = Distiller(
        two, student_outputs=nets.outputs_of(two, taps=TAPS, logits="scores")
    )
    distiller.compile(keras.optimizers.SGD(0.0))
    data = batch(0)
    found = distiller.evaluate(data["image"], data["label"], verbose=0, return_dict=True)
    wide = dict(zip(("x", "y"), (data["image"], data["label"]), strict=True))
    distiller.fit(**wide, verbose=0)  # labels are compared with the logits, not the first output
    given = student.predict(data["image"], verbose=0)
    assert found["accuracy"] == pytest.approx(np.mean(given.argmax(axis=1) == data["label"]))
    np.testing.assert_allclose(distiller.predict(data["image"], verbose=0), given, rtol=1e-5)


@pytest.mark.parametrize("method", ["None", "SSKD_SVD", "Soft_logits"])
def test_variables_of_two_dtypes(method):
    """Those of a student in bfloat16 whose logits are float32, and adapters."""
    wide = network(1, "student")
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(6, 3, dtype="bfloat16", name="shallow")(image)
    maps = keras.layers.Conv2D(8, 3, strides=2, dtype="bfloat16", name="deep")(maps)
    pooled = keras.layers.GlobalAveragePooling2D(name="embedding")(maps)
    student = keras.Model(image, keras.layers.Dense(CLASSES, name="scores")(pooled), name="narrow")
    assert {variable.dtype for variable in student.variables} == {"bfloat16", "float32"}
    distiller = distiller_of(distillers.create(method), student=student, teacher=wide)
    before = values(student.trainable_variables)
    logs = distiller.train_on_batch(batch(0), return_dict=True)
    assert logs["skipped_steps"] == 0 and np.isfinite(logs["loss"])
    after = values(student.trainable_variables)
    assert any((one != other).any() for one, other in zip(before, after, strict=True))


def test_a_stages_weight_may_be_a_whole_number():
    class Ten(Method):
        reads = Embedding()
        usual_weight = 10

        def loss(self, teacher, student):
            return tf.reduce_mean(tf.square(student - teacher))

    logs = distiller_of(Ten()).train_on_batch(batch(0), return_dict=True)
    expected = 10 * logs["distillation_loss"]
    assert logs["weighted_distillation_loss"] == pytest.approx(expected)


def test_classes_that_do_not_fit_are_refused():
    student = network(1, "student")
    image = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(image)
    teacher = keras.Model(image, keras.layers.Dense(CLASSES + 1, name="scores")(flat))
    with pytest.raises(UserError, match="7.*6|6.*7"):
        Distiller(student, SoftLogits(), teacher)


def test_a_method_that_reads_no_maps_needs_no_taps():
    student, teacher = network(1, "student"), network(2, "teacher")
    distiller = Distiller(student, SoftLogits(), teacher)
    distiller.compile()
    distiller.fit(tf.data.Dataset.from_tensors(batch(16)), verbose=0)
    assert distiller.optimizer.nesterov and distiller.optimizer.momentum == 0.9


# Used as a library


class Recorder(keras.callbacks.Callback):
    """Notes after each epoch which stage it was, how far the optimizer was, and the weights."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        steps = int(self.model.optimizer.iterations)
        self.epochs.append((epoch, self.model.stage.name, steps, sorted(logs)))


def test_fit_leads_through_all_stages():
    """FitNet's hint, then its training with another optimizer of the same settings."""
    data = tf.data.Dataset.from_tensors(batch(16)).repeat(3)

    def train(lead, epochs=4):
        distiller = distiller_of(distillers.get("FitNet")(hint_share=0.25), graph=True)
        recorder = Recorder()
        lead(distiller, dict(verbose=0, shuffle=False, callbacks=[recorder]))
        return distiller, recorder.epochs

    def by_hand(distiller, options):
        first, second = distiller.parts(4)
        distiller.enter(first)
        distiller.fit(data, epochs=1, **options)
        distiller.enter(second)
        distiller.compile(keras.optimizers.SGD(RATE, momentum=MOMENTUM, nesterov=True))
        distiller.fit(data, epochs=4, initial_epoch=1, **options)

    histories = []
    led, epochs = train(lambda distiller, options: histories.append(
        distiller.fit(data, epochs=4, **options)
    ))
    expected, by_hand_epochs = train(by_hand)
    assert epochs == by_hand_epochs
    assert [epoch[:3] for epoch in epochs] == [
        (0, "hint", 3), (1, "train", 3), (2, "train", 6), (3, "train", 9)
    ]
    (history,) = histories
    assert history is led.history
    assert history.epoch == [0, 1, 2, 3] and len(history.history["main_loss"]) == 4
    for one, other in zip(led.student.variables, expected.student.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
    with pytest.warns(UserWarning, match="1 epochs for the stages hint, train"):
        distiller_of(distillers.get("FitNet")()).fit(data, epochs=1, verbose=0)


def staged(method="FitNet(hint_share=0.5)", optimizer=None):
    distiller = distiller_of(distillers.create(method), weight_decay=0.0)
    if optimizer is not None:
        distiller.compile(optimizer, run_eagerly=True)
    return distiller


class Told(keras.callbacks.Callback):
    """Notes what it is told of."""

    def __init__(self, monitor=None, stop_in=None):
        super().__init__()
        self.told, self.stop_in = [], stop_in
        if monitor:
            self.monitor = monitor

    def on_train_begin(self, logs=None):
        self.told.append("begin")

    def on_epoch_end(self, epoch, logs=None):
        self.told.append(epoch)
        self.model.stop_training = epoch == self.stop_in

    def on_train_end(self, logs=None):
        self.told.append("end")


def test_callbacks_see_the_stages_as_one_training(tmp_path):
    """The hint does not train the classifier, so whoever judges it is not asked there."""
    data = batch(16)
    plain, judging = Told(), Told("val_accuracy")
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    staged().fit(
        data["image"], data["label"], epochs=4, verbose=0, callbacks=[plain, judging, logger],
        validation_data=(data["image"], data["label"]),
    )
    assert plain.told == ["begin", 0, 1, 2, 3, "end"]
    assert judging.told == ["begin", 2, 3, "end"]
    assert [line[0] for line in (tmp_path / "log.csv").read_text().splitlines()[1:]] == [*"0123"]
    assert plain.params["epochs"] == 4


def test_each_epoch_is_saved_where_that_is_asked_for(tmp_path):
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    staged().fit(tf.data.Dataset.from_tensors(batch(17)), epochs=2, verbose=0, callbacks=[keep])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.keras", "2.keras"]


@pytest.mark.parametrize("monitor", ["loss", "val_loss"])
def test_the_best_epoch_is_of_those_that_train_the_classifier(monitor):
    """The hint's loss is of another kind, and smaller."""
    data = batch(16)
    distiller = staged()
    best = keras.callbacks.EarlyStopping(monitor, patience=0, restore_best_weights=True)
    history = distiller.fit(
        data["image"], data["label"], epochs=6, verbose=0, callbacks=[best],
        validation_data=(data["image"], data["label"]),
    )
    assert history.epoch[:3] == [0, 1, 2] and best.best_epoch >= 3


def test_a_callback_that_stops_training_stops_all_of_it():
    told = Told(stop_in=0)
    history = staged().fit(tf.data.Dataset.from_tensors(batch(17)), epochs=4, verbose=0,
                           callbacks=[told])
    assert told.told == ["begin", 0, "end"] and history.epoch == [0]


def test_a_stage_begins_with_the_optimizer_as_it_was_given():
    """Itself, not a copy made of its settings: a schedule may have none, and exclusions and what a
    callback did to the learning rate are in none."""
    class Schedule(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.01 / (1 + tf.cast(step, tf.float32))

    data = tf.data.Dataset.from_tensors(batch(17)).repeat(2)
    own = keras.optimizers.SGD(Schedule(), momentum=MOMENTUM)
    distiller, recorder = staged(optimizer=own), Recorder()
    distiller.fit(data, epochs=2, verbose=0, callbacks=[recorder])
    assert distiller.optimizer is own
    assert [epoch[2] for epoch in recorder.epochs] == [2, 2]  # steps since it began

    rates = []
    lowered = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: rates.append(float(distiller.optimizer.learning_rate)),
        on_epoch_end=lambda epoch, logs: setattr(distiller.optimizer, "learning_rate", 1e-4),
    )
    distiller = staged(optimizer=keras.optimizers.Adam(0.02))
    distiller.fit(data, epochs=2, verbose=0, callbacks=[lowered])
    assert rates == pytest.approx([0.02, 0.02])


def test_what_cannot_lead_through_stages_is_refused(tmp_path):
    data = tf.data.Dataset.from_tensors(batch(17))
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(UserError, match="BackupAndRestore cannot resume a method of several"):
        staged().fit(data, epochs=2, verbose=0, callbacks=[backup])
    with pytest.raises(UserError, match="ScheduleFreeAdamW cannot begin anew"):
        staged(optimizer=keras.optimizers.ScheduleFreeAdamW()).fit(data, epochs=2, verbose=0)


def test_an_epoch_at_a_time_traces_once():
    data = tf.data.Dataset.from_tensors(batch(13))
    distiller = distiller_of(SoftLogits(), graph=True)
    distiller.fit(data, epochs=1, verbose=0)
    step = distiller.train_function
    distiller.fit(data, epochs=2, initial_epoch=1, verbose=0)
    assert distiller.train_function is step


def test_the_clip_opens_from_the_first_epoch_of_a_stage():
    class Strong(SSKD_SVD):
        weight: float = 1e3  # so that there is something to be clipped

    data = tf.data.Dataset.from_tensors(batch(18))

    def weights(first_epoch, epoch):
        distiller = distiller_of(Strong())
        (part,) = distiller.parts(10)
        distiller.enter(dataclasses.replace(part, first=first_epoch))
        distiller.fit(data, initial_epoch=epoch, epochs=epoch + 1, verbose=0)
        return np.concatenate([np.ravel(each) for each in distiller.student.trainable_variables])

    begun, opened = weights(0, 0), weights(0, 5)
    assert np.max(np.abs(begun - opened)) > 1e-4
    np.testing.assert_allclose(weights(5, 5), begun, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights(2, 7), opened, rtol=1e-5, atol=1e-6)


def test_fit_goes_on_within_a_stage():
    data = tf.data.Dataset.from_tensors(batch(17))
    distiller = distiller_of(distillers.get("FitNet")(hint_share=0.5), graph=True)
    recorder = Recorder()
    distiller.fit(data, epochs=4, initial_epoch=3, verbose=0, callbacks=[recorder])
    assert [epoch[:2] for epoch in recorder.epochs] == [(3, "train")]


def test_warm_ups_are_a_share_of_each_fit_unless_the_run_is_known():
    """A short `fit` before, to try it out, leaves no short warm-up behind."""
    data = tf.data.Dataset.from_tensors(batch(17))

    def weights(*fits, **given):
        distiller = distiller_of(distillers.get("DKD")(warmup=0.5, weight=50.0, clip=1e9), **given)
        distiller.compile(keras.optimizers.SGD(RATE), run_eagerly=True)
        start = [keras.ops.convert_to_numpy(v) for v in distiller.variables]
        for epochs in fits:
            for variable, value in zip(distiller.variables, start, strict=True):
                variable.assign(value)
            distiller.fit(data, epochs=epochs, verbose=0)
        return np.concatenate([np.ravel(v) for v in distiller.student.trainable_variables])

    np.testing.assert_array_equal(weights(1, 4), weights(4))
    assert np.max(np.abs(weights(4, epochs=40) - weights(4))) > 1e-4


def test_fit_goes_on_within_a_later_stage_with_the_optimizer_as_it_was():
    data = tf.data.Dataset.from_tensors(batch(17)).repeat(3)
    distiller = distiller_of(distillers.get("FitNet")(hint_share=0.25), graph=True)
    recorder = Recorder()
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(distiller, "stop_training", epoch == 2)
    )
    options = dict(epochs=4, verbose=0, shuffle=False)
    distiller.fit(data, callbacks=[stop], **options)
    distiller.fit(data, initial_epoch=3, callbacks=[recorder], **options)
    assert [epoch[:3] for epoch in recorder.epochs] == [(3, "train", 9)]


def test_every_method_is_an_attribute():
    for name in distillers.names():
        if name != "None":
            assert getattr(distillers, name) is distillers.get(name)
    with pytest.raises(AttributeError, match="FitNett.*FitNet"):
        distillers.FitNett  # noqa: B018


@pytest.mark.parametrize(("method", "whose"), [("AT", "student"), ("DML", "teacher")])
def test_a_network_that_learns_in_float16_is_refused(method, whose):
    models = {"student": network(1, "student"), "teacher": network(2, "teacher")}
    models[whose] = nets.copy_model(models[whose], dtype="mixed_float16")
    with pytest.raises(UserError, match=f"{whose}.* computes in float16.*copy_model"):
        distiller_of(distillers.create(method), **models)
    if method == "AT":  # which does not train the teacher
        frozen = nets.copy_model(models["teacher"], dtype="mixed_float16")
        distiller_of(distillers.AT(), teacher=frozen)


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_probabilities_are_not_taken_for_logits(whose):
    models = {"student": network(1, "student"), "teacher": network(2, "teacher")}
    model = models[whose]
    ending = keras.layers.Softmax(name="probabilities")(model.output)
    models[whose] = keras.Model(model.input, ending, name=whose)

    def build(**outputs):
        return Distiller(models["student"], SoftLogits(), models["teacher"], **{
            "student_outputs": nets.outputs_of(models["student"], TAPS),
            "teacher_outputs": nets.outputs_of(models["teacher"], TAPS), **outputs,
        })

    with pytest.raises(UserError, match=f"the {whose} '{whose}' ends in a softmax"):
        build()
    models[whose] = nets.without_softmax(models[whose])
    build()
    if whose == "teacher":  # whose logits may also be named
        models[whose] = keras.Model(model.input, ending, name=whose)
        build(teacher_outputs=nets.outputs_of(models[whose], TAPS, logits="scores"))


def test_one_hot_labels_are_refused():
    distiller = distiller_of(NoDistillation())
    images, labels = batch(18)["image"], np.eye(CLASSES)[batch(18)["label"]]
    with pytest.raises(UserError, match="one-hot perhaps; expected the number"):
        distiller.fit(images, labels, verbose=0)
    distiller.fit(images, batch(18)["label"][:, None], verbose=0)


# What Keras users give


def test_sample_and_class_weights_weigh_the_main_loss():
    """As in Keras: the weighted cross-entropies, divided by the number of images."""
    data = batch(20, 16)
    chosen = data["label"] == data["label"][0]

    def weights_after(**options):
        distiller = distiller_of(NoDistillation(), weight_decay=0.0)
        distiller.fit(data["image"], data["label"], batch_size=16, verbose=0, **options)
        return np.concatenate([np.ravel(w) for w in distiller.student.get_weights()])

    plain = weights_after()
    by_sample = weights_after(sample_weight=np.where(chosen, 3.0, 0.5))
    others = {each: 0.5 for each in range(CLASSES)}
    by_class = weights_after(class_weight=others | {int(data["label"][0]): 3.0})
    assert np.max(np.abs(by_sample - plain)) > 1e-4
    np.testing.assert_allclose(by_class, by_sample, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights_after(sample_weight=np.ones(16)), plain, atol=1e-6)
    by_keras = network(1, "student")
    by_keras.compile(
        keras.optimizers.SGD(RATE, momentum=MOMENTUM, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True,
    )
    by_keras.fit(data["image"], data["label"], batch_size=16, verbose=0,
                 sample_weight=np.where(chosen, 3.0, 0.5))
    expected = np.concatenate([np.ravel(w) for w in by_keras.get_weights()])
    np.testing.assert_allclose(by_sample, expected, rtol=1e-4, atol=1e-6)


def test_class_weights_of_batches_with_unlabelled_images():
    """Of dicts, whose labels Keras does not see; the label -1 has no weight, nor needs one."""
    data = batch(20, 16, unlabelled=(3, 5))

    def weights_after(batches, **options):
        distiller = distiller_of(NoDistillation(), weight_decay=0.0)
        distiller.fit(batches, verbose=0, **options)
        return np.concatenate([np.ravel(w) for w in distiller.student.get_weights()])

    weights = np.where(data["label"] == 2, 3.0, 1.0)
    dicts, pairs, weighted = (
        tf.data.Dataset.from_tensors(each)
        for each in (data, (data["image"], data["label"]), (data["image"], data["label"], weights))
    )
    expected = weights_after(weighted)
    assert np.max(np.abs(expected - weights_after(dicts))) > 1e-5
    for batches in (dicts, pairs):
        np.testing.assert_allclose(
            weights_after(batches, class_weight={2: 3.0}), expected, rtol=1e-5, atol=1e-6
        )
    with pytest.raises(UserError, match=f"class {CLASSES}; expected class numbers 0 to"):
        weights_after(dicts, class_weight={CLASSES: 1.0})


def test_class_weights_are_of_one_fit():
    one, other = (distiller_of(NoDistillation()) for _ in range(2))
    one.fit(tf.data.Dataset.from_tensors(batch(20)), verbose=0, class_weight={2: 3.0})
    other.student.set_weights(one.student.get_weights())
    for distiller in (one, other):
        distiller.compile(keras.optimizers.SGD(RATE), run_eagerly=True)
        distiller.train_on_batch(batch(21))
    for found, expected in zip(one.student.variables, other.student.variables, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_mixture_weighs_as_its_classes_do():
    """An image of a quarter of class 2 and three quarters of class 1, as the two by themselves."""
    data = batch(20, 4)
    mixed = {
        **data, "label": np.full(4, 2, "int32"), "other_label": np.full(4, 1, "int32"),
        "share": np.full(4, 0.25, "float32"),
    }

    def weights_after(**options):
        distiller = distiller_of(NoDistillation(), weight_decay=0.0)
        batches = tf.data.Dataset.from_tensors(options.pop("given", mixed))
        distiller.fit(batches, verbose=0, **options)
        return np.concatenate([np.ravel(w) for w in distiller.student.get_weights()])

    found = weights_after(class_weight={2: 5.0, 1: 3.0})
    weighted = {**mixed, "weight": np.full(4, 0.25 * 5 + 0.75 * 3, "float32")}
    np.testing.assert_allclose(found, weights_after(given=weighted), rtol=1e-5, atol=1e-6)
    alone = {**mixed, "other_label": np.full(4, -1, "int32")}
    weighted = {**alone, "weight": np.full(4, 5.0, "float32")}
    np.testing.assert_allclose(
        weights_after(given=alone, class_weight={2: 5.0, 1: 3.0}), weights_after(given=weighted),
        rtol=1e-5, atol=1e-6,
    )


@pytest.mark.parametrize("name", ["loss", "metrics", "loss_weights", "weighted_metrics"])
def test_losses_and_metrics_given_to_compile_are_refused(name):
    with pytest.raises(UserError, match=f"compile got {name}, but a Distiller has losses"):
        distiller_of(NoDistillation()).compile(**{name: ["accuracy"]})


def test_a_loss_is_not_taken_for_another_argument():
    with pytest.raises(UserError, match="compile got loss"):
        distiller_of(NoDistillation()).compile("sgd", "sparse_categorical_crossentropy")


def test_moving_averages_that_keras_would_assign_to_other_weights_are_refused():
    with pytest.raises(UserError, match="use_ema=True.* leave use_ema out"):
        distiller_of(NoDistillation()).compile(keras.optimizers.Adam(use_ema=True))


def test_an_optimizer_that_divides_by_a_scale_is_refused():
    with pytest.raises(UserError, match="loss_scale_factor, but a Distiller does not scale"):
        distiller_of(NoDistillation()).compile(keras.optimizers.SGD(RATE, loss_scale_factor=8.0))


def test_optimizers_that_expect_scaled_losses_are_refused():
    scaling = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE))
    with pytest.raises(UserError, match="LossScaleOptimizer.* use the dtype policy mixed_bfloat16"):
        distiller_of(NoDistillation()).compile(scaling)
    student, teacher = network(1, "student"), network(2, "teacher", width=2)
    with (
        global_policy("mixed_float16"), pytest.raises(UserError, match="auto_scale_loss=False")
    ):
        distiller_of(NoDistillation(), student=student, teacher=teacher)


def test_an_export_is_the_students(tmp_path):
    distiller, images = distiller_of(SoftLogits()), batch(0, 4)["image"]
    distiller.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    expected = distiller.student(images)
    np.testing.assert_allclose(served.serve(images), expected, rtol=1e-4, atol=1e-5)


def test_the_students_own_losses_belong_to_the_main_loss():
    def student_of(regularizer):
        keras.utils.set_random_seed(0)
        image = keras.Input((8, 8, 3))
        flat = keras.layers.Flatten()(image)
        scores = keras.layers.Dense(CLASSES, kernel_regularizer=regularizer, name="scores")(flat)
        return keras.Model(image, scores)

    data = batch(21)
    by_keras, ours = student_of(keras.regularizers.L2(2.0)), student_of(keras.regularizers.L2(2.0))
    by_keras.compile(
        keras.optimizers.SGD(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    distiller = Distiller(ours, weight_decay=0.0)
    distiller.compile(keras.optimizers.SGD(RATE))
    for model in (by_keras, distiller):
        model.fit(data["image"], data["label"], batch_size=8, epochs=3, verbose=0)
    for one, other in zip(ours.get_weights(), by_keras.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_own_losses_of_a_teacher_that_learns_count_too():
    """With next to no weight, both networks of DML learn as they would alone."""
    data, moved = batch(21), {}
    peers = [network(seed, f"net{seed}", penalised=True) for seed in (1, 2)]
    distiller = Distiller(
        peers[0], distillers.create("DML(weight=1e-9)"), peers[1], weight_decay=0.0,
        student_outputs=outputs(peers[0]), teacher_outputs=outputs(peers[1]),
    )
    distiller.compile(keras.optimizers.SGD(RATE), run_eagerly=True)
    distiller.train_on_batch(data)
    for seed in (1, 2):
        alone = network(seed, f"alone{seed}", penalised=True)
        own = Distiller(alone, weight_decay=0.0, student_outputs=outputs(alone))
        own.compile(keras.optimizers.SGD(RATE), run_eagerly=True)
        own.train_on_batch(data)
        moved[seed] = alone.get_weights()
    for seed, peer in zip((1, 2), peers, strict=True):
        for one, other in zip(peer.get_weights(), moved[seed], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_callbacks_that_monitor_and_save(tmp_path):
    data = batch(22, 16)
    distiller = distiller_of(SSKD_SVD())
    callbacks = [
        keras.callbacks.EarlyStopping(patience=9),
        keras.callbacks.EarlyStopping("val_accuracy", patience=9),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "last.keras"),
    ]
    alone = keras.callbacks.TerminateOnNaN()
    distiller.fit(data["image"], data["label"], verbose=0, callbacks=alone)
    history = distiller.fit(
        data["image"], data["label"], batch_size=8, epochs=2, verbose=0, callbacks=callbacks,
        validation_data=(data["image"], data["label"]),
    ).history
    assert history["val_loss"] == history["val_main_loss"]
    kept = keras.models.load_model(tmp_path / "best.keras")
    assert kept.name == "student" and kept.count_params() == distiller.student.count_params()
    assert callbacks[1].mode == "max"
    last = keras.models.load_model(tmp_path / "last.keras")
    for one, other in zip(last.get_weights(), distiller.student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0, np.nan, 2.0], "not all whole numbers"),
        ([0.5, 1.0, 1.0, 2.0], "not all whole numbers"),
        ([1, 2, 3, CLASSES], r"labels are 1 to 6 \(subtract 1\?\); expected class numbers 0 to 5"),
        ([0, -2, 3, 1], "labels are -2 to 3; expected"),
    ],
)
def test_labels_that_name_no_class_are_refused(labels, message):
    """Of whatever kind, and for validation too."""
    distiller, images = distiller_of(NoDistillation()), batch(0, 4)["image"]
    good = np.arange(4)
    for given in (np.array(labels), labels, tf.constant(labels)):
        with pytest.raises(UserError, match=message):
            distiller.fit(images, given, verbose=0)
    with pytest.raises(UserError, match=message):
        distiller.fit(images, good, validation_data=(images, np.array(labels)), verbose=0)
    with pytest.raises(UserError, match=message):
        distiller.evaluate(images, np.array(labels), verbose=0)


@pytest.mark.parametrize("label", [np.nan, 0.5])
def test_labels_of_a_data_set_that_are_no_numbers_of_classes_stop_it(label):
    data = (batch(0, 4)["image"], np.array([0.0, 1.0, label, 2.0], "float32"))
    distiller = distiller_of(NoDistillation(), graph=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="labels are not all whole numbers"):
        distiller.fit(tf.data.Dataset.from_tensors(data), verbose=0)
    data[1][2] = 3.0
    distiller.fit(tf.data.Dataset.from_tensors(data), verbose=0)


def test_a_teacher_that_shares_layers_is_refused():
    student = network(1, "student")
    teacher = keras.Model(student.input, student.output, name="teacher")
    with pytest.raises(UserError, match="teacher and student share variables"):
        Distiller(student, SoftLogits(), teacher)


def test_ties_count_as_argmax_counts_them():
    student = network(1, "student")
    student.get_layer("scores").kernel.assign(tf.zeros_like(student.get_layer("scores").kernel))
    distiller = Distiller(student)
    distiller.compile()
    labels = np.arange(12) % CLASSES
    scores = distiller.evaluate(batch(0, 12)["image"], labels, return_dict=True, verbose=0)
    np.testing.assert_allclose([scores["accuracy"], scores["top5"]], [1 / 6, 5 / 6], rtol=1e-6)


@pytest.mark.parametrize("method", [NoDistillation(), SoftLogits(), SSKD_SVD(), FSP()])
def test_an_image_that_is_not_finite_changes_nothing(method):
    """Training goes on as if the step, here the first of six, had not been."""
    bad, good = batch(23), tf.data.Dataset.from_tensors(batch(24)).repeat(5)
    bad["image"][2, 1, 1, 0] = np.nan
    graph = isinstance(method, SSKD_SVD)  # whose eager steps take long
    one, other = (distiller_of(method, graph=graph) for _ in range(2))
    logs = one.fit(tf.data.Dataset.from_tensors(bad).concatenate(good), verbose=0).history
    np.testing.assert_allclose(logs["skipped_steps"], [1 / 6], rtol=1e-6)
    assert other.fit(good, verbose=0).history["skipped_steps"] == [0.0]
    for found, expected in zip(one.student.variables, other.student.variables, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_skipped_step_leaves_the_logs_of_the_others():
    bad = batch(23)
    bad["image"][2, 1, 1, 0] = np.nan
    good = tf.data.Dataset.from_tensors(batch(24)).repeat(5)
    one, other = (distiller_of(SoftLogits()) for _ in range(2))
    logs = one.fit(good.concatenate(tf.data.Dataset.from_tensors(bad)), verbose=0).history
    expected = other.fit(good, verbose=0).history
    for name in ("loss", "main_loss", "distillation_loss"):
        np.testing.assert_allclose(logs[name], expected[name], rtol=1e-5)


def test_a_skipped_step_uses_zero_gradients():
    """Momentum goes on: with Nesterov's, the weights move by its square times the last gradient."""
    bad = batch(23)
    bad["image"][2, 1, 1, 0] = np.nan
    distiller = distiller_of(NoDistillation(), weight_decay=0.0)
    kernel = distiller.student.get_layer("scores").kernel
    distiller.train_on_batch(batch(24))
    (momentum,) = [
        np.array(each) for each in distiller.optimizer.variables
        if each.shape == kernel.shape and "momentum" in each.path
    ]
    before = np.array(kernel)
    distiller.train_on_batch(bad)
    np.testing.assert_allclose(np.array(kernel) - before, MOMENTUM**2 * momentum, atol=1e-7)


def test_training_that_diverges_is_given_up():
    bad = batch(23)
    bad["image"][2, 1, 1, 0] = np.nan
    with pytest.raises(UserError, match="in epoch 1 the gradients of 100 % of the steps were not"):
        distiller_of(NoDistillation()).fit(tf.data.Dataset.from_tensors(bad), verbose=0)


def test_adam_leaves_kernels_alone_that_no_loss_reaches():
    distiller = distiller_of(SSKD_SVD(), main_loss="none")
    distiller.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    scores = distiller.student.get_layer("scores")
    before = values(scores.variables)
    distiller.fit(tf.data.Dataset.from_tensors(batch(24)).repeat(3), verbose=0)
    assert_same(scores.variables, before)


def test_channels_that_differ_get_an_adapter():
    student, teacher = network(1, "student"), network(2, "teacher")
    wider = dataclasses.replace(outputs(teacher), taps=("deep", "deep"))
    same = dataclasses.replace(outputs(student), taps=("shallow", "deep"))
    distiller = Distiller(
        student, SSKD_SVD(), teacher, student_outputs=same, teacher_outputs=wider
    )
    assert "1x1 adapter from 6 to 10 channels" in distiller.notes[0]
    assert [layer.name for layer in distiller.method_layers] == ["adapter1"]
    distiller.compile(keras.optimizers.SGD(RATE), run_eagerly=True)
    before = values(distiller.method_layers[0].variables)
    distiller.fit(tf.data.Dataset.from_tensors(batch(25)), verbose=0)
    assert np.any(values(distiller.method_layers[0].variables)[0] != before[0])
    assert distiller.deployed is student


def test_layers_for_which_there_is_no_memory_are_refused_at_once():
    with pytest.raises(UserError, match="what CC adds has at least .* are available: choose"):
        distiller_of(distillers.CC(embedding_size=1_000_000_000))


def test_images_of_an_array_are_numbered():
    """CRD remembers each of them; a dataset has to say which images it gives."""
    data = batch(26, 16)
    distiller = distiller_of(distillers.CRD(), samples=16)
    memory = distiller.distillation_losses[0].layers[2]
    before = memory.student.numpy()
    distiller.fit(data["image"], data["label"], batch_size=8, verbose=0, sample_weight=np.ones(16))
    assert np.all(np.any(memory.student.numpy() != before, axis=1))
    pairs = tf.data.Dataset.from_tensors((data["image"], data["label"]))
    with pytest.raises(UserError, match="CRD needs indices"):
        distiller_of(distillers.CRD(), samples=16).fit(pairs, verbose=0)


def test_images_are_judged_in_the_precision_that_they_are_trained_in():
    """Rounded to bfloat16 before the mean is taken off, images of large values would be alike."""
    with global_policy("mixed_bfloat16"):
        student = network(1, "student")
        distiller = Distiller(
            student, student_outputs=outputs(student),
            student_preprocessing=lambda image: image - 1000.0,
        )
        distiller.compile(keras.optimizers.SGD(RATE))
        images = batch(3)["image"] + 1000
        found = distiller.predict(images, verbose=0)
    np.testing.assert_allclose(found, student(images - 1000), rtol=1e-5, atol=1e-6)
