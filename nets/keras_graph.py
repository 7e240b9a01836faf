"""Every use of what Keras does not document, in one place.

Keras' public interface does not say which layer made a symbolic tensor, which calls lead to it, or
which layers a model holds at any depth. Whatever needs that asks this module, and no other module
reads a private attribute of a Keras object (tests/test_structure.py looks for them). Written for
Keras 3.15. What each function relies on, and what to do when a new Keras changes it:

- `producer`, `call_of`, `calls_before`, `operations_before`, `output_layer_of`, `innermost`,
  `inner_output`: a symbolic tensor has ``_keras_history`` (operation, node_index, tensor_index), an
  operation has ``_inbound_nodes``, and a node has ``operation``, ``arguments``, ``input_tensors``
  and ``output_tensors``. Only `_history` and `_node` read these: find their new names in
  ``keras/src/ops/{symbolic_arguments,node,operation}.py``.
- `reserve_names`: `keras.backend.get_uid`, by which Keras numbers what gets no name, is public.
- `numbered_anew`: the numbers by name are a global attribute of Keras, ``object_name_uids``
  (``keras/src/utils/naming.py``). Should it move, layers of `keras.applications` that have no name
  of their own are called otherwise in each process, which tests/nets/test_applications.py shows.
- `was_called`: ``_inbound_nodes`` again; an operation that was never called has none.
- `all_layers`: ``Layer._flatten_layers``. Without it: walk over ``Model.layers``, and over the
  attributes of layers that hold others.
- `inner_layers`: ``Layer._flatten_layers`` again, one level deep.
- `replace_call`, `replaced_call`: Keras looks ``call`` up on the instance at each call, so that an
  instance's attribute takes the class's place. Should Keras look on the class: give the layer a
  subclass that keeps the name under which it is saved.
- `replace_convolution`: likewise ``convolution_op``, which ``Conv2D.call`` calls with maps and
  kernel. Should Keras not call it any more, convolutions are as slow as Keras' own, which
  tests/nets/test_convolutions.py shows.
- `BuiltModel`: ``Trainer._maybe_symbolic_build`` is called before the first step of `fit`, and
  ``Trainer._make_function`` makes the function that takes a step from an iterator. Should the first
  name change, `fit` on several replicas fails with unequally large parts of a batch, which
  tests/pretext shows; should the second, `fit` with several workers fails at its first step, as
  Keras then averages numbers along an axis that they do not have (keras#20585, tensorflow#72388).
  Where Keras can do it itself: leave the method out.
- `apply_summed`: ``Optimizer._all_reduce_sum_gradients`` is called within ``apply_gradients``.
  Should the name change, gradients are summed twice, which tests/distillers/data_parallel.py shows:
  divide them by the number of replicas beforehand.
- `before_weights`: puts a function in the place of `keras.Layer.add_weight` for a while. The name
  and the order of its arguments (shape, initializer, dtype) are public.
- `holds_code`, `unknown_class`: parse the texts of errors that `keras.saving.load_model` raises
  (``keras/src/saving/serialization_lib.py``). Where a text changes, a message is less clear, and
  tests/nets/test_stored.py fails; nothing that was refused is loaded.
- `Untracked`: Keras tracks layers, variables, lists and dicts that become attributes
  (``keras/src/utils/tracking.py``), and no other objects. Should it look into these as well:
  exclude them by ``Tracker.lock`` or by ``__slots__``.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from types import MethodType
from typing import Any, Generic, NamedTuple, TypeVar

import keras
import tensorflow as tf
from keras.src.backend.common import global_state

from registry import UserError

from .functional import as_functional, is_functional

T = TypeVar("T")


class Call(NamedTuple):
    """One call of a layer, a model or an operation of `keras.ops` within a graph of Keras.

    Attributes:
        operation: what was called.
        inputs: the symbolic tensors among its arguments, nested ones included.
        outputs: the symbolic tensors that it gave.
        arguments: positional arguments as they were given.
        keywords: keyword arguments.
    """

    operation: keras.Operation
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


class Untracked(Generic[T]):
    """Holds anything where Keras does not look, to be an attribute of a model or a layer.

    What is in it is no part of the model that has it: its variables are not in the model's, so
    they are neither trained, saved nor exported with it.

    Args:
        value: for example another model, or a dict of models.

    Attributes:
        value: as given; may be replaced.
    """

    def __init__(self, value: T):
        self.value = value


class BuiltModel(keras.Model):
    """A model that made all of its variables in its constructor, so that `fit` builds nothing.

    Keras would otherwise first run a step on symbolic tensors, for which it averages the replicas'
    parts of a batch, and fails where they are not of equal size.
    """

    losses_come_from = "the model's own"

    def compile(
        self, optimizer: Any = None, loss: Any = None, loss_weights: Any = None,
        metrics: Any = None, weighted_metrics: Any = None, **kwargs: Any,
    ) -> None:
        """As `keras.Model.compile`, for models with losses and metrics of their own.

        Raises:
            UserError: losses or metrics are given, or an optimizer that expects scaled losses, as
                one does that Keras makes for float16: it would divide the gradients by its scale;
                or one with moving averages of the weights.
        """
        given = {"loss": loss, "loss_weights": loss_weights, "metrics": metrics,
                 "weighted_metrics": weighted_metrics}
        kind = type(self).__name__
        for name in (name for name, value in given.items() if value is not None):
            raise UserError(
                f"compile got {name}, but a {kind} has losses and metrics of its own: leave it "
                f"out, and give {self.losses_come_from} instead"
            )
        super().compile(optimizer=optimizer, **kwargs)
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            raise UserError(
                f"compile got a LossScaleOptimizer, as for float16, but a {kind} does not scale "
                "its losses: use the dtype policy mixed_bfloat16, or give the optimizer itself and "
                "auto_scale_loss=False"
            )
        if getattr(self.optimizer, "loss_scale_factor", None):
            raise UserError(
                f"compile got an optimizer with loss_scale_factor, but a {kind} does not scale its "
                "losses, so it would only divide the learning rate: leave it out"
            )
        if getattr(self.optimizer, "use_ema", False):
            # Keras assigns them by position to `trainable_weights`, and not all of those train.
            raise UserError(
                f"compile got an optimizer with use_ema=True, whose moving averages a {kind} "
                "cannot assign to its weights: leave use_ema out"
            )

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        pass

    def _make_function(self, step_function: Callable[[Any], dict[str, tf.Tensor]]) -> Any:
        """The function that takes a step from an iterator. With several workers, it returns only
        the logs of this worker's first device; Keras reads the metrics, which cover all workers, at
        the end of the epoch."""
        strategy = self.distribute_strategy
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return super()._make_function(step_function)
        if self.steps_per_execution != 1:
            raise UserError(
                "steps_per_execution is for one worker: leave it out with several workers"
            )

        @tf.autograph.experimental.do_not_convert
        def step(iterator: Any) -> dict[str, tf.Tensor]:
            logs = strategy.run(step_function, args=(iterator.get_next(),))
            return tf.nest.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], logs
            )

        if self.run_eagerly:
            return step
        return tf.function(step, reduce_retracing=True, jit_compile=self.jit_compile)


def apply_summed(
    optimizer: keras.Optimizer, gradients: Sequence[tf.Tensor | None],
    variables: Sequence[keras.Variable],
) -> None:
    """Update `variables` with gradients that are summed over replicas already. A variable whose
    gradient is None stays as it is.

    Where there are several replicas the optimizer, which would sum them once more, does so no
    longer.
    """
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        for each in (optimizer, getattr(optimizer, "inner_optimizer", optimizer)):
            each._all_reduce_sum_gradients = list
    optimizer.apply_gradients(
        (gradient, variable)
        for gradient, variable in zip(gradients, variables, strict=True)
        if gradient is not None
    )


def _history(tensor: Any) -> Any:
    """(operation, node_index, tensor_index) of a symbolic tensor; None of any other object."""
    return getattr(tensor, "_keras_history", None)


def _node(tensor: keras.KerasTensor) -> Any:
    """The call that gave a symbolic tensor, as Keras keeps it."""
    history = _history(tensor)
    return history.operation._inbound_nodes[history.node_index]


def _as_call(node: Any) -> Call:
    arguments = node.arguments
    return Call(
        node.operation, list(node.input_tensors), list(node.output_tensors),
        tuple(arguments.args), dict(arguments.kwargs),
    )


def producer(tensor: Any) -> keras.Operation | None:
    """The layer, model or operation whose output a symbolic tensor is.

    Args:
        tensor: anything.

    Returns:
        None for a concrete tensor, or a symbolic one that belongs to no graph.
    """
    history = _history(tensor)
    return None if history is None else history.operation


def call_of(tensor: Any) -> Call | None:
    """The call that gave a symbolic tensor; None where `producer` gives None."""
    return None if _history(tensor) is None else _as_call(_node(tensor))


def innermost(tensor: Any) -> Any:
    """The tensor of a model within the model, or of one within that, whose output `tensor` is.

    Args:
        tensor: symbolic, or anything else, which is given back.
    """
    while _history(tensor) is not None and is_functional(_history(tensor).operation):
        tensor = inner_output(tensor)
    return tensor


def inner_output(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """What an output of a model within the model is in that model's own graph."""
    history = _history(tensor)
    return as_functional(history.operation).outputs[history.tensor_index]


