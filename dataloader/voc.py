"""Folders in Pascal VOC's layout: images, an XML file with the boxes of each, lists of names."""

from __future__ import annotations

import os
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
import tensorflow as tf

from dataloader.files import Listing, decode_text, list_files, printable, read_lines
from dataloader.image_files import (
    NOT_READ,
    READ,
    WHITES,
    Finding,
    decoders_listened_to,
    examine,
    pixels,
    white_of,
)
from dataloader.memory import check_memory
from dataloader.resizing import resized
from dataloader.scenes import SceneRequest, Scenes, SceneSplit, register_scenes
from dataloader.splitting import rows_for_testing
from processors import usable_cores
from registry import UserError
from regular_files import read_bytes

DEFAULT_SIZE = (160, 160)
IMAGES, ANNOTATIONS = "JPEGImages", "Annotations"
LIST_FOLDERS = ("ImageSets/Main", "ImageSets", "")
LISTS = (("trainval", "test"), ("train", "test"), ("train", "val"), ("trainval", "val"))
"""Lists of training and of test images; the first pair that exists is used. VOC 2012 has no test
annotations, so `train` and `val` are used there."""
LIST_NAMES = ("trainval", "train", "val", "test")
TEST_SHARE = 0.2
"""The share of test images if there are no lists."""
NAMED = 5
"""How many faults a message lists in one line."""
MOST_XML = 2**24
"""The largest annotation file to read, in bytes."""

_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_FLAG = re.compile(r"\s+(-1|0|1)$")
_LONGEST_SIZE = 9


class _Fault(Exception):
    """Describes what is wrong with a file."""


@dataclass(frozen=True)
class _Files:
    """The files of annotations and images, by name.

    Names are paths relative to their folder, without the suffix, in Unicode's composed form (NFC).
    """

    annotation_folder: Path
    image_folder: Path
    annotations: dict[str, Path]
    images: dict[str, list[Path]]


@dataclass(frozen=True)
class _Annotated:
    """The contents of an XML file.

    Attributes:
        name: the image's name.
        file: the XML file.
        image: the image file.
        size: (height, width), or None if the file does not state it.
        boxes: float64 [n,4]: left, top, right, bottom.
        classes: the name of each object's class.
        difficult: bool [n].
    """

    name: str
    file: Path
    image: Path
    size: tuple[int, int] | None
    boxes: np.ndarray
    classes: tuple[str, ...]
    difficult: np.ndarray


@register_scenes("voc", argument="DIR", folders=True, class_names=True, max_bad=True)
def voc(request: SceneRequest) -> Scenes:
    """``voc:DIR``: ``JPEGImages/NAME.jpg``, ``Annotations/NAME.xml``, ``ImageSets/Main/LIST.txt``.

    Images and annotations may be in other folders (`request.images`, `request.annotations`), even
    in the same one. ``trainval`` (or ``train``) is for training, ``test`` (or ``val``) for testing.
    Without lists, a fifth of the annotated images, chosen by `seed`, is for testing. If no class
    names are given, the classes are those that occur in at least two training images: a name that
    occurs in a single file is assumed to be a mistake.

    An image is left out if a file is missing, cut off or unreadable, if its size differs from the
    annotation's, or if a class is unknown or a box lies outside the image. More than `max_bad` such
    images are refused. A box without area is dropped, and a box that extends beyond its image is
    clipped. There is a note for each.

    Boxes refer to the image as displayed, rotated according to its EXIF orientation. VOC counts
    pixels from 1 and includes a box's last pixel: its 1..2 is 0..2 here. Its 1..1 would be a pixel
    wide, but counts as without area: in real annotations it is a stray click, never an object.
    """
    top = Path(os.path.expanduser(request.argument))
    files = _files(top, request)
    lists, notes = _lists(top, files, request.seed)
    names = sorted({*lists[0], *lists[1]})
    annotated, bad = _read(files, names)
    training = [annotated[name] for name in lists[0] if name in annotated]
    class_names = request.class_names or _class_names(training)
    for each in annotated.values():
        unknown = [name for name in each.classes if name not in class_names]
        if class_names and unknown:
            what = f"class {unknown[0]!r} is not one of {', '.join(class_names)}"
            bad[each.name] = f"{_shown(each.file)}: {what}"
    good = {name: each for name, each in annotated.items() if name not in bad}
    findings = examine([each.image for each in good.values()], [True] * len(good))
    for each, finding in zip(good.values(), findings, strict=True):
        if fault := finding.fault or _mismatch(each, finding):
            bad[each.name] = f"{_shown(each.image)}: {fault}"
    notes += _refuse_or_note(f"voc:{top}", bad, request.max_bad, len(names))
    if not class_names:
        raise UserError(
            f"voc:{top}: no class occurs in two training images: name the classes, or add images"
        )
    brightest = max((finding.brightest for finding in findings), default=0)
    white = white_of(brightest)
    if 0 < brightest <= WHITES[-2]:
        notes.append(f"voc:{top}: no 16-bit image has a value above {white}, which becomes white")
    splits = []
    for names in lists:
        chosen = [good[name] for name in names if name in good and name not in bad]
        split, skipped = _split(chosen, class_names, request.size or DEFAULT_SIZE, white)
        splits.append(split)
        notes += skipped
    return Scenes(f"voc:{top}", tuple(class_names), *splits, notes=tuple(notes))


