"""Networks from files: a finished run, a Keras model, weights, or the published code's `.mat`."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras

from registry import UserError
from regular_files import read_bytes

from .class_names import read_class_names
from .copying import global_policy
from .file_checks import check_archive, check_h5, check_regular
from .functional import is_functional
from .fused import fuse_batch_normalization
from .keras2 import GONE, as_keras3_reads_it, old_version
from .keras_graph import holds_code, reserve_names, unknown_class
from .logits import logits_alone, without_softmax
from .memory import limited_memory
from .preprocessing import Standardize
from .pretrained import included_file, is_included
from .registration import build, names
from .scope_names import check_layer_names, scope_name
from .weights import cause_of, fill_from_h5, fill_from_mat, h5_file, unreadable

RUN_FILES = ("student.keras", "summary.json")
"""What `load` reads of a run folder."""
_ACCEPTED = (
    "expected the folder of a finished run, a model (.keras or .h5), weights of a registered "
    "network (.weights.h5) or the published code's variables (.mat)"
)

_MOST_JSON = 10**8  # bytes

# CIFAR-100's statistics in the order blue, green, red, by which the published code normalised its
# RGB images: wrong, but what its weights were trained on.
_PUBLISHED = Standardize(
    mean=(112.4776, 124.1058, 129.3773), deviation=(70.4587, 65.4312, 68.2094)
)


@dataclass(frozen=True)
class Stored:
    """A network that was read from a file.

    Attributes:
        model: functional, not compiled.
        standardize: the preprocessing that belongs to it; None where the file does not say.
        has_logits: False where the file holds convolutions only. What follows them in `model` is
            then as it was initialised, so that its logits mean nothing.
        class_names: in the order of the logits; None where the file does not say.
    """

    model: keras.Model
    standardize: Standardize | None
    has_logits: bool
    class_names: tuple[str, ...] | None = None


def load(
    path: str | os.PathLike,
    *,
    net: str | None = None,
    input_shape: Sequence[int] | None = None,
    classes: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Stored:
    """The network stored at `path`.

    - ``pretrained:NAME``: a network that comes with the project, see `nets.pretrained`.
    - a run folder: ``student.keras``, with the preprocessing that ``summary.json`` tells.
    - ``.keras``, or ``.h5`` with a whole model: any functional model, without running code from
      the file; of Keras 2 an ``.h5`` (`nets.keras2`). Each layer keeps the dtype policy that it was
      saved with, whatever the global one. A softmax at its end is taken off: a network gives logits
      here.
    - ``.weights.h5`` (or ``.h5``) from ``save_weights`` of the registered network `net`; every
      layer has to be there by name, and no other.
    - ``.mat``: variables as the published TensorFlow 1 code saved them, for registered networks
      of `Conv2D` and `Dense` layers alone, that is the VGG family. ``.../blockI/convJ/weights``
      and ``biases`` go to the convolutions in order, ``.../fullI/...`` (or ``fcI``) to the dense
      layers in order; those may be missing altogether. Structs, ``:0`` after a name and an
      optimiser's slots do not matter. The preprocessing is the published code's, CIFAR-100's
      statistics in reversed order.

    Args:
        path: see above.
        net: name of the registered network that weights (the last two) are for. They need
            `input_shape` and `classes` too; a whole model brings its own, and ignores these.
        input_shape: (height, width, channels) of its images.
        classes: its number of classes.
        options: its options, see `nets.build`.

    Raises:
        UserError: nothing usable is there: no such file, an unfinished run, a damaged file, a
            model that is not functional or holds Python code, weights that do not fit (the layer
            and both shapes are named).
    """
    if is_included(str(path)):
        file, card = included_file(str(path))
        return Stored(load_model(file), _preprocessing(card), True, read_class_names(file))
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; {_ACCEPTED}")
    if path.is_dir():
        return _load_run(path)
    check_regular(path)
    if path.suffix == ".keras" or (path.suffix == ".h5" and _holds_model(path)):
        model = without_softmax(logits_alone(load_model(path)))
        return Stored(model, None, True, read_class_names(path))
    if path.suffix not in (".h5", ".mat"):
        raise UserError(f"{path} has an unknown ending; {_ACCEPTED}")
    if net is None or input_shape is None or classes is None:
        raise UserError(
            f"{path} holds weights only; expected a whole model, as model.save writes it, or the "
            f"name of the network of --net that they are of ({', '.join(names())}), with its "
            "input_shape and classes"
        )
    model = build(net, input_shape, classes, **(options or {}))
    if path.suffix == ".h5":
        fill_from_h5(path, model)
        return Stored(model, standardize=None, has_logits=True)
    has_logits = fill_from_mat(path, model)
    return Stored(model, _PUBLISHED if model.input_shape[-1] == 3 else None, has_logits)


def _load_run(path: Path) -> Stored:
    model, summary = (path / name for name in RUN_FILES)
    if not summary.exists() and (path / "settings.json").exists():
        raise UserError(
            f"the run in {path} is not finished: run its command again, or give another one"
        )
    if not (summary.exists() and model.exists()):
        missing = model.name if summary.exists() else summary.name
        raise UserError(f"{path} holds no finished run (no {missing}); {_ACCEPTED}")
    return Stored(load_model(model), preprocessing_of(summary), True, read_class_names(model))


def read_summary(path: Path) -> dict[str, Any]:
    """A run's ``summary.json``. Raises UserError where it is missing, damaged or no object."""
    try:
        summary = json.loads(read_bytes(path, _MOST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        cause = " ".join(str(error).split())[:150]
        raise UserError(
            f"{path} is damaged or missing ({type(error).__name__}: {cause}): run its command again"
        ) from None
    if not isinstance(summary, dict):
        raise UserError(f"{path} is damaged: expected an object with names and values")
    return summary


def preprocessing_of(summary: Path) -> Standardize | None:
    """What the run's summary says under ``preprocessing``: ``mean``, ``deviation``, ``size``."""
    facts = read_summary(summary)
    try:
        return _preprocessing(facts)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise UserError(
            f"{summary} is damaged: expected preprocessing with mean and deviation, "
            "a number a channel each"
        ) from None


def _preprocessing(facts: Mapping[str, Any]) -> Standardize | None:
    """What is stated under ``preprocessing``, or None."""
    stated = facts.get("preprocessing")
    if stated is None:
        return None
    size = stated.get("size")
    return Standardize(
        mean=tuple(map(float, stated["mean"])),
        deviation=tuple(map(float, stated["deviation"])),
        size=None if size is None else (int(size[0]), int(size[1])),
        reverses=bool(stated.get("reverses", False)),
    )


@contextlib.contextmanager
def _warnings_of_what_succeeds() -> Iterator[None]:
    """Hold warnings back until the block has ended well: a refusal says all in one line."""
    with warnings.catch_warnings(record=True) as held:
        warnings.simplefilter("always")
        yield
    for each in held:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def load_model(path: Path) -> keras.Model:
    """The functional model in a ``.keras`` or ``.h5`` file. Raises UserError, see `load`."""
    check_regular(path)
    try:
        if path.suffix == ".keras":
            check_archive(path)
        else:
            with h5py.File(path) as file:
                check_h5(file, path)
        held = _warnings_of_what_succeeds()
        memory = limited_memory(f"the model in {path}")
        with global_policy("float32"), memory, held, as_keras3_reads_it(path) as file:
            model = keras.saving.load_model(file, compile=False, safe_mode=True)
    except UserError:
        raise
    # A file can state anything, so Keras can fail in any way.
    except Exception as error:
        raise _refusal(path, error) from error
    if not is_functional(model):
        raise UserError(
            f"{path} holds a {type(model).__name__} that is not functional: build the model with "
            "keras.Model(inputs, outputs), or a keras.Sequential with an Input"
        )
    reserve_names(model)
    if model.name != scope_name(model.name):
        model = keras.Model(model.input, model.output, name=scope_name(model.name))
    check_layer_names(model)
    return fuse_batch_normalization(model)


def _refusal(path: Path, error: Exception) -> UserError:
    """What a person should know of the `error` that Keras raised on loading `path`."""
    if holds_code(error):
        return UserError(
            f"{path} holds Python code (a Lambda layer's, say), which could do anything, and is "
            "refused: save the model without such layers"
        )
    unknown, version = unknown_class(error), old_version(path)
    if version and unknown in GONE:
        cause = f" (it uses {unknown!r}, which Keras 3 does not have)"
        return _refusal_of_keras2(path, version, cause)
    if version and unknown in (None, "Functional"):
        return _refusal_of_keras2(path, version, "" if unknown else f" ({cause_of(error)})")
    if unknown:
        return UserError(
            f"{path} uses {unknown!r}, which is not known here: import what registers it "
            "(keras.saving.register_keras_serializable) and run from Python, or use Keras's own "
            "layers"
        )
    return unreadable(path, "a Keras model", error)


def _refusal_of_keras2(path: Path, version: str, cause: str) -> UserError:
    if path.suffix == ".h5":
        advice = "build the network in Keras 3, call its load_weights with this file, and save it"
    else:
        advice = (
            "open it in Keras 2 and save it as .h5, which Keras 3 can mostly read, or build the "
            "network in Keras 3 and load weights that Keras 2 saved by save_weights('weights.h5')"
        )
    return UserError(
        f"{path} was saved by Keras {version}, and Keras 3 cannot read it{cause}: {advice}"
    )


def _holds_model(path: Path) -> bool:
    with h5_file(path) as file:
        return "model_config" in file.attrs
