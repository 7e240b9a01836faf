"""Whole models that Keras 2 saved, as far as Keras 3 can be made to read them.

Keras 3 reads ``.h5`` files of Keras 2, but refuses some arguments that Keras 2 wrote down for its
layers although they say nothing, its dtype policies, and names of modules that exist no more.
Without these, the file holds the same network.
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

# Of a separable convolution, which has initialisers and the like for both of its kernels besides.
_OF_NO_KERNEL = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
_UNUSED = {
    "DepthwiseConv1D": (), "DepthwiseConv2D": (), "Conv1DTranspose": (), "Conv2DTranspose": (),
    "SeparableConv1D": _OF_NO_KERNEL, "SeparableConv2D": _OF_NO_KERNEL,
}
"""The layers for which Keras 2 wrote down ``groups=1``, and what else of theirs has no effect."""
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
    """Within it, a file of the same model that Keras 3 reads, if that is possible.

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
    _simplify(config)
    return None if config == stated else json.dumps(config)


def _simplify(stated: Any) -> None:
    """Leave out of the description of a layer or a model what Keras 3 refuses, in place."""
    if not isinstance(stated, dict) or not isinstance(stated.get("config"), dict):
        return
    name, config = stated.get("class_name"), stated["config"]
    if str(stated.get("module")).partition(".")[0] in _MODULES:
        for entry in _ENTRIES:  # without them Keras goes by the class's name, as in older files
            stated.pop(entry, None)
    if name in _UNUSED and config.get("groups") == 1:
        for argument in ("groups", *_UNUSED[name]):
            config.pop(argument, None)
    policy = config.get("dtype")
    if isinstance(policy, dict) and policy.get("class_name") == "Policy":
        config["dtype"] = policy["config"]["name"]  # Keras 3's policies have more classes
    layers = config.get("layers")
    for each in [*(layers if isinstance(layers, list) else ()), config.get("layer")]:
        _simplify(each)
    for entry in ("input_layers", "output_layers"):
        tensors = config.get(entry)
        if isinstance(tensors, list) and len(tensors) == 1 and isinstance(tensors[0], list):
            config[entry] = tensors[0]  # Keras 3 would give a list of one to a `Sequential`


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
