"""What may be set in pre-training: the flags of pretrain_tte.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

import nets
import pretext
from experiment.command.options import compared, define_flags, option
from experiment.report import scoreboard
from op_util.schedules import SCHEDULES
from plugins import described_fields
from registry import UserError, nearest
from settings.common import DATA, TRAINING, DataSettings, RunSettings, TrainingSettings

TASKS, REGULARIZATION, ENSEMBLE, ENCODER, TARGETS = (
    "tasks", "regularization", "ensemble", "encoder", "targets"
)
# What suits images in their tens of thousands, and the few digits, in minutes on two cores.
FULL = {"epochs": 200, "batch_size": 256, "net": "MobileNet_student", "net_options": ("width=64",)}
QUICK = {"epochs": 25, "batch_size": 64, "net": "VGG_stride_student", "net_options": ()}
LEARNING_RATE = {"sgd": 3e-2, "adam": 1e-3}
RAMP_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class Settings(DataSettings, TrainingSettings, RunSettings):
    """What may be set; each field is the flag of its name."""

    tasks: str = option(
        "reconstruction,rotation,jigsaw,instance",
        f"the pretext tasks, at commas: {', '.join(pretext.names())}", group=TASKS,
    )
    balance: str = option(
        "scale", "of the tasks' losses; scale: each divided by its mean over the first epoch; "
        "gradnorm: equal gradient norms on the encoder", group=TASKS,
        choices=pretext.balance.names(),
    )
    gradnorm_asymmetry: float = option(
        0.0, "GradNorm's alpha: above 0, tasks that learn more slowly pull harder", group=TASKS,
        minimum=0,
    )
    gradnorm_interval: int = option(
        20, "steps between two measurements of the gradient norms", group=TASKS, minimum=1
    )
    validation_fraction: float = option(
        0.1, "share of the training images that the tasks are judged by after each epoch instead",
        group=DATA, minimum=0, maximum=0.9,
    )
    train_classes: str = option(
        "all", "whose images the tasks see; seen: of the first half of the classes alone, so that "
        "those clustering calls unseen are new to the encoder too", group=DATA,
        choices=("all", "seen"),
    )
    flip: bool | None = option(
        None, "mirror half of the images, before and in the tasks (default: where a mirrored image "
        "is as good)", group=DATA,
    )
    crop_padding: int = option(
        0, "before the tasks, pad images by so many pixels and crop back at random", group=DATA,
        minimum=0,
    )

    regularizer: str = option(
        "triplet", "between the tasks' embeddings of an image", group=REGULARIZATION,
        choices=pretext.regularizers.REGULARIZERS.names(),
    )
    regularizer_weight: float = option(
        0.1, "gamma, its factor in the total", group=REGULARIZATION, minimum=0
    )
    triplet_margin: float = option(
        0.2, "of the triplets' squared distances, which are 0 to 4", group=REGULARIZATION,
        minimum=0, maximum=4,
    )

    ensemble: str = option(
        "temporal", "temporal: of all tasks' embeddings of an image over the epochs; weights: of "
        "the weights over the steps", group=ENSEMBLE, choices=pretext.ensemble.ENSEMBLES.names(),
    )
    ensemble_weight: float = option(
        1.0, "w_max, the largest factor of the temporal ensemble's loss in the total",
        group=ENSEMBLE, minimum=0,
    )
    ramp_epochs: float | None = option(
        None, "epochs until the factor is the largest (default: a quarter of all)", group=ENSEMBLE,
        minimum=0,
    )
    memory_decay: float = option(
        0.6, "a, of what an image's memory held before", group=ENSEMBLE, minimum=0, maximum=0.9999
    )
    ensemble_temperature: float = option(
        0.1, "tau, of the cosines to the memories of the batch's images", group=ENSEMBLE, above=0
    )
    memory_dtype: str = option(
        "float32", "in which the memory is held", group=ENSEMBLE, choices=pretext.ensemble.STORAGES
    )
    average_decay: float = option(
        0.99, "of the weights' average, at each step", group=ENSEMBLE, minimum=0, maximum=0.99999
    )

    net: str | None = option(
        None, f"the encoder: {', '.join(nets.names())}, or keras.applications:NAME (default: "
        f"{FULL['net']}; {QUICK['net']} for digits)", group=ENCODER,
    )
    net_options: tuple[str, ...] | None = option(
        None, "options of the net, as name=value,... (default with the default net: "
        f"{','.join(FULL['net_options'])}; none for digits)", group=ENCODER,
    )
    encoder_model: str | None = option(
        None, "an encoder of your own instead, to be trained on from its weights: FILE.keras, or "
        "the folder of a run", group=ENCODER,
    )
    encoder_preprocessing: str = option(
        "data", "what --encoder_model takes; data: the images standardized by their channel "
        "statistics, none: 0..255, tf: -1..1, torch: by ImageNet's statistics", group=ENCODER,
        choices=nets.PREPROCESSING,
    )
    export_features: bool = option(
        False, "the export gives the last feature map besides the embedding", group=ENCODER
    )

    targets: tuple[str, ...] = option(
        scoreboard.TARGETS, "the target tasks to score by in the end, at commas; empty: none",
        group=TARGETS,
    )
    fine_tuning_steps: int = option(
        200, "steps of each fine-tuning with labels", group=TARGETS, minimum=1
    )
    detection_steps: int = option(600, "steps of the detector", group=TARGETS, minimum=1)
    metric_steps: int = option(
        200, "steps of metric fine-tuning before clustering; 0: none", group=TARGETS, minimum=0
    )
    seeds: int = option(
        1, "repeat all with the seeds --seed, --seed + 1 ..., each in its folder seedN of the run "
        "folder, and show mean and deviation", group=TARGETS, minimum=1, same_run=True,
    )

    optimizer: str = option(
        "adam", "sgd is with Nesterov momentum", group=TRAINING, choices=("sgd", "adam")
    )
    epochs: int | None = option(
        None, f"passes over the training images (default: {FULL['epochs']}; {QUICK['epochs']} for "
        "digits)", group=TRAINING, minimum=1,
    )
    batch_size: int | None = option(
        None, f"images a step, over all devices together (default: {FULL['batch_size']}; "
        f"{QUICK['batch_size']} for digits)", group=TRAINING, minimum=1,
    )
    learning_rate: float | None = option(
        None, "at the start (default: 3e-2 for sgd, 1e-3 for adam)", group=TRAINING, above=0
    )
    schedule: str = option(
        "cosine", "of the learning rate; step: x0.1 after half and three quarters of the epochs",
        group=TRAINING, choices=SCHEDULES,
    )

    def task_names(self) -> list[str]:
        """The tasks as they are registered. Raises UserError where there is no such task."""
        return pretext.parse(self.tasks)

    def spelled(self) -> Settings:
        """The same with names as they are registered and nothing left to a default, so that a run
        is known again however a person writes it. Raises UserError where a name is unknown, or
        settings do not go together."""
        if self.encoder_model and (self.net or self.net_options):
            raise UserError("--encoder_model and --net (or --net_options) both name one: give one")
        defaults = dict(QUICK if self.dataset == "digits" else FULL)
        if self.encoder_model or self.net:
            defaults.update(net=self.net, net_options=self.net_options or ())
        left_out = {key: value for key, value in defaults.items() if getattr(self, key) is None}
        settings = dataclasses.replace(
            self,
            **left_out,
            learning_rate=self.learning_rate or LEARNING_RATE[self.optimizer],
            tasks=",".join(self.task_names()),
        )
        if settings.net:
            settings = dataclasses.replace(settings, net=nets.registered_name(settings.net))
        if settings.ramp_epochs is None:
            settings = dataclasses.replace(settings, ramp_epochs=RAMP_SHARE * settings.epochs)
        settings.check_number_of_tasks()
        for target in self.targets:
            if target not in scoreboard.TARGETS:
                raise UserError(
                    f"unknown target {target!r}{nearest(target, scoreboard.TARGETS)}; known: "
                    f"{', '.join(scoreboard.TARGETS)}"
                )
        return settings

    def check_number_of_tasks(self) -> None:
        """Raise UserError where one task is named and two are needed."""
        if len(self.task_names()) > 1:
            return
        needing = {}
        if pretext.regularizers.REGULARIZERS.get(self.regularizer).acts:
            needing["regularizer"] = "none"
        if pretext.ensemble.ENSEMBLES.get(self.ensemble).temporal:
            needing["ensemble"] = "none"
        if needing:
            asked = " and ".join(f"--{key} {getattr(self, key)}" for key in needing)
            compare = "compares" if len(needing) == 1 else "compare"
            instead = " ".join(f"--{key} {value}" for key, value in needing.items())
            raise UserError(
                f"--tasks {self.tasks} is one task, and {asked} {compare} tasks with each other: "
                f"name more tasks, or give {instead}"
            )

    def needs_classes(self) -> bool:
        """Whether anything is done with labels: scoring by them, or choosing images."""
        return self.train_classes != "all" or bool({*self.targets} - {"detection"})

    def method(self) -> str:
        """What the run is called in tables and by its folder: what differs from the defaults in
        parentheses."""
        tasks = self.task_names()
        added = {
            key: getattr(self, key) for key in ("regularizer", "ensemble")
            if getattr(self, key) != "none"
        }
        if len(tasks) == 1:
            return "+".join([tasks[0], *added.values()])
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        differing = {}
        if self.tasks != defaults["tasks"]:
            differing["tasks"] = "+".join(tasks)
        if self.balance != defaults["balance"]:
            differing["balance"] = self.balance
        if len(added) < 2:
            name = "".join(added.values()) or "plain_sum"
        else:
            name = "TTE"
            differing |= {key: kind for key, kind in added.items() if kind != defaults[key]}
        stated = ", ".join(f"{key}={value}" for key, value in differing.items())
        return f"{name}({stated})" if stated else name

    def encoder_name(self) -> str:
        """The encoder as a part of a file's name."""
        return Path(self.encoder_model).stem if self.encoder_model else self.net.replace(":", "_")

    def folder(self) -> Path:
        """The run folder."""
        last = self.seed if self.seeds == 1 else f"{self.seeds}seeds"
        method = self.method().replace(", ", "-").replace("(", "-").replace(")", "")
        parts = [self.dataset_in_paths(), self.encoder_name(), method]
        if self.train_classes != "all":
            parts.append(self.train_classes)
        name = "-".join([*parts, str(last)])
        return Path(self.train_dir or Path("runs") / name)


