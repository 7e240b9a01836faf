"""Train a student network, by itself or with a teacher's help.

    python train_w_distill.py --Distillation SSKD_SVD

trains a teacher on the handwritten digits, distils it into a student, and leaves in the run folder
all that one may want to know or use: settings, logs, curves, weights and a model for serving.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import flags

import dataloader
import distillers
import nets
from experiment import devices, training
from experiment.export import FILES, export_saved_model
from experiment.folder import RunFolder
from experiment.main import run
from experiment.variables import numbered
from op_util.schedules import stepwise

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Config:
    """What determines a run; each field is the flag of that name."""

    Distillation: str = "SSKD_SVD"
    hyper_parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    main_loss: str = "cross_entropy"
    dataset: str = "digits"
    data_dir: str | None = None
    data_seed: int = 0
    validation_fraction: float = 0.1
    train_images: int | None = None
    labelled_per_class: int | None = None
    flip: bool | None = None
    rotation: float = 15.0
    crop_padding: int = 4
    teacher_net: str = "VGG_teacher"
    student_net: str = "VGG_student"
    teacher: str | None = None
    teacher_taps: tuple[str, ...] | None = None
    student_taps: tuple[str, ...] | None = None
    epochs: int = 20
    teacher_epochs: int | None = None
    batch_size: int = 128
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    mixed_precision: bool = False
    seed: int = 0
    deterministic: bool = False


def flags_of(config: type) -> None:
    for field in dataclasses.fields(config):
        kind = str(field.type)
        define = (
            flags.DEFINE_list if "tuple" in kind else flags.DEFINE_bool if "bool" in kind
            else flags.DEFINE_integer if "int" in kind else flags.DEFINE_float if "float" in kind
            else flags.DEFINE_string
        )
        if field.name != "hyper_parameters":
            define(field.name, field.default, field.name)


flags_of(Config)
flags.DEFINE_string("train_dir", "runs/run", "run folder")
flags.DEFINE_string("strategy", "auto", "strategy")


def train(config: Config, folder: RunFolder, strategy) -> dict[str, Any]:
    """One run: train a network as `config` says and report; resumes where the folder says so."""
    data = dataloader.load(
        config.dataset, data_dir=config.data_dir, validation_fraction=config.validation_fraction,
        labelled_per_class=config.labelled_per_class, train_images=config.train_images,
        seed=config.data_seed,
    )
    method = distillers.get(config.Distillation).configured(config.Distillation, **config.hyper_parameters)
    teacher = None
    if method.needs_teacher:
        teacher = keras.models.load_model(Path(config.teacher) / "student.keras", compile=False)
    steps = dataloader.steps_per_epoch(data.train, config.batch_size)
    standardize = nets.Standardize(data.channel_mean, data.channel_deviation)
    with strategy.scope():
        student = nets.build(config.student_net, data.image_shape, data.classes)
        distiller = distillers.Distiller(
            student, method, teacher, main_loss=config.main_loss, weight_decay=config.weight_decay,
            student_preprocessing=standardize, teacher_preprocessing=standardize,
            student_outputs=nets.outputs_of(student, config.student_taps),
            teacher_outputs=teacher and nets.outputs_of(teacher, config.teacher_taps),
        )
        schedule = stepwise(config.learning_rate, config.epochs, steps)
        distiller.compile(keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True))
        distiller.optimizer.build(distiller.variables_to_train())
    augmentation = dataloader.Augmentation(
        data.default_flip if config.flip is None else config.flip, config.rotation, config.crop_padding
    )
    progress = training.fit(
        distiller, folder=folder,
        groups={"model": numbered(distiller.variables), "optimizer": numbered(distiller.optimizer.variables)},
        batches=lambda epoch, step: dataloader.training_batches(
            data.train, config.batch_size, seed=config.seed, start_epoch=epoch, start_step=step,
            epochs=config.epochs, augmentation=augmentation),
        steps_per_epoch=steps, first_epoch=0, last_epoch=config.epochs, images_per_epoch=len(data.train),
        stage="train", validation=dataloader.evaluation_batches(data.validation, 500) if len(data.validation) else None,
        monitor="val_accuracy" if len(data.validation) else None,
        best_variables=numbered(student.variables),
    )
    test = distiller.evaluate(dataloader.evaluation_batches(data.test, 500), return_dict=True, verbose=0)
    student.save(folder.output("student.keras"))
    summary = {"student_top1_last": test["accuracy"], "best": progress["best"]}
    folder.finish(summary)
    return summary


def main(_: list[str]) -> None:
    config = Config(**{f.name: FLAGS[f.name].value for f in dataclasses.fields(Config) if f.name != "hyper_parameters"})
    devices.prepare(config.seed, config.deterministic, config.mixed_precision)
    strategy = devices.strategy(FLAGS.strategy)
    folder = RunFolder(FLAGS.train_dir)
    folder.open(dataclasses.asdict(config))
    print(train(config, folder, strategy))


if __name__ == "__main__":
    run(main)
