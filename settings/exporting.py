"""A finished run, opened to write files of its student."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import dataloader
import nets
from experiment.command.options import values
from experiment.export import card
from experiment.export.conversion import convert
from experiment.export.files import QUANTIZED, STUDENT, Images, Network, check_rows, write_files
from experiment.export.format import Format, UnfitError
from experiment.export.processes import check_layers
from experiment.run.folder import DATA, RunFolder
from nets.keras_graph import all_layers
from nets.stored import read_summary
from registry import UserError
from settings.distillation import TEACHER, Settings
from settings.formats import TEST_IMAGES, create_formats
from settings.networks import (
    class_difference,
    find_preprocessing,
    load_teacher,
    names_classes,
)
from settings.other_data import describe_other_split
from settings.run_setup import Setup, load_data

_SUMMARY = "summary.json"
_READ_AT_ONCE = 500
_BYTES, _LEAST = 2**30, 100  # of test images


@dataclasses.dataclass(frozen=True)
class OpenedRun:
    """A finished run, and what its files are made of and compared on.

    Attributes:
        data: the run's data set.
        networks: ``"student"``, and where it has them ``"teacher"`` and ``"quantized"``, the
            student's copy of quantisation-aware training.
        images: to calibrate on and to compare by.
        formats: of the files to write.
    """

    data: dataloader.Data
    networks: Mapping[str, Network]
    images: Images
    formats: Sequence[Format]


def open_run(
    path: str | os.PathLike,
    formats: Sequence[Format],
    test_images: int = TEST_IMAGES,
    data: dataloader.Data | None = None,
    **of_host: Any,
) -> OpenedRun:
    """Open a finished run. Writes nothing.

    Args:
        path: its folder.
        formats: of the files to write.
        test_images: to measure on, at most.
        data: of the run, where they are loaded already.
        of_host: ``dataset``, ``data_dir`` and ``in_memory`` in place of the run's own, which may
            have been trained elsewhere.

    Raises:
        UserError: there is no such run, its data have other classes or sizes by now, a format is
            made of a network that it does not have, or there are too few training images to
            calibrate on.
    """
    path = Path(path)
    settings = run_settings(path)
    data = data or load_data(dataclasses.replace(settings, **of_host))
    student = _open_student(path)
    _check_data(student, data, path)
    for note in describe_other_split(path, settings.dataset, data):
        print(note, flush=True)
    networks = {
        TEACHER: _open_teacher(settings, data, path),
        STUDENT: student,
        QUANTIZED: None if settings.quantize == "none" else _open_student(path / QUANTIZED),
    }
    networks = {name: network for name, network in networks.items() if network}
    for form in formats:
        if form.source not in networks:
            raise UserError(
                f"{form.name} is made of a student from quantisation-aware training, and {path} "
                "has none: train with --quantize int8, or give the format litert-int8"
            )
    check_calibration(data, formats, "formats")
    with dataloader.naming_damage(*data.splits):
        calibration = _calibration_images(data, formats)
        images = Images(*_test_images(data, test_images), calibration)
    return OpenedRun(data, networks, images, formats)


def _open_student(path: Path) -> Network:
    student = nets.load(path)
    names = student.class_names or tuple(map(str, range(student.model.outputs[0].shape[-1])))
    return Network(student.model, student.standardize, names)


def _check_data(student: Network, data: dataloader.Data, path: Path) -> None:
    """Raise UserError where the data are not those that the student was trained on, as far as its
    classes and the images' size tell."""
    file = path / f"{DATA}.json"
    facts = read_summary(file) if file.exists() else {}
    shape = facts.get("image shape", list(data.image_shape))
    classes = student.model.outputs[0].shape[-1]
    names, ours = student.class_names, tuple(nets.class_lines(data.class_names).splitlines())
    named = data.has_class_names and names_classes(names, data) and len(names) == classes
    if classes != data.classes:
        difference = f"the student has {classes} classes, {data.name} has {data.classes}"
    elif named and names != ours:
        number = next(i for i, pair in enumerate(zip(names, ours, strict=True)) if len({*pair}) > 1)
        difference = (
            f"class {number} is {names[number]!r} to the student and {ours[number]!r} in "
            f"{data.name}"
        )
    elif shape != list(data.image_shape):
        sizes = ["x".join(map(str, each)) for each in (shape, data.image_shape)]
        difference = f"the run's images were {sizes[0]}, those of {data.name} are {sizes[1]}"
    else:
        return
    raise UserError(
        f"the data are not those of the run in {path}: {difference}; give the run's data "
        "(--dataset)"
    )


def export_run(run: OpenedRun, folder: RunFolder, min_agreement: float) -> str:
    """Write the files of a run and its card.

    Args:
        run: what to write.
        folder: of the run, open.
        min_agreement: the least agreement of a file with the student, 0..1.

    Returns:
        The card as text.

    Raises:
        UserError: once the other files and the card are written: a format cannot hold the student,
            or a file does not answer as the student does.
    """
    rows = write_files(run.formats, run.networks, run.images, folder, min_agreement)
    facts = card.conditions(len(run.images.test))
    card.write_card(f"{folder.path.name}: {run.data.name}", rows, facts, folder)
    check_rows(rows)
    return card.terminal_text(rows, facts)


