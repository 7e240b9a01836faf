"""The registries of networks and of teacher-student pairs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from registry import Registry, UserError, nearest

from .applications import application_name, build_application, is_application
from .memory import limited_memory


@dataclass(frozen=True)
class Outputs:
    """The outputs of a network that distillation uses, as layer names.

    Attributes:
        taps: layers that provide the feature maps to compare, shallow to deep.
        embedding: the layer that provides the image's representation, after averaging over
            positions.
        logits: the layer that provides the logits.
    """

    taps: tuple[str, ...]
    embedding: str
    logits: str


_OF_DATA = ("name", "input_shape", "classes")
"""What `build` is given in addition to a network's options."""
_SMALLER = "choose smaller options, fewer classes or smaller images"

_networks = Registry("network")
_pairs = Registry("pair of networks")


def register(
    name: str,
    *,
    taps: Sequence[str],
    embedding: str,
    logits: str = "logits",
    minimum_size: int = 1,
) -> Callable[[Any], Any]:
    """Decorator that registers a function as the network `name`.

    It is called as ``function(image, classes, **options)`` with a symbolic ``[B, H, W, C]`` tensor
    and returns the symbolic logits ``[B, classes]``. The options are its keyword-only arguments,
    which all have defaults.

    Args:
        name: the name of the network and of its model.
        taps: names of the tapped layers, shallow to deep.
        embedding: name of the layer that outputs the embedding.
        logits: name of the layer that outputs the logits.
        minimum_size: the smallest height and width of an image, in pixels.
    """
    outputs = Outputs(tuple(taps), embedding, logits)
    return _networks.register(name, outputs=outputs, minimum_size=minimum_size)


def declare_pair(name: str, *, teacher: str, student: str) -> None:
    """Register the networks `teacher` and `student` as the pair `name`."""
    _pairs.register(name)((teacher, student))


def names() -> list[str]:
    """The names of all registered networks."""
    return _networks.names()


def pairs() -> list[str]:
    """The names of all registered pairs."""
    return _pairs.names()


def pair(name: str) -> tuple[str, str]:
    """The names of a pair's teacher and student, for example of ``pair("VGG")``.

    Raises:
        UserError: there is no such pair; the message suggests the closest name.
    """
    return _pairs.get(name)


def declared_outputs(name: str) -> Outputs | None:
    """The declared outputs of the network `name`; None if there is no such network."""
    return _networks.facts(name)["outputs"] if name in _networks else None


def declared_outputs_of(model: keras.Model) -> Outputs | None:
    """The declared outputs of a model that is a registered network, as `build` makes it; None of
    any other model, also of one that only has such a network's name."""
    declared = declared_outputs(model.name)
    if declared is None:
        return None
    own = {layer.name for layer in model.layers}
    return declared if own >= {*declared.taps, declared.embedding, declared.logits} else None


def minimum_size(name: str) -> int | None:
    """The smallest height and width, in pixels, of images for the network `name`.

    None if there is no such network.
    """
    return _networks.facts(name)["minimum_size"] if name in _networks else None


def registered_name(name: str) -> str:
    """`name` in its registered spelling, or in Keras' (``keras.applications:NAME``).

    Raises:
        UserError: `name` is unknown; the message suggests the closest name.
    """
    return application_name(name) if is_application(name) else _networks.name(name)


def parse_options(texts: Sequence[str]) -> dict[str, int | float]:
    """Parse a user's network options: ``["width=64", "dropout=0"]``.

    Raises:
        UserError: not of the form ``name=number``, or what the data decide.
    """
    options: dict[str, int | float] = {}
    for text in texts:
        key, sign, value = (part.strip() for part in text.partition("="))
        try:
            number = float(value) if "." in value or "e" in value.lower() else int(value)
        except ValueError:
            sign = ""
        if not sign or not key:
            raise UserError(f"cannot read the network option {text!r}; expected name=number")
        if key in options:
            raise UserError(f"the network option {key!r} is given twice; give it once")
        if key in _OF_DATA:
            raise UserError(
                f"the network option {key!r} cannot be set: a network is built for the data's "
                "images (--image_size, --channels) and classes; leave it out"
            )
        options[key] = number
    return options


def build(
    name: str,
    input_shape: Sequence[int] = (32, 32, 3),
    classes: int = 100,
    **options: Any,
) -> keras.Model:
    """Build a registered network with fresh weights.

    The weights depend only on `keras.utils.set_random_seed`. The model has the registered name, by
    which `outputs_of` finds its taps, even after saving and loading.

    Args:
        name: a registered name (case, ``-`` and ``_`` are ignored) or ``keras.applications:NAME``.
        input_shape: (height, width, channels) of the images. The model takes batches of any size of
            normalised float images.
        classes: number of classes, at least 1.
        **options: options of the network, for example ``dropout=0.0``; see the registered function.

    Returns:
        A functional model from ``[B, H, W, C]`` to logits ``[B, classes]``. The logits of
        registered networks are float32, even under a mixed policy (float64 under float64).

    Raises:
        UserError: unknown name or option, unsupported input size, or not enough memory.
    """
    if is_application(name):
        with limited_memory(f"network {name}", _SMALLER):
            return build_application(name, input_shape, classes, options)
    function, facts, name = _networks.get(name), _networks.facts(name), _networks.name(name)
    shape = _checked_shape(name, input_shape, facts["minimum_size"])
    if not _is_count(classes):
        raise UserError(f"network {name}: classes must be a whole number >= 1, not {classes!r}")
    _check_options(name, function, options)
    image = keras.Input(shape, name="image")
    with limited_memory(f"network {name}", _SMALLER):
        model = keras.Model(image, function(image, int(classes), **options), name=name)
    _check_layers(model, facts["outputs"])
    return model


def _check_layers(model: keras.Model, outputs: Outputs) -> None:
    """Raise ValueError unless a network has the layers that it is registered with."""
    layers = {layer.name for layer in model.layers}
    for layer in (*outputs.taps, outputs.embedding, outputs.logits):
        if layer not in layers:
            raise ValueError(
                f"network {model.name} is registered with the layer {layer!r}, which it does not "
                f"have{nearest(layer, sorted(layers))}"
            )


def _is_count(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and int(value) == value and value >= 1
    except (TypeError, ValueError, OverflowError):
        return False


def _checked_shape(name: str, shape: Any, minimum: int) -> tuple[int, int, int]:
    """`shape` as three integers. Raises UserError if the network cannot take it."""
    given = tuple(shape) if isinstance(shape, (list, tuple)) else shape
    if not (isinstance(given, tuple) and len(given) == 3 and all(map(_is_count, given))):
        raise UserError(
            f"network {name}: input_shape must be (height, width, channels), "
            f"three whole numbers >= 1, not {shape!r}"
        )
    height, width, channels = map(int, given)
    if min(height, width) < minimum:
        raise UserError(
            f"network {name} needs images of at least {minimum}x{minimum} pixels, "
            f"not {height}x{width}: resize the images or choose another network"
        )
    return height, width, channels


def _check_options(name: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise UserError(
                f"network {name} has no option {option!r}{nearest(option, known)}; "
                f"its options: {', '.join(known) or 'none'}"
            )
