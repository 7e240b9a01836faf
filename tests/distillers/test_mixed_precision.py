"""Every method where the networks compute in bfloat16, and the teacher perhaps in float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import distillers
from distillers import Distiller
from distillers.registration import METHODS
from tests.distillers.models import batch, network, outputs


@pytest.fixture
def mixed_precision():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    yield
    keras.mixed_precision.set_dtype_policy("float32")


def losses(name, teacher, data):
    """What the method loses in each stage, the mean of two steps (after its last stage: the main
    loss)."""
    keras.utils.set_random_seed(5)
    student = network(1, "student")
    distiller = Distiller(
        student, distillers.get(name)(), teacher, samples=8,
        student_outputs=outputs(student), teacher_outputs=outputs(teacher),
    )
    found = []
    for stage in distiller.method.stages:
        distiller.start_stage(stage)
        distiller.compile(keras.optimizers.SGD(1e-3))
        loss = "distillation_loss" if stage.distillation_loss else "main_loss"
        logs = distiller.fit(data.repeat(2), verbose=0, shuffle=False).history
        assert np.all(np.isfinite(list(logs.values()))), stage.name
        found += logs[loss]
    for variable in distiller.variables:
        assert variable.dtype != "bfloat16", variable.path
        assert np.all(np.isfinite(np.array(variable))), variable.path
    return found


@pytest.mark.parametrize("name", [name for name in METHODS.names() if name not in ("None", "CO")])
def test_losses_are_those_of_float32_but_for_rounding(name, mixed_precision):
    """Both networks in mixed_bfloat16, and the student alone."""
    data = tf.data.Dataset.from_tensors(batch(3))
    found = losses(name, network(2, "teacher", width=2), data)
    keras.mixed_precision.set_dtype_policy("float32")
    teacher = network(2, "teacher", width=2)
    expected = losses(name, teacher, data)
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    from_float32 = losses(name, teacher, data)
    # PKT's and RKD's losses are small differences between what rounding moves.
    close = pytest.approx(expected, rel=0.03, abs=2e-5)
    assert found == close
    assert from_float32 == close
