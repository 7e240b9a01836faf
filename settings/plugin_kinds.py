"""Kinds of plug-ins in a script's settings: which there are, and their hyper-parameters as flags.

A setting such as ``tasks="rotation,jigsaw(tiles=3)"`` names plug-ins. Their hyper-parameters are
given there, or in the setting `hyper_parameters`, whose keys are also flags: ``--jigsaw_tiles 3``.
Like all settings, this does not load TensorFlow: plug-ins are known by their declarations
(`experiment.command.catalogue`) until the package that registers them is imported.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

import plugins
from experiment.command import catalogue
from experiment.command.options import define_flag
from registry import Registry, UserError, nearest


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of plug-ins.

    Attributes:
        noun: what one is called in messages.
        package: the package whose modules declare them.
        module: the module that holds their registry.
        registry_name: the name of the registry in it.
        group: the heading of their flags.
        prefixed: whether a flag is called ``NAME_FIELD``, else ``FIELD``, which plug-ins with a
            field of the same name share.
    """

    noun: str
    package: str
    module: str
    registry_name: str
    group: str
    prefixed: bool = True

    def registry(self) -> Registry:
        """The plug-ins: those registered if their package is imported, else their declarations."""
        imported = sys.modules.get(self.package)
        if imported is not None:
            return getattr(sys.modules[self.module], self.registry_name)
        return _declared(self)

    def get(self, name: str) -> type[plugins.Plugin]:
        """The plug-in called `name`. Raises UserError if there is none."""
        return self.registry().get(name)

    def flag(self, name: str, field: str) -> str:
        """The flag of a plug-in's field, without ``--``."""
        return f"{name}_{field}" if self.prefixed else field

    def flags(self) -> dict[str, list[tuple[str, dataclasses.Field]]]:
        """For each flag the plug-ins and fields that it sets."""
        found: dict[str, list[tuple[str, dataclasses.Field]]] = {}
        for name in self.registry().names():
            for field in self.get(name).hyper_parameters().values():
                found.setdefault(self.flag(name, field.name), []).append((name, field))
        return found

    def create(self, text: str, given: Mapping[str, Any]) -> list[Any]:
        """The plug-ins that `text` names.

        Args:
            text: ``NAME`` or ``NAME(hyper_parameter=value,...)``, several separated by commas.
            given: hyper-parameters by flag, also those of other plug-ins. What `text` says wins.

        Raises:
            UserError: there is no such plug-in or hyper-parameter, a value is wrong, or a plug-in
                is named twice.
        """
        registry, created = self.registry(), {}
        for part in plugins.split(text):
            name, inline = plugins.parse(registry, part)
            if name in created:
                raise UserError(f"{self.noun} {name!r} is given twice in {text!r}: give it once")
            own = {
                field: given[self.flag(name, field)]
                for field in registry.get(name).hyper_parameters()
                if self.flag(name, field) in given
            }
            created[name] = plugins.configured(registry.get(name), name, {**own, **inline})
        return list(created.values())


@functools.cache
def _declared(kind: Kind) -> Registry:
    return catalogue.plugin_registry(kind.noun, kind.package, f"{kind.registry_name}.register")


def define_flags(kinds: Sequence[Kind]) -> None:
    """Define the flags of all plug-ins' fields. They have no defaults, as a value in parentheses
    wins over a flag, and a flag over the default."""
    for kind in kinds:
        for flag, owners in kind.flags().items():
            name, field = owners[0]
            plugin = kind.get(name)
            about = plugins.described_fields(plugin).get(field.name, field.metadata.get("help", ""))
            default = _shown(field.default)
            about = f"{', '.join(owner for owner, _ in owners)}: {about}{default}"
            define_flag(flag, plugins.field_types(plugin)[field.name], None, about, kind.group)


def _shown(default: Any) -> str:
    if default is None:
        return ""
    text = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return f" (default {text})"


def given_by_flags(kinds: Sequence[Kind]) -> dict[str, Any]:
    """The hyper-parameters that the command line gives, by flag."""
    found = {flag: flags.FLAGS[flag].value for kind in kinds for flag in kind.flags()}
    return {
        flag: tuple(value) if isinstance(value, list) else value
        for flag, value in found.items() if value not in (None, "", [])
    }


def as_words(hyper_parameters: Mapping[str, Any]) -> list[str]:
    """The words of a command line that give these hyper-parameters."""
    return [
        f"--{flag}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for flag, value in hyper_parameters.items() if value is not None
    ]


def resolve(
    chosen: Mapping[Kind, str], given: Mapping[str, Any]
) -> tuple[dict[Kind, str], dict[str, Any]]:
    """The names of the chosen plug-ins, and all their hyper-parameters, so that a run is recognised
    however they are written.

    Args:
        chosen: for each kind, what its setting says.
        given: hyper-parameters by flag. Those of plug-ins that are not chosen are left out.

    Returns:
        For each kind the names as they are registered, separated by commas; and the
        hyper-parameters by flag, defaults included.

    Raises:
        UserError: see `Kind.create`; or no plug-in has such a hyper-parameter.
    """
    known = [flag for kind in chosen for flag in kind.flags()]
    for flag in given:
        if flag not in known:
            raise UserError(f"no hyper-parameter is called {flag!r}{nearest(flag, known)}")
    names, hyper_parameters = {}, {}
    for kind, text in chosen.items():
        created = kind.create(text, given)
        names[kind] = ",".join(each.name for each in created)
        for each in created:
            settings = each.settings().items()
            hyper_parameters.update({kind.flag(each.name, key): value for key, value in settings})
    return names, hyper_parameters
