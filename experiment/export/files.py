"""Writing the files of a trained network, running each of them again, and keeping those that do."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from experiment.export.card import Row, compare, size_of
from experiment.export.conversion import convert
from experiment.export.format import Format, UnfitError
from experiment.export.formats.keras_file import KerasFile
from experiment.export.material import Material
from experiment.export.measurement import Entry, Measured, measure
from experiment.run.folder import RunFolder, replacing
from nets import Standardize, copy_model, count_parameters, is_narrow, known_flops
from registry import UserError

TEACHER, STUDENT, QUANTIZED = "teacher", "student", "quantized"
_NARROW_TOLERANCE = 0.1  # of a probability, where the student itself computes in bfloat16


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        model: functional, from preprocessed images to logits.
        preprocessing: from raw images to what `model` takes.
        class_names: in the order of the logits.
        has_classes: whether its logits are those of the data's classes, in their order.
    """

    model: keras.Model
    preprocessing: Standardize
    class_names: tuple[str, ...]
    has_classes: bool = True

    def material(
        self, image_shape: tuple[int, int, int], calibration: np.ndarray | None = None
    ) -> Material:
        """What files are made of: a float32 copy, and `calibration` images."""
        copy = copy_model(self.model, dtype="float32", fuse=False)
        return Material(copy, self.preprocessing, image_shape, self.class_names, calibration)


@dataclasses.dataclass(frozen=True)
class Images:
    """Images and what they are for.

    Attributes:
        test: raw, uint8 ``[N, H, W, C]``; may be a memory map.
        labels: their classes, int ``[N]``.
        calibration: training images, likewise; None: no format needs any.
    """

    test: np.ndarray
    labels: np.ndarray
    calibration: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.test.shape[1:]


def write_files(
    formats: Sequence[Format],
    networks: Mapping[str, Network],
    images: Images,
    folder: RunFolder,
    min_agreement: float,
) -> list[Row]:
    """Write a file in each format, run it again on the test images, and put it into the run folder
    if it answers as the network that it is made of.

    Args:
        formats: of the files.
        networks: ``"student"``, and where they are there ``"teacher"`` and ``"quantized"``, the
            student's copy of quantisation-aware training; in the order of the card's rows.
        images: to calibrate on, and to compare by.
        folder: open.
        min_agreement: the least share of the images that a file has to put into the class of the
            network that it is made of, 0..1.

    Returns:
        A row of the card for each network and format; ``failure`` says why there is no file in it:
        the format cannot hold its network, the converter crashed, or the file answers otherwise.
        The file of an earlier export is removed, but where the converter crashed: it may do better
        another time.

    Raises:
        UserError: an interpreter crashed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        networks, entries = _write_networks(networks, images, work)
        files, failures = _convert_all(formats, networks, images, work)
        entries += files
        print(f"running {len(entries)} networks on {len(images.test):,} test images", flush=True)
        np.save(work / "images.npy", images.test)
        found = measure(entries, work / "images.npy", work)
        references = {
            name: predict(network, images.test)
            for name, network in networks.items() if name != TEACHER
        }
        rows = []
        for entry in entries:
            source = STUDENT if entry.label in networks else entry.form.source
            network = networks.get(entry.label) or networks[source]
            row = _row(entry, network, found[entry.label], references[source], images)
            if entry.label not in networks:
                row = _judged(entry, row, min_agreement, is_narrow(network.model))
                _place(entry, folder, keep=row.failure is None)
            rows.append(row)
        for form, failure in failures:
            place = form.place(folder)
            if isinstance(failure, UnfitError):
                _remove(place)
            rows.append(
                _row_without_file(form, networks[form.source], images, failure, place.exists())
            )
    order = [*networks, *(form.name for form in formats)]
    return sorted(rows, key=lambda row: order.index(row.name))


def _convert_all(
    formats: Sequence[Format], networks: Mapping[str, Network], images: Images, work: Path
) -> tuple[list[Entry], list[tuple[Format, UserError]]]:
    """Write the files into `work`. Gives those, and the formats that could not be written, with the
    reasons."""
    for source in {form.source for form in formats}:
        material = networks[source].material(images.shape, images.calibration)
        material.write(work / f"{source}-material")
    entries, failures = [], []
    for form in formats:
        print(f"writing {form.file}", flush=True)
        path = work / form.name / Path(form.file).name
        path.parent.mkdir()
        try:
            convert(form, work / f"{form.source}-material", path)
        except UserError as error:  # the other formats may do
            failures.append((form, error))
        else:
            entries.append(Entry(form.name, form, path))
    return entries, failures


def predict(network: Network, images: np.ndarray, batch: int = 100) -> np.ndarray:
    """The network's probabilities as it was trained and scored, float32 ``[N, classes]``."""
    found = []
    with without_tensor_float_32():
        for first in range(0, len(images), batch):
            prepared = network.preprocessing(images[first : first + batch])
            logits = network.model(prepared, training=False)
            probabilities = keras.ops.softmax(keras.ops.cast(logits, "float32"))
            found.append(keras.ops.convert_to_numpy(probabilities))
    return np.concatenate(found)


