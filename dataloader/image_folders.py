"""Which images lie in a folder of classes, and a cache of the answer for large ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from dataloader import caches
from dataloader.files import list_files, printable, subfolders
from dataloader.image_files import NOT_READ, READ, begins_as_image
from dataloader.spreading import spread
from registry import UserError
from regular_files import check_regular

TRAIN, TEST = "train", "test"
VALIDATION = ("val", "valid", "validation")
NAMED = 3
"""How many files a message names at most."""

CACHE_VERSION = 4
DECODED_AT_START = 5_000
"""How many images are decoded at the start to find damaged ones, if they stay on disk. Of a larger
set this many are chosen, evenly spread, and recognised later by size and modification time; of the
others only the first and last bytes are read."""

SETTLED = 2.0
"""Seconds after which a change of a folder is sure to change its modification time."""


@dataclass(frozen=True)
class Found:
    """The images of a folder.

    Attributes:
        class_names: the class folders, sorted.
        train, test, validation: for each class the paths of its images relative to the top folder,
            in order; None: there is no such part.
        notes: what was passed over, a line each.
        folders: of every folder that was looked into, by absolute path, when it was changed, in
            ns, as was found before that.
    """

    class_names: list[str]
    train: list[list[str]]
    test: list[list[str]] | None
    validation: list[list[str]] | None
    notes: list[str]
    folders: dict[str, int]

    def parts(self) -> list[list[list[str]]]:
        """Training, test and validation images, of those that are there."""
        return [part for part in (self.train, self.test, self.validation) if part is not None]

    def files(self, top: Path) -> list[str]:
        """The paths of all images, part by part and class by class."""
        return [os.path.join(top, file) for part in self.parts() for file in chain(*part)]


@dataclass(frozen=True)
class Facts:
    """What reading the images needs to know of all of them; see `image_files.Finding`.

    Attributes:
        grey: whether all have grey values only.
        ordinary: whether all are known to be ordinary.
        white: the value that counts as white in images of 16 bits.
    """

    grey: bool
    ordinary: bool
    white: int


def find_images(top: Path) -> Found:
    """The images in ``top/train/CLASS``, ``top/test/CLASS`` and ``top/val/CLASS`` at any depth.

    Without these parts the images in ``top/CLASS`` are those of ``train``, which the notes say. A
    ``test`` or ``val`` of images without class folders, as competitions have, is passed over.

    Raises:
        UserError: there is no class with an image, a part has a class that ``train`` has not, or
            something bears the name of an image that is none or is not read.
        OSError: a folder cannot be read.
    """
    if not top.is_dir():
        raise UserError(f"no such folder: {printable(top)} (expected train/CLASS/* or CLASS/*)")
    folders = _changed([top])
    parts = _parts(top)
    folders |= _changed(top / name for name in parts.values())
    flat = _is_flat(top, parts)
    if flat:
        parts = {TRAIN: ""}
    if TRAIN not in parts:
        raise UserError(
            f"no such folder: {printable(top / TRAIN)} (expected DIR/train/CLASS/*, or images in "
            f"two folders DIR/CLASS at least){_hint(top)}"
        )
    class_names = list(subfolders(top / parts[TRAIN]))
    if not class_names:
        raise UserError(f"{printable(top / parts[TRAIN])} has no class folders; expected CLASS/*")
    places = sorted({"", *parts.values()})
    parts = {
        part: name for part, name in parts.items()
        if part == TRAIN or next(subfolders(top / name), None)
        or not next(_images_in(top / name), None)
    }
    misnamed: list[str] = []
    train, test, validation = (
        _images_of_classes(top, parts[part], class_names, folders, misnamed)
        if part in parts else None
        for part in (TRAIN, TEST, VALIDATION[0])
    )
    if flat:
        notes = [
            f"{printable(top)} has no {TRAIN}/CLASS: its {len(class_names)} folders are the classes"
        ]
    else:
        notes = _passed_over(top, set(places))
    notes += _loose(top, places)
    if misnamed:
        notes.append(
            f"{printable(top)}: not read, as they are images by content but not by name: "
            f"{_named(misnamed)}"
        )
    # The next start may be from another working folder.
    folders = {os.path.abspath(folder): changed for folder, changed in folders.items()}
    return Found(class_names, train, test, validation, notes, folders)


def _hint(top: Path) -> str:
    """Where a folder that holds no classes has some further down, `` (did you mean folder:X?)``."""
    inner = [top / name for name in subfolders(top)]
    found = [folder for folder in inner if TRAIN in _parts(folder) or _is_flat(folder, {})]
    return f" (did you mean folder:{printable(found[0])}?)" if len(found) == 1 else ""


def _is_flat(top: Path, parts: dict[str, str]) -> bool:
    """Whether the folders in `top` are classes: images lie directly in two of them at least, and
    none is a part. One of further classes may be called ``train``, where no folders are in it."""
    if not set(parts) <= {TRAIN}:
        return False
    if any(next(subfolders(top / name), None) for name in parts.values()):
        return False
    classes = {name for name in subfolders(top) if next(_images_in(top / name), None)}
    return len(classes - set(parts.values())) > 1


def _parts(top: Path) -> dict[str, str]:
    """The folder's name of each part that is there. Raises UserError where two could be one."""
    parts: dict[str, str] = {}
    for name in subfolders(top):
        part = VALIDATION[0] if name.lower() in VALIDATION else name.lower()
        if part not in (TRAIN, TEST, VALIDATION[0]):
            continue
        if part in parts:
            raise UserError(
                f"{printable(top)} has {parts[part]} and {name}; expected one folder of {part} "
                "images: merge or rename them"
            )
        parts[part] = name
    return parts


