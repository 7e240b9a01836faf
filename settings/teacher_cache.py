"""Keeping the teacher's outputs (``--cache_teacher``): under which key, and computing them."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from experiment.run.durations import duration, rough_duration
from experiment.run.interruption import RESUME, Interrupted, Signals
from experiment.run.teacher_cache import TEACHER, TeacherCache, key_folder, size_text
from nets import Standardize
from nets.keras_graph import all_layers
from settings.networks import find_preprocessing
from settings.run_setup import Setup, augmentation_of, training_batches

FORMAT = 1  # of key and files
MEASURED_STEPS = 5
REPORT_SECONDS = 30.0
UNKNOWN = "KEY"  # in place of the key's folder, as long as the teacher has to be trained


@dataclasses.dataclass(frozen=True)
class CachePlan:
    """What is to be kept of a teacher.

    Attributes:
        outputs_of: from a batch's images to the outputs that are to be kept, float32 ``[B, width]``
            by name.
        key: all that the outputs depend on; None: the teacher is not yet trained.
        cache: the files.
        missing: the epochs that have to be computed.
    """

    outputs_of: Callable[[tf.Tensor], dict[str, tf.Tensor]]
    key: dict[str, Any] | None
    cache: TeacherCache
    missing: list[int]


def plan_cache(setup: Setup) -> CachePlan | None:
    """What is to be kept of the teacher: what the method reads and what the settings name; None:
    nothing. Writes nothing.

    Raises:
        UserError: there is no room on the disk.
    """
    settings = setup.settings
    if not settings.cache_teacher or setup.teacher is None:
        return None
    names = sorted({*setup.read_outputs(), *settings.cache_outputs})
    outputs_of = make_teacher_function(setup, names)
    key = make_key(setup) if setup.teacher_is_trained else None
    top = settings.cache_folder()
    shapes = outputs_of.get_concrete_function().structured_outputs
    cache = TeacherCache(
        top / UNKNOWN if key is None else key_folder(top, key),
        len(setup.data.train),
        {name: int(shape.shape[-1]) for name, shape in shapes.items()},
    )
    missing = cache.missing(setup.read_outputs(), settings.epochs)
    if key is not None or not top.exists():  # else some or all may be kept: under which key?
        cache.check_room(len(missing))
    return CachePlan(outputs_of, key, cache, missing)


def fill_cache(setup: Setup) -> Setup:
    """Compute what is missing of the teacher's outputs; the same setup with the cache. Where they
    are not to be kept, nothing happens.

    Raises:
        UserError: there is no room on the disk, or an output is beyond the range of float16.
        Interrupted: asked to stop; epochs that were finished are kept.
    """
    planned = plan_cache(setup)
    if planned is None:
        return setup
    print(f"teacher's outputs: {describe_cache(setup, planned)}", flush=True)
    if planned.missing:
        planned.cache.begin(planned.key)
        compute(setup, planned)
    return dataclasses.replace(setup, cache=planned.cache)


def describe_cache(setup: Setup, planned: CachePlan) -> str:
    """What is kept, how large it is and how long it takes, in words."""
    epochs, missing, cache = setup.settings.epochs, len(planned.missing), planned.cache
    what = (
        f"{' and '.join(cache.widths)} of {cache.images:,} images in {epochs} epochs, "
        f"{size_text(cache.size(epochs))} in {cache.folder}"
    )
    if not missing:
        return f"{what}, computed before"
    seconds = missing * setup.steps * _seconds_of_step(setup, planned)
    left = "all" if missing == epochs else f"{missing} epochs"
    return f"{what}; computing {left} of them takes about {rough_duration(seconds)}"


# Which outputs


def _as_before(preprocessing: Standardize) -> dict[str, Any]:
    """A preprocessing, as keys have stated it since before channels could be reversed."""
    stated = dataclasses.asdict(preprocessing)
    if not preprocessing.reverses:
        del stated["reverses"]
    return stated


def make_teacher_function(setup: Setup, names: list[str]) -> Any:
    """The `tf.function` from a batch's images to the teacher's features `names`."""
    image = training_batches(setup.settings, setup.data).element_spec["image"]

    @tf.function(input_signature=[image], autograph=False)
    def outputs_of(image: tf.Tensor) -> dict[str, tf.Tensor]:
        features = setup.distiller.teacher_features(image)
        return {name: features[name] for name in names}

    return outputs_of


def make_key(setup: Setup) -> dict[str, Any]:
    """All that the outputs depend on: the teacher, the images, and how these are shown.

    The batch size is a part of it, as sums are rounded differently in batches of another size.
    """
    settings, data = setup.settings, setup.data
    preprocessing = find_preprocessing("teacher", settings, data, setup.teacher)
    outputs = setup.distiller.teacher_outputs
    return {
        "format": FORMAT,
        "teacher": {
            "network": network_fingerprint(setup.teacher.model),
            "embedding": outputs.embedding,
            "logits": outputs.logits,
            "preprocessing": _as_before(preprocessing),
        },
        "data": {
            "name": data.name,
            "images": len(data.train),
            "image_shape": data.image_shape,
            "fingerprint": data.train.fingerprint,
            "fill": data.train.fill,
        },
        "augmentation": dataclasses.asdict(augmentation_of(settings, data)),
        "settings": {
            name: getattr(settings, name)
            for name in ("seed", "batch_size", "mixed_precision", "validation_fraction",
                         "data_seed", "train_images", "image_size")
        },
    }


def network_fingerprint(model: keras.Model) -> str:
    """SHA-256 sum, in hexadecimal, of a network's weights and of what its layers and operations
    are, how they are configured and what they are given. Names do not count: Keras numbers them
    anew in each process."""
    graph = _nameless(keras.Model(model.inputs, model.outputs).get_config(), {})
    layers = [  # also those within layers, which a layer's own configuration may leave out
        (
            type(each).__name__,
            {} if isinstance(each, keras.Model) else _nameless(each.get_config(), {}),
        )
        for each in all_layers(model)  # the layers of a model within it come after it
    ]
    said = json.dumps([graph, layers], sort_keys=True, default=_stated)
    digest = hashlib.sha256(said.encode())
    for variable in model.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _nameless(config: Any, places: Mapping[str, int]) -> Any:
    """The configuration of a layer or a model without names, at any depth: what refers to a layer
    has its place among the model's layers instead.

    Args:
        config: as Keras gives it.
        places: of the layers of the model that it is a part of, by name.
    """
    if isinstance(config, (list, tuple)):
        return [_nameless(value, places) for value in config]
    if not isinstance(config, Mapping):
        return config
    if str(config.get("class_name")).endswith("Policy"):  # of the dtype, by name
        return config
    layers = config.get("layers")
    if isinstance(layers, list) and all(isinstance(each, Mapping) for each in layers):
        names = [each.get("config", each).get("name") for each in layers]
        places = {name: place for place, name in enumerate(names)}
    return {
        key: _places_for_names(value, places)
        if key in ("keras_history", "input_layers", "output_layers") else _nameless(value, places)
        for key, value in config.items() if key not in ("name", "compile_config")
    }


def _places_for_names(references: Any, places: Mapping[str, int]) -> Any:
    """``[name, call, output]`` of a layer, or a structure of these, with its place for its name."""
    return keras.tree.map_structure(lambda each: places.get(each, each), references)


def _stated(value: Any) -> Any:
    """What JSON cannot hold: arrays by their bytes, anything else by its kind."""
    if isinstance(value, np.generic) or hasattr(value, "__array__"):
        array = np.ascontiguousarray(value)
        return [str(array.dtype), array.shape, array.tobytes().hex()]
    return type(value).__name__


# Computing


def compute(setup: Setup, planned: CachePlan) -> None:
    """Compute and write the epochs that are missing, in the batches of the training.

    Each process takes them in an order of its own, so that several at once share the work: an epoch
    that another has finished meanwhile is passed over.
    """
    cache, epochs = planned.cache, planned.missing
    began = shown = time.monotonic()
    with Signals() as signals:
        order = np.random.default_rng().permutation(epochs)  # whatever the seed
        for done, epoch in enumerate(map(int, order), start=1):
            if all(cache.has(name, epoch) for name in cache.widths):
                continue
            cache.write(epoch, _outputs_of_epoch(setup, planned, epoch, signals))
            now = time.monotonic()
            if now - shown > REPORT_SECONDS:
                shown, left = now, (now - began) * (len(epochs) / done - 1)
                print(f"teacher's outputs: {done} of {len(epochs)} epochs, {duration(left)} left",
                      flush=True)
        _stop_if_asked(signals)


def _outputs_of_epoch(
    setup: Setup, planned: CachePlan, epoch: int, signals: Signals
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Indices and outputs of an epoch's batches."""
    for batch in training_batches(setup.settings, setup.data, epoch).take(setup.steps):
        _stop_if_asked(signals)
        found = planned.outputs_of(batch["image"])
        yield batch["index"].numpy(), {name: value.numpy() for name, value in found.items()}


