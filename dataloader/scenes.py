"""Detection data: images with boxes around their objects, loaded by the name of a source.

Each source is a function in its own file, see `register`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataloader.loading import check_class_names
from dataloader.statistics import are_constant
from registry import Registry, UserError, plain

scene_sources = Registry("detection data set")

SPLIT_NAMES = ("train", "test")
MAX_BAD = 10


@dataclass(frozen=True, eq=False)
class SceneSplit:
    """Images of one size and the objects in each.

    Attributes:
        images: uint8 [N,H,W,3].
        boxes: for each image, float32 [n,4]: left, top, right and bottom edge in pixels. The whole
            image is (0, 0, W, H). Every box has a positive area.
        labels: for each image, the classes of its boxes, int32 [n].
        difficult: for each image, bool [n]: objects that need not be found.
    """

    images: np.ndarray
    boxes: Sequence[np.ndarray]
    labels: Sequence[np.ndarray]
    difficult: Sequence[np.ndarray]

    def __post_init__(self) -> None:
        parts = {"boxes": self.boxes, "labels": self.labels, "difficult flags": self.difficult}
        for name, part in parts.items():
            if len(part) != len(self.images):
                raise ValueError(f"{len(self.images)} images, but {name} of {len(part)}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def objects(self) -> int:
        """Total number of boxes."""
        return sum(map(len, self.boxes))

    def facts(self) -> list[Any]:
        """Facts that change if scenes or objects change: their number, a digest of the objects,
        and the images' mean."""
        digest = hashlib.sha256()
        for parts in zip(self.boxes, self.labels, self.difficult, strict=True):
            for part, dtype in zip(parts, ("<f4", "<i4", "?"), strict=True):
                digest.update(np.asarray(part, dtype).tobytes())
        mean = float(self.images.mean()) if len(self) else 0.0
        return [len(self), digest.hexdigest()[:12], round(mean, 2)]


@dataclass(frozen=True, eq=False)
class Scenes:
    """A detection data set.

    Attributes:
        name: the data set's name.
        class_names: the name of each class.
        train, test: the scenes to train on and to test on.
        flip: whether mirrored scenes are valid training scenes.
        notes: one line for each fault that was left out and for each suspicious finding.
    """

    name: str
    class_names: tuple[str, ...]
    train: SceneSplit
    test: SceneSplit
    flip: bool = True
    notes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return tuple(self.train.images.shape[1:])

    def facts(self) -> dict[str, Any]:
        """Facts that change if the scenes change between two parts of a run."""
        return {
            "classes of objects": list(self.class_names),
            "scene shape": list(self.image_shape),
            "training scenes, objects and mean": self.train.facts(),
            "test scenes, objects and mean": self.test.facts(),
        }


@dataclass(frozen=True)
class SceneRequest:
    """A request to a source of detection data.

    Attributes:
        argument: the text after the colon of ``voc:DIR``; for a source without a colon, its name.
        size: (height, width) to resize images to, without keeping their aspect ratio. None uses the
            source's default.
        seed: random seed for scenes or splits that the source generates.
        max_bad: how many faulty files to leave out before refusing the data set.
        class_names: the classes; None uses those that the source states or finds.
        data_dir: the folder for downloaded data sets; None uses the default folder.
        images, annotations: folders with the images and annotations, for sources registered with
            `folders`. None uses the source's own layout.
    """

    argument: str
    size: tuple[int, int] | None
    seed: int
    max_bad: int
    class_names: tuple[str, ...] | None
    data_dir: Path | None
    images: Path | None = None
    annotations: Path | None = None


def register_scenes(name: str, **facts: Any) -> Callable[[Any], Any]:
    """Decorator that registers a function ``SceneRequest -> Scenes`` as `name`.

    Args:
        name: the name of the data set, or the text before the colon.
        **facts: `argument` describes the text after the colon, for messages; without it, the name
            takes no colon. `folders`: whether images and annotations may be in separate folders.
            `class_names`, `max_bad`: whether the source heeds these of a `SceneRequest`.
    """
    return scene_sources.register(name, **facts)


def is_scenes(name: str) -> bool:
    """Whether `name` is a known detection data set (`digits` is also a classification data set). Of
    other sets of tensorflow-datasets, which may have boxes or classes, it is not known."""
    kind = name.partition(":")[0]
    return (kind in scene_sources and plain(kind) != "tfds") or name.partition("/")[0] == "voc"


def load_scenes(
    name: str,
    *,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    max_bad: int = MAX_BAD,
    class_names: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    images: str | Path | None = None,
    annotations: str | Path | None = None,
) -> Scenes:
    """Load a detection data set.

    Args:
        name: ``digits`` (digits at random positions on a canvas), ``voc:DIR`` (a folder in Pascal
            VOC's layout), ``voc/2007`` or another detection data set of tensorflow-datasets.
        size, seed, max_bad, class_names, data_dir, images, annotations: see `SceneRequest`.

    Raises:
        UserError: the data set is unknown, missing or has too many faulty files; class names are
            not distinct single lines of text; the source does not take what is given; or a split
            has no image or no box.
    """
    kind, colon, argument = name.partition(":")
    if kind not in scene_sources and not colon:
        kind, argument = "tfds", name
    facts = scene_sources.facts(kind)
    expected = facts.get("argument")
    if expected and not argument:
        raise UserError(f"detection data {name!r}: expected {scene_sources.name(kind)}:{expected}")
    if colon and not expected:
        raise UserError(f"detection data {name!r}: {kind!r} takes nothing after a colon")
    folders = [
        None if folder is None else Path(os.path.expanduser(folder))
        for folder in (data_dir, images, annotations)
    ]
    if any(folders[1:]) and not facts.get("folders"):
        raise UserError(
            f"detection data {name!r} takes no folders of images and annotations: only voc:DIR does"
        )
    names = tuple(class_names) if class_names else None
    given = {"class_names": names is not None, "max_bad": max_bad != MAX_BAD}
    for fact, what in (("class_names", "names of classes"), ("max_bad", "number of faulty images")):
        if given[fact] and not facts.get(fact):
            raise UserError(f"detection data {name!r} takes no {what}: only voc:DIR does")
    check_class_names("detection classes", names or ())
    scenes = scene_sources.get(kind)(
        SceneRequest(argument or kind, size, seed, max_bad, names, *folders)
    )
    check_class_names(scenes.name, scenes.class_names)
    for part in SPLIT_NAMES:
        split = getattr(scenes, part)
        if not split.objects:
            raise UserError(
                f"{scenes.name}: {len(split)} {part} images without a single box: a detector "
                "needs boxes for training and for testing"
            )
    if all(are_constant(image[None])[0] for image in scenes.train.images):
        note = f"{scenes.name}: every training image has a single colour: was it read correctly?"
        scenes = replace(scenes, notes=(*scenes.notes, note))
    return scenes
