"""Load weights from files into a registered network, checking every array against its layer."""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import scipy.io

from registry import UserError

from .copying import renew_state
from .file_checks import check_h5, check_regular
from .memory import check_memory

# "vgg6/block0/conv1/weights", "vgg6/full3/biases", with any scope in front.
_VARIABLE = re.compile(
    r"(?P<scope>.*?)/?(?:block(?P<block>\d+)/conv(?P<conv>\d+)|(?:fc|full)t?(?P<full>\d+))"
    r"/(?P<kind>weights|biases)"
)
_COLOUR = re.compile(r"\x1b\[\d*m")  # of a terminal, in errors of Keras
# An optimizer's slot for a variable: "vgg6/block0/conv1/weights/Momentum".
_SLOT = re.compile(r".*/(weights|biases)/\w+")

_Named = list[tuple[str, np.ndarray]]


def unreadable(path: Path, kind: str, error: Exception) -> UserError:
    """The error that reports that `path` is not the expected `kind` of file."""
    return UserError(
        f"{path} is damaged or not {kind} ({type(error).__name__}: {cause_of(error)}): copy or "
        "save it again"
    )


def cause_of(error: Exception) -> str:
    """What an error says, in one line that is not long. Keras' errors quote the whole description
    of a layer and tell the cause after it."""
    cause = _COLOUR.sub("", str(error)).rpartition("Exception encountered:")[2]
    return " ".join(cause.strip(" '").split())[:150]


