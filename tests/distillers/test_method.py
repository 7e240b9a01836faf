"""What a method says of itself, what it may ask for, and a method added as one file."""

import dataclasses
import sys
import textwrap
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import distillers
from distillers import Context, Loss, Method, Reduction
from distillers.loss import Stage
from distillers.method import with_context
from distillers.reading import Embedding, Logits
from distillers.registration import METHODS
from registry import UserError
from tests.distillers.models import batch, network, outputs


def test_names_are_found_whatever_their_case():
    assert {"None", "Soft_logits", "FSP", "SSKD_SVD"} <= set(distillers.names())
    assert distillers.get("sskd-svd") is distillers.SSKD_SVD
    assert distillers.get("softlogits") is distillers.SoftLogits
    with pytest.raises(UserError, match="SSKD_SVT.*did you mean 'SSKD_SVD'"):
        distillers.get("SSKD_SVT")


def test_losses_are_keras_losses():
    for name in distillers.names():
        assert issubclass(distillers.get(name), keras.distillation.DistillationLoss)


def test_hyper_parameters_are_converted():
    method = distillers.create("SSKD_SVD", num_dfv="3", solver="svd")
    assert (method.num_dfv, method.solver, method.gradient) == (3, "svd", "exact")
    assert distillers.create("Soft_logits(temperature=2)").temperature == 2.0
    assert set(distillers.SSKD_SVD.hyper_parameters()) == {
        "num_dfv", "gradient", "orientation", "solver", "adapter",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_dvf": "1"}, "SSKD_SVD has no hyper-parameter 'num_dvf'.*did you mean 'num_dfv'"),
        ({"num_dfv": "many"}, "SSKD_SVD: num_dfv must be a whole number, not 'many'"),
        ({"num_dfv": "1.5"}, "num_dfv must be a whole number"),
        ({"num_dfv": "-2"}, "num_dfv must be at least 1, not -2"),
        ({"solver": "sdv"}, "solver: unknown value 'sdv'.*did you mean 'svd'"),
    ],
)
def test_wrong_hyper_parameters_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        distillers.create("SSKD_SVD", **given)


def test_a_method_never_changes():
    method = distillers.get("VID")()
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.weight = 2.0
    before = dict(vars(method))
    losses = [method.build(tf.zeros([2, 4, 4, n]), tf.zeros([2, 4, 4, 3])) for n in (5, 6)]
    assert vars(method) == before
    assert losses[0].layers[0] is not losses[1].layers[0]


class Asking(Method):
    """A method that asks for something of every kind."""

    reads = Logits()
    extras = ("scale",)

    def loss(self, teacher, student, *, labels, scale, epoch=None):
        return tf.cast(tf.reduce_sum(labels), tf.float32) * scale + (epoch or 0)


def test_a_loss_gets_what_it_asks_for():
    x, method = tf.zeros([2, 3]), Asking()
    assert method.compute_loss(x, x, labels=[1, 2], scale=2.0, indices=[0, 1]) == 6
    assert method.compute_loss(x, x, labels=np.array([1, 2]), scale=2.0, epoch=5) == 11
    built = method.make_loss(x, x, extras={"scale": lambda: 10.0})
    assert built.compute_loss(x, x, labels=[1, 2]) == 30
    assert built.compute_loss(x, x, labels=[1, 2], scale=1.0) == 3
    for missing, given in (("labels", {"scale": 1.0}), ("scale", {"labels": [0, 1]})):
        with pytest.raises(UserError, match=f"Asking needs {missing}: compute_loss"):
            method.compute_loss(x, x, **given)
    with pytest.raises(TypeError, match="Asking takes no lables"):
        method.compute_loss(x, x, lables=[0, 1])
    with pytest.raises(TypeError, match=r"X asks for \['nothing'\]"):
        with_context(lambda teacher, student, *, nothing: 0, "X")


class Gradients(Method):
    """The product of both embeddings, by which each gets a gradient."""

    reads = (Embedding(), Logits())
    reduction = Reduction.SUM

    def loss(self, teacher, student):
        return tf.reduce_sum(teacher["embedding"] * student["embedding"])


class Mutual(Gradients):
    """Trains the teacher too."""

    trains_teacher = True


@pytest.mark.parametrize(("method", "learns"), [(Gradients(), False), (Mutual(), True)])
def test_features_are_prepared(method, learns):
    """Of one type, at least float32, and the teacher's without a gradient unless it learns."""
    teacher, student = (
        method.select({"embedding": tf.ones([2, 3], dtype), "logits": tf.ones([2, 5]), "maps": []})
        for dtype in ("float32", "bfloat16")
    )
    assert set(teacher) == {"embedding", "logits"}
    with tf.GradientTape() as tape:
        tape.watch((teacher, student))
        loss, _ = method.compute(teacher, student)
    assert loss.dtype == tf.float32 and loss == 6
    theirs, ours = tape.gradient(loss, (teacher["embedding"], student["embedding"]))
    assert ours is not None and (theirs is not None) == learns
    assert method.build(teacher, student).stage().reduction is Reduction.SUM