# Finding files


def _files(top: Path, request: SceneRequest) -> _Files:
    """Find annotations and images. Raises UserError if a folder is missing or unreadable."""
    folders = [request.annotations or top / ANNOTATIONS, request.images or top / IMAGES]
    for folder in (top, *folders):
        if not folder.is_dir():
            raise UserError(
                f"no such folder: {printable(folder)} (expected voc:DIR with DIR/{IMAGES} and "
                f"DIR/{ANNOTATIONS}, or --images and --annotations for folders elsewhere)"
            )
    annotations, images = (_listing(folder) for folder in folders)
    found: dict[str, list[Path]] = {}
    for name, file in _named(images, (*READ, *NOT_READ)):
        found.setdefault(name, []).append(folders[1] / file)
    return _Files(
        *folders, {name: folders[0] / file for name, file in _named(annotations, (".xml",))}, found
    )


def _listing(folder: Path) -> Listing:
    try:
        return list_files(folder)
    except OSError as error:
        raise UserError(f"{printable(error.filename or folder)}: {error.strerror}") from error


def _named(listing: Listing, suffixes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name, path) of each file with one of `suffixes`."""
    for path in (*listing.files, *listing.others):
        stem, suffix = os.path.splitext(path)
        if suffix.lower() in suffixes:
            yield unicodedata.normalize("NFC", stem), path


def _lists(top: Path, files: _Files, seed: int) -> tuple[tuple[list[str], list[str]], list[str]]:
    """The names of training and of test images, and the notes."""
    for folder in (top / name for name in LIST_FOLDERS):
        there = [name for name in LIST_NAMES if os.path.lexists(folder / f"{name}.txt")]
        if not there:
            continue
        pair = next((pair for pair in LISTS if set(pair) <= set(there)), None)
        if pair is None:
            raise UserError(
                f"{printable(folder)} has {', '.join(f'{name}.txt' for name in there)}; expected "
                "trainval.txt or train.txt, and test.txt or val.txt"
            )
        lists = [folder / f"{name}.txt" for name in pair]
        train, test = (_names(file, files) for file in lists)
        both = sorted(set(train) & set(test))
        if both:
            raise UserError(
                f"{len(both)} images are in {lists[0]} and in {lists[1]}, for example {both[0]}: "
                "test images must not be trained on; remove them from one list"
            )
        return (train, test), []
    return _split_by_seed(top, files, seed)


def _split_by_seed(
    top: Path, files: _Files, seed: int
) -> tuple[tuple[list[str], list[str]], list[str]]:
    names = sorted(files.annotations)
    if not names:
        raise UserError(f"{printable(files.annotation_folder)} has no annotations (NAME.xml)")
    test = set(rows_for_testing(np.zeros(len(names), np.int64), TEST_SHARE, seed).tolist())
    lists = ([name for row, name in enumerate(names) if row not in test],
             [name for row, name in enumerate(names) if row in test])
    notes = [f"voc:{top} has no lists: {len(test)} of {len(names)} images, chosen by the data "
             "seed, are the test images"]
    without = sorted(set(files.images) - set(names))
    if without:
        notes.append(
            f"{len(without)} images have no annotation, for example {without[0]}: left out"
        )
    return lists, notes


def _names(file: Path, files: _Files) -> list[str]:
    """Read the names in a list.

    Raises:
        UserError: the list cannot be read, a name occurs twice or leads out of the folder.
    """
    names = [_name(line, files.annotations, file) for line in read_lines(file)]
    for name, count in Counter(names).items():
        if count > 1:
            raise UserError(f"{printable(file)} has {name!r} {count} times; expected once")
    return names


def _name(line: str, known: Container[str], file: Path) -> str:
    """The name of the image that a line of a list refers to.

    The name may contain blanks and may have the image's suffix. A trailing -1, 0 or 1, as in VOC's
    lists for single classes, is ignored.
    """
    line = unicodedata.normalize("NFC", line)
    parts = line.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or PureWindowsPath(line).drive:
        raise UserError(
            f"{printable(file)}: {line!r} leads out of the folder of images; expected names in it"
        )
    for name in (line, _FLAG.sub("", line)):
        stem, suffix = os.path.splitext(name)
        if name in known:
            return name
        if suffix.lower() in READ and stem in known:
            return stem
    return line


def _shown(path: Path) -> str:
    """The file's name and its folder's name, for messages."""
    return printable("/".join(path.parts[-2:]))


# Annotations


def _read(files: _Files, names: Sequence[str]) -> tuple[dict[str, _Annotated], dict[str, str]]:
    """The annotations and the faults, both by image name."""
    annotated, bad = {}, {}
    for name in names:
        file = files.annotations.get(name, files.annotation_folder / f"{name}.xml")
        images = files.images.get(name, [files.image_folder / f"{name}.jpg"])
        try:
            if len(images) > 1:
                both = " and ".join(_shown(image) for image in images)
                raise _Fault(f"there are {both}; expected one image")
            annotated[name] = _annotation(name, file, images[0])
        except _Fault as fault:
            bad[name] = f"{_shown(file)}: {fault}"
        except OSError as error:
            bad[name] = f"{_shown(file)}: {error.strerror or error}"
    return annotated, bad


def _parsed(contents: bytes) -> ElementTree.Element:
    """Parse the XML in `contents`, in the encoding that it declares. Raises _Fault."""
    declared = _DECLARED.match(contents)
    encoding = declared[1].decode() if declared else "utf-8"
    try:
        # Decoded here because the parser knows only a few encodings.
        return ElementTree.fromstring(decode_text(contents, encoding))
    except ElementTree.ParseError as error:
        raise _Fault(f"not XML, or cut off ({error})") from error
    except (ValueError, LookupError) as error:
        raise _Fault(f"not text in its encoding, {encoding} ({error})") from error


def _annotation(name: str, file: Path, image: Path) -> _Annotated:
    """Read the annotation in `file`. Raises _Fault, or OSError if it cannot be read."""
    root = _parsed(read_bytes(file, MOST_XML))
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
    known = all(text.isdecimal() and len(text) <= _LONGEST_SIZE and int(text) for text in size)
    return _Annotated(
        name=name,
        file=file,
        image=image,
        size=(int(size[0]), int(size[1])) if known else None,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        classes=tuple(classes),
        difficult=np.array(difficult, bool),
    )


def _has_area(box: Sequence[float]) -> bool:
    """By its edges as they are written: see `voc` for a box of one pixel."""
    return box[2] > box[0] and box[3] > box[1]


def _number(element: ElementTree.Element, path: str, number: int) -> float:
    text = (element.findtext(path) or "").strip()
    try:
        value = float(text)
    except ValueError:
        raise _Fault(f"object {number} has {text!r} for {path}; expected a number") from None
    if not np.isfinite(value):
        raise _Fault(f"object {number} has {text!r} for {path}; expected a finite number")
    return value


def _class_names(annotated: Sequence[_Annotated]) -> tuple[str, ...]:
    """The classes that occur in at least two images, sorted by name."""
    counts = Counter(name for each in annotated for name in set(each.classes))
    return tuple(sorted(name for name, count in counts.items() if count > 1))


def _mismatch(each: _Annotated, finding: Finding) -> str:
    """Why the annotation cannot belong to the image, or ``""`` if it can."""
    height, width = finding.size
    if each.size not in (None, (height, width)):
        turned = each.size == (width, height)
        return (
            f"{width}x{height}, but its annotation says {each.size[1]}x{each.size[0]}: is it for "
            f"another image{', or for this one without its EXIF rotation' if turned else ''}?"
        )
    left, top_edge, right, bottom = each.boxes.T
    outside = (left >= width) | (top_edge >= height) | (right <= 0) | (bottom <= 0)
    outside &= (right > left) & (bottom > top_edge)  # else only the box is dropped
    if outside.any():
        number = int(np.flatnonzero(outside)[0])
        return f"the box of object {number + 1} lies outside its {width}x{height} pixels"
    return ""


def _refuse_or_note(name: str, bad: dict[str, str], max_bad: int, count: int) -> list[str]:
    """A note for each faulty image and one with their number. Raises UserError above `max_bad`."""
    faults = list(bad.values())
    if len(faults) > max_bad:
        more = f" and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise UserError(
            f"{name}: {len(faults)} of {count} images are faulty, {max_bad} allowed: "
            f"{', '.join(faults[:NAMED])}{more}; repair them, remove them from the lists, or allow "
            "more with --max_bad"
        )
    lines = [f"{fault}; left out" for fault in faults]
    return [*lines, f"{name}: {len(faults)} of {count} images left out"] if lines else []


def _split(
    annotated: Sequence[_Annotated], class_names: Sequence[str], size: tuple[int, int], white: int
) -> tuple[SceneSplit, list[str]]:
    """Images of `size` and their boxes, and a note for each box that is dropped or clipped."""
    check_memory(
        len(annotated) * size[0] * size[1] * 3, f"{len(annotated)} images of {size[0]}x{size[1]}",
        "give a smaller --scene_size",
    )

    images = np.empty([len(annotated), *size, 3], np.uint8)

    def read(row: int) -> tuple[int, int]:
        full = pixels(read_bytes(annotated[row].image), channels=3, white=white)
        images[row] = resized(full, size).numpy()
        return full.shape[:2]

    threads = ThreadPoolExecutor(len(usable_cores()))
    with decoders_listened_to(), tf.device("CPU:0"), threads as pool:
        sizes = list(pool.map(read, range(len(annotated))))
    boxes, labels, difficult, notes = [], [], [], []
    for each, (height, width) in zip(annotated, sizes, strict=True):
        clipped, good, faults = _clipped(each, height, width)
        notes += faults
        scale = np.array([size[1], size[0]] * 2) / [width, height, width, height]
        boxes.append((clipped[good] * scale).astype(np.float32))
        numbers = [class_names.index(name) for name in each.classes]
        labels.append(np.array(numbers, np.int32)[good])
        difficult.append(each.difficult[good])
    return SceneSplit(images, boxes, labels, difficult), notes


def _clipped(
    each: _Annotated, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The boxes clipped to the image, which of them have an area, and a note for each fault."""
    clipped = np.clip(each.boxes, 0, [width, height, width, height])
    good = np.array([_has_area(box) for box in clipped], bool)
    # A tolerance of 1, because some annotations count pixels from 0.
    beyond = good & np.any(np.abs(clipped - each.boxes) > 1, axis=1)
    faults = {int(number): "has no area; left out" for number in np.flatnonzero(~good)}
    faults |= {int(number): f"extends beyond its {width}x{height} pixels; clipped"
               for number in np.flatnonzero(beyond)}
    return clipped, good, [
        f"{_shown(each.file)}: the box of object {number + 1} ({each.classes[number]}) {what}"
        for number, what in sorted(faults.items())
    ]