@contextlib.contextmanager
def h5_file(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading.

    Raises:
        UserError: the file, or a part that is read, is damaged, its arrays are in other files, or
            they claim more numbers than the file holds (see `nets.file_checks`).
    """
    check_regular(path)
    try:
        with h5py.File(path) as file:
            check_h5(file, path)
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise unreadable(path, "an HDF5 file", error) from error


def fill_from_h5(path: Path, model: keras.Model) -> None:
    """Load weights written by ``save_weights``. The file must match the model's layers, by name.

    Raises:
        UserError: the file is damaged, is no such file, or does not match `model`.
    """
    found: dict[tuple[str, int], np.ndarray] = {}

    def visit(name: str, item: Any) -> None:
        # Keras numbers its groups by class, "layers/conv2d_1"; an attribute has the layer's name.
        if isinstance(item, h5py.Dataset) and re.fullmatch(r"layers/[^/]+/vars/\d+", name):
            found[str(item.parent.attrs.get("name")), int(name.rpartition("/")[2])] = item[()]

    with h5_file(path) as file:
        file.visititems(visit)
    if not found:
        raise UserError(
            f"{path} contains no weights in Keras 3's format: save them with save_weights"
        )
    expected = {(lay.name, i): w for lay in model.layers for i, w in enumerate(lay.weights)}
    for place in {**expected, **found}:
        _assign(path, model, "{}/{}".format(*place), found.get(place), expected.get(place))
    renew_state(model)


def fill_in_order(path: Path, model: keras.Model) -> None:
    """Fill `model` from weights of the same architecture, whatever its layers are called there.

    Keras numbers layers without a name of their own through all models that a process made, so
    their names differ from one process to the next. They are told apart as Keras does it: by
    their order, in files of Keras 3 (``.weights.h5``) among the layers of their class, in those of
    earlier versions (``.h5``) among all.

    Raises:
        UserError: the file is damaged or does not fit: every array has to be in both.
    """
    layers = [layer for layer in model.layers if layer.weights]
    with h5_file(path) as file:
        stored = _stored_layers(path, file)
        in_order = dict(zip((layer.name for layer in layers), stored, strict=False))
        keys = _groups_by_class(model) if "layers" in file else in_order
        arrays = {
            (group, i): dataset[()]
            for group, (_, datasets) in stored.items() for i, dataset in enumerate(datasets)
        }
    expected = {
        (keys.get(layer.name, layer.name), i): weight
        for layer in layers for i, weight in enumerate(layer.weights)
    }
    for place in {**expected, **arrays}:
        _assign(path, model, "{}/{}".format(*place), arrays.get(place), expected.get(place))
    renew_state(model)


def stored_shapes(path: Path) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of each layer's arrays in a file of weights, by the layer's name in it. Raises
    UserError as `fill_in_order`."""
    with h5_file(path) as file:
        return {
            name: [tuple(dataset.shape) for dataset in datasets]
            for name, datasets in _stored_layers(path, file).values()
        }


def _stored_layers(path: Path, file: h5py.File) -> dict[str, tuple[str, list[h5py.Dataset]]]:
    """By its group in a file of Keras' weights, each layer's name and arrays, in order."""
    found: dict[str, tuple[str, list[h5py.Dataset]]] = {}
    if "layers" in file:
        for key, group in file["layers"].items():
            own = group.get("vars", {})
            if len(own):
                name = own.attrs.get("name", key)
                found[key] = (name, [own[number] for number in sorted(own, key=int)])
        return found
    root = file.get("model_weights", file)
    for key in map(_text, root.attrs.get("layer_names", ())):
        names = list(map(_text, root[key].attrs["weight_names"]))
        if names:
            found[key] = (key, [root[key][name] for name in names])
    if not found:
        raise UserError(f"{path} holds no weights as Keras saves them: save it by save_weights")
    return found


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _groups_by_class(model: keras.Model) -> dict[str, str]:
    """The group of each layer in a file of Keras 3, by the layer's name: its class, numbered."""
    counts: Counter[str] = Counter()
    groups = {}
    for layer in model.layers:
        kind = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()
        groups[layer.name] = f"{kind}_{counts[kind]}" if counts[kind] else kind
        counts[kind] += 1
    return groups


def fill_from_mat(path: Path, model: keras.Model) -> bool:
    """Load weights saved by the published TensorFlow 1 code.

    Returns:
        Whether the file contains the fully connected layers. If not, those of `model` are left
        unchanged.

    Raises:
        UserError: the file is damaged, contains something else or does not match `model`, or
            `model` has weights in layers other than `Conv2D` and `Dense`.
    """
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    for layer in model.layers:
        if layer.weights and not isinstance(layer, kinds):
            raise UserError(
                f"{path} cannot be loaded into {model.name}: .mat files are supported for "
                f"networks of Conv2D and Dense layers only, but {layer.name} is a "
                f"{type(layer).__name__}"
            )
    convolutions, full = _mat_variables(path)
    for kind, found in zip(kinds, (convolutions, full), strict=True):
        expected = [w for lay in model.layers if isinstance(lay, kind) for w in lay.weights]
        if found or kind is keras.layers.Conv2D:
            for named, variable in zip_longest(found, expected):
                _assign(path, model, *(named or ("", None)), variable)
    return bool(full)


def _mat_variables(path: Path) -> tuple[_Named, _Named]:
    """Keys and arrays of convolutions and of fully connected layers, in order, weights first."""
    variables: dict[tuple[int, ...], tuple[str, np.ndarray]] = {}
    scopes = set()
    for key, array in _mat_arrays(path).items():
        match = _VARIABLE.fullmatch(key)
        if match:
            scopes.add(match["scope"])
            numbers = [int(match[name] or -1) for name in ("full", "block", "conv")]
            variables[(*numbers, int(match["kind"] == "biases"))] = key, array
        elif not (_SLOT.fullmatch(key) or array.size == 1):  # One number: a step counter.
            raise UserError(
                f"{path}: cannot tell what {key!r} of shape {array.shape} is; "
                "expected names like vgg6/block0/conv0/weights"
            )
    if len(scopes) > 1:
        raise UserError(
            f"{path} contains several networks ({', '.join(sorted(scopes))}); keep only one"
        )
    ordered = sorted(variables)
    full = [variables[place] for place in ordered if place[0] >= 0]
    return [variables[place] for place in ordered if place[0] < 0], full


def _mat_arrays(path: Path) -> dict[str, np.ndarray]:
    """The file's arrays by name; a struct's fields are named ``struct/field``."""
    check_regular(path)
    try:
        claimed = sum(8 * math.prod(shape) for _, shape, _ in scipy.io.whosmat(str(path)))
        check_memory(claimed, f"the numbers that {path} claims", "give a smaller file")
        contents = scipy.io.loadmat(str(path), appendmat=False, simplify_cells=True)
    except NotImplementedError:
        raise UserError(f"{path} is in MATLAB's format 7.3: save it as -v7") from None
    except UserError:
        raise
    # scipy parses without checking, so damaged files raise errors of many classes.
    except Exception as error:
        raise unreadable(path, "a MATLAB file", error) from error
    arrays: dict[str, np.ndarray] = {}

    def flatten(prefix: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, Mapping):
                flatten(f"{prefix}{name}/", value)
            elif not name.startswith("__"):
                arrays[prefix + name.removesuffix(":0")] = np.asarray(value)

    flatten("", contents)
    return arrays


def _assign(
    path: Path,
    model: keras.Model,
    key: str,
    array: np.ndarray | None,
    variable: keras.Variable | None,
) -> None:
    """Assign to `variable` the `array` named `key` in the file. Raises UserError on a mismatch."""
    if variable is None:
        problem = f"{key} of shape {array.shape}, for which the network has no layer"
    elif array is None:
        problem = f"nothing for {variable.path} of shape {tuple(variable.shape)}"
    elif _without_ones(array.shape) != _without_ones(variable.shape):
        problem = f"{key} of shape {array.shape} for {variable.path} of {tuple(variable.shape)}"
    elif array.dtype.kind not in "fiu":
        problem = f"{key} of type {array.dtype}, not numbers"
    else:
        variable.assign(array.reshape(variable.shape))
        return
    raise UserError(
        f"{path} does not fit {model.name} with images {model.input_shape[1:]} and "
        f"{model.output_shape[-1]} classes: it has {problem}"
    )


def _without_ones(shape: Sequence[int]) -> list[int]:
    """`shape` without 1s: MATLAB adds a 1 to vectors and drops the trailing 1s of other arrays."""
    return [size for size in shape if size != 1]
