"""What may be set in a distillation: the flags of train_w_distill.py, which compare.py has too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags

import distillers
import nets
from distillers.registration import METHODS
from experiment.command.options import compared, define_flags, documented, option
from registry import UserError, plain
from settings.common import DATA, TRAINING, DataSettings, RunSettings, TrainingSettings

NETWORKS, METHOD = "networks", "method"
# The paper's training, and one by which the few digits are learned in minutes: by SGD a network
# as deep as the VGG teacher, which has no batch normalisation, hardly begins to learn them.
PAPER = {"epochs": 200, "batch_size": 128, "optimizer": "sgd"}
QUICK = {"epochs": 10, "batch_size": 32, "optimizer": "adam"}
LEARNING_RATE = {"sgd": 1e-2, "adam": 5e-4}


@dataclasses.dataclass(frozen=True)
class Settings(DataSettings, TrainingSettings, RunSettings):
    """What may be set; each field is the flag of its name."""

    Distillation: str = option(
        "SSKD_SVD", f"the method, NAME or NAME(setting=value,...): {', '.join(METHODS.names())}",
        group=METHOD,
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

    net: str = option("VGG", f"pair of networks: {', '.join(nets.pairs())}", group=NETWORKS)
    teacher_net: str | None = option(
        None, f"the teacher, if not the pair's: {', '.join(nets.names())}", group=NETWORKS
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
        "data", "what the teacher was trained with, where its file does not say; data: the data "
        "set's channel statistics, none: 0..255, tf: -1..1, torch: ImageNet's statistics",
        group=NETWORKS, choices=nets.PREPROCESSING,
    )
    student_preprocessing: str = option(
        "data", "likewise of the student", group=NETWORKS, choices=nets.PREPROCESSING
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

    def teacher_name(self) -> str:
        """The teacher net as it is registered, or a file's name."""
        return _net_name(self.teacher_model, self.teacher_net or nets.pair(self.net)[0])

    def student_name(self) -> str:
        """The student net as it is registered, or a file's name."""
        return _net_name(self.student_model, self.student_net or nets.pair(self.net)[1])

    def teacher_file(self) -> str | None:
        """Where the trained teacher is; None: it is to be trained."""
        return self.teacher or (self.teacher_model if self.teacher_model_is_trained() else None)

    def teacher_model_is_trained(self) -> bool:
        """Whether the teacher's model comes from a file, with its weights."""
        return self.teacher_model is not None and not nets.is_application(self.teacher_model)

    def spelled(self) -> Settings:
        """The same with names as they are registered and nothing left to a default, so that a run
        is known again however a person writes it. Raises UserError where a name is unknown, or two
        flags name the same network."""
        for whose in ("teacher", "student"):
            model, net = getattr(self, f"{whose}_model"), getattr(self, f"{whose}_net")
            if model and net:
                raise UserError(f"--{whose}_model and --{whose}_net both name one: give one")
            elsewhere = model and (nets.is_application(model) or nets.is_pretrained(model))
            if model and not elsewhere and not Path(model).exists():
                raise UserError(
                    f"--{whose}_model: {model} does not exist; expected a model in a file "
                    "(.keras or .h5), or keras.applications:NAME"
                )
        if self.teacher and self.teacher_model_is_trained() and self.teacher != self.teacher_model:
            raise UserError("--teacher and --teacher_model both give a trained teacher: give one")
        if self.student_init and not nets.is_pretrained(self.student_init):
            raise UserError(f"--student_init is {self.student_init!r}; expected tte:RUN")
        defaults = QUICK if self.dataset == "digits" else PAPER
        left_out = {key: value for key, value in defaults.items() if getattr(self, key) is None}
        optimizer = self.optimizer or defaults["optimizer"]
        nets.pair(self.net)  # is known
        return dataclasses.replace(
            self,
            **left_out,
            learning_rate=self.learning_rate or LEARNING_RATE[optimizer],
            Distillation=distillers.spelled(self.Distillation),
            net=next(name for name in nets.pairs() if plain(name) == plain(self.net)),
            teacher_net=self.teacher_net and self.teacher_name(),
            student_net=self.student_net and self.student_name(),
        )

    def student_in_paths(self) -> str:
        """The student's name as a part of a file's name."""
        return Path(self.student_name()).stem.replace(":", "_")

    def folder(self) -> Path:
        """The run folder."""
        name = f"{self.dataset_in_paths()}-{self.student_in_paths()}"
        name += f"-{self.Distillation}-{self.seed}"
        return Path(self.train_dir or Path("runs") / name)


def _net_name(model: str | None, net: str) -> str:
    """A network's name: that of a model of the person's own, or else of the net."""
    if model is None or nets.is_application(model):
        return nets.registered_name(model or net)
    return model


def hyper_parameters() -> dict[str, list[str]]:
    """Each hyper-parameter of any method, with a line for each method that has it. One that is
    called as a setting is has no flag of its own, and is given with the method:
    ``NAME(epochs=2)``."""
    taken = {field.name for field in dataclasses.fields(Settings)}
    found: dict[str, list[str]] = {}
    for name in METHODS.names():
        method = METHODS.get(name)
        for key, field in method.hyper_parameters().items():
            if key not in taken:
                about = documented(method).get(key, "")
                found.setdefault(key, []).append(f"{name} (default {field.default}): {about}")
    return found


HYPER_PARAMETERS = hyper_parameters()


def define() -> None:
    """The flags."""
    define_flags(Settings)
    for key, lines in HYPER_PARAMETERS.items():
        flags.DEFINE_string(key, None, "\n".join(lines), module_name=METHOD)


def determining_settings(settings: Settings, method: distillers.Method) -> dict[str, Any]:
    """What a run folder compares to know a run again."""
    return {**compared(settings), "hyper_parameters": method.settings()}


def create_method(settings: Settings) -> distillers.Method:
    """The method with the hyper-parameters that the command line gives."""
    given = {key: flags.FLAGS[key].value for key in HYPER_PARAMETERS}
    return distillers.create(
        settings.Distillation, **{key: value for key, value in given.items() if value is not None}
    )
