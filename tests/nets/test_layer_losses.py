"""What layers add to the loss, in each thread for itself."""

import threading

import keras
import numpy as np

from nets.layer_losses import collected_losses, weight_losses

IMAGES = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


def penalised():
    layers = keras.layers.Dense(
        2, kernel_regularizer=keras.regularizers.L2(0.5),
        activity_regularizer=keras.regularizers.L2(0.1),
    )
    return keras.Sequential([keras.Input((3,)), layers])


def test_losses_are_kerass_own():
    model = penalised()
    with collected_losses() as found:
        outputs = model(IMAGES)
    kernel = model.layers[0].kernel.numpy()
    expected = [0.1 * np.sum(np.square(outputs)) / 4, 0.5 * np.sum(kernel**2)]
    np.testing.assert_allclose([*found, *weight_losses(model)], expected, rtol=1e-6)
    np.testing.assert_allclose(model.losses, expected[1:], rtol=1e-6)  # nothing left with Keras
    model(IMAGES)
    np.testing.assert_allclose(model.losses, expected, rtol=1e-6)


def test_threads_that_take_turns_have_losses_of_their_own():
    """As replicas do where they wait for each other within the model."""
    barrier, found = threading.Barrier(2), {}

    class Waits(keras.layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.sum(x))
            barrier.wait(10)
            self.add_loss(keras.ops.max(x))
            return x

    waits = Waits()

    def replica(number):
        with collected_losses() as losses:
            waits(keras.ops.convert_to_tensor(IMAGES * number))
            found[number] = [float(loss) for loss in losses]

    threads = [threading.Thread(target=replica, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in (1, 2):
        np.testing.assert_allclose(
            found[number], [IMAGES.sum() * number, IMAGES.max() * number], rtol=1e-5
        )
