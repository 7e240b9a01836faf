"""Networks that compute as their int8 files will, to be trained so.

`quantize` copies a network, folds its batch normalisation into the layers before it, and rounds
weights and activations in the forward pass to what eight bits can hold (fake quantisation); the
gradient passes through the rounding (Jacob et al., "Quantization and training of neural networks
for efficient integer-arithmetic-only inference", CVPR 2018). What is rounded, and where, is what
LiteRT's int8 kernels do:

- weights per output channel, symmetric, -127..127; biases not, as they have 32 bits,
- activations per tensor, with a zero point, -128..127: the image, and what convolutions, dense
  layers, sums, concatenations and global pooling give, after their ReLU where one follows.

The ranges of the activations are measured on images first and then learned (Esser et al., "Learned
step size quantization", ICLR 2020, for the scale of their gradients).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from registry import UserError

from .copying import copy_model
from .functional import as_functional, is_functional
from .keras_graph import Call, calls_before, output_layer_of, producer

_PACKAGE = "quantization"
_LEVELS = 127
_SMALLEST = 1e-6  # of a range, so that a tensor of zeros has a scale

_WEIGHTED = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
_RECTIFIERS = (keras.layers.ReLU, keras.layers.LeakyReLU)
_ACTIVATIONS = tuple(
    getattr(keras.activations, name) for name in ("linear", "relu", "relu6")
)
# Their output has a range of its own.
_RANGED = (
    *_WEIGHTED, *_RECTIFIERS, keras.layers.Activation, keras.layers.Add, keras.layers.Subtract,
    keras.layers.Multiply, keras.layers.Average, keras.layers.Concatenate,
    keras.layers.GlobalAveragePooling2D,
)
# Their output has the range of their input.
_PASSING = (
    keras.layers.InputLayer, keras.layers.MaxPooling2D, keras.layers.AveragePooling2D,
    keras.layers.GlobalMaxPooling2D, keras.layers.Flatten, keras.layers.Reshape,
    keras.layers.Permute, keras.layers.Dropout, keras.layers.SpatialDropout2D,
    keras.layers.Identity, keras.layers.ZeroPadding2D, keras.layers.Cropping2D,
    keras.layers.UpSampling2D, keras.layers.ActivityRegularization,
)
# Become convolutions of 1x1, see `fold_batch_normalization`.
_SCALING = (
    keras.layers.BatchNormalization, keras.layers.Rescaling, keras.layers.Normalization,
)
_RANGED_OPERATIONS = {"Add", "Subtract", "Multiply", "Concatenate", "Relu", "Relu6"}
_PASSING_OPERATIONS = {"Pad", "Reshape", "Transpose", "Squeeze", "ExpandDims", "GetItem"}
"""Of `keras.ops`, by their class's name: Keras does not name the classes publicly."""


# Rounding


def fake_quantize_weights(kernel: tf.Tensor) -> tf.Tensor:
    """A kernel rounded to eight bits for each output channel, the last axis; symmetric about 0.

    The gradient is that of the kernel itself, as all of it lies within the range. float32 of the
    same shape.
    """
    largest = tf.reduce_max(tf.abs(kernel), axis=tf.range(tf.rank(kernel) - 1))
    largest = tf.stop_gradient(tf.maximum(largest, _SMALLEST))
    return tf.quantization.fake_quant_with_min_max_vars_per_channel(
        kernel, -largest, largest, num_bits=8, narrow_range=True
    )


@keras.saving.register_keras_serializable(_PACKAGE)
class FakeQuantize(keras.layers.Layer):
    """Rounds activations to 256 levels between `low` and `high`, of which 0 is one.

    The gradient passes to what lies within the range, and to the range's ends from what lies
    outside. Shapes and dtype (float32) stay as they are.
    """

    def build(self, input_shape: Sequence[int | None]) -> None:
        self.low = self.add_weight(shape=(), initializer="zeros", name="low")
        self.high = self.add_weight(shape=(), initializer="ones", name="high")
        # The share of all clipped elements' gradients, by which ends move about as weights do.
        sizes = [size for size in input_shape[1:] if size]
        self._share = 1 / float(np.sqrt(np.prod(sizes) * _LEVELS))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        # Keras would call it with a sparse tensor, for which it takes products with numbers.
        return input_shape

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        low, high = (
            self._share * end + (1 - self._share) * tf.stop_gradient(end)
            for end in (tf.convert_to_tensor(self.low), tf.convert_to_tensor(self.high))
        )
        low, high = tf.minimum(low, 0.0), tf.maximum(high, 0.0)
        high = tf.maximum(high, low + _SMALLEST)
        return tf.quantization.fake_quant_with_min_max_vars(inputs, low, high, num_bits=8)


