"""Whether a GPU can compute a whole training step, and where it waits for the host."""

import keras
import pytest
import tensorflow as tf

from distillers import Distiller, create
from op_util.devices import assume_device
from tests.distillers import models
from tests.gpu_kernels import waits_for_the_host, without_gpu_kernel

# Copies of a few bytes to the host that SSKD_SVD's step cannot do without, and why.
WAITS = {
    "All(bool, int32) -> If(bool": "whether all samples are certified, and known in float32",
    "Any(bool, int32) -> If(bool": "whether a gradient has been solved for",
    "All(bool, int32) -> StatelessIf(bool": "the same",
    "Any(bool, int32) -> StatelessIf(bool": "the same",
    "ReadVariableOp(resource) -> Sub(int32)": "the epoch, on which the clip depends",
}

needs_cuda = pytest.mark.skipif(
    not tf.test.is_built_with_cuda(), reason="this TensorFlow has no kernels for GPUs registered"
)


def training_step(name):
    """The concrete function of a training step as it is on a GPU."""
    keras.utils.set_random_seed(0)
    teacher, student = models.network(0, "teacher", width=2), models.network(1, "student")
    with assume_device("GPU"):
        distiller = Distiller(
            student, create(name), teacher, student_outputs=models.outputs(student),
            teacher_outputs=models.outputs(teacher), samples=100,
        )
        distiller.compile()
        distiller.optimizer.build(distiller.variables_to_train())
        batch = {key: tf.constant(value) for key, value in models.batch(0).items()}
        return tf.function(distiller.train_step, autograph=False).get_concrete_function(batch)


@needs_cuda
@pytest.mark.slow
def test_sskd_svd_on_a_gpu():
    step = training_step("SSKD_SVD")
    assert not without_gpu_kernel(step)
    waits = {wait for wait in waits_for_the_host(step) if not wait.startswith(tuple(WAITS))}
    assert not waits


@needs_cuda
@pytest.mark.slow
@pytest.mark.parametrize("name", ["CRD", "RKD", "FSP", "Soft_logits"])
def test_other_methods_on_a_gpu(name):
    assert not without_gpu_kernel(training_step(name))


@needs_cuda
def test_what_has_no_kernel_is_found():
    """Also inside a branch; and a number that the host has to know."""

    @tf.function
    def step(x):
        return tf.cond(
            tf.reduce_sum(x) > 0,
            lambda: tf.strings.to_number(tf.strings.as_string(x)),
            lambda: tf.reshape(x, [tf.cast(tf.reduce_max(x), tf.int32), -1]),
        )

    function = step.get_concrete_function(tf.TensorSpec([None, None]))
    assert without_gpu_kernel(function) == {"AsString(float32)", "StringToNumber(string)"}
    waits = waits_for_the_host(function)
    assert "Greater(float32) -> StatelessIf(bool, float32)" in waits
    assert any(wait.endswith("-> Pack(int32)") for wait in waits)


@needs_cuda
def test_argmax_of_int32_has_no_kernel():
    step = tf.function(lambda x: tf.argmax(x, axis=1))
    found = [
        without_gpu_kernel(step.get_concrete_function(tf.TensorSpec([None, 3], dtype)))
        for dtype in (tf.float32, tf.int32)
    ]
    assert found == [set(), {"ArgMax(int32)"}]