@contextlib.contextmanager
def without_tensor_float_32() -> Iterator[None]:
    """Within this context, GPUs multiply in float32, as the files' interpreters do. Rounded to
    TensorFloat-32, the reference would differ from a correct file by more than its tolerance."""
    config = tf.config.experimental
    was_enabled = config.tensor_float_32_execution_enabled()
    config.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        config.enable_tensor_float_32_execution(was_enabled)


def check_rows(rows: Sequence[Row]) -> None:
    """Raise UserError where a file could not be written or was not kept."""
    failed = [row for row in rows if row.failure]
    if failed:
        reasons = "; ".join(f"{row.name} {row.failure}" for row in failed)
        kept = [row.file for row in rows if row.file and not row.failure]
        removed = [str(row.file) for row in failed if not row.is_earlier]
        raise UserError(
            f"{reasons}; kept: {', '.join(kept) or 'no file'}; not kept: "
            f"{', '.join(removed) or 'no file'} (card.md has all numbers)"
        )


def _write_networks(
    networks: Mapping[str, Network], images: Images, work: Path
) -> tuple[dict[str, Network], list[Entry]]:
    """The networks themselves, to be measured as the files are. The teacher only has a row in the
    card, so it is left out if it cannot be written."""
    kept, entries = {}, []
    for name, network in networks.items():
        path = work / f"{name}.keras"
        try:
            KerasFile().convert(network.material(images.shape), path)
        except UserError as error:
            if name != TEACHER:
                raise
            print(f"the card has no row for the teacher: {error}", flush=True)
            continue
        kept[name] = network
        entries.append(Entry(name, KerasFile(), path))
    return kept, entries


def _row(
    entry: Entry, network: Network, found: Measured, reference: np.ndarray, images: Images
) -> Row:
    scores = compare(found, reference, images.labels) if network.has_classes else (None,) * 3
    top1, agreement, difference = scores
    return Row(
        name=entry.label,
        file=None,
        top1=top1,
        agreement=agreement,
        difference=difference,
        bytes=size_of(entry.path),
        parameters=count_parameters(network.model),
        multiply_adds=_multiply_adds(network, images),
        # Simulating int8 takes longer than computing in it.
        milliseconds={} if entry.label == QUANTIZED else found.milliseconds,
    )


def _row_without_file(
    form: Format, network: Network, images: Images, failure: UserError, is_earlier: bool
) -> Row:
    reason = f"could not be written ({str(failure).removeprefix(f'{form.name}: ')})"
    if is_earlier:
        reason += f", so that {form.file} is still that of an earlier export"
    return Row(
        name=form.name,
        file=form.file,
        top1=None,
        agreement=None,
        difference=None,
        bytes=None,
        parameters=count_parameters(network.model),
        multiply_adds=_multiply_adds(network, images),
        milliseconds={},
        failure=reason,
        compared_with=form.source,
        is_earlier=is_earlier,
    )


def _multiply_adds(network: Network, images: Images) -> int | None:
    flops = known_flops(network.model, network.preprocessing.size or images.shape[:2])
    return None if flops is None else flops // 2


def _judged(entry: Entry, row: Row, min_agreement: float, narrow: bool) -> Row:
    """The row of a file, with the reason not to keep it where there is one."""
    return dataclasses.replace(
        row,
        file=entry.form.file,
        compared_with=entry.form.source,
        failure=_failure(entry.form, row, min_agreement, narrow),
    )


def _failure(form: Format, row: Row, min_agreement: float, narrow: bool) -> str | None:
    """Why a file is not to be kept; None: it answers as the network does that it is made of."""
    whose = "the student's" if form.source == STUDENT else "the quantised copy's"
    if row.agreement is None or not row.agreement >= min_agreement:
        share = 0.0 if row.agreement is None else row.agreement
        return (
            f"puts {100 * share:.2f} % of the images into {whose} class, less than "
            f"{100 * min_agreement:g} % (--min_agreement {min_agreement:g})"
        )
    tolerance = math.inf if form.tolerance is None else form.tolerance
    if narrow:
        tolerance = max(tolerance, _NARROW_TOLERANCE)
    if not row.difference <= tolerance:
        return (
            f"gives a probability that differs from {whose} by {row.difference:.3g}, more than "
            f"{tolerance:g}"
        )
    return None


def _place(entry: Entry, folder: RunFolder, keep: bool) -> None:
    """Put a file into the run folder, or remove one that an earlier export left there."""
    place = entry.form.place(folder)
    if not keep:
        _remove(place)
        return
    with replacing(place) as partial:
        if entry.path.is_dir():
            shutil.copytree(entry.path, partial)
        else:
            shutil.copyfile(entry.path, partial)


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
