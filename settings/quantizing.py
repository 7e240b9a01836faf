"""The run that trains a copy of a student to compute in whole numbers, after the student's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras

import nets
from registry import UserError
from settings.networks import check_taps, class_difference, create_method
from settings.run_setup import Setup, make_distiller


def check_quantization(setup: Setup) -> None:
    """Raise UserError where the student of a run could not be quantised after it."""
    settings = setup.settings
    if settings.quantize == "none":
        return
    if not setup.classifies:
        raise UserError(
            "--quantize trains a student that classifies, but without labels this method does not "
            "train its classification: leave out --quantize, or --main_loss none"
        )
    own = settings.of_quantized(settings.folder())
    check_taps({"student": setup.distiller.deployed}, own, create_method(own))
    nets.check_quantizable(setup.distiller.deployed)


def quantized_setup(setup: Setup, folder: Path) -> Setup:
    """What the run is made of that trains the quantised copy.

    Args:
        setup: of the run that trained the student.
        folder: of the run of the copy.
    """
    settings = setup.settings.of_quantized(folder)
    method = create_method(settings)
    keras.utils.set_random_seed(settings.seed)  # of the copy's dropout, also where a run resumes
    with setup.strategy.scope():
        student = nets.quantize(setup.distiller.deployed, setup.statistics_batches())
        teacher = _teacher(setup) if method.needs_teacher else None
        distiller = make_distiller(settings, setup.data, method, teacher, student)
    distiller.parts(settings.epochs)
    return dataclasses.replace(
        setup, settings=settings, distiller=distiller, teacher=teacher, teacher_is_trained=True,
        given=None, answers=None,
    )


def _teacher(setup: Setup) -> nets.Stored:
    """The run's teacher if its logits are those of the data's classes, else the student itself."""
    teacher, data = setup.teacher, setup.data
    if (
        teacher is not None
        and teacher.has_logits
        and teacher.model.outputs[0].shape[-1] == data.classes
        and class_difference(teacher, data) is None
    ):
        return teacher
    student = nets.copy_model(setup.distiller.deployed)
    return nets.Stored(student, setup.student_preprocessing(), True, tuple(data.class_names))
