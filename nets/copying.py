"""Copy models exactly."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from registry import UserError

from .counting import count_parameters
from .functional import as_functional, is_functional
from .fused import fuse_batch_normalization
from .keras_graph import all_layers
from .sampling import sample_outputs

_ROUNDING, _COARSE_ROUNDING = 1e-3, 0.1
"""Tolerated differences of outputs, relative to the largest output: in float32, and in narrower
types, where two kernels' results may differ in the third digit."""


def copy_model(
    model: keras.Model,
    *,
    inputs: keras.KerasTensor | None = None,
    dtype: str | None = None,
    fuse: bool = True,
) -> keras.Model:
    """Copy a model with its weights. The copy shares nothing with `model`.

    Layers may have state beyond their weights: an adapted `keras.layers.Normalization` keeps the
    tensors that it computes with. So each layer transfers its state as in saving and loading, with
    ``save_own_variables`` and ``load_own_variables`` (and ``save_assets``, ``load_assets``).
    If sizes and dtypes are unchanged, the copy is checked against the original on two images.

    Args:
        model: functional. It may belong to a distribution strategy; the copy belongs to the
            strategy of the current scope, or to none.
        inputs: the copy's input, for images of another size; None means that of `model`.
        dtype: dtype policy of all layers of the copy, for example ``"float32"``; None means those
            of `model`.
        fuse: whether the copy's batch normalisation uses the fused kernel (see
            `fuse_batch_normalization`).

    Raises:
        UserError: the outputs of the copy and of `model` differ, because a layer has state that
            saving would lose too.
        ValueError: the layers cannot take `inputs`.
    """
    def of_layer(policy: Any) -> Any:  # layers of strings or integers keep their policy
        return dtype if dtype and "float" in str(policy) else policy

    model = _plain(model)
    # Layers make those within them by the global policy.
    with global_policy(dtype or keras.config.dtype_policy()):
        copy = _clone(model, inputs, lambda config: _replaced(config, "dtype", of_layer))
    for own, given in zip(copy.variables, model.variables, strict=True):
        own.assign(keras.ops.convert_to_numpy(given))
    for own, given in zip(all_layers(copy), all_layers(model), strict=True):
        copy_state(given, own)
    if fuse:
        fuse_batch_normalization(copy)
    if inputs is None and _dtypes(copy) == _dtypes(model):
        _check_equal(model, copy)
    return copy