@keras.saving.register_keras_serializable(_PACKAGE)
class QuantizedConv2D(keras.layers.Conv2D):
    """A convolution whose kernel is rounded, see `fake_quantize_weights`."""

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return super().convolution_op(inputs, fake_quantize_weights(tf.convert_to_tensor(kernel)))


@keras.saving.register_keras_serializable(_PACKAGE)
class QuantizedDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """A depthwise convolution likewise; an output channel is one of input and multiplier."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        rounded = keras.ops.depthwise_conv(
            inputs, self.rounded_kernel(), strides=self.strides, padding=self.padding,
            data_format=self.data_format, dilation_rate=self.dilation_rate,
        )
        return self.activation(rounded + self.bias if self.use_bias else rounded)

    def rounded_kernel(self) -> tf.Tensor:
        """The kernel ``[h, w, inputs, multiplier]``, rounded."""
        kernel = tf.convert_to_tensor(self.kernel)
        flat = tf.reshape(kernel, [*kernel.shape[:2], kernel.shape[2] * kernel.shape[3]])
        return tf.reshape(fake_quantize_weights(flat), kernel.shape)


@keras.saving.register_keras_serializable(_PACKAGE)
class QuantizedDense(keras.layers.Dense):
    """A dense layer likewise."""

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        kernel = fake_quantize_weights(tf.convert_to_tensor(self.kernel))
        rounded = keras.ops.matmul(inputs, kernel)
        return self.activation(rounded + self.bias if self.use_bias else rounded)


_ROUNDING = {
    keras.layers.Conv2D: QuantizedConv2D,
    keras.layers.DepthwiseConv2D: QuantizedDepthwiseConv2D,
    keras.layers.Dense: QuantizedDense,
}


# Copies


def quantize(model: keras.Model, batches: Iterable[tf.Tensor | np.ndarray]) -> keras.Model:
    """A copy of a network that computes as its int8 file will, and can be trained.

    Args:
        model: functional, of `Conv2D`, `DepthwiseConv2D`, `Dense`, `BatchNormalization`, ReLUs,
            pooling, sums and the like, with or without the preprocessing of images at its start,
            models within it included; any dtype policy. It stays as it is.
        batches: what it takes, preprocessed ``[B, H, W, C]``, at least one batch: the ranges of the
            activations begin as the mean over batches of the smallest and the largest value.

    Returns:
        A float32 model of the same name. What a layer of `model` gives, and is rounded, a layer
        `FakeQuantize` of its name gives, so that the same taps can be named.

    Raises:
        UserError: a layer cannot be quantised; the message names it.
    """
    check_quantizable(model)
    folded = fold_batch_normalization(model)
    points = _quantized_tensors(folded)
    ranges = _measure_ranges(keras.Model(folded.inputs, points), batches)
    fakes = {
        id(tensor): FakeQuantize(name=name, dtype="float32")
        for tensor, name in zip(points, _names_of_rounded(points), strict=True)
    }
    copies = _Copies()

    def make(call: Call, *args: Any, **kwargs: Any) -> Any:
        layer, fake = call.operation, fakes.get(id(call.outputs[0]))
        if isinstance(layer, keras.Layer) and (fake or type(layer) in _ROUNDING):
            kind, config = _ROUNDING.get(type(layer), type(layer)), layer.get_config()
            config["name"] = f"{layer.name}_unrounded" if fake else layer.name
            layer = copies.get(layer, lambda: kind.from_config(config), layer.get_weights)
        outputs = layer(*args, **kwargs)
        return fake(outputs) if fake else outputs

    (given,) = folded.inputs
    image = keras.Input(given.shape[1:], dtype="float32", name=given.name)
    (logits,) = _rebuild(folded, {id(given): fakes[id(given)](image)}, make)
    copies.fill()
    for fake, (low, high) in zip(fakes.values(), ranges, strict=True):
        fake.set_weights([np.float32(low), np.float32(high)])
    # Layers of their own, each called once.
    return copy_model(keras.Model(image, logits, name=model.name), fuse=False)


def quantized_names(
    model: keras.Model, copy: keras.Model, names: Sequence[str]
) -> tuple[str, ...]:
    """The layers of a copy that give what layers of a network give.

    Args:
        model: the network.
        copy: of it, as `quantize` gives it.
        names: of layers of `model`, as taps are named. In the copy there are no models within it,
            and batch normalisation may be a part of the layer before.
    """
    flat = _inline(copy_model(model, dtype="float32", fuse=False))
    calls = {call.operation.name: call for call in calls_before(flat.outputs)}
    flat_names = _flat_names(model)
    own = {call.operation.name for call in calls_before(copy.outputs)}

    def find(name: str) -> str:
        parts = name.split("/")
        inner, path = model, []
        while is_functional(inner):  # where no part is left, the tap is what a whole model gives
            inner = as_functional(inner)
            path.append(parts.pop(0) if parts else output_layer_of(inner.outputs[0]))
            inner = inner.get_layer(path[-1])
        last = flat_names["/".join(path)]
        while last not in own and last in calls and calls[last].inputs:
            last = output_layer_of(calls[last].inputs[0])
        return last

    return tuple(map(find, names))


def with_rounded_weights(model: keras.Model) -> keras.Model:
    """What `quantize` gave as a model of Keras' own layers, whose weights are the rounded ones, and
    of `FakeQuantize`: for a converter, which rounds them to the same whole numbers."""
    plain = {own: kind for kind, own in _ROUNDING.items()}
    copies = _Copies()

    def make(call: Call, *args: Any, **kwargs: Any) -> Any:
        layer = call.operation
        if type(layer) in plain:
            kind = plain[type(layer)]
            layer = copies.get(layer, lambda: kind.from_config(layer.get_config()),
                               lambda: _rounded_weights(layer))
        return layer(*args, **kwargs)

    (given,) = model.inputs
    image = keras.Input(given.shape[1:], dtype="float32", name=given.name)
    (logits,) = _rebuild(model, {id(given): image}, make)
    copies.fill()
    return keras.Model(image, logits, name=model.name)


def _rounded_weights(layer: keras.layers.Layer) -> list[Any]:
    kernel, *bias = layer.get_weights()
    if isinstance(layer, QuantizedDepthwiseConv2D):
        return [layer.rounded_kernel().numpy(), *bias]
    return [fake_quantize_weights(tf.constant(kernel)).numpy(), *bias]


def fold_batch_normalization(model: keras.Model) -> keras.Model:
    """A float32 copy of a network that gives the same in inference mode, with convolutions in place
    of batch normalisation and of the preprocessing of images.

    Each `BatchNormalization` becomes a part of the kernel and the bias of the convolution or dense
    layer before it; where there is none that it could be a part of, a depthwise convolution of 1x1.
    So does each `Rescaling` and `Normalization`, and a reversal of the channels a convolution of
    1x1. The convolutions that replace preprocessing are not trained.

    Args:
        model: functional, see `quantize`; it stays as it is.
    """
    flat = _inline(copy_model(model, dtype="float32", fuse=False))
    before = _foldable(calls_before(flat.outputs))
    after = {id(layer): normalization for layer, normalization in before.values()}
    copies = _Copies()

    def make(call: Call, *args: Any, **kwargs: Any) -> Any:
        layer = call.operation
        if isinstance(layer, _SCALING) or _reverses(layer):
            if id(call.outputs[0]) in before:
                return args[0]
            channels = _channels(layer, args[0])
            layer = copies.get(layer, lambda: _as_convolution(layer, channels),
                               lambda: _convolution_weights(layer, channels))
            return layer(args[0])
        if id(layer) in after:
            config = {**layer.get_config(), "use_bias": True}
            layer = copies.get(layer, lambda: type(layer).from_config(config),
                               lambda: _folded_weights(layer, after[id(layer)]))
        return layer(*args, **kwargs)

    (given,) = flat.inputs
    # Of uint8 it could not be convolved where a `Rescaling` has cast it.
    image = keras.Input(given.shape[1:], dtype="float32", name=given.name)
    (logits,) = _rebuild(flat, {id(given): image}, make)
    copies.fill()
    return keras.Model(image, logits, name=model.name)


class _Copies:
    """Layers in place of others, each made once and given its weights once it is built."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[keras.Layer, keras.Layer, list[np.ndarray]]] = {}

    def get(
        self,
        layer: keras.Layer,
        make: Callable[[], keras.Layer],
        weights: Callable[[], list[np.ndarray]],
    ) -> keras.Layer:
        """The layer in place of `layer`, which `make` makes at first, with `weights`."""
        if id(layer) not in self._made:
            self._made[id(layer)] = (layer, make(), weights())  # keeps `layer`, so its id too
        return self._made[id(layer)][1]

    def fill(self) -> None:
        """Set the weights of all copies, after they were called."""
        for _, copy, weights in self._made.values():
            copy.set_weights(weights)