def _stop_if_asked(signals: Signals) -> None:
    if signals.received:
        print(f"interrupted while computing the teacher's outputs; whole epochs are kept: {RESUME}",
              file=sys.stderr, flush=True)
        raise Interrupted(signals.received)


def _seconds_of_step(setup: Setup, planned: CachePlan) -> float:
    """That a batch and the teacher's outputs to it take, measured on a few."""
    batches = iter(training_batches(setup.settings, setup.data).repeat())
    planned.outputs_of(next(batches)["image"])  # TensorFlow prepares itself
    began = time.monotonic()
    for batch in itertools.islice(batches, MEASURED_STEPS):
        for value in planned.outputs_of(batch["image"]).values():
            value.numpy()  # waits for the device
    return (time.monotonic() - began) / MEASURED_STEPS


def batches_to_measure(setup: Setup, planned: CachePlan | None) -> tf.data.Dataset:
    """The batches of the training, by which to measure how long a step takes: where outputs are to
    be kept, with zeros in their place."""
    batches = training_batches(setup.settings, setup.data)
    if planned is None:
        return batches
    names, widths = setup.read_outputs(), planned.cache.widths

    def joined(batch: dict[str, Any]) -> dict[str, Any]:
        size = tf.shape(batch["index"])[0]
        blank = {name: tf.zeros([size, widths[name]]) for name in names}
        return {**batch, TEACHER: {
            name: tf.ensure_shape(zeros, [None, widths[name]]) for name, zeros in blank.items()
        }}

    return batches.map(joined)