def _images_of_classes(
    top: Path, part: str, class_names: Sequence[str], folders: dict[str, int], misnamed: list[str]
) -> list[list[str]]:
    """For each class the paths of its images in `part` (``""``: in `top`); adds to `folders` and
    `misnamed`."""
    there = set(subfolders(top / part))
    unknown = sorted(there - set(class_names))
    if unknown:
        raise UserError(
            f"{printable(top / part)} has the class {unknown[0]!r}, which {TRAIN} does not have; "
            "expected the same class folders in both"
        )
    images, within = [], f"{part}/" if part else ""
    for name in class_names:
        images.append([])
        if name in there:
            listing = list_files(top / part / name)
            folders |= listing.folders
            for file in listing.others:
                if _suffix(file) in READ:
                    check_regular(top / part / name / file)
            for file in listing.files:
                path = f"{within}{name}/{file}"
                if _is_read(top, path):
                    images[-1].append(path)
                elif begins_as_image(top / path):
                    misnamed.append(path)
    return images


def _named(files: Sequence[str]) -> str:
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return ", ".join(map(printable, files[:NAMED])) + more


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()


def _is_read(top: Path, path: str) -> bool:
    """Whether `path` is one of an image. Raises UserError where it is one that is not read."""
    if _suffix(path) in NOT_READ:
        raise UserError(
            f"{printable(top / path)}: {_suffix(path)} images are not read: convert to JPEG or PNG"
        )
    return _suffix(path) in READ


def _images_in(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if _suffix(entry.name) in READ and entry.name[0] != "." and not entry.is_dir():
                yield entry.name


def _passed_over(top: Path, read: set[str]) -> list[str]:
    """A line for each further folder that has images, be it in folders of its own."""
    return [
        f"{printable(top / name)} has images, but is not read: {TRAIN}, {TEST} and "
        f"{VALIDATION[0]} are"
        for name in subfolders(top)
        if name not in read and any(
            next(_images_in(folder), None)
            for folder in (top / name, *(top / name / inner for inner in subfolders(top / name)))
        )
    ]


def _loose(top: Path, places: Sequence[str]) -> list[str]:
    """A line for each place with images that lie in no class folder."""
    notes = []
    for place in places:
        images = sorted(_images_in(top / place))
        if images:
            verb = "is" if len(images) == 1 else "are"
            notes.append(
                f"{printable(top / place)}: {_named(images)} {verb} in no class folder and not read"
            )
    return notes


# The cache


def _cache_file(top: Path) -> Path:
    return caches.cache_file("folder", top)


def _changed(folders: Iterable[str | Path]) -> dict[str, int]:
    """When each folder was changed, in ns: a file that comes, goes or is renamed changes it.

    Raises OSError."""
    return {str(folder): os.stat(folder).st_mtime_ns for folder in folders}


def _digest(found: Found, top: Path) -> str:
    """Of size and time of change of a sample of the files, evenly spread: one that is written over
    does not change its folder.

    Raises OSError."""
    files, digest = found.files(top), hashlib.sha256()
    for number in spread(len(files), DECODED_AT_START):
        stat = os.stat(files[number])
        digest.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def read_cache(top: Path) -> tuple[Found, Facts] | None:
    """What `write_cache` kept of `top`; None where there is nothing or the folder has changed."""
    kept = caches.read_cache(_cache_file(top))
    try:
        if kept["version"] != CACHE_VERSION:
            return None
        found, facts = Found(**kept["found"]), Facts(**kept["facts"])
        is_same = _changed(found.folders) == found.folders and _digest(found, top) == kept["digest"]
        return (found, facts) if is_same else None
    except (OSError, KeyError, TypeError):  # a folder is gone; none, or of another shape
        return None


def write_cache(top: Path, found: Found, facts: Facts, listed_at: float) -> None:
    """Keep what is known of `top` until one of its folders changes, see `caches`.

    Args:
        top: the folder.
        found, facts: what to keep.
        listed_at: when the listing began, by `time.time`.
    """
    try:
        changed, digest = _changed(found.folders), _digest(found, top)
    except OSError:  # gone since: the next start lists what is there
        return
    if changed != found.folders:
        return  # and what came after the listing is not in it
    if max(changed.values()) / 1e9 > listed_at - SETTLED:
        return  # a change after the listing may have given the same time
    caches.write_cache(_cache_file(top), {
        "version": CACHE_VERSION, "found": asdict(found), "facts": asdict(facts),
        "digest": digest,
    })