def check_run(path: Path) -> None:
    """Raise UserError unless a folder holds a finished distillation run."""
    summary = path / _SUMMARY
    expected = "expected the folder of a finished run of train_w_distill.py"
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; {expected}")
    if not summary.exists():
        begun = (path / "settings.json").exists()
        if begun and "grid" in read_summary(path / "settings.json"):
            raise UserError(f"{path} holds a comparison: give one of its runs, METHOD/seedN in it")
        reason = "holds a run that is not finished" if begun else "is not a run's folder"
        raise UserError(f"{path} {reason} (it has no {_SUMMARY}); {expected}")
    if not (path / "student.keras").exists():
        kind = read_summary(summary).get("kind", "another")
        raise UserError(f"{path} holds a run of kind {kind!r}, with no student.keras; {expected}")


def run_settings(path: Path) -> Settings:
    """The settings of a finished run. Raises UserError where it does not state them."""
    check_run(path)
    stated = read_summary(path / _SUMMARY).get("settings")
    if not isinstance(stated, dict):
        raise UserError(f"{path / _SUMMARY} is damaged: it has no settings; run the command again")
    known = values(Settings())
    # The method's are of no use here, and those of a sum have another form.
    kept = {key: value for key, value in stated.items() if key in known}
    return Settings(**{**kept, "hyper_parameters": {}})


def _open_teacher(settings: Settings, data: dataloader.Data, path: Path) -> Network | None:
    """The teacher that a run had, or None. It only has a row in the card, which is left out if its
    file is gone or no longer fits."""
    own = path / TEACHER
    file = settings.teacher_file() or (str(own) if own.is_dir() else None)
    if not settings.has_teacher() or file is None:
        return None
    try:
        teacher = load_teacher(settings, data, file)
    except UserError as error:
        print(f"the card has no row for the teacher: {error}", flush=True)
        return None
    preprocessing = find_preprocessing("teacher", settings, data, teacher)
    has_classes = teacher.has_logits and class_difference(teacher, data) is None
    return Network(teacher.model, preprocessing, teacher.class_names or (), has_classes)


def _test_images(data: dataloader.Data, count: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many test images, and of large ones a GiB, spread over all, uint8
    ``[N, H, W, C]``; and their classes."""
    most = max(_LEAST, _BYTES // math.prod(data.image_shape))
    chosen = data.test.spread(min(count, most))
    return _read(data.test, chosen), data.test.labels[chosen]


def check_formats(setup: Setup) -> None:
    """Raise UserError where the formats that a run is to export cannot be written of its networks
    and data."""
    formats = create_formats(setup.settings.export)
    check_calibration(setup.data, formats, "export")
    for network in (setup.distiller.student, setup.distiller.teacher):
        if formats and network is not None:
            check_layers(all_layers(network))


def try_formats(setup: Setup) -> None:
    """Write a person's own student before it is trained; those of --net are known to fit.

    Raises:
        UserError: a format that the run is to export cannot hold it.
    """
    formats = [form for form in create_formats(setup.settings.export) if form.source == STUDENT]
    model, train = setup.distiller.deployed, setup.data.train
    if not formats or nets.declared_outputs_of(model) is not None:
        return
    student = Network(model, setup.student_preprocessing(), setup.data.class_names)
    needed = max(form.least_calibration for form in formats)
    calibration = _read(train, train.spread(needed)) if needed else None
    with tempfile.TemporaryDirectory() as scratch:
        material = Path(scratch) / "material"
        student.material(setup.data.image_shape, calibration).write(material)
        for form in formats:
            print(f"trying to write {form.file} of the student before it is trained", flush=True)
            path = Path(scratch) / form.name / Path(form.file).name
            path.parent.mkdir()
            try:
                convert(form, material, path)
            except UnfitError as error:
                raise UserError(
                    f"--export {error}; leave out this format, or change the student"
                ) from error
            except UserError as error:  # it may do better after training
                print(f"{form.file} could not be tried: {error}", flush=True)


def check_calibration(data: dataloader.Data, formats: Sequence[Format], flag: str) -> None:
    """Raise UserError where there are fewer training images than a format calibrates on.

    Args:
        data: the data set.
        formats: of the files to write.
        flag: that names them, without ``--``.
    """
    images = len(data.train)
    for form in formats:
        if images < form.least_calibration:
            raise UserError(
                f"--{flag} {form.name} calibrates on {form.least_calibration} training images, and "
                f"{data.name} has {images} here: give it more, or leave this format out"
            )


def _calibration_images(
    data: dataloader.Data, formats: Sequence[Format]
) -> np.ndarray | None:
    """Training images, as many as the formats need, not augmented; None: they need none."""
    needed = max(form.calibrates_on for form in formats)
    return _read(data.train, data.train.spread(needed)) if needed else None


def _read(split: dataloader.Split, chosen: np.ndarray) -> np.ndarray:
    """Images by their numbers, uint8 ``[N, H, W, C]``."""
    return np.concatenate([
        split.images(chosen[first : first + _READ_AT_ONCE]).numpy()
        for first in range(0, len(chosen), _READ_AT_ONCE)
    ])