def output_layer_of(tensor: keras.KerasTensor) -> str:
    """The name of the layer that makes a symbolic tensor."""
    return _history(tensor).operation.name


def calls_before(tensors: Sequence[keras.KerasTensor]) -> list[Call]:
    """The calls that lead to symbolic tensors, each once, in an order in which they can be made.

    A model within the model is one call. The inputs of the graph are calls of `InputLayer`.
    """
    found: dict[int, Any] = {}
    waiting = list(reversed(tensors))
    while waiting:  # No recursion: networks are deeper than Python's stack.
        node = _node(waiting[-1])
        missing = [] if id(node) in found else [
            tensor for tensor in node.input_tensors if id(_node(tensor)) not in found
        ]
        if missing:
            waiting += reversed(missing)
        else:
            found.setdefault(id(node), node)
            waiting.pop()
    return [_as_call(node) for node in found.values()]


def operations_before(tensors: Any) -> list[keras.Operation]:
    """All layers and operations that lead to symbolic tensors, those of inner models included.

    Args:
        tensors: a symbolic tensor, or any structure of them; concrete tensors have none.

    Returns:
        Each once, in an order in which they can be called. In place of a functional model within
        the model stand the operations that lead to those of its outputs that are used (and to
        each of its inputs).
    """
    found: dict[int, keras.Operation] = {}
    symbolic = [tensor for tensor in keras.tree.flatten(tensors) if _history(tensor) is not None]
    calls = calls_before(symbolic)
    needed = {id(tensor) for tensor in symbolic} | {id(t) for call in calls for t in call.inputs}
    for call in calls:
        if is_functional(call.operation):
            inner = as_functional(call.operation).outputs
            used = [own for own, given in zip(inner, call.outputs, strict=True)
                    if id(given) in needed]
            within = operations_before(used)
        else:
            within = [call.operation]
        found.update({id(operation): operation for operation in within})
    return list(found.values())


