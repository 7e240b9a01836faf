"""What Keras does not document, by models whose graphs are known."""

import keras
import numpy as np
import pytest

import nets
from nets import keras_graph


def chain():
    """image -> first -> relu -> second, and beside it an unused branch."""
    image = keras.Input((4,), name="image")
    first = keras.layers.Dense(3, name="first")(image)
    keras.layers.Dense(7, name="unused")(first)
    return image, keras.layers.Dense(2, name="second")(keras.ops.relu(first))


def names(operations):
    return [operation.name.rstrip("_0123456789") for operation in operations]


def test_the_producer_of_a_symbolic_tensor_and_of_none():
    image, output = chain()
    assert nets.producer(output).name == "second" == nets.output_layer_of(output)
    assert isinstance(nets.producer(keras.ops.relu(image)), keras.Operation)
    for concrete in (np.zeros(3), keras.ops.zeros(3), None, keras.KerasTensor((3,))):
        assert nets.producer(concrete) is None and keras_graph.call_of(concrete) is None


def test_a_call_states_what_it_was_given():
    image, _ = chain()
    halved = keras.ops.divide(image, 2.0)
    call = keras_graph.call_of(halved)
    assert call.inputs[0] is image and call.outputs[0] is halved
    assert call.arguments[1] == 2.0 and call.keywords == {}


def test_operations_come_in_an_order_in_which_they_can_be_called():
    _, output = chain()
    assert names(nets.operations_before(output)) == ["image", "first", "relu", "second"]
    assert nets.operations_before(np.zeros(3)) == []


def test_a_layer_that_two_paths_share_is_there_once():
    image = keras.Input((4,), name="image")
    shared = keras.layers.Dense(4, name="shared")
    total = keras.layers.Add(name="sum")([shared(image), shared(shared(image))])
    assert names(nets.operations_before(total)) == ["image", "shared", "sum"]
    assert len(keras_graph.calls_before([total])) == 5


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_inner_models_are_unfolded_as_far_as_their_outputs_are_used(kind):
    if kind == "functional":
        within = keras.Input((4,), name="within")
        both = [keras.layers.Dense(3, name=name)(within) for name in ("left", "right")]
        inner, expected = keras.Model(within, both, name="inner"), ["image", "within", "right"]
        use = lambda image: inner(image)[1]  # noqa: E731
    else:
        inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="left")])
        use, expected = inner, ["image", "input_layer", "left"]
    image = keras.Input((4,), name="image")
    output = keras.layers.Dense(2, name="after")(use(image))
    assert names(nets.operations_before([output])) == [*expected, "after"]


def test_deeper_than_pythons_stack():
    image = tensor = keras.Input((2,), name="image")
    for _ in range(1500):
        tensor = keras.ops.add(tensor, 1.0)
    assert len(nets.operations_before(tensor)) == 1501
    assert nets.producer(nets.operations_before(image)[0].output).name == "image"


def test_what_is_untracked_is_no_part_of_the_model_that_has_it():
    held = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])

    class Holder(keras.Model):
        def __init__(self):
            super().__init__()
            self.held = nets.Untracked({"model": held})

    holder = Holder()
    assert holder.held.value["model"] is held and not holder.variables and not holder.layers


def test_a_replaced_call_is_of_one_layer_and_is_not_saved():
    one, other = keras.layers.Dense(1, use_bias=False), keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((1,)), one])
    other.build((None, 1))
    keras_graph.replace_call(one, lambda layer, inputs: 0 * inputs + layer.units + 1.0)
    assert float(model(np.ones((1, 1)))[0, 0]) == 2.0
    assert float(other(np.ones((1, 1)))[0, 0]) == float(other.kernel[0, 0])
    copy = keras.models.clone_model(model)
    assert float(copy(np.ones((1, 1)))[0, 0]) == float(copy.variables[0][0, 0])
