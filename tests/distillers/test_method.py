"""Hyper-parameters, registration, and a method added as one file."""

import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import distillers
from distillers import checks
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
    method = distillers.SSKD_SVD.configured("SSKD_SVD", num_dfv="3", solver="svd")
    assert (method.num_dfv, method.solver, method.gradient) == (3, "svd", "exact")
    assert distillers.SoftLogits.configured("Soft_logits", temperature="2").temperature == 2.0
    assert set(distillers.SSKD_SVD.hyper_parameters()) == {
        "num_dfv", "gradient", "orientation", "solver",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_dvf": "1"}, "SSKD_SVD has no hyper-parameter 'num_dvf'.*did you mean 'num_dfv'"),
        ({"num_dfv": "many"}, "num_dfv must be .*int.*'many'"),
        ({"num_dfv": "1.5"}, "num_dfv must be"),
        ({"num_dfv": "-2"}, "num_dfv must be"),
    ],
)
def test_wrong_hyper_parameters_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        distillers.SSKD_SVD.configured("SSKD_SVD", **given)


def test_taps_have_to_pair():
    maps = [tf.zeros([2, 4, 4, 3]), tf.zeros([2, 5])]
    checks.tap_pairs("X", maps, maps, at_least=2)
    with pytest.raises(UserError, match="teacher has 2, the student 1"):
        checks.tap_pairs("X", maps, maps[:1], at_least=1)
    with pytest.raises(UserError, match="at least 3"):
        checks.tap_pairs("X", maps, maps, at_least=3)
    with pytest.raises(UserError, match="tap 2 has 5 in the teacher.* and 6 in the student"):
        checks.tap_pairs("X", maps, [maps[0], tf.zeros([2, 6])], at_least=2)
    any_size = keras.Input((None, None, 3))
    with pytest.raises(UserError, match="tap 1 of the student is of any"):
        checks.tap_pairs("X", maps[:1], [any_size], at_least=1)


def test_a_method_is_one_new_file(tmp_path, monkeypatch):
    """Of under 60 lines: registered by its decorator, with a layer and a figure of its own."""
    source = textwrap.dedent('''
        """The student's embedding, by a layer of the method's own, is to be the teacher's."""
        import dataclasses

        import keras
        import tensorflow as tf

        from distillers import Method, register


        @register("Added")
        @dataclasses.dataclass(eq=False)
        class Added(Method):
            """A method of a test."""

            reads = ("embedding", "logits")
            figures = ("furthest",)
            strength: float = 2.0

            @property
            def distillation_weight(self):
                return self.strength

            @property
            def layers(self):
                return [self.adapter]

            def build(self, teacher_outputs, student_outputs):
                self.adapter = keras.layers.Dense(teacher_outputs["embedding"].shape[-1])
                self.adapter.build(student_outputs["embedding"].shape)

            def compute(self, teacher_outputs, student_outputs, **context):
                adapted = self.adapter(student_outputs["embedding"])
                squares = tf.square(adapted - teacher_outputs["embedding"])
                return tf.reduce_mean(squares), {"furthest": tf.reduce_max(squares)}
    ''')
    assert len(source.splitlines()) < 60
    (tmp_path / "added_for_a_test.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))  # for this test only
    __import__("added_for_a_test")
    monkeypatch.delitem(sys.modules, "added_for_a_test")
    method = distillers.get("added").configured("Added", strength="5")
    student, teacher = network(0, "student"), network(1, "teacher", width=2)
    distiller = distillers.Distiller(
        student, method, teacher,
        student_outputs=outputs(student), teacher_outputs=outputs(teacher),
    )
    distiller.compile(keras.optimizers.SGD(0.1))
    before = method.adapter.kernel.numpy()
    history = distiller.fit(tf.data.Dataset.from_tensors(batch(0)).repeat(20), verbose=0, epochs=2)
    assert np.any(method.adapter.kernel.numpy() != before)
    assert any(method.adapter.kernel is variable for variable in distiller.variables)
    assert not any(method.adapter.kernel is variable for variable in student.variables)
    losses = history.history["distillation_loss"]
    assert losses[1] < losses[0]
    assert {"furthest", "accuracy", "main_loss"} <= set(history.history)
