"""Count the parameters and FLOPs of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from registry import UserError

from .functional import as_functional

_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
_COUNTED = {
    "Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3DBackpropInputV2",
    "MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum",
}
_LOOPS_AND_BRANCHES = {"While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase"}


class UncountableError(UserError):
    """The number of operations of a network is not fixed."""


def count_parameters(model: keras.Model) -> int:
    """Number of parameters of a model.

    Counts every element of every variable, including batch-norm statistics (as in the paper's
    table), but not metrics or the states of seed generators.
    """
    return sum(math.prod(weight.shape) for weight in model.weights)


def known_flops(model: keras.Model, size: Sequence[int] | None = None) -> int | None:
    """`count_flops`; None where the number of operations is not fixed."""
    try:
        return count_flops(model, size)
    except UncountableError:
        return None


def count_flops(model: keras.Model, size: Sequence[int] | None = None) -> int:
    """Number of floating-point operations that a model needs to classify one image.

    Counts twice the multiply-adds of all convolutions (including transposed and depthwise ones) and
    matrix products (including einsum) of one forward pass in inference mode, for one image. Kernel
    positions that overlap the padding count in full. Biases, batch normalisation, activations,
    pooling and sums are not counted; they make up about 0.1 % to 1 % of a network.

    Args:
        model: functional.
        size: (height, width) of the images of a model that takes any; None: not known.

    Raises:
        UncountableError: its inputs have no fixed size (other than the batch size), and none is
            given, or it has loops, branches or sizes that depend on the image, which make the
            number of operations variable.
        UserError: the model is not functional.
    """
    model = as_functional(model)

    def specified(tensor: keras.KerasTensor) -> tf.TensorSpec:
        shape = (1, *tensor.shape[1:])
        if size is not None and len(shape) == 4:
            sides = (own or side for own, side in zip(shape[1:3], size, strict=True))
            shape = (1, *sides, shape[3])
        if None in shape:
            raise UncountableError(
                f"FLOPs of model {model.name!r} depend on the size of its input, which is "
                f"{tensor.shape}: build it with a fixed size"
            )
        return tf.TensorSpec(shape, tensor.dtype)

    signature = tf.nest.map_structure(specified, model.input)
    function = tf.function(lambda image: model(image, training=False), autograph=False)
    return _flops_of(function.get_concrete_function(signature).graph, model.name)


def _flops_of(graph: tf.Graph, model_name: str) -> int:
    total = 0
    for operation in graph.get_operations():
        if operation.type in _LOOPS_AND_BRANCHES:
            raise UncountableError(
                f"cannot count the FLOPs of model {model_name!r}: it has loops or branches"
            )
        if operation.type in _CALLS:
            called = graph._get_function(operation.get_attr("f").name)
            total += _flops_of(called.graph, model_name)
        elif operation.type in _COUNTED:
            tensors = (*operation.inputs, *operation.outputs)
            if not all(tensor.shape.is_fully_defined() for tensor in tensors):
                raise UncountableError(
                    f"cannot count the FLOPs of model {model_name!r}: sizes in it depend on the "
                    "image"
                )
            total += 2 * _multiply_adds(operation)
    return total


def _multiply_adds(operation: tf.Operation) -> int:
    """Multiply-adds of a convolution or matrix product, one of `_COUNTED`."""
    kind = operation.type
    if kind in ("Conv2D", "Conv3D"):
        # The kernel is [..., inputs of a group, outputs]: each output element is a sum over all but
        # its last axis.
        return _size(operation.outputs[0]) * math.prod(operation.inputs[1].shape[:-1])
    if kind == "DepthwiseConv2dNative":
        return _size(operation.outputs[0]) * math.prod(operation.inputs[1].shape[:2])
    if kind in ("Conv2DBackpropInput", "Conv3DBackpropInputV2"):
        # Transposed: the kernel is [..., outputs, inputs], and each input element is multiplied by
        # all but its last axis.
        return _size(operation.inputs[2]) * math.prod(operation.inputs[1].shape[:-1])
    if kind == "MatMul":
        rows = operation.inputs[0].shape
        return _size(operation.outputs[0]) * rows[0 if operation.get_attr("transpose_a") else 1]
    if kind in ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        rows = operation.inputs[0].shape
        return _size(operation.outputs[0]) * rows[-2 if operation.get_attr("adj_x") else -1]
    return _einsum_multiply_adds(operation)


def _einsum_multiply_adds(operation: tf.Operation) -> int:
    terms = operation.get_attr("equation").decode().split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, operation.inputs, strict=True):
        # An ellipsis stands for all axes that the term does not name.
        front, _, back = term.partition("...")
        spare = len(tensor.shape) - len(front) - len(back)
        labels = [*front, *(f"...{i}" for i in range(-spare, 0)), *back]
        for label, size in zip(labels, tensor.shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    return math.prod(sizes.values()) if len(terms) > 1 else 0


def _size(tensor: tf.Tensor) -> int:
    return math.prod(tensor.shape)
