"""What holds for every task."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import pretext
from pretext.registration import split_tasks
from pretext.task import Images, Task, Views, build_task
from pretext.two_views import TwoViewTask
from registry import UserError
from tests.pretext.examples import WIDTH, Example, built, encoded, images, uniform

TASKS = (
    "reconstruction", "inpainting", "colorization", "rotation", "jigsaw", "instance",
    "barlow_twins", "vicreg", "simsiam",
)
COUPLED = ("instance", "barlow_twins", "vicreg", "simsiam")
SHAPES = ((32, 32, 3), (28, 28, 1), (64, 49, 3), (224, 224, 3))
CASES = [
    (name, shape) for name in TASKS for shape in SHAPES if (name, shape[2]) != ("colorization", 1)
]


def outputs(task, x, draws):
    inputs, target = task.views(tf.constant(x), tf.constant(draws))
    h = task.embed(encoded(inputs))
    return inputs, target, h, task.predict(h)


def test_all_are_there_and_of_both_kinds():
    assert set(TASKS) <= set(pretext.TASKS.names())
    assert {pretext.TASKS.get(name).kind for name in TASKS} == {"generative", "discriminative"}
    assert all(pretext.TASKS.get(name).name == name for name in TASKS)


def test_names_are_parsed():
    assert split_tasks("Rotation, jig-saw(tiles=3)") == ["rotation", "jigsaw(tiles=3)"]
    with pytest.raises(UserError, match="did you mean 'rotation'"):
        split_tasks("rotatoin")
    with pytest.raises(UserError, match="twice"):
        split_tasks("rotation,jigsaw,ROTATION(weight=2)")
    with pytest.raises(UserError, match="no task"):
        split_tasks(" ,")


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_shapes_and_ranges(name, shape):
    task = built(name, shape)
    x, draws = images(3, shape), uniform(3, Example(name, shape))
    inputs, target, h, output = outputs(task, x, draws)
    assert len(inputs) == task.view_count
    for view in inputs:
        assert view.shape == (3, *task.view_shape) and view.dtype == tf.float32
        assert np.min(view) >= 0 and np.max(view) <= 1
    assert task.vector(h).shape == (3, WIDTH)
    assert {part.dtype for part in (h, *tf.nest.flatten(output))} == {tf.float32}
    loss, score = task.loss(output, target), task.score(output, target)
    assert loss.shape == () and loss.dtype == tf.float32 and np.isfinite(loss)
    assert score.shape == (3,) and score.dtype == tf.float32 and np.all(np.isfinite(score))
    pictures = task.pictures(inputs, output, target)
    assert (pictures is not None) == (task.kind == "generative")
    if pictures is not None:
        assert pictures.shape == (3, shape[0], 3 * shape[1], shape[2])
        assert np.min(pictures) >= 0 and np.max(pictures) <= 1
        np.testing.assert_array_equal(pictures[:, :, 2 * shape[1] :], x)


@pytest.mark.parametrize("name", TASKS)
def test_views_are_an_images_own(name):
    """Whatever else is in the batch, the same numbers make the same view; others another one."""
    task = Example(name, (32, 32, 3))
    x, draws = images(6, (32, 32, 3)), uniform(6, task)
    whole, _ = task.views(tf.constant(x), tf.constant(draws))
    part, _ = task.views(tf.constant(x[4:1:-1]), tf.constant(draws[4:1:-1]))
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_allclose(one[4:1:-1], other, atol=1e-6)
    moved, _ = task.views(tf.constant(x), tf.constant((draws + 0.37) % 1))
    differs = max(
        np.max(np.abs(one - other)) for one, other in zip(whole, moved, strict=True)
    )
    assert differs > 0.1 or name == "colorization"


@pytest.mark.parametrize("name", TASKS)
def test_neck_and_head_are_reached_and_the_encoder_through_h_alone(name):
    task = built(name)
    x, draws = images(4, (32, 32, 3)), uniform(4, task)
    inputs, target = task.views(tf.constant(x), tf.constant(draws))
    maps = encoded(inputs)
    variables = [variable for layer in task.layers for variable in layer.trainable_variables]
    values = [variable.value for variable in variables]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(maps)
        h = task.embed(maps)
        loss = task.loss(task.predict(h), target)
        cut = task.loss(task.predict(tf.stop_gradient(h)), target)
        vector = tf.reduce_sum(task.vector(h))
    for gradient in (*tape.gradient(loss, maps), *tape.gradient(vector, maps)):
        assert np.any(gradient) and np.all(np.isfinite(gradient))
    gradients = tape.gradient(loss, values)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    kernels = [g for g, v in zip(gradients, variables, strict=True) if v.path.endswith("kernel")]
    assert kernels and all(np.any(kernel) for kernel in kernels)
    assert tape.gradient(cut, maps) == [None] * len(maps)


def test_layers_of_different_tasks_have_different_names():
    names = [variable.path for name in TASKS for layer in built(name).layers
             for variable in layer.variables]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", [name for name in TASKS if name not in COUPLED])
def test_the_loss_of_a_batch_is_the_mean_over_its_images(name):
    task = built(name)
    assert not task.couples_samples
    x, draws = images(5, (32, 32, 3)), uniform(5, task)
    _, target, _, output = outputs(task, x, draws)
    alone = [
        task.loss(output[i : i + 1], tf.nest.map_structure(lambda t, i=i: t[i : i + 1], target))
        for i in range(5)
    ]
    np.testing.assert_allclose(task.loss(output, target), np.mean(alone), rtol=1e-5)


def test_the_tasks_of_two_views_share_what_makes_them():
    for name in COUPLED:
        assert pretext.TASKS.get(name).views is TwoViewTask.views


@pytest.mark.parametrize("name", [name for name in TASKS if name not in COUPLED[1:]])
def test_compiled_by_xla(name):
    task = Example(name, (28, 28, 3))
    x, draws = tf.constant(images(3, (28, 28, 3))), tf.constant(uniform(3, task))
    compiled = tf.function(task.views, jit_compile=True)(x, draws)
    for one, other in zip(
        tf.nest.flatten(compiled), tf.nest.flatten(task.views(x, draws)), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_training_neck_and_head_lowers_the_loss(name):
    """On one batch: what the head is asked for can be learned from h."""
    task = built(name)
    x, draws = images(16, (32, 32, 3)), uniform(16, task)
    inputs, target = task.views(tf.constant(x), tf.constant(draws))
    # Maps in which images differ more than their noise does.
    own = np.random.default_rng(3).normal(size=(16, 1, 1, 8)).astype(np.float32)
    maps = [view + own for view in encoded(inputs)]
    optimizer = tf.keras.optimizers.Adam(3e-3)
    variables = [variable for layer in task.layers for variable in layer.trainable_variables]

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = task.loss(task.predict(task.embed(maps, training=True), training=True), target)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    optimizer.build(variables)
    losses = [float(step()) for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_neck_that_makes_its_weights_too_late_is_refused():
    class Late(Task):
        def views(self, images):
            return Views(images.shape, 0, lambda images, draws: (images, ()), 1)

        def build(self, images, features, width):
            return keras.layers.Dense(width, name="neck"), keras.layers.Dense(4)

    with pytest.raises(ValueError, match="layer 'neck' is not built: call its build"):
        build_task(Late(), Images((8, 8, 3)), lambda shape: (2, 2, 3), 5)
