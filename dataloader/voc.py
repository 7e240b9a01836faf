"""Folders as Pascal VOC has them: images, an XML file of boxes for each, lists of names."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from dataloader.image_files import decoded, fault_of
from dataloader.memory import check_memory
from dataloader.resizing import resized
from dataloader.scenes import SceneRequest, Scenes, SceneSplit, register
from registry import UserError

DEFAULT_SIZE = (160, 160)
LISTS = (("trainval", "test"), ("train", "test"), ("trainval", "val"), ("train", "val"))
"""Lists of training and of test images; the first pair that is there counts. VOC 2012 has no test
annotations: there `train` and `val` do it."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".JPG", ".JPEG", ".PNG", ".BMP")
NAMED = 5
"""So many faults are named in one line of a message."""


class _Fault(Exception):
    """What is wrong with a file."""


@dataclass(frozen=True)
class _Annotated:
    """What an XML file says: `size` (height, width) or None where it does not say; `boxes`
    float64 [n,4] (left, top, right, bottom), names and `difficult` of the objects."""

    name: str
    image: Path
    size: tuple[int, int] | None
    boxes: np.ndarray
    classes: tuple[str, ...]
    difficult: np.ndarray


@register("voc", argument="DIR")
def voc(request: SceneRequest) -> Scenes:
    """``voc:DIR``: ``JPEGImages/NAME.jpg``, ``Annotations/NAME.xml``, ``ImageSets/Main/LIST.txt``.

    Trained on ``trainval`` (or ``train``), scored on ``test`` (or ``val``). Without given names the
    classes are those of at least two training images: a name that stands in one file alone is taken
    for a slip. Files that are missing, cut off, unreadable, of another size than their annotation
    says or with a class or box that cannot be are left out, up to `max_bad`; a box without area
    is left out alone, one that reaches out of its image is cut off there. Each is told.

    VOC counts pixels from 1 and a box's last pixel as part of it: 1..1 is 0..1 here.
    """
    top = Path(request.argument).expanduser()
    lists = _lists(top)
    names = sorted({*lists[0], *lists[1]})
    annotated, bad = _read(top, names)
    training = [annotated[name] for name in lists[0] if name in annotated]
    class_names = request.class_names or _class_names(training)
    wrong = {
        each.name: f"class {name!r} is not one of {', '.join(class_names)}"
        for each in annotated.values()
        for name in each.classes
        if class_names and name not in class_names
    }
    bad.update({f"Annotations/{name}.xml": fault for name, fault in wrong.items()})
    good = {name: each for name, each in annotated.items() if name not in wrong}
    bad.update(_image_faults(top, list(good.values())))
    notes = _refuse_or_note(f"voc:{top}", bad, request.max_bad, len(names))
    if not class_names:
        raise UserError(f"voc:{top}: no class is in two training images: name them, or add images")
    faulty = {Path(file).stem for file in bad}
    size = request.size or DEFAULT_SIZE
    splits = []
    for names in lists:
        chosen = [good[name] for name in names if name in good and name not in faulty]
        split, skipped = _split(chosen, class_names, size)
        splits.append(split)
        notes += skipped
    return Scenes(f"voc:{top}", tuple(class_names), *splits, notes=tuple(notes))


def _lists(top: Path) -> tuple[list[str], list[str]]:
    """The names of training and test images."""
    folder = top / "ImageSets" / "Main"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        if not (top / part).is_dir():
            raise UserError(
                f"no such folder: {top / part} (voc:DIR expected, with DIR/JPEGImages, "
                "DIR/Annotations and DIR/ImageSets/Main)"
            )
    for pair in LISTS:
        files = [folder / f"{name}.txt" for name in pair]
        if all(file.is_file() for file in files):
            names = [[line.split()[0] for line in file.read_text().splitlines() if line.strip()]
                     for file in files]
            both = sorted(set(names[0]) & set(names[1]))
            if both:
                raise UserError(
                    f"{len(both)} images stand in {files[0]} and in {files[1]}, such as {both[0]}: "
                    "test images are not to be trained on; remove them from one"
                )
            return names[0], names[1]
    there = ", ".join(sorted(file.name for file in folder.glob("*.txt"))) or "nothing"
    raise UserError(
        f"{folder} has {there}; expected trainval.txt or train.txt, and test.txt or val.txt"
    )


def _read(top: Path, names: Sequence[str]) -> tuple[dict[str, _Annotated], dict[str, str]]:
    """The annotation of each image by its name, and what is wrong by file."""
    annotated, bad = {}, {}
    for name in names:
        file = top / "Annotations" / f"{name}.xml"
        try:
            annotated[name] = _annotation(top, name, file)
        except _Fault as fault:
            bad[str(file.relative_to(top))] = str(fault)
        except OSError as error:
            bad[str(file.relative_to(top))] = error.strerror or str(error)
    return annotated, bad


