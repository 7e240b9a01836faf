"""The names that settings may have, read from the source: importing the packages that register them
loads TensorFlow, which takes seconds.

Once such a package is imported, its own registry answers, with all that was registered since.
"""

from __future__ import annotations

import functools
import sys

from experiment.command import catalogue
from registry import Registry, plain

SCHEDULES: tuple[str, ...] = catalogue.constant("op_util.schedules", "SCHEDULES")
STRATEGIES: tuple[str, ...] = catalogue.constant("experiment.run.devices", "STRATEGIES")
IN_MEMORY: tuple[str, ...] = catalogue.constant("dataloader.loading", "IN_MEMORY")
PREPROCESSING: tuple[str, ...] = catalogue.constant("nets.preprocessing", "PREPROCESSING")
APPLICATION: str = catalogue.constant("nets.applications", "PREFIX")
PRESET: str = catalogue.constant("nets.keras_hub_presets", "PREFIX")
ENCODER: str = catalogue.constant("nets.transfer", "PREFIX")
PAPERS_DATA = ("cifar10", "cifar100")


def is_application(name: str) -> bool:
    """Whether `name` is of the form ``keras.applications:NAME``."""
    return name.lower().startswith(APPLICATION)


def is_preset(name: str) -> bool:
    """Whether `name` is of the form ``keras_hub:PRESET_OR_FOLDER``."""
    return name.lower().startswith(PRESET)


def is_encoder(text: str) -> bool:
    """Whether `text` is of the form ``tte:RUN``: an encoder of pretrain_tte.py."""
    return text.lower().startswith(ENCODER)


def path_of(model: str | None) -> str | None:
    """A model as it is given, without the prefix before a path."""
    for prefix in (ENCODER, PRESET):
        if model is not None and model.lower().startswith(prefix):
            return model[len(prefix):]
    return model


def dataset_name(text: str) -> str:
    """A data set with its source, or its name where it is one of the paper's, as registered."""
    kind, colon, argument = text.partition(":")
    for name in (*_declared_sources(), *(() if colon else PAPERS_DATA)):
        if plain(kind) == plain(name):
            return f"{name}{colon}{argument}"
    return text


@functools.cache
def _declared_sources() -> tuple[str, ...]:
    return tuple(catalogue.registered_names("dataloader"))


@functools.cache
def declared_methods() -> Registry:
    """The distillation methods by their declarations (see `catalogue.plugin_registry`)."""
    return catalogue.plugin_registry("distillation method", "distillers")


@functools.cache
def _declared_networks() -> Registry:
    registry = Registry("network")
    for each in catalogue.registrations("nets"):
        registry.register(each.name, **each.facts)(None)
    return registry


@functools.cache
def _declared_pairs() -> Registry:
    registry = Registry("pair of networks")
    for (name,), networks in catalogue.calls("nets", "declare_pair"):
        registry.register(name)((networks["teacher"], networks["student"]))
    return registry


def method_names() -> list[str]:
    """The names of the distillation methods, in the order of the alphabet."""
    return sorted(declared_methods().names(), key=str.lower)


def methods() -> Registry:
    """The distillation methods."""
    imported = sys.modules.get("distillers.registration")
    return imported.METHODS if imported else declared_methods()


def network_names() -> list[str]:
    """The names of all networks."""
    return _declared_networks().names()


def network_name(name: str) -> str:
    """A network's name as it is registered, or as Keras spells it.

    Raises:
        UserError: there is no such network; the message names the nearest one.
    """
    if "nets" not in sys.modules and not is_application(name):
        return _declared_networks().name(name)
    import nets  # only Keras knows its applications

    return nets.registered_name(name)


def pair_names() -> list[str]:
    """The names of all pairs of networks."""
    return sys.modules["nets"].pairs() if "nets" in sys.modules else _declared_pairs().names()


def pair(name: str) -> tuple[str, str]:
    """The names of a pair's teacher and student.

    Raises:
        UserError: there is no such pair; the message names the nearest one.
    """
    return sys.modules["nets"].pair(name) if "nets" in sys.modules else _declared_pairs().get(name)


@functools.cache
def _declared_scenes() -> frozenset[str]:
    found = catalogue.registrations("dataloader", "register_scenes")
    return frozenset(each.name for each in found)


def is_scenes(name: str) -> bool:
    """Whether `name` is a known detection data set, see `dataloader.is_scenes`."""
    if "dataloader" in sys.modules:
        return sys.modules["dataloader"].is_scenes(name)
    kind = name.partition(":")[0]
    return (kind in _declared_scenes() and kind != "tfds") or name.partition("/")[0] == "voc"


def is_of_tfds(name: str) -> bool:
    """Whether a data set is one of tensorflow-datasets: by its prefix, or with none."""
    kind, colon, _ = name.partition(":")
    if colon:
        return plain(kind) == "tfds"
    return plain(kind) not in map(plain, (*_declared_sources(), *_declared_scenes()))