def _foldable(
    calls: Sequence[Call],
) -> dict[int, tuple[keras.Layer, keras.layers.BatchNormalization]]:
    """By the id of its output each batch normalisation that can be folded, after the layer before
    it: one that has no activation and gives its output, once, to nothing else."""
    makers = {id(tensor): call.operation for call in calls for tensor in call.outputs}
    users = Counter(id(tensor) for call in calls for tensor in call.inputs)
    times = Counter(id(call.operation) for call in calls)
    found = {}
    for call in calls:
        layer = call.operation
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        maker = makers[id(call.inputs[0])]
        if (
            isinstance(maker, _WEIGHTED)
            and maker.activation is keras.activations.linear
            and _is_of_channels(layer, call.inputs[0])
            and users[id(call.inputs[0])] == times[id(maker)] == times[id(layer)] == 1
        ):
            found[id(call.outputs[0])] = (maker, layer)
    return found


def _is_of_channels(
    layer: keras.layers.BatchNormalization, tensor: keras.KerasTensor
) -> bool:
    """Whether it normalises the last axis."""
    return layer.axis in (-1, len(tensor.shape) - 1)


def scale_and_offset(layer: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """What batch normalisation multiplies each channel by in inference mode, and adds, float64."""
    mean, variance = (np.float64(each) for each in (layer.moving_mean, layer.moving_variance))
    scale = 1 / np.sqrt(variance + layer.epsilon)
    scale = scale * np.float64(layer.gamma) if layer.scale else scale
    offset = -mean * scale
    return scale, offset + np.float64(layer.beta) if layer.center else offset


def _folded_weights(
    layer: keras.layers.Layer, normalization: keras.layers.BatchNormalization
) -> list[np.ndarray]:
    """Kernel and bias of a layer with the batch normalisation that follows it, float32."""
    scale, offset = scale_and_offset(normalization)
    kernel, *bias = (np.float64(each) for each in layer.get_weights())
    shape = kernel.shape[2:] if isinstance(layer, keras.layers.DepthwiseConv2D) else (-1,)
    offset = offset + (bias[0] * scale if bias else 0)
    return [np.float32(kernel * scale.reshape(shape)), np.float32(offset)]


def _reverses(operation: keras.Operation) -> bool:
    """Whether it is `keras.ops.flip` along one axis."""
    return type(operation).__name__ == "Flip" and isinstance(operation.axis, int)


def _channels(operation: keras.Operation, maps: keras.KerasTensor) -> int:
    """The number of channels that an operation scales or reverses.

    Raises:
        UserError: it does so to something else than the channels of maps.
    """
    if isinstance(operation, keras.layers.BatchNormalization):
        verb, of_channels = "normalises", _is_of_channels(operation, maps)
    elif isinstance(operation, keras.Layer):
        sizes = {each.size for each in _factor_and_offset(operation)}
        verb, of_channels = "scales", sizes <= {1, maps.shape[-1]}
    else:
        verb, of_channels = "reverses", operation.axis in (-1, len(maps.shape) - 1)
    if len(maps.shape) != 4 or not of_channels:
        raise _unquantizable(operation, f"what it {verb} are no channels of maps [N, H, W, C]")
    return maps.shape[-1]


def _factor_and_offset(layer: keras.Layer) -> tuple[np.ndarray, np.ndarray]:
    """What a layer multiplies by in inference mode, and adds, float64, one or one a channel."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return scale_and_offset(layer)
    if isinstance(layer, keras.layers.Rescaling):
        return np.float64(layer.scale).reshape(-1), np.float64(layer.offset).reshape(-1)
    mean, variance = (np.float64(each).reshape(-1) for each in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    return (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)


def _as_convolution(operation: keras.Operation, channels: int) -> keras.layers.Layer:
    """A convolution of 1x1 in place of what scales or reverses channels."""
    given = {
        "name": operation.name, "dtype": "float32",
        "trainable": isinstance(operation, keras.layers.BatchNormalization),
    }
    if isinstance(operation, keras.Layer):
        return keras.layers.DepthwiseConv2D(1, **given)
    return keras.layers.Conv2D(channels, 1, use_bias=False, **given)


def _convolution_weights(operation: keras.Operation, channels: int) -> list[np.ndarray]:
    if not isinstance(operation, keras.Layer):
        return [np.eye(channels, dtype="float32")[:, ::-1].reshape(1, 1, channels, channels)]
    scale, offset = (np.broadcast_to(each, [channels]) for each in _factor_and_offset(operation))
    return [np.float32(scale.reshape(1, 1, -1, 1)), np.float32(offset)]


# Graphs


def _rebuild(
    model: keras.Model, given: dict[int, keras.KerasTensor], make: Callable[..., Any]
) -> list[keras.KerasTensor]:
    """The outputs of a graph whose calls are made anew.

    Args:
        model: its graph.
        given: tensors in place of some of its tensors, by id; its inputs at least.
        make: gets each call and its new arguments, and gives the new outputs.
    """
    made = dict(given)

    def new(value: Any) -> Any:
        return made.get(id(value), value)

    for call in calls_before(model.outputs):
        if all(id(tensor) in made for tensor in call.outputs):
            continue
        args, kwargs = keras.tree.map_structure(new, (call.arguments, call.keywords))
        outputs = keras.tree.flatten(make(call, *args, **kwargs))
        made |= {id(old): tensor for old, tensor in zip(call.outputs, outputs, strict=True)}
    return [new(tensor) for tensor in model.outputs]


def _flat_names(model: keras.Model) -> dict[str, str]:
    """Names for all layers in one graph, by their paths: their own, or where another layer has it
    already, the path's."""
    names: dict[str, str] = {}
    given: dict[int, str] = {}  # a layer may be in several models
    for path, layer in _leaves(model):
        if id(layer) not in given:
            name = layer.name if layer.name not in given.values() else path.replace("/", "_")
            while name in given.values():
                name += "_1"
            given[id(layer)] = name
        names[path] = given[id(layer)]
    return names


def _leaves(model: keras.Model, before: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """The layers of a model and of those within it, with their paths."""
    for layer in as_functional(model).layers:
        if is_functional(layer):
            yield from _leaves(layer, f"{before}{layer.name}/")
        else:
            yield before + layer.name, layer


def _inline(model: keras.Model) -> keras.Model:
    """The same layers in a graph without models within it. Those of equal names get others.

    Args:
        model: a copy.
    """
    names = _flat_names(model)
    for path, layer in list(_leaves(model)):
        layer.name = names[path]

    def make(call: Call, *args: Any, **kwargs: Any) -> Any:
        if not is_functional(call.operation):
            return call.operation(*args, **kwargs)
        inner = as_functional(call.operation)
        tensors = keras.tree.flatten(args[0])
        given = {id(old): new for old, new in zip(inner.inputs, tensors, strict=True)}
        return _rebuild(inner, given, make)

    model = as_functional(model)
    (image,) = model.inputs
    (logits,) = _rebuild(model, {id(image): image}, make)
    return keras.Model(image, logits, name=model.name)


def _quantized_tensors(model: keras.Model) -> list[keras.KerasTensor]:
    """The tensors that are rounded: the image, then what layers give that have a range of their
    own, but for what only a ReLU takes, with which it is computed in one."""
    calls = calls_before(model.outputs)
    users: dict[int, list[Call]] = {}
    for call in calls:
        for tensor in call.inputs:
            users.setdefault(id(tensor), []).append(call)
    points = [*model.inputs]
    for call in calls:
        after = users.get(id(call.outputs[0]), [])
        fused = len(after) == 1 and _rectifies(after[0].operation)
        if _has_range(call.operation) and not fused:
            points.append(call.outputs[0])
    return points


def _names_of_rounded(points: Sequence[keras.KerasTensor]) -> list[str]:
    """Names for what rounds these tensors: of the layers that give them, where that is possible."""
    names: list[str] = []
    for place, tensor in enumerate(points):
        operation = producer(tensor)
        name = operation.name
        if place == 0 or not isinstance(operation, keras.Layer):
            name = f"{name}_rounded"
        names.append(name if name not in names else f"{name}_{place}")  # called several times
    return names


def _has_range(operation: keras.Operation) -> bool:
    if isinstance(operation, keras.Layer):
        return isinstance(operation, _RANGED)
    return type(operation).__name__ in _RANGED_OPERATIONS


def _rectifies(operation: keras.Operation) -> bool:
    if isinstance(operation, keras.layers.Activation):
        return operation.activation in _ACTIVATIONS[1:]
    return isinstance(operation, keras.layers.ReLU) or type(operation).__name__ in (
        "Relu", "Relu6"
    )


def _measure_ranges(
    points: keras.Model, batches: Iterable[tf.Tensor | np.ndarray]
) -> list[tuple[float, float]]:
    """Smallest and largest value of each output, the mean over batches; 0 is always between."""
    compute = tf.function(lambda images: [
        (tf.reduce_min(each), tf.reduce_max(each))
        for each in keras.tree.flatten(points(images, training=False))
    ], reduce_retracing=True)
    found = [np.float64(compute(tf.convert_to_tensor(images))) for images in batches]
    if not found:
        raise ValueError("no batches to measure the ranges of the activations on")
    return [(min(low, 0.0), max(high, _SMALLEST)) for low, high in np.mean(found, axis=0)]


# Refusals


def check_quantizable(model: keras.Model) -> None:
    """Raise UserError, naming the layer, where `quantize` could not copy a network."""
    model = as_functional(model)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(
            f"model {model.name!r} cannot be quantised: it has {len(model.inputs)} inputs and "
            f"{len(model.outputs)} outputs; expected one image and one tensor of logits"
        )
    _check_calls(model)
    fold_batch_normalization(model)  # names what it can fold into no layer


def _check_calls(model: keras.Model) -> None:
    for call in calls_before(model.outputs):
        if is_functional(call.operation):
            _check_calls(as_functional(call.operation))
        else:
            _check_operation(call.operation)


def _check_operation(operation: keras.Operation) -> None:
    if not isinstance(operation, keras.Layer):
        known = type(operation).__name__ in _RANGED_OPERATIONS | _PASSING_OPERATIONS
        if not known and not _reverses(operation):
            raise _unquantizable(operation, "such an operation is not supported")
        return
    kinds = (*_RANGED, *_PASSING, *_SCALING)
    # A class that extends one of these may compute something else.
    if type(operation) not in kinds:
        raise _unquantizable(operation, "such a layer is not supported")
    activation = getattr(operation, "activation", None)
    if activation is not None and activation not in _ACTIVATIONS:
        name = getattr(activation, "__name__", str(activation))
        raise _unquantizable(operation, f"its activation is {name}, not relu, relu6 or linear")
    if getattr(operation, "data_format", "channels_last") != "channels_last":
        raise _unquantizable(operation, "its channels come first")


def _unquantizable(operation: keras.Operation, reason: str) -> UserError:
    return UserError(
        f"layer {operation.name!r} ({type(operation).__name__}) cannot be quantised: {reason}; "
        "train without --quantize, and export with the format litert-int8 or litert-float16"
    )
