"""The settings of pre-training: the flags of pretrain_tte.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiment.command.main import read
from experiment.command.options import as_flags, from_flags, option
from experiment.command.options import define_flags as define_options
from experiment.run.processor import computes_bfloat16
from registry import UserError
from settings import known
from settings.common import DATA, TRAINING, RunSettings, TrainingSettings
from settings.plugin_kinds import Kind, as_words, define_flags, given_by_flags, resolve
from settings.scenes import SceneSettings

LOSSES, REGULARIZATION, ENSEMBLE, ENCODER, TARGET = (
    "tasks", "regularization", "ensemble", "encoder", "targets"
)
TASKS = Kind("pretext task", "pretext.tasks", "pretext.registration", "TASKS", LOSSES)
BALANCES = Kind("balance", "pretext.balances", "pretext.registration", "BALANCES", LOSSES)
REGULARIZERS = Kind(
    "regularizer", "pretext.regularizers", "pretext.registration", "REGULARIZERS", REGULARIZATION
)
ENSEMBLES = Kind(
    "ensemble", "pretext.ensembles", "pretext.registration", "ENSEMBLES", ENSEMBLE, prefixed=False
)
TARGETS = Kind("target task", "targets", "targets.target", "TARGETS", TARGET, prefixed=False)
# The setting that names each kind's plug-ins.
KINDS = {
    "tasks": TASKS, "balance": BALANCES, "regularizer": REGULARIZERS, "ensemble": ENSEMBLES,
    "targets": TARGETS,
}
# Of which there is one each, and which may need several tasks.
COMPARING = ("balance", "regularizer", "ensemble")
# For images in their tens of thousands, and for the few digits, in minutes on two cores.
FULL = {
    "epochs": 200, "batch_size": 256, "net": "MobileNet_student", "net_options": ("width=64",),
    "mixed_precision": False,
}
QUICK = {
    "epochs": 10, "batch_size": 64, "net": "VGG_stride_student", "net_options": ("width=32",),
    "mixed_precision": computes_bfloat16(),
}
LEARNING_RATE = {"sgd": 3e-2, "adam": 1e-3}


def _names(kind: Kind) -> str:
    return ", ".join(kind.registry().names())


@dataclasses.dataclass(frozen=True)
class Settings(SceneSettings, TrainingSettings, RunSettings):
    """The settings; each field but the last is the flag of its name.

    Attributes:
        hyper_parameters: of the tasks, the balance, the regularizer, the ensemble and the targets,
            by flag, such as ``{"jigsaw_tiles": 3}``. On the command line each is a flag.
    """

    tasks: str = option(
        "reconstruction,rotation,jigsaw,instance",
        "the pretext tasks, separated by commas, each NAME or NAME(hyper_parameter=value,...): "
        f"{_names(TASKS)}", group=LOSSES,
    )
    balance: str = option(
        "scale", f"how the tasks' losses are brought to one size: {_names(BALANCES)}; scale "
        "divides each by its mean over the first epoch", group=LOSSES,
    )
    tasks_per_image: int | None = option(
        None, "how many of the tasks an image takes part in at a step, drawn anew in each epoch "
        "(default: all); with 1 a step costs what a step of one task does", group=LOSSES, minimum=1,
    )
    validation_fraction: float = option(
        0.1, "share of the training images that is held out to score the tasks after each epoch",
        group=DATA, minimum=0, maximum=0.9,
    )
    train_classes: str = option(
        "all", "the classes whose images the tasks see; seen: the first half alone, so that those "
        "that clustering calls unseen are new to the encoder too", group=DATA,
        choices=("all", "seen"),
    )
    flip: bool | None = option(
        None, "mirror half of the images, before and in the tasks, and in fine-tuning on target "
        "tasks (default: where a mirrored image is as good)", group=DATA,
    )
    crop_padding: int = option(
        0, "before the tasks, pad images by this many pixels and crop back at random", group=DATA,
        minimum=0,
    )

    regularizer: str = option(
        "triplet", f"what compares the tasks' embeddings of an image: {_names(REGULARIZERS)}",
        group=REGULARIZATION,
    )
    regularizer_weight: float = option(
        0.1, "gamma, its factor in the total", group=REGULARIZATION, minimum=0
    )
    ensemble: str = option(
        "temporal", f"what is averaged: {_names(ENSEMBLES)}; temporal: the embeddings of an image "
        "over tasks and epochs; weights: the weights over the steps", group=ENSEMBLE,
    )

    net: str | None = option(
        None, f"the encoder: {', '.join(known.network_names())}, or keras.applications:NAME "
        f"(default: {FULL['net']}; {QUICK['net']} for digits)", group=ENCODER,
    )
    net_options: tuple[str, ...] | None = option(
        None, "options of the net, as name=value,... (default with the default net: "
        f"{','.join(FULL['net_options'])}; {','.join(QUICK['net_options'])} for digits)",
        group=ENCODER,
    )
    encoder_model: str | None = option(
        None, "an encoder of your own instead, to be trained on from its weights: FILE.keras, or "
        "the folder of a run", group=ENCODER, is_path=True,
    )
    encoder_preprocessing: str = option(
        "auto", "what --encoder_model takes; auto: what its layers or its name tell, else "
        "data; data: the images standardised by their channel statistics, none: 0..255, "
        "unit: 0..1, tf: -1..1, torch: by ImageNet's statistics, caffe: blue, green, red less "
        "ImageNet's means", group=ENCODER,
        choices=("auto", *known.PREPROCESSING),
    )
    export_features: bool = option(
        False, "the export gives the last feature map besides the embedding", group=ENCODER
    )

    targets: str = option(
        "classification,detection,clustering",
        f"the target tasks to score by in the end, separated by commas: {_names(TARGETS)}; empty: "
        "do not score", group=TARGET,
    )
    seeds: int = option(
        1, "repeat all with the seeds --seed, --seed + 1 ..., each in its folder seedN of the run "
        "folder, and show mean and deviation", group=TARGET, minimum=1, same_run=True,
    )

    optimizer: str = option(
        "adam", "sgd has Nesterov momentum", group=TRAINING, choices=("sgd", "adam")
    )
    epochs: int | None = option(
        None, f"passes over the training images (default: {FULL['epochs']}; {QUICK['epochs']} for "
        "digits)", group=TRAINING, minimum=1,
    )
    batch_size: int | None = option(
        None, f"images per step, over all devices together (default: {FULL['batch_size']}; "
        f"{QUICK['batch_size']} for digits)", group=TRAINING, minimum=1,
    )
    learning_rate: float | None = option(
        None, "peak learning rate (default: 3e-2 for sgd, 1e-3 for adam)", group=TRAINING, above=0
    )
    schedule: str = option(
        "cosine", "learning rate schedule; step: x0.1 after half and three quarters of the epochs",
        group=TRAINING, choices=known.SCHEDULES,
    )
    warmup_epochs: float = option(
        0.0, "with --schedule cosine: epochs during which the learning rate rises to "
        "--learning_rate", group=TRAINING, minimum=0,
    )
    weight_decay: float = option(
        1e-4, "factor of ||w||^2 / 2 of all kernels", group=TRAINING, minimum=0
    )

    hyper_parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def spelled(self) -> Settings:
        """The same settings with registered names and with nothing left to a default, so that a run
        is recognised however its settings are written.

        Raises:
            UserError: a name is unknown, or settings do not go together.
        """
        if self.encoder_model and (self.net or self.net_options):
            raise UserError(
                "--encoder_model and --net (or --net_options) both name the encoder; give only one "
                "of them"
            )
        if self.seeds > 1 and self.strategy == "multi_worker":
            raise UserError("--seeds starts processes of its own: with --strategy multi_worker "
                            "start each --seed by itself")
        self.check_scenes()
        defaults = dict(QUICK if self.dataset == "digits" else FULL)
        if self.encoder_model or self.net:
            defaults.update(
                net=self.net, net_options=self.net_options or (), mixed_precision=False
            )
        left_out = {key: value for key, value in defaults.items() if getattr(self, key) is None}
        settings = dataclasses.replace(
            self,
            **left_out,
            learning_rate=self.learning_rate or LEARNING_RATE[self.optimizer],
            **self._resolved_plugins(),
        )
        if settings.net:
            settings = dataclasses.replace(settings, net=known.network_name(settings.net))
        settings._check_number_of_tasks()
        settings.check_schedule()
        if settings.tasks_per_image == len(settings.task_names()):
            settings = dataclasses.replace(settings, tasks_per_image=None)
        return settings

    def _resolved_plugins(self) -> dict[str, Any]:
        """The settings that name plug-ins, with their hyper-parameters moved to the last field."""
        chosen = {kind: getattr(self, key) for key, kind in KINDS.items()}
        names, hyper_parameters = resolve(chosen, self.hyper_parameters)
        found = {key: names[kind] for key, kind in KINDS.items()}
        if not found["tasks"]:
            raise UserError(f"no task in {self.tasks!r}; known: {_names(TASKS)}")
        for key in COMPARING:
            if not found[key] or "," in found[key]:
                raise UserError(
                    f"--{key} is {getattr(self, key)!r}; expected one of {_names(KINDS[key])}"
                )
        return {**found, "hyper_parameters": hyper_parameters}

    def _check_number_of_tasks(self) -> None:
        """Raise UserError if something needs more tasks than are named."""
        tasks = len(self.task_names())
        least = {key: KINDS[key].get(getattr(self, key)).least_tasks for key in COMPARING}
        needing = {key: number for key, number in least.items() if number > tasks}
        if needing:
            asked = " and ".join(f"--{key} {getattr(self, key)}" for key in needing)
            instead = " ".join(f"--{key} none" for key in needing)
            raise UserError(
                f"{asked} compare tasks and need at least {max(needing.values())}, and --tasks "
                f"{self.tasks} names {tasks}: name more tasks, or give {instead}"
            )
        self._check_tasks_per_image(tasks)

    def _check_tasks_per_image(self, tasks: int) -> None:
        """Raise UserError if an image cannot take part in so many tasks, or in too few for the
        regularizer."""
        if self.tasks_per_image is None:
            return
        if self.jit_compile and self.tasks_per_image < tasks:
            raise UserError(
                "--jit_compile needs the same number of images in each task at each step: leave it "
                f"or --tasks_per_image {self.tasks_per_image} out"
            )
        if self.tasks_per_image > tasks:
            raise UserError(
                f"--tasks_per_image is {self.tasks_per_image}, and --tasks {self.tasks} names "
                f"{tasks}; expected at most {tasks}"
            )
        least = REGULARIZERS.get(self.regularizer).least_tasks
        if REGULARIZERS.get(self.regularizer).acts and self.tasks_per_image < least:
            raise UserError(
                f"--regularizer {self.regularizer} compares at least {least} tasks' embeddings of "
                f"an image, and --tasks_per_image is {self.tasks_per_image}: give {least} or more, "
                "or --regularizer none"
            )
        if REGULARIZERS.get(self.regularizer).needs_all_tasks and self.tasks_per_image < tasks:
            raise UserError(
                f"--regularizer {self.regularizer} compares a task's embeddings of different "
                f"images, so all images take part in all tasks: leave --tasks_per_image "
                f"{self.tasks_per_image} out, or give another --regularizer"
            )

    def task_names(self) -> list[str]:
        """The names of the tasks, of `spelled` settings."""
        return self.tasks.split(",")

    def target_names(self) -> list[str]:
        """The names of the targets, of `spelled` settings."""
        return [name for name in self.targets.split(",") if name]

    def create(self, key: str) -> list[Any]:
        """The plug-ins that the setting `key`, such as ``"tasks"``, names."""
        return KINDS[key].create(getattr(self, key), self.hyper_parameters)

    def needs_classes(self) -> bool:
        """Whether labels are used at all: for scoring, or to choose images."""
        needing = [TARGETS.get(name).needs_classes for name in self.target_names()]
        return self.train_classes != "all" or any(needing)

    def method(self) -> str:
        """The name of the run in tables and paths, of `spelled` settings: what differs from the
        defaults is in parentheses."""
        tasks = self.task_names()
        added = {
            key: getattr(self, key) for key in ("regularizer", "ensemble")
            if KINDS[key].get(getattr(self, key)).acts
        }
        if len(tasks) == 1:
            return "+".join([tasks[0], *added.values()])
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        differing = {}
        if self.tasks != defaults["tasks"]:
            differing["tasks"] = "+".join(tasks)
        if self.balance != defaults["balance"]:
            differing["balance"] = self.balance
        if self.tasks_per_image is not None:
            differing["tasks_per_image"] = self.tasks_per_image
        if len(added) < 2:
            name = "".join(added.values()) or "plain_sum"
        else:
            name = "TTE"
            differing |= {key: kind for key, kind in added.items() if kind != defaults[key]}
        stated = ", ".join(f"{key}={value}" for key, value in differing.items())
        return f"{name}({stated})" if stated else name

    def network_files(self) -> dict[str, str | None]:
        """Where the network may come from, by the setting that says so."""
        return {"encoder_model": known.path_of(self.encoder_model)}

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


def define() -> None:
    """Define the flags."""
    define_options(Settings)
    define_flags(list(KINDS.values()))


def given_settings() -> Settings:
    """The settings that the command line gives, by the flags of `define`."""
    given = given_by_flags(list(KINDS.values()))
    return from_flags(Settings, hyper_parameters=given).spelled()


def read_settings(description: str) -> Settings:
    """The settings that the command line gives, or the end of the process (see `main.read`)."""
    return read(description, define, given_settings)


def command_words(settings: Settings) -> list[str]:
    """The words of a command line that gives `spelled` settings, but for the seed and folder of one
    run."""
    once = ("seed", "seeds", "train_dir", "overwrite", "dry_run")
    return [*as_flags(settings, once), *as_words(settings.hyper_parameters)]