def test_a_loss_that_is_no_scalar_is_refused():
    class OneAnImage(Method):
        reads = Logits()

        def loss(self, teacher, student):
            return tf.reduce_mean(student, axis=1)

    with pytest.raises(UserError, match=r"OneAnImage gives a loss of shape \(2,\)"):
        OneAnImage().compute_loss(tf.zeros([2, 3]), tf.zeros([2, 3]))


def test_what_is_asked_of_a_stage_by_name():
    method, x = distillers.SoftLogits(alpha=0.25), tf.zeros([2, 3])
    loss = method.build(x, x)
    assert loss.stage() is loss.stage("train")
    assert (loss.stage().weight, loss.stage().main_weight) == (0.25, 0.75)
    assert loss.compute(x, x, Context(), loss.stage())[1] == {}
    with pytest.raises(UserError, match="Soft_logits has no stage 'tain'; its stages: train"):
        method.compute_loss(x, x, stage="tain")


def test_a_method_is_one_new_file(tmp_path, monkeypatch):
    """Of under 60 lines: registered by its decorator, with a layer and a metric of its own."""
    source = textwrap.dedent('''
        """The student's embedding, through a layer of the method's own, and the teacher's."""
        import keras
        import tensorflow as tf

        from distillers import Method, register
        from distillers.reading import Embedding, Logits
        from plugins import option


        @register("Added")
        class Added(Method):
            """A method of a test."""

            reads = (Embedding(), Logits())
            metrics = ("furthest",)

            weight: float = option(2.0, above=0)

            def build(self, teacher, student, *, samples=None):
                adapter = keras.layers.Dense(teacher["embedding"].shape[-1], name="adapter")
                adapter.build(student["embedding"].shape)

                def loss(teacher, student, context):
                    squares = tf.square(adapter(student["embedding"]) - teacher["embedding"])
                    return tf.reduce_mean(squares), {"furthest": tf.reduce_max(squares)}

                return self.make_loss(teacher, student, loss, layers=[adapter])
    ''')
    assert len(source.splitlines()) < 60
    (tmp_path / "added_for_a_test.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))  # for this test only
    __import__("added_for_a_test")
    monkeypatch.delitem(sys.modules, "added_for_a_test")
    method = distillers.create("added(weight=5)")
    student, teacher = network(0, "student"), network(1, "teacher", width=2)
    distiller = distillers.Distiller(
        student, method, teacher,
        student_outputs=outputs(student), teacher_outputs=outputs(teacher),
    )
    distiller.compile(keras.optimizers.SGD(0.1))
    (adapter,) = distiller.distillation_losses[0].layers
    before = adapter.kernel.numpy()
    history = distiller.fit(
        tf.data.Dataset.from_tensors(batch(0)).repeat(20), verbose=0, epochs=2, shuffle=False
    ).history
    assert np.any(adapter.kernel.numpy() != before)
    assert any(adapter.kernel is variable for variable in distiller.variables)
    assert not any(adapter.kernel is variable for variable in student.variables)
    assert history["distillation_loss"][1] < history["distillation_loss"][0]
    np.testing.assert_allclose(
        history["weighted_distillation_loss"], np.multiply(5, history["distillation_loss"]),
        rtol=1e-5,
    )
    assert {"furthest", "accuracy", "main_loss"} <= set(history)


def built(units=2):
    layer = keras.layers.Dense(units, name="adapter")
    layer.build((None, 3))
    return layer


@pytest.mark.parametrize(
    ("shares", "layers", "trained", "message"),
    [
        ((1.0, 1.0), [], [], "the shares of its stages add up to 2, not to 1"),
        ((1.0,), [keras.layers.Dense(2, name="adapter")], [], "layer 'adapter' is not built"),
        ((0.5, 0.5), [], [built()], "stage 'one' trains layer 'adapter', which is not among"),
    ],
)
def test_what_would_train_nothing_or_not_be_saved_is_refused(shares, layers, trained, message):
    stages = [
        Stage(name, share, layers=trained)
        for name, share in zip(("one", "two"), shares, strict=False)
    ]
    with pytest.raises(ValueError, match=f"^Mine: {message}"):
        Loss(SimpleNamespace(name="Mine"), stages, layers=layers)
