"""What a distillation run is made of: data, networks, and the distiller that trains them."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import tensorflow as tf

import dataloader
import nets
from distillers import Distiller, Method, Sum
from distillers.stages import Part
from experiment.run import devices
from op_util.schedules import schedule
from settings.common import EVALUATION_BATCH
from settings.distillation import Settings
from settings.networks import (
    check_teacher,
    create_method,
    find_outputs,
    load_teacher,
    make_student,
    resized,
    standardize,
)

MEASURED_STEPS = 5


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a run is made of.

    Attributes:
        settings: spelled out.
        data: the data set.
        strategy: in whose scope the networks were made.
        distiller: the student and what trains it.
        teacher: None where the method needs none.
        teacher_is_trained: False where a teacher has to be trained first.
    """

    settings: Settings
    data: dataloader.Data
    strategy: tf.distribute.Strategy
    distiller: Distiller
    teacher: nets.Stored | None
    teacher_is_trained: bool

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return dataloader.steps_per_epoch(self.data.train, self.settings.batch_size)

    def judges(self, part: Part) -> bool:
        """Whether the best epoch is chosen among those of a part of the run: by validation images,
        once the student learns to classify."""
        learns = (
            part.stage.main_weight > 0 or part.last == self.settings.epochs
            or self.distiller.deployed is not self.distiller.student
        )
        return len(self.data.validation) > 0 and self.classifies and learns

    @property
    def classifies(self) -> bool:
        """Whether anything trains the student's classification: without labels, only a method that
        compares logits does."""
        return self.settings.main_loss != "none" or self.distiller.method.does_read("logits")


def prepare(settings: Settings) -> Setup:
    """Load the data and make the networks. Writes nothing.

    Raises:
        UserError: settings, networks and data do not fit each other.
    """
    devices.prepare(settings.seed, settings.deterministic, settings.mixed_precision)
    data = settings.load_data(settings.labelled_per_class)
    training_batches(settings, data)
    return make_setup(settings, data, devices.strategy(settings.strategy), settings.teacher_file())


def make_setup(
    settings: Settings,
    data: dataloader.Data,
    strategy: tf.distribute.Strategy,
    teacher_file: str | None,
) -> Setup:
    """Make the networks of a run.

    Args:
        settings: spelled out.
        data: as the settings say.
        strategy: in whose scope the networks are made.
        teacher_file: the trained teacher; None: it is to be trained.
    """
    method = create_method(settings)
    with strategy.scope():
        teacher = load_teacher(settings, data, teacher_file) if method.needs_teacher else None
        distiller = make_distiller(settings, data, method, teacher)
    distiller.parts(settings.epochs)  # there are enough epochs for all stages
    is_trained = teacher is None or method.trains_teacher or teacher_file is not None
    return Setup(settings, data, strategy, distiller, teacher, is_trained)


def make_distiller(
    settings: Settings,
    data: dataloader.Data,
    method: Method | Sum,
    teacher: nets.Stored | None,
) -> Distiller:
    """The student and what trains it."""
    student = make_student(settings, data)
    arguments = {}
    if teacher is not None:
        check_teacher(teacher, method, data)
        own = teacher.standardize
        arguments = {
            "teacher": teacher.model,
            "teacher_outputs": find_outputs(
                "teacher", teacher.model, settings.teacher_taps, method
            ),
            "teacher_preprocessing": resized(own, teacher.model) if own else standardize(
                settings.teacher_preprocessing, data, teacher.model
            ),
        }
    return Distiller(
        student,
        method,
        student_outputs=find_outputs("student", student, settings.student_taps, method),
        student_preprocessing=standardize(settings.student_preprocessing, data, student),
        main_loss=settings.main_loss,
        weight_decay=settings.weight_decay,
        samples=len(data.train),
        **arguments,
    )


def training_batches(
    settings: Settings, data: dataloader.Data, epoch: int = 0, step: int = 0
) -> tf.data.Dataset:
    """The batches from this one on. Raises UserError where sizes do not fit the data."""
    flip = data.default_flip if settings.flip is None else settings.flip
    return dataloader.training_batches(
        data.train, settings.batch_size, seed=settings.seed, epochs=settings.epochs,
        augmentation=dataloader.Augmentation(flip, settings.rotation, settings.crop_padding),
        start_epoch=epoch, start_step=step,
    )


def compile_for(setup: Setup, epochs: int) -> Any:
    """Give the distiller an optimizer for so many epochs; its learning rate or schedule."""
    settings = setup.settings
    rate = schedule(settings.schedule, settings.learning_rate, epochs, setup.steps)
    setup.distiller.compile(settings.make_optimizer(rate), jit_compile=settings.jit_compile)
    return rate


def validation_batches(data: dataloader.Data) -> tf.data.Dataset | None:
    """The validation images; None where there are none."""
    if not len(data.validation):
        return None
    return dataloader.evaluation_batches(data.validation, EVALUATION_BATCH)


def measure(setup: Setup) -> tuple[float, str]:
    """Train a few steps. The distiller is of no use afterwards.

    Returns:
        Images a second, and how they were measured.
    """
    setup.distiller.enter(setup.distiller.parts(setup.settings.epochs)[0])
    compile_for(setup, setup.settings.epochs)
    steps = min(MEASURED_STEPS, setup.steps)
    batches = training_batches(setup.settings, setup.data)
    train_steps = functools.partial(setup.distiller.fit, batches, shuffle=False, verbose=0)
    train_steps(steps_per_epoch=1)  # traces the step
    began = time.monotonic()
    train_steps(steps_per_epoch=steps)
    seconds = time.monotonic() - began
    return steps * setup.settings.batch_size / seconds, f"measured on {steps} steps"