def task_fields() -> dict[str, tuple[str, dataclasses.Field]]:
    """The tasks' own settings by the name of their flag, ``TASK_SETTING``: task and field."""
    return {
        f"{task}_{field.name}": (task, field)
        for task in pretext.names()
        for field in dataclasses.fields(pretext.get(task))
        if field.name not in pretext.Task.__dataclass_fields__ and (task, field.name) != FLIP
    }


FLIP = ("instance", "flip")  # as --flip says
TASK_FIELDS = task_fields()


def define() -> None:
    """The flags of this script."""
    define_flags(Settings)
    for name, (task, field) in TASK_FIELDS.items():
        define_one = flags.DEFINE_bool if isinstance(field.default, bool) else flags.DEFINE_float
        about = described_fields(pretext.get(task)).get(field.name, "")
        define_one(name, field.default, f"{task}: {about}", module_name=TASKS)


def determining_settings(settings: Settings) -> dict[str, Any]:
    """What a run folder compares to know a run again."""
    return {**compared(settings), "task_settings": task_settings(settings.task_names())}


def task_settings(tasks: Sequence[str]) -> dict[str, Any]:
    """The flags of these tasks' own settings."""
    return {
        name: flags.FLAGS[name].value for name, (task, _) in TASK_FIELDS.items() if task in tasks
    }
