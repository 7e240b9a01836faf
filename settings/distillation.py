"""The settings of a distillation: the flags of train_w_distill.py, and most of compare.py's."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags

import plugins
from experiment.command.main import read
from experiment.command.options import (
    base_type,
    compared,
    define_flag,
    define_flags,
    from_flags,
    option,
)
from experiment.report.methods import methods_table
from registry import UserError, nearest, plain
from settings import known
from settings.common import DATA, RUN, TRAINING, DataSettings, RunSettings, TrainingSettings

NETWORKS, METHOD = "networks", "method"
TEACHER = "teacher"  # in a run folder, the folder of the run that trained the teacher
# The paper's training, and one by which the few digits are learned in minutes: by SGD a network
# as deep as the VGG teacher, which has no batch normalisation, hardly begins to learn them.
PAPER = {"epochs": 200, "batch_size": 128, "optimizer": "sgd"}
QUICK = {"epochs": 10, "batch_size": 32, "optimizer": "adam"}
LEARNING_RATE = {"sgd": 1e-2, "adam": 5e-4}


@dataclasses.dataclass(frozen=True)
class Settings(DataSettings, TrainingSettings, RunSettings):
    """The settings; each field but the last is the flag of its name.

    Attributes:
        hyper_parameters: of the method, by name. On the command line each is a flag of its own.
    """

    Distillation: str = option(
        "SSKD_SVD", "the method, NAME or NAME(setting=value,...), or a sum NAME+NAME: "
        f"{', '.join(known.method_names())}; help: list them", group=METHOD,
    )
    main_loss: str = option(
        "cross_entropy", "loss of the main task; none transfers without any label", group=METHOD,
        choices=("cross_entropy", "none"),
    )

    labelled_per_class: int | None = option(
        None, "labels kept in each class; the other images only feed the distillation",
        group=DATA, minimum=1,
    )
    flip: bool | None = option(
        None, "mirror half of the images (default: where a mirrored image is as good)", group=DATA
    )
    rotation: float = option(
        15.0, "rotate images by up to so many degrees", group=DATA, minimum=0, maximum=180
    )
    crop_padding: int = option(
        4, "pad images by so many pixels and crop back at random", group=DATA, minimum=0
    )

    net: str = option("VGG", f"pair of networks: {', '.join(known.pair_names())}", group=NETWORKS)
    teacher_net: str | None = option(
        None, f"the teacher, if not the pair's: {', '.join(known.network_names())}", group=NETWORKS
    )
    student_net: str | None = option(None, "the student, if not the pair's", group=NETWORKS)
    teacher_options: tuple[str, ...] = option(
        (), "options of the teacher net, as name=value,...", group=NETWORKS
    )
    student_options: tuple[str, ...] = option(
        (), "options of the student net, as name=value,...", group=NETWORKS
    )
    teacher: str | None = option(
        None, "a trained teacher: run folder, .keras, .weights.h5, published .mat, or tte:RUN of "
        "pretrain_tte.py; none: one is trained first, in the folder teacher/ of the run",
        group=NETWORKS,
    )
    teacher_model: str | None = option(
        None, "a teacher of your own instead of --net's: FILE.keras or FILE.h5 (trained), or "
        "keras.applications:NAME (to be trained)", group=NETWORKS,
    )
    student_model: str | None = option(
        None, "a student of your own: FILE.keras or FILE.h5 (trained on from its weights), or "
        "keras.applications:NAME", group=NETWORKS,
    )
    student_init: str | None = option(
        None, "tte:RUN, whose encoder's weights the student begins with", group=NETWORKS
    )
    teacher_preprocessing: str = option(
        "auto", "what the teacher was trained with, where its file does not say; auto: what its "
        "layers tell, else data; data: the data set's channel statistics, none: 0..255, tf: -1..1, "
        "torch: ImageNet's statistics",
        group=NETWORKS, choices=("auto", *known.PREPROCESSING),
    )
    student_preprocessing: str = option(
        "auto", "likewise of the student", group=NETWORKS, choices=("auto", *known.PREPROCESSING)
    )
    teacher_taps: tuple[str, ...] | None = option(
        None, "layers of the teacher to compare, shallow to deep, if not its own", group=NETWORKS
    )
    student_taps: tuple[str, ...] | None = option(
        None, "layers of the student to compare, if not its own", group=NETWORKS
    )
    list_layers: bool = option(
        False, "list the layers of teacher and student, by which taps are named, and end",
        group=NETWORKS, same_run=True,
    )

    teacher_epochs: int | None = option(
        None, "epochs of a teacher that is trained first (default: as many)", group=TRAINING,
        minimum=1,
    )

    images_per_second: float | None = option(
        None, "throughput, for the time that --dry_run tells (default: measured on a few steps)",
        group=RUN, above=0, same_run=True,
    )

    hyper_parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def teacher_name(self) -> str:
        """The teacher net as it is registered, or a file's name."""
        return _net_name(self.teacher_model, self.teacher_net or known.pair(self.net)[0])

    def student_name(self) -> str:
        """The student net as it is registered, or a file's name."""
        return _net_name(self.student_model, self.student_net or known.pair(self.net)[1])

    def teacher_file(self) -> str | None:
        """The trained teacher's file or folder; None: it is to be trained."""
        return self.teacher or (self.teacher_model if self.teacher_model_is_trained() else None)

    def teacher_model_is_trained(self) -> bool:
        """Whether the teacher's model comes from a file, with its weights."""
        return self.teacher_model is not None and not known.is_application(self.teacher_model)

    def spelled(self) -> Settings:
        """The same settings with registered names and with nothing left to a default, so that a run
        is recognised however its settings are written.

        Raises:
            UserError: a name is unknown, or settings do not go together.
        """
        self.checked()
        defaults = QUICK if self.dataset == "digits" else PAPER
        left_out = {key: value for key, value in defaults.items() if getattr(self, key) is None}
        optimizer = self.optimizer or defaults["optimizer"]
        return dataclasses.replace(
            self,
            **left_out,
            learning_rate=self.learning_rate or LEARNING_RATE[optimizer],
            Distillation="+".join(
                plugins.spelled(known.methods(), part) for part in self._method_parts()
            ),
            net=next(name for name in known.pair_names() if plain(name) == plain(self.net)),
            teacher_net=self.teacher_net and self.teacher_name(),
            student_net=self.student_net and self.student_name(),
        )

    def checked(self) -> Settings:
        """The same settings. Raises UserError as `spelled`."""
        list(self.methods())
        known.pair(self.net)
        for role in ("teacher", "student"):
            if getattr(self, f"{role}_model") and getattr(self, f"{role}_net"):
                raise UserError(f"--{role}_model and --{role}_net both name one: give one")
        if self.teacher and self.teacher_model_is_trained() and self.teacher != self.teacher_model:
            raise UserError("--teacher and --teacher_model both give a trained teacher: give one")
        if self.student_init and not known.is_encoder(self.student_init):
            raise UserError(f"--student_init is {self.student_init!r}; expected tte:RUN")
        return self

    def _method_parts(self) -> list[str]:
        """``"A+B(c=1)"`` in its parts."""
        return plugins.split(self.Distillation, "+") or [self.Distillation]

    def methods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and hyper-parameters of each method of the sum that `Distillation` is.

        Raises:
            UserError: there is no such method or hyper-parameter, its value is wrong, or several
                methods of the sum have one that is given without its method.
        """
        registry = known.methods()
        parsed = [plugins.parse(registry, part) for part in self._method_parts()]
        owners = find_owners([name for name, _ in parsed], self.hyper_parameters)
        for name, given in parsed:
            given = {**{key: self.hyper_parameters[key] for key in owners[name]}, **given}
            if name in known.declared_methods():
                plugins.configured(known.declared_methods().get(name), name, given)
            yield name, given

    def student_in_paths(self) -> str:
        """The student's name as a part of a file's name."""
        return Path(self.student_name()).stem.replace(":", "_")

    def folder(self) -> Path:
        """The run folder."""
        name = f"{self.dataset_in_paths()}-{self.student_in_paths()}"
        name += f"-{self.Distillation}-{self.seed}"
        return Path(self.train_dir or Path("runs") / name)

    def of_teacher(self, folder: Path) -> Settings:
        """The settings of the run that trains the teacher alone, with labels, for this one.

        Args:
            folder: its run folder.
        """
        untouched = {
            field.name: field.default for field in dataclasses.fields(Settings)
            if field.name.startswith("teacher")
        }
        return dataclasses.replace(
            self,
            **untouched,
            Distillation="None",
            hyper_parameters={},
            main_loss="cross_entropy",
            student_net=self.teacher_name(),
            student_options=self.teacher_options,
            student_taps=self.teacher_taps,
            student_model=None,
            student_init=None,
            student_preprocessing=self.teacher_preprocessing,
            epochs=self.teacher_epochs or self.epochs,
            train_dir=str(folder),
        )


def _net_name(model: str | None, net: str) -> str:
    """A network's name: that of a model of the user's own, or else of the net."""
    if model is None or known.is_application(model):
        return known.network_name(model or net)
    return model


# Hyper-parameters


def find_owners(methods: list[str], given: Mapping[str, Any]) -> dict[str, list[str]]:
    """Which methods the hyper-parameters `given` without a method belong to.

    Args:
        methods: registered names.
        given: by name.

    Returns:
        For each method the names of its hyper-parameters.

    Raises:
        UserError: none of the methods has such a hyper-parameter, or several have it.
    """
    fields = {name: known.methods().get(name).hyper_parameters() for name in methods}
    for key, value in given.items():
        owners = [name for name in fields if key in fields[name]]
        if len(owners) > 1:
            raise UserError(
                f"{' and '.join(owners)} have a hyper-parameter {key!r}, so --{key} is ambiguous: "
                f'give it with its method, as in --Distillation "{owners[0]}({key}={value})"'
            )
        if not owners:
            have = list(dict.fromkeys(each for own in fields.values() for each in own))
            has, they = ("has", "it has") if len(fields) == 1 else ("have", "they have")
            raise UserError(
                f"{' and '.join(fields)} {has} no hyper-parameter {key!r}{nearest(key, have)}; "
                f"{they}: {', '.join(have) or 'none'}"
            )
    return {name: [key for key in given if key in own] for name, own in fields.items()}


@functools.cache
def hyper_parameters() -> dict[str, tuple[Any, list[str]]]:
    """Each hyper-parameter of any method that is a flag: its type, and a line of help for each
    method that has it.

    One with the name of a setting has no flag; it is given with its method: ``NAME(epochs=2)``. Of
    several types in different methods the flag's is text.
    """
    taken = {field.name for field in dataclasses.fields(Settings)}
    found: dict[str, tuple[Any, list[str]]] = {}
    registry = known.declared_methods()
    for name in known.method_names():
        method = registry.get(name)
        texts, kinds = plugins.described_fields(method), plugins.field_types(method)
        for key, field in method.hyper_parameters().items():
            if key not in taken:
                kind, lines = found.get(key, (kinds[key], []))
                line = f"{name} (default {field.default}): {texts.get(key, '')}"
                same = base_type(kind) == base_type(kinds[key])
                found[key] = (kind if same else str, [*lines, line])
    return found


# The command line


def define() -> None:
    """Define the flags."""
    define_flags(Settings)
    for key, (kind, lines) in hyper_parameters().items():
        define_flag(key, kind, None, "\n".join(lines), METHOD)


def given_settings() -> Settings:
    """The settings as the command line gives them, by the flags of `define`."""
    values = {key: flags.FLAGS[key].value for key in hyper_parameters()}
    return from_flags(Settings, hyper_parameters={
        key: tuple(value) if isinstance(value, list) else value
        for key, value in values.items() if value is not None
    })


def read_settings(description: str) -> Settings:
    """The settings that the command line gives, or the end of the process (see `main.read`);
    ``--Distillation help`` lists the methods.

    Args:
        description: the script's docstring.
    """

    def make() -> Settings:
        settings = given_settings()
        if plain(settings.Distillation) == "help":
            print(methods_table(known.declared_methods()))
            sys.exit(0)
        return settings.spelled()

    return read(description, define, make)


def determining_settings(settings: Settings, method: Any) -> dict[str, Any]:
    """What a run folder compares to recognise a run.

    Args:
        settings: of the run.
        method: the method that is made of them.
    """
    return {**compared(settings), "hyper_parameters": method.settings()}