def reserve_names(model: keras.Model) -> None:
    """Make sure that new operations get names which `model` does not use. Keras restarts its
    numbering in each process, and refuses a graph with two operations of one name."""
    for operation in operations_before(model.outputs):
        prefix, number = re.fullmatch(r"(.*?)(?:_(\d{1,6}))?", operation.name).groups()
        while keras.backend.get_uid(prefix) <= int(number or 0):
            pass


@contextlib.contextmanager
def numbered_anew() -> Iterator[None]:
    """Within this context, Keras numbers what gets no name as in a new process; whatever is made
    afterwards gets a name that has been given neither within it nor before."""
    key = "object_name_uids"
    before = global_state.get_global_attribute(key) or {}
    global_state.set_global_attribute(key, collections.defaultdict(int))
    try:
        yield
    finally:
        within = global_state.get_global_attribute(key)
        larger = {name: max(within.get(name, 0), before.get(name, 0)) for name in within | before}
        global_state.set_global_attribute(key, collections.defaultdict(int, larger))


def was_called(operation: keras.Operation) -> bool:
    """Whether a layer or an operation is a part of any graph."""
    return bool(operation._inbound_nodes)


def all_layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """A layer or a model itself and all layers within it, at any depth, each once."""
    return layer._flatten_layers()


def inner_layers(layer: keras.Layer) -> list[keras.Layer]:
    """The layers directly within a layer, in the order in which it got them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def replace_call(layer: keras.Layer, call: Callable[..., Any]) -> None:
    """Let one layer compute by another function; it is saved, cloned and named as before.

    Args:
        layer: of which only this instance changes.
        call: takes the layer and what the layer's own ``call`` takes.
    """
    layer.call = MethodType(call, layer)


def replace_convolution(
    layer: keras.layers.Conv2D, convolve: Callable[[keras.layers.Conv2D, Any, Any], Any]
) -> None:
    """Let one layer convolve by another function; it is saved, cloned and named as before.

    Args:
        layer: of which only this instance changes.
        convolve: takes the layer, maps and kernel, and gives maps without bias and activation.
    """
    layer.convolution_op = MethodType(convolve, layer)


@contextlib.contextmanager
def replaced_call(layer: keras.Layer, call: Callable[..., Any]) -> Iterator[None]:
    """Within it, one layer computes by another function, as after `replace_call`; afterwards by
    the one that it had before."""
    own = vars(layer).get("call")
    replace_call(layer, call)
    try:
        yield
    finally:
        if own is None:
            del layer.call
        else:
            layer.call = own


@contextlib.contextmanager
def before_weights(check: Callable[[Sequence[Any], str], None]) -> Iterator[None]:
    """Within this context, `check` is called before a layer makes a variable.

    Args:
        check: takes the variable's shape and dtype; what it raises, the layer's maker gets.
    """
    made = keras.Layer.add_weight

    @functools.wraps(made)
    def checked(
        layer: keras.Layer, shape: Any = None, initializer: Any = None, dtype: Any = None,
        *args: Any, **kwargs: Any,
    ) -> Any:
        sizes = () if shape is None else (shape,) if isinstance(shape, int) else tuple(shape)
        if all(isinstance(size, Integral) for size in sizes):  # Keras refuses others
            check(sizes, dtype or layer.variable_dtype)
        return made(layer, shape, initializer, dtype, *args, **kwargs)

    keras.Layer.add_weight = checked
    try:
        yield
    finally:
        keras.Layer.add_weight = made


def holds_code(error: Exception) -> bool:
    """Whether Keras refused to load a model because it holds Python code."""
    return "safe_mode=False" in str(error)


def unknown_class(error: Exception) -> str | None:
    """The class or function that Keras did not find as it loaded a model; None: no such error."""
    found = re.search(
        r"(?:Could not locate \w+|Unknown \w+:) '([^']+)'"
        r"|Could not deserialize \w+ '([^']+)' because its parent module", str(error)
    )
    return found and (found[1] or found[2])
