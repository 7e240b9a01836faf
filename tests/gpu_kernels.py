"""What of a graph a GPU cannot compute, by the kernels that TensorFlow has registered.

TensorFlow's wheel for x86-64 is built with CUDA: its register of kernels is that of a machine with
a GPU, also where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf
from tensorflow.python.framework import function_def_to_graph, kernels, op_def_registry

# Their kernels are those of the functions that they call, which are looked at themselves.
CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
BRANCHES = {"If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase"}
# Tensors of these types stay on the host where a function takes or returns them.
ON_HOST = (tf.int32, tf.string, tf.resource)


class Memory(NamedTuple):
    """For each input and output of an operation, whether it is in the host's memory."""

    inputs: list[bool]
    outputs: list[bool]


def graphs_of(function) -> Iterator[tf.Graph]:
    """The graph of a concrete function, and those of all functions that it calls."""
    yield function.graph
    library = function.graph.as_graph_def().library
    for definition in library.function:
        yield function_def_to_graph.function_def_to_graph(
            definition, include_library_functions=True
        )


def without_gpu_kernel(function) -> set[str]:
    """The types of a concrete function's operations that no kernel computes on a GPU, with the
    types of their tensors."""
    return {
        _described(operation)
        for graph in graphs_of(function)
        for operation in graph.get_operations()
        if operation.type not in CALLS and not _is_text(operation) and _kernel(operation) is None
    }


def waits_for_the_host(function) -> set[str]:
    """Where tensors are copied from the GPU to the host, ``producer -> consumer``, because the
    consumer takes them from the host's memory. What comes from the host (batches, shapes,
    int32 arguments) needs no copy, and what is made of constants alone is computed once, when
    TensorFlow folds them."""
    found = set()
    for graph in graphs_of(function):
        for operation in graph.get_operations():
            if _is_constant(operation):
                continue
            for tensor, on_host in zip(operation.inputs, _memory(operation).inputs, strict=True):
                producer = tensor.op
                if on_host and not _memory(producer).outputs[tensor.value_index]:
                    found.add(f"{_described(producer)} -> {_described(operation)}")
    return found


def _is_constant(operation: tf.Operation, depth: int = 4) -> bool:
    """Whether it is a constant, or made of constants in a few operations."""
    if operation.type == "Const" or not depth:
        return operation.type == "Const"
    inputs = [tensor.op for tensor in operation.inputs]
    return bool(inputs) and all(_is_constant(one, depth - 1) for one in inputs)


def _described(operation: tf.Operation) -> str:
    tensors = operation.inputs or operation.outputs
    types = dict.fromkeys(tensor.dtype.base_dtype.name for tensor in tensors)
    return f"{operation.type}({', '.join(types)})"


def _is_text(operation: tf.Operation) -> bool:
    """Whether it is a constant of an error message."""
    return operation.type == "Const" and operation.outputs[0].dtype == tf.string


def _kernel(operation: tf.Operation):
    """The kernel for a GPU, or one for any device."""
    for kernel in kernels.get_registered_kernels_for_op(operation.type).kernel:
        if kernel.device_type in ("GPU", "DEFAULT") and not kernel.label and all(
            _allows(constraint, operation.node_def.attr[constraint.name])
            for constraint in kernel.constraint
        ):
            return kernel
    return None


def _allows(constraint, value) -> bool:
    types = list(value.list.type) or [value.type]
    return set(types) <= set(constraint.allowed_values.list.type)


def _memory(operation: tf.Operation) -> Memory:
    kernel, definition = _kernel(operation), op_def_registry.get(operation.type)
    if operation.type == "Placeholder":
        # Batches come from the host; arguments of functions stay where they are, int32 there.
        return Memory([], [operation.outputs[0].dtype in ON_HOST])
    if operation.type in CALLS | BRANCHES:
        inputs = [tensor.dtype in ON_HOST for tensor in operation.inputs]
        if operation.type in ("If", "StatelessIf"):
            inputs[0] = True  # the predicate
        return Memory(inputs, [tensor.dtype in ON_HOST for tensor in operation.outputs])
    if kernel is None:  # runs on the host
        return Memory([True] * len(operation.inputs), [True] * len(operation.outputs))
    on_host = set(kernel.host_memory_arg)
    return Memory(
        _by_tensor(definition.input_arg, operation, on_host),
        _by_tensor(definition.output_arg, operation, on_host),
    )


def _by_tensor(arguments, operation: tf.Operation, on_host: set[str]) -> list[bool]:
    places = []
    for argument in arguments:
        attributes = operation.node_def.attr
        count = 1
        if argument.number_attr:
            count = attributes[argument.number_attr].i
        elif argument.type_list_attr:
            count = len(attributes[argument.type_list_attr].list.type)
        places += [argument.name in on_host] * count
    return places
