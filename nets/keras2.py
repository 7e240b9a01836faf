"""Whole models that Keras 2 saved, as far as Keras 3 can be made to read them.

Keras 3 reads ``.h5`` files of Keras 2, but refuses some arguments that Keras 2 wrote down for its
layers although they say nothing, its dtype policies, and names of modules that exist no more; and
Keras 2 counted the calls of a model within another from 1. Brought into today's form, the file
holds the same network. What Keras 3 would read as another network is refused.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from registry import UserError

# Of a separable convolution, which has initialisers and the like for both of its kernels besides.
_OF_NO_KERNEL = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
_UNUSED = {
    "DepthwiseConv1D": (), "DepthwiseConv2D": (), "Conv1DTranspose": (), "Conv2DTranspose": (),
    "SeparableConv1D": _OF_NO_KERNEL, "SeparableConv2D": _OF_NO_KERNEL,
}
"""The layers for which Keras 2 wrote down ``groups=1``, and what else of theirs has no effect."""
_MODELS = ("Functional", "Model", "Sequential")
_RENAMED = dict.fromkeys(("BatchNormalizationV1", "BatchNormalizationV2"), "BatchNormalization")
GONE = (
    "TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer", "ThresholdedReLU", "LocallyConnected1D",
    "LocallyConnected2D", "Convolution1D", "Convolution2D", "Merge",
)
"""Layers of Keras 2 that Keras 3 does not have."""
_MODULES = ("keras", "tf_keras")
_ENTRIES = ("module", "registered_name", "build_config")


def old_version(path: Path) -> str | None:
    """The version of Keras that saved a whole model, if it is one before Keras 3, else None.

    Args:
        path: a ``.keras`` or ``.h5`` file, which may be damaged.
    """
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                version = json.loads(archive.read("metadata.json"))["keras_version"]
        else:
            with h5py.File(path) as file:
                version = _text(file.attrs["keras_version"])
    except Exception:  # whatever a damaged file makes its reader raise: it tells no version
        return None
    is_old = isinstance(version, str) and version.partition(".")[0] in ("1", "2")
    return version[:20] if is_old else None


@contextlib.contextmanager
def as_keras3_reads_it(path: Path) -> Iterator[Path]:
    """Yield a file of the same model that Keras 3 can read, if possible.

    Args:
        path: a whole model in a ``.keras`` or ``.h5`` file, which stays as it is.

    Yields:
        A temporary copy of an ``.h5`` file of Keras 2 in which something has to be left out; else
        `path` itself.
    """
    config = _changed_config(path)
    if config is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "model.h5")
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = config
        yield copy


def _changed_config(path: Path) -> str | None:
    """The description of a Keras 2 model in an ``.h5`` file as Keras 3 reads it; None: it is none,
    or stays as it is."""
    if path.suffix != ".h5" or old_version(path) is None:
        return None
    with h5py.File(path) as file:
        stated = json.loads(_text(file.attrs["model_config"]))
    config = json.loads(json.dumps(stated))
    _simplify(config, path)
    return None if config == stated else json.dumps(config)


def _simplify(stated: Any, path: Path) -> None:
    """Bring the description of a layer or a model into a form that Keras 3 reads, in place.

    Raises:
        UserError: Keras 3 would read another layer.
    """
    if not isinstance(stated, dict):
        return
    if stated.get("class_name") == "Sequential" and isinstance(stated.get("config"), list):
        stated["config"] = {"name": "sequential", "layers": stated["config"]}  # before 2.2.3
    if not isinstance(stated.get("config"), dict):
        return
    if stated.get("class_name") in _RENAMED:
        stated["class_name"] = _RENAMED[stated["class_name"]]
    name, config = stated.get("class_name"), stated["config"]
    _check_meaning(config, path)
    if str(stated.get("module")).partition(".")[0] in _MODULES:
        for entry in _ENTRIES:  # without them Keras goes by the class's name, as in older files
            stated.pop(entry, None)
    if name in _UNUSED and config.get("groups", 1) == 1:
        for argument in ("groups", *_UNUSED[name]):
            config.pop(argument, None)
    for entry, value in config.items():
        if entry.endswith("_initializer") and isinstance(_config_of(value), dict):
            value["config"].pop("dtype", None)
    policy = config.get("dtype")
    if isinstance(policy, dict) and policy.get("class_name") == "Policy":
        config["dtype"] = policy["config"]["name"]  # Keras 3's policies have more classes
    layers = config.get("layers")
    if isinstance(layers, list):
        if name == "Sequential":
            _begin_with_input(layers)
        else:
            _count_calls_from_zero(config, layers)
    for each in [*(layers if isinstance(layers, list) else ()), config.get("layer")]:
        _simplify(each, path)
    for entry in ("input_layers", "output_layers"):
        tensors = config.get(entry)
        if isinstance(tensors, list) and len(tensors) == 1 and isinstance(tensors[0], list):
            config[entry] = tensors[0]  # Keras 3 would give a list of one to a `Sequential`


def _check_meaning(config: dict[str, Any], path: Path) -> None:
    """Raise UserError where Keras 3 reads the description of a layer otherwise than Keras 2."""
    for entry in ("activation", "recurrent_activation"):
        if "hard_sigmoid" in (config.get(entry), _config_of(config.get(entry))):
            raise UserError(
                f"{path} was saved by Keras 2 and uses hard_sigmoid, which Keras 3 computes "
                "otherwise: build the network in Keras 3 with keras.ops.clip(0.2 * x + 0.5, 0, 1) "
                "in its place, call its load_weights with this file, and save it"
            )
    axis = config.get("axis")
    if isinstance(axis, list) and len(axis) > 1:
        raise UserError(
            f"{path} was saved by Keras 2 and normalises over several axes, which Keras 3 does not "
            "read: build the network in Keras 3, call its load_weights with this file, and save it"
        )


def _config_of(value: Any) -> Any:
    """The ``config`` in the description of an object: a name where it is a function."""
    return value.get("config") if isinstance(value, dict) else None


def _begin_with_input(layers: list[Any]) -> None:
    """Put a layer for the input before the first of a `Sequential`, where that one states the
    input's shape, as before TensorFlow 2.2."""
    first = layers[0] if layers and isinstance(layers[0], dict) else {}
    config = first.get("config")
    if first.get("class_name") == "InputLayer" or not isinstance(config, dict):
        return
    shape = config.pop("batch_input_shape", None)
    if shape is not None:
        own = {"batch_input_shape": shape, "name": f"{config.get('name', 'first')}_input"}
        layers.insert(0, {"class_name": "InputLayer", "config": own})