@contextlib.contextmanager
def global_policy(policy: Any) -> Iterator[None]:
    """`policy` as the global dtype policy, for layers that are not told one."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def reinitialize(model: keras.Model) -> keras.Model:
    """Copy a model with fresh weights.

    Values that were measured on data rather than trained are kept, because they are part of the
    preprocessing: for example, the mean and variance of an adapted `keras.layers.Normalization`.
    The statistics of batch normalisation are reset.

    Args:
        model: functional. The copy's weights depend only on `keras.utils.set_random_seed`.

    Returns:
        The copy. All its layers are trainable.
    """
    model = _plain(model)
    copy = _clone(model, None, lambda config: _replaced(config, "trainable", lambda _: True))
    for own, given in zip(all_layers(copy), all_layers(model), strict=True):
        if _is_measured(own):
            copy_state(given, own)
    return fuse_batch_normalization(copy)


def count_frozen(model: keras.Model) -> int:
    """Number of parameters that stay as they are because ``trainable`` of a layer is False. Batch
    statistics, which no gradient trains, are none of them.

    Args:
        model: functional; it stays as it is.
    """
    if all(layer.trainable for layer in all_layers(model)):
        return 0
    trained, trainable = (
        sum(math.prod(variable.shape) for variable in each.trainable_variables)
        for each in (model, reinitialize(model))
    )
    return trainable - trained


def describe_frozen(model: keras.Model, role: str) -> list[str]:
    """A line that says so where a part of a model is not trained.

    Args:
        model: functional.
        role: what it is called, such as ``"student"``.
    """
    frozen = count_frozen(model)
    return [
        f"{frozen:,} of {count_parameters(model):,} parameters of the {role} are frozen in its "
        "file (trainable=False) and stay as they are"
    ] if frozen else []


def check_trainable(model: keras.Model, flag: str, file: str) -> None:
    """Raise UserError where the model in the `file` that a flag names has nothing to train."""
    if not model.trainable_variables:
        raise UserError(
            f"{flag}: {file} has nothing to train, for all its layers were saved with "
            "trainable=False: set model.trainable = True and save it again"
        )


def copy_state(source: keras.Layer, target: keras.Layer) -> None:
    """Copy the weights and other state of a layer to another layer of the same kind.

    Args:
        source, target: layers of the same class and shapes. Layers within them are not copied.
    """
    store: dict[str, Any] = {}
    source.save_own_variables(store)
    if store:
        target.load_own_variables(
            {key: keras.ops.convert_to_numpy(value) for key, value in store.items()}
        )
    if hasattr(source, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            source.save_assets(folder)
            target.load_assets(folder)


def renew_state(model: keras.Model) -> None:
    """Make each layer of `model` recompute the state that depends on its weights.

    Call it after assigning weights one by one.
    """
    for layer in all_layers(model):
        copy_state(layer, layer)


def _plain(model: keras.Model) -> keras.Model:
    """`model` as a plain `keras.Model`, without its class and compilation, which copies inherit."""
    model = as_functional(model)
    return keras.Model(model.input, model.output, name=model.name)


def _clone(
    model: keras.Model,
    inputs: keras.KerasTensor | None,
    change: Callable[[dict[str, Any]], dict[str, Any]],
) -> keras.Model:
    """Clone `model` with fresh weights, after applying `change` to each layer's config.

    A model within the model is copied layer by layer, unless its class has a config of its own: as
    in KerasHub, whose layers cannot all be made from theirs.
    """
    cache: dict[int, keras.Layer] = {}
    plain = {type(model).get_config, keras.Sequential.get_config}

    def clone(layer: keras.Layer) -> keras.Layer:
        if is_functional(layer) and type(layer).get_config in plain:
            return keras.models.clone_model(layer, clone_function=clone, cache=cache)
        return type(layer).from_config(change(layer.get_config()))

    return keras.models.clone_model(
        model, input_tensors=inputs, clone_function=clone, cache=cache
    )


def _replaced(config: Any, name: str, change: Callable[[Any], Any]) -> Any:
    """A layer's config with each entry `name` changed, including those of nested layers."""
    if isinstance(config, dict):
        return {key: change(entry) if key == name else _replaced(entry, name, change)
                for key, entry in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_replaced(entry, name, change) for entry in config)
    return config


def _is_measured(layer: keras.Layer) -> bool:
    """Whether all variables of a layer were measured on data and none is trained."""
    return (
        bool(layer.weights)
        and not layer.trainable_weights
        and not isinstance(layer, (keras.layers.BatchNormalization, keras.Model))
    )


def _dtypes(model: keras.Model) -> list[str]:
    return [layer.dtype_policy.name for layer in all_layers(model)]


def is_narrow(model: keras.Model) -> bool:
    """Whether any layer of `model` computes in float16 or bfloat16."""
    return any(layer.compute_dtype in ("float16", "bfloat16") for layer in all_layers(model))


def computes_in_float16(model: keras.Model) -> bool:
    """Whether any layer of `model` computes in float16, in which small gradients become zero unless
    losses are scaled."""
    return any(layer.compute_dtype == "float16" for layer in all_layers(model))


def _check_equal(model: keras.Model, copy: keras.Model) -> None:
    """Raise UserError if the outputs differ. Only checks models with float inputs of known size."""
    ours, theirs = (sample_outputs(one, any_size=False) for one in (copy, model))
    if ours is None:
        return
    apart = max(map(relative_difference, ours, theirs))
    if not apart <= (_COARSE_ROUNDING if is_narrow(model) else _ROUNDING):
        own = sorted({type(layer).__name__ for layer in all_layers(model)
                      if not type(layer).__module__.startswith("keras.")})
        raise UserError(
            f"model {model.name!r} cannot be copied: the copy's outputs differ by "
            f"{100 * apart:.3g} % of the largest one, so a layer has state that it does not "
            f"save; give it save_own_variables and load_own_variables, or a get_config "
            f"(layers that are not Keras' own: {', '.join(own) or 'none'})"
        )


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference between two arrays, divided by the largest entry of the second.

    Infinite if their non-finite entries differ.

    Args:
        ours, theirs: arrays of the same shape.
    """
    finite = np.isfinite(theirs)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = np.abs(theirs[finite]).max()
    apart = np.abs(ours[finite] - theirs[finite]).max()
    return float(apart / max(largest, np.finfo(np.float32).tiny)) if apart else 0.0