def _annotation(top: Path, name: str, file: Path) -> _Annotated:
    """What `file` says. Raises _Fault, or OSError where it cannot be read."""
    try:
        root = ElementTree.fromstring(file.read_bytes())
    except ElementTree.ParseError as error:
        raise _Fault(f"no XML, or cut off ({error})") from error
    boxes, classes, difficult = [], [], []
    for number, element in enumerate(root.iter("object"), start=1):
        class_name = (element.findtext("name") or "").strip()
        if not class_name:
            raise _Fault(f"object {number} has no name")
        box = [_number(element, f"bndbox/{edge}", number)
               for edge in ("xmin", "ymin", "xmax", "ymax")]
        boxes.append([box[0] - 1, box[1] - 1, box[2], box[3]] if _has_area(box) else box)
        classes.append(class_name)
        difficult.append((element.findtext("difficult") or "").strip() == "1")
    size = [(root.findtext(f"size/{side}") or "").strip() for side in ("height", "width")]
    known = all(text.isdecimal() and int(text) > 0 for text in size)
    images = (top / "JPEGImages" / f"{name}{suffix}" for suffix in SUFFIXES)
    return _Annotated(
        name=name,
        image=next((image for image in images if image.is_file()),
                   top / "JPEGImages" / f"{name}.jpg"),
        size=(int(size[0]), int(size[1])) if known else None,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        classes=tuple(classes),
        difficult=np.array(difficult, bool),
    )


def _has_area(box: Sequence[float]) -> bool:
    return box[2] > box[0] and box[3] > box[1]


def _number(element: ElementTree.Element, path: str, number: int) -> float:
    text = (element.findtext(path) or "").strip()
    try:
        value = float(text)
    except ValueError:
        raise _Fault(f"object {number} has {text!r} for {path}, no number") from None
    if not np.isfinite(value):
        raise _Fault(f"object {number} has {text!r} for {path}, no finite number")
    return value


def _class_names(annotated: Sequence[_Annotated]) -> tuple[str, ...]:
    """The classes of at least two images, by name."""
    counts = Counter(name for each in annotated for name in set(each.classes))
    return tuple(sorted(name for name, count in counts.items() if count > 1))


def _image_faults(top: Path, annotated: Sequence[_Annotated]) -> dict[str, str]:
    """What is wrong with images, by file."""

    def fault(each: _Annotated) -> str:
        found, _ = fault_of(each.image, decode=True)
        if found:
            return found
        height, width = _decode(each.image).shape[:2]
        if each.size not in (None, (height, width)):
            return (
                f"{width}x{height}, but its annotation says {each.size[1]}x{each.size[0]}: of "
                "another image?"
            )
        left, top_edge, right, bottom = each.boxes.T
        outside = (left >= width) | (top_edge >= height) | (right <= 0) | (bottom <= 0)
        outside &= (right > left) & (bottom > top_edge)  # else it is left out, not the image
        if outside.any():
            number = int(np.flatnonzero(outside)[0])
            return f"the box of object {number + 1} lies outside of its {width}x{height} pixels"
        return ""

    with tf.device("CPU:0"), ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = list(pool.map(fault, annotated))
    return {
        str(each.image.relative_to(top)): found
        for each, found in zip(annotated, faults, strict=True) if found
    }


def _decode(image: Path) -> tf.Tensor:
    return decoded(tf.constant(image.read_bytes()), channels=3)


def _refuse_or_note(name: str, bad: dict[str, str], max_bad: int, count: int) -> list[str]:
    """A line for each faulty image and one with their number. Raises UserError above `max_bad`."""
    if len(bad) > max_bad:
        named = ", ".join(f"{file} ({fault})" for file, fault in list(bad.items())[:NAMED])
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise UserError(
            f"{name}: {len(bad)} of {count} images are faulty, {max_bad} allowed: {named}{more}; "
            "repair or remove them from the lists, or allow more by --max_bad"
        )
    lines = [f"{file}: {fault}; left out" for file, fault in bad.items()]
    return [*lines, f"{name}: {len(bad)} of {count} images left out"] if lines else []


def _split(
    annotated: Sequence[_Annotated], class_names: Sequence[str], size: tuple[int, int]
) -> tuple[SceneSplit, list[str]]:
    """Images of `size`, their boxes, and a line for each box without area or beyond its image."""
    check_memory(
        len(annotated) * size[0] * size[1] * 3, f"{len(annotated)} images of {size[0]}x{size[1]}",
        "give a smaller --scene_size",
    )

    def image(each: _Annotated) -> tuple[np.ndarray, tuple[int, int]]:
        full = _decode(each.image)
        return resized(full, size).numpy(), tuple(full.shape[:2])

    with tf.device("CPU:0"), ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(image, annotated))
    boxes, labels, difficult, notes = [], [], [], []
    for each, (_, (height, width)) in zip(annotated, found, strict=True):
        limits = [width, height, width, height]
        clipped = np.clip(each.boxes, 0, limits)
        good = np.array([_has_area(box) for box in clipped], bool)
        beyond = good & np.any(np.abs(clipped - each.boxes) > 1, axis=1)  # 1: counted from 0
        told = {int(number): "has no area; left out" for number in np.flatnonzero(~good)}
        told |= {int(number): f"reaches out of its {width}x{height} pixels; cut off there"
                 for number in np.flatnonzero(beyond)}
        notes += [
            f"Annotations/{each.name}.xml: the box of object {number + 1} "
            f"({each.classes[number]}) {what}"
            for number, what in sorted(told.items())
        ]
        scale = np.array([size[1], size[0], size[1], size[0]]) / limits
        boxes.append((clipped[good] * scale).astype(np.float32))
        numbers = [class_names.index(name) for name in each.classes]
        labels.append(np.array(numbers, np.int32)[good])
        difficult.append(each.difficult[good])
    images = np.stack([picture for picture, _ in found]) if found else np.zeros([0, *size, 3])
    return SceneSplit(images.astype(np.uint8), boxes, labels, difficult), notes