def _count_calls_from_zero(config: dict[str, Any], layers: list[Any]) -> None:
    """Number the calls of models within a functional model from 0. Keras 2 counted the making of
    such a model as its call 0; for Keras 3 this is so in ``output_layers`` alone, and not for a
    `Sequential`."""
    within = {
        each["name"]: each.get("class_name") for each in layers
        if isinstance(each, dict) and each.get("class_name") in _MODELS and "name" in each
    }
    calls = [
        call for each in layers if isinstance(each, dict)
        for call in _calls(each.get("inbound_nodes"))
    ]
    results = list(_calls(config.get("output_layers")))
    for name, kind in within.items():
        own = [call for call in calls if call[0] == name]
        last = [call for call in results if call[0] == name]
        if min((call[1] for call in [*own, *last]), default=0) < 1:
            continue
        for call in [*own, *(last if kind == "Sequential" else ())]:
            call[1] -= 1


def _calls(stated: Any) -> Iterator[list[Any]]:
    """The references to results of calls, ``[layer, call, output, ...]``, in a description."""
    if isinstance(stated, dict):
        stated = list(stated.values())
    if not isinstance(stated, list):
        return
    kinds = tuple(type(each) for each in stated[:3])
    if kinds == (str, int, int):
        yield stated
    for each in stated:
        yield from _calls(each)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
