"""Detection data: images with boxes around the objects in them, by the name of their source.

A source is a function in a file of its own, see `register`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataloader.loading import check_class_names
from dataloader.statistics import are_constant
from registry import Registry, UserError

scene_sources = Registry("detection data set")

SPLIT_NAMES = ("train", "test")


@dataclass(frozen=True, eq=False)
class SceneSplit:
    """Images of one size and the objects in each.

    Attributes:
        images: uint8 [N,H,W,3].
        boxes: of each image, float32 [n,4]: left, top, right, bottom edge in pixels, the image
            itself being (0, 0, W, H); every box has an area.
        labels: of each image, the classes of its boxes, int32 [n].
        difficult: of each image, bool [n]: objects that need not be found.
    """

    images: np.ndarray
    boxes: Sequence[np.ndarray]
    labels: Sequence[np.ndarray]
    difficult: Sequence[np.ndarray]

    def __post_init__(self) -> None:
        lengths = {len(self.images), len(self.boxes), len(self.labels), len(self.difficult)}
        if len(lengths) != 1:
            raise ValueError(f"{len(self.images)} images, but boxes of {len(self.boxes)}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def objects(self) -> int:
        """Number of all boxes."""
        return sum(map(len, self.boxes))


@dataclass(frozen=True, eq=False)
class Scenes:
    """A detection data set.

    Attributes:
        name: how it is called.
        class_names: the name of each class.
        train, test: what is trained on, and what is reported on.
        flip: whether a mirrored scene is as good as the scene.
        notes: what was found faulty and left out, or what is suspicious, a line each.
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


@dataclass(frozen=True)
class SceneRequest:
    """What a source of detection data is asked for.

    Attributes:
        argument: what stands after the colon of ``voc:DIR``; a plain set's own name.
        size: (height, width) to bring images to, without keeping their aspect ratio; None: the
            source's usual one.
        seed: of scenes or splits that the source has to make itself.
        max_bad: faulty files that are left out before the set is refused.
        class_names: the classes; None: as the source states or finds them.
        data_dir: where downloaded sets are kept; None: the usual place.
        images, annotations: folders with the files of each kind, for a source that is registered
            with `folders`; None: where the layout of the source has them.
    """

    argument: str
    size: tuple[int, int] | None
    seed: int
    max_bad: int
    class_names: tuple[str, ...] | None
    data_dir: Path | None
    images: Path | None = None
    annotations: Path | None = None


def register(name: str, **facts: Any) -> Callable[[Any], Any]:
    """Decorator that makes a function ``SceneRequest -> Scenes`` known as `name`.

    Args:
        name: the name of the set, or what stands before the colon.
        **facts: `argument` is what stands after the colon, for messages; none: no colon.
            `folders`: whether images and annotations may lie in folders of their own.
    """
    return scene_sources.register(name, **facts)


def is_scenes(name: str) -> bool:
    """Whether `name` is known as a detection data set (`digits` is one for classification too)."""
    return name.partition(":")[0] in scene_sources or name.partition("/")[0] == "voc"


def load_scenes(
    name: str,
    *,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    max_bad: int = 10,
    class_names: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    images: str | Path | None = None,
    annotations: str | Path | None = None,
) -> Scenes:
    """Load a detection data set.

    Args:
        name: ``digits`` (digits at random places on a canvas), ``voc:DIR`` (a folder as Pascal VOC
            has it), ``voc/2007`` or another set of boxes of tensorflow-datasets.
        size, seed, max_bad, class_names, data_dir, images, annotations: see `SceneRequest`.

    Raises:
        UserError: the set is not known, not there or has too many faulty files, class names are
            not different lines of text, or one of its splits has no image or no box.
    """
    kind, colon, argument = name.partition(":")
    if kind not in scene_sources and not colon:
        kind, argument = "tfds", name
    facts = scene_sources.facts(kind)
    expected = facts.get("argument")
    if expected and not argument:
        raise UserError(f"detection data {name!r}: {scene_sources.name(kind)}:{expected} expected")
    if colon and not expected:
        raise UserError(f"detection data {name!r}: {kind!r} takes nothing after a colon")
    folders = [
        None if folder is None else Path(folder).expanduser()
        for folder in (data_dir, images, annotations)
    ]
    if any(folders[1:]) and not facts.get("folders"):
        raise UserError(
            f"detection data {name!r} has no folders of images and annotations: voc:DIR expected "
            "with them"
        )
    names = tuple(class_names) if class_names else None
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
                "needs some to learn from and some to be judged by"
            )
    if all(are_constant(image[None])[0] for image in scenes.train.images):
        note = f"{scenes.name}: every training image is of a single colour: is it read right?"
        scenes = replace(scenes, notes=(*scenes.notes, note))
    return scenes
