"""Copies of models that answer as the original does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from registry import UserError

from .functional import as_functional
from .fused import fuse_batch_normalization
from .keras_graph import all_layers
from .sampling import sample_outputs

_ROUNDING, _COARSE_ROUNDING = 1e-3, 0.1
"""Differences of outputs, relative to the largest one, that rounding may explain: in float32, and
in narrower types, where one kernel's result may differ from another's in the third digit."""


def copy_model(
    model: keras.Model,
    *,
    inputs: keras.KerasTensor | None = None,
    dtype: str | None = None,
    fuse: bool = True,
) -> keras.Model:
    """A model of the same layers and weights that shares nothing with `model`.

    Layers may keep more than weights: an adapted `keras.layers.Normalization` keeps the tensors
    that it computes with. So each layer hands over its state as it does when a model is saved, by
    ``save_own_variables`` and ``load_own_variables`` (and ``save_assets``, ``load_assets``).
    Where sizes and dtypes stay as they are, the copy is run beside the original on two images.

    Args:
        model: functional. It may belong to a distribution strategy; the copy then belongs to the
            strategy in whose scope this is called, or to none.
        inputs: the copy's input, for images of another size; None: as `model`.
        dtype: dtype policy of all layers of the copy, such as ``"float32"``; None: as `model`.
        fuse: whether the copy's batch normalisation uses the fused kernel (see
            `fuse_batch_normalization`).

    Raises:
        UserError: the copy gives other outputs than `model`, because of a layer that keeps state
            which it would not save either.
        ValueError: the layers cannot take `inputs`.
    """
    def of_layer(policy: Any) -> Any:  # Not of a layer of strings or integers.
        return dtype if dtype and "float" in str(policy) else policy

    model = _plain(model)
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


def reinitialize(model: keras.Model) -> keras.Model:
    """A model of the same layers with fresh weights.

    What was not trained but measured on data, such as the mean and the variance of an adapted
    `keras.layers.Normalization`, is kept: it is a part of the preprocessing. The statistics of
    batch normalisation begin anew.

    Args:
        model: functional. The copy's weights depend on `keras.utils.set_random_seed` alone.

    Returns:
        The copy; all of its layers are trainable.
    """
    model = _plain(model)
    copy = _clone(model, None, lambda config: _replaced(config, "trainable", lambda _: True))
    for own, given in zip(all_layers(copy), all_layers(model), strict=True):
        if _is_measured(own):
            copy_state(given, own)
    return fuse_batch_normalization(copy)


def copy_state(source: keras.Layer, target: keras.Layer) -> None:
    """Give a layer the weights of another one of its kind, and the state that it keeps beside them.

    Args:
        source, target: of one class and of the same shapes. Layers within them are left alone:
            each of these has its own state.
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
    """Let each layer of `model` compute anew what it keeps beside its weights, after these were
    assigned one by one."""
    for layer in all_layers(model):
        copy_state(layer, layer)


def _plain(model: keras.Model) -> keras.Model:
    """The layers of `model` without its compilation and its class, which a copy would take over."""
    model = as_functional(model)
    return keras.Model(model.input, model.output, name=model.name)


def _clone(
    model: keras.Model,
    inputs: keras.KerasTensor | None,
    change: Callable[[dict[str, Any]], dict[str, Any]],
) -> keras.Model:
    """Layers of the same configs, but for what `change` changes of them, initialised."""
    return keras.models.clone_model(
        model,
        input_tensors=inputs,
        clone_function=lambda layer: type(layer).from_config(change(layer.get_config())),
        recursive=True,
    )


def _replaced(config: Any, name: str, change: Callable[[Any], Any]) -> Any:
    """A layer's config with each entry `name` changed, also in the configs of layers within."""
    if isinstance(config, dict):
        return {key: change(entry) if key == name else _replaced(entry, name, change)
                for key, entry in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_replaced(entry, name, change) for entry in config)
    return config


def _is_measured(layer: keras.Layer) -> bool:
    """Whether all of a trainable layer's variables were measured on data, none trained."""
    return (
        bool(layer.weights)
        and not layer.trainable_weights
        and not isinstance(layer, (keras.layers.BatchNormalization, keras.Model))
    )


def _dtypes(model: keras.Model) -> list[str]:
    return [layer.dtype_policy.name for layer in all_layers(model)]


def is_narrow(model: keras.Model) -> bool:
    """Whether some layer of `model` computes in float16 or bfloat16."""
    return any(layer.compute_dtype in ("float16", "bfloat16") for layer in all_layers(model))


def _check_equal(model: keras.Model, copy: keras.Model) -> None:
    """Raise UserError unless both give the same, where the inputs are floats of a known size."""
    ours, theirs = (sample_outputs(one, any_size=False) for one in (copy, model))
    if ours is None:
        return
    apart = max(map(relative_difference, ours, theirs))
    if not apart <= (_COARSE_ROUNDING if is_narrow(model) else _ROUNDING):
        own = sorted({type(layer).__name__ for layer in all_layers(model)
                      if not type(layer).__module__.startswith("keras.")})
        raise UserError(
            f"model {model.name!r} cannot be copied: the copy's outputs differ by "
            f"{100 * apart:.3g} % of the largest one, so a layer keeps state that it does not "
            f"save; give it save_own_variables and load_own_variables, or a get_config "
            f"(layers that are not Keras' own: {', '.join(own) or 'none'})"
        )


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two arrays of a shape, divided by the largest entry of the second;
    entries that are not finite have to be the same in both, otherwise it is infinite."""
    finite = np.isfinite(theirs)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = np.abs(theirs[finite]).max()
    apart = np.abs(ours[finite] - theirs[finite]).max()
    return float(apart / max(largest, np.finfo(np.float32).tiny)) if apart else 0.0
