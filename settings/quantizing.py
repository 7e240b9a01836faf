"""The run of quantisation-aware training of a copy of a student, after the student's own."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import keras

import nets
from distillers import Method, Sum
from registry import UserError
from settings.distillation import Settings
from settings.networks import class_difference, create_method
from settings.run_setup import Setup, make_distiller


def check_quantization(setup: Setup) -> None:
    """Raise UserError where the student of a run could not be quantised after it, or the method of
    quantisation does not fit student and teacher."""
    settings = setup.settings
    if settings.quantize == "none":
        return
    if not setup.classifies:
        raise UserError(
            "--quantize needs a student that classifies, and with --main_loss none this method "
            "does not train its classifier: leave out --quantize, or --main_loss none"
        )
    nets.check_quantizable(setup.distiller.deployed)
    quantized_setup(setup, settings.folder(), batches=1)


def quantized_setup(setup: Setup, folder: Path, batches: int | None = None) -> Setup:
    """What the run is made of that trains the quantised copy.

    Args:
        setup: of the run that trained the student.
        folder: of the run of the copy.
        batches: by how many batches of images ranges are measured; None: all that there are.

    Raises:
        UserError: the method of quantisation does not fit the copy, the teacher or the epochs.
    """
    settings = setup.settings.of_quantized(folder)
    method = create_method(settings)
    preprocessing = setup.student_preprocessing()  # which the copy may not tell any more
    keras.utils.set_random_seed(settings.seed)  # of the copy's dropout, also where a run resumes
    with setup.strategy.scope():
        images = itertools.islice(setup.statistics_batches(), batches)
        student = nets.quantize(setup.distiller.deployed, images)
        settings = _with_taps(settings, setup, method, student)
        teacher = _teacher(setup) if method.needs_teacher else None
        student = nets.Stored(student, preprocessing, has_logits=True)
        distiller = make_distiller(settings, setup.data, method, teacher, student)
    distiller.parts(settings.epochs)
    return dataclasses.replace(
        setup, settings=settings, distiller=distiller, student=student, teacher=teacher,
        teacher_is_trained=True, given=None, cache=None, is_copy=True,
    )


def _reads_layers(method: Method | Sum) -> bool:
    """Whether a method compares more than logits, and has a teacher to compare with."""
    reads = method.does_read("maps") or method.does_read("embedding")
    return method.needs_teacher and reads


def _with_taps(
    settings: Settings, setup: Setup, method: Method | Sum, copy: keras.Model
) -> Settings:
    """`settings` of the run of the copy with the taps of what teaches it, and the copy's own.

    Args:
        settings: of the copy's run.
        setup: of the run that trains the student.
        method: of the copy's run; taps matter only to one that compares layers.
        copy: of the student, quantised.
    """
    if not _reads_layers(method):
        return dataclasses.replace(settings, teacher_taps=None, student_taps=None)
    ours = settings.student_taps
    theirs = settings.teacher_taps if _teaches(setup) else ours
    if ours is not None:
        ours = nets.quantized_names(setup.distiller.deployed, copy, ours)
    return dataclasses.replace(settings, teacher_taps=theirs, student_taps=ours)


def _teaches(setup: Setup) -> bool:
    """Whether the run's teacher teaches the copy: its logits are those of the data's classes."""
    teacher, data = setup.teacher, setup.data
    return (
        teacher is not None
        and teacher.has_logits
        and teacher.model.outputs[0].shape[-1] == data.classes
        and class_difference(teacher, data) is None
    )


def _teacher(setup: Setup) -> nets.Stored:
    """The run's teacher if it can teach the copy, else the student itself."""
    if _teaches(setup):
        return setup.teacher
    student = nets.copy_model(setup.distiller.deployed)
    names = tuple(setup.data.class_names)
    return nets.Stored(student, setup.student_preprocessing(), True, names)
