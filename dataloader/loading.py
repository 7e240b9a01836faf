"""From a data set's name to its splits and facts."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataloader.data import ConvertedImages, Data, Split, naming_damage
from dataloader.splitting import few_rows, keep_labels, validation_rows
from dataloader.statistics import all_constant, channel_statistics
from registry import Registry, UserError, nearest

sources = Registry("data set")

IN_MEMORY = ("auto", "yes", "no")


@dataclass(frozen=True, eq=False)
class Source:
    """What a data source gives: everything that it has, not yet split for validation.

    Attributes:
        name: how the set is called.
        class_names: the name of each class; `numbered` where there are none.
        train, test: all images, labels in 0..classes-1.
        validation: the set's own validation images; None: to be cut from the training images.
        default_flip: see `Data`.
        channel_statistics: published (mean, deviation) in 0..255, None: to be computed.
        sorted_by_class: whether the training images come class by class, so that the first of them
            would be of the first classes.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    validation: Split | None = None
    default_flip: bool = True
    channel_statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    sorted_by_class: bool = False


@dataclass(frozen=True)
class Outline:
    """How much data there is, without its images.

    Attributes:
        train_images: number of training images.
        image_shape: (height, width, channels); channels are 3 where only the images would tell.
        has_validation: whether the set has validation images of its own.
    """

    train_images: int
    image_shape: tuple[int, int, int]
    has_validation: bool = False


@dataclass(frozen=True)
class Request:
    """What a data source is asked for.

    Attributes:
        argument: what stands after the colon of ``npz:FILE``; a plain set's own name.
        data_dir: where downloaded sets are kept; None: the source's usual place.
        image_size: (height, width) to resize to; None: as the images are.
        seed: of a split that the source has to make itself.
        in_memory: ``yes``, ``no`` or ``auto``; for sources that are registered as `lazy`.
    """

    argument: str
    data_dir: Path | None
    image_size: tuple[int, int] | None
    seed: int
    in_memory: str = "auto"


def register(name: str, **facts: Any) -> Callable[[Any], Any]:
    """Decorator that makes a function ``Request -> Source`` known as the data set `name`.

    Args:
        name: the name of the set, or what stands before the colon.
        **facts: `argument` is what stands after the colon, for messages; none: no colon. `lazy`:
            whether it can leave images on disk. `outline`: a function ``Request -> Outline`` that
            is faster than making the source.
    """
    return sources.register(name, **facts)


def numbered(classes: int) -> tuple[str, ...]:
    """The names of classes that have none: ``"0"`` to ``"classes-1"``."""
    return tuple(map(str, range(classes)))


def unknown(name: str, further_names: Iterable[str] = ()) -> UserError:
    """The error for an unknown data set `name`, with the nearest name that there is.

    Args:
        name: what was asked for.
        further_names: known ones besides those that are registered.
    """
    known = [
        f"{source}:{facts['argument']}" if (facts := sources.facts(source)) else source
        for source in sources.names()
        if source != "tfds"
    ]
    hint = nearest(name.partition(":")[0].partition("/")[0], [*sources.names(), *further_names])
    if Path(name).exists():
        hint = f" (did you mean {'folder' if Path(name).is_dir() else 'npz'}:{name}?)"
    return UserError(
        f"unknown data set {name!r}{hint}; known: {', '.join(known)} and the names of "
        f"tensorflow-datasets"
    )


def _source(name: str) -> tuple[Callable[[Request], Source], str, dict[str, Any]]:
    """The data source for `name`, its argument, and the facts that it is registered with."""
    kind, colon, argument = name.partition(":")
    if kind not in sources:
        if colon:
            raise unknown(name)
        return sources.get("tfds"), name, sources.facts("tfds")
    source, facts = sources.get(kind), sources.facts(kind)
    expected = facts.get("argument")
    if expected and not argument:
        raise UserError(f"data set {name!r}; expected {sources.name(kind)}:{expected}")
    if colon and not expected:
        raise UserError(f"data set {name!r}: {sources.name(kind)!r} takes nothing after a colon")
    return source, argument, facts


def check_class_names(where: str, names: Sequence[str]) -> None:
    """Raise UserError, which begins with `where`, unless `names` are different lines of text.

    They are compared between sets, and written to files with a line each."""
    for name in names:
        odd = any(unicodedata.category(each) in ("Cc", "Cs") for each in name)
        if odd or not name.strip():
            raise UserError(
                f"{where}: class name {name!r}; expected text in UTF-8 without line breaks"
            )
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise UserError(
            f"{where}: class name {name!r} occurs {count} times; expected a different name for "
            "each class"
        )


def _check_classes(source: Source) -> None:
    """Raise UserError where class names are not usable, a part has no image, or a label is out of
    range."""
    classes = len(source.class_names)
    if classes < 2:
        raise UserError(f"{source.name}: {classes} class: at least two are needed")
    check_class_names(source.name, source.class_names)
    parts = {"training": source.train, "test": source.test}
    if source.validation is not None:
        parts["validation"] = source.validation
    for part, split in parts.items():
        if not len(split) and part != "validation":
            raise UserError(f"{source.name}: there are no {part} images")
        wrong = split.labels[(split.labels < 0) | (split.labels >= classes)]
        if len(wrong):
            raise UserError(
                f"{source.name}: {part} label {wrong[0]} is out of range; expected 0 to "
                f"{classes - 1} for {classes} classes ({len(wrong)} such labels)"
            )


def _of_channels(source: Source, channels: int) -> Source:
    """`source` with images of so many channels, 1 or 3. Raises UserError where it has others."""
    own = source.train.image_shape[-1]
    if own == channels:
        return source
    if own not in (1, 3):
        raise UserError(f"{source.name} has images of {own} channels: leave --channels out")
    splits = {"train": source.train, "test": source.test, "validation": source.validation}
    stores: dict[int, ConvertedImages] = {}  # Splits may share one.
    for name, split in splits.items():
        if split is not None:
            store = stores.setdefault(id(split.store), ConvertedImages(split.store, channels))
            splits[name] = replace(split, store=store, fill=(0,) * channels)
    return replace(source, **splits, channel_statistics=None)


def _absent_classes(source: Source, labels: np.ndarray) -> str:
    """The first names of classes that no label names, and how many more; empty: there are none."""
    absent = np.setdiff1d(np.arange(len(source.class_names)), labels)
    names = ", ".join(repr(source.class_names[i]) for i in absent[:3])
    return names + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")


def _check_no_empty_class(source: Source, labels: np.ndarray, where: str, advice: str) -> None:
    if absent := _absent_classes(source, labels):
        raise UserError(f"{source.name}: class {absent} has no image {where}: {advice}")


def _warn_of_absent_classes(source: Source, labels: np.ndarray, kind: str) -> None:
    """Classes of a few images may have none in a test set that was split off, and the first
    training images may be of the first classes alone."""
    if absent := _absent_classes(source, labels):
        logging.getLogger(__name__).warning(
            "%s: no %s image shows class %s", source.name, kind, absent
        )


def is_lazy(name: str) -> bool:
    """Whether the data set `name` can leave images on disk, see `load`. Raises UserError where
    there is no such set."""
    return _source(name)[2].get("lazy", False)


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
    validation_fraction: float = 0.1,
    labelled_per_class: int | None = None,
    train_images: int | None = None,
    needs_classes: bool = True,
    seed: int = 0,
    in_memory: str = "auto",
    channels: int | None = None,
) -> Data:
    """Load a data set and split it.

    First the validation images are taken out of the training images (stratified, by `seed`),
    unless the set has some of its own. Of the rest the first `train_images` are kept, in the order
    in which the source has them; of a source that has them class by class (``folder:``), so many of
    all classes (stratified, by `seed`). Of these `labelled_per_class` labels of each class are kept
    (by `seed`), the others become -1.

    Args:
        name: ``digits``, ``npz:FILE``, ``folder:DIR`` or a tensorflow-datasets set by its name.
        data_dir: where tensorflow-datasets keeps its sets; None: its usual place.
        image_size: (height, width) to resize to (bilinear); None: as the images are.
        validation_fraction: share of the training images that become validation images, in
            [0, 1); 0: none. Of a set that has its own, these are taken, unless it is 0.
        labelled_per_class: labels to keep of each class; None: all. Validation and test images
            keep theirs.
        train_images: training images to keep; None: all.
        needs_classes: whether each class needs a training image; it does not if labels are not
            used.
        seed: of the splits, at least 0; not the seed of a training.
        in_memory: whether images are held in memory, ``yes``, ``no`` (they are read from disk
            whenever they are needed, where the source can do that: ``folder:`` and sets of
            tensorflow-datasets in ArrayRecord files) or ``auto`` (where they fit). Batches are the
            same.
        channels: 3 or 1, to which all images are converted; None: as they are.

    Returns:
        The data set. Channel statistics are those of its training split (of a sample of at most
        2,000 images for ``folder:`` and tensorflow-datasets), the published ones for ``cifar100``.
        A warning is logged where every training image is of a single colour.

    Raises:
        UserError: the set is not known, not there or damaged, or an argument does not fit it.
    """
    _check_arguments(validation_fraction, seed, image_size, channels, in_memory)
    make, argument, facts = _source(name)
    if in_memory == "no" and not facts.get("lazy"):
        raise UserError(
            f"data set {name!r} is always held in memory: give --in_memory auto, or use folder:DIR "
            f"or a set of tensorflow-datasets"
        )
    folder = Path(os.path.expanduser(data_dir)) if data_dir is not None else None
    source = make(Request(argument, folder, image_size, seed, in_memory))
    if channels is not None:
        source = _of_channels(source, channels)
    _check_classes(source)
    _check_no_empty_class(
        source, source.train.labels, "to train on", "add images or remove the class"
    )
    if needs_classes:
        _warn_of_absent_classes(source, source.test.labels, "test")
    chosen, validation = np.zeros([0], np.int64), source.validation
    if validation is None or not len(validation) or not validation_fraction:
        chosen = validation_rows(source.train.labels, validation_fraction, seed)
        validation = source.train.take(chosen)
    rest = np.setdiff1d(np.arange(len(source.train)), chosen)
    if train_images is not None:
        if not 1 <= train_images <= len(rest):
            raise UserError(
                f"{train_images} training images asked of {source.name}, which has {len(rest)} "
                f"(after {len(chosen)} for validation); expected 1 to {len(rest)}"
            )
        if source.sorted_by_class:
            rest = rest[few_rows(source.train.labels[rest], train_images, seed)]
        else:
            rest = rest[:train_images]
        if needs_classes:
            first = "" if source.sorted_by_class else "first "
            where = f"among the {first}{train_images} training images"
            _check_no_empty_class(source, source.train.labels[rest], where, "use more images")
        else:
            _warn_of_absent_classes(source, source.train.labels[rest], "training")
    train = source.train.take(rest)
    if labelled_per_class is not None:
        labels = keep_labels(train.labels, labelled_per_class, seed, source.class_names)
        train = replace(train, labels=labels)
    with naming_damage(train):
        is_constant = all_constant(train)
        mean, deviation = source.channel_statistics or channel_statistics(train)
    if is_constant:
        logging.getLogger(__name__).warning(
            "%s: every training image is of a single colour: is that how they are meant?",
            source.name,
        )
    fill = tuple(round(value) for value in mean)
    return Data(
        name=source.name,
        class_names=source.class_names,
        image_shape=train.image_shape,
        channel_mean=mean,
        channel_deviation=deviation,
        default_flip=source.default_flip,
        train=replace(train, fill=fill),
        validation=replace(validation, fill=fill),
        test=replace(source.test, fill=fill),
    )


def _check_arguments(
    validation_fraction: float,
    seed: int,
    image_size: tuple[int, int] | None,
    channels: int | None,
    in_memory: str,
) -> None:
    """Raise UserError if an argument of `load` is outside its range."""
    if not 0 <= validation_fraction < 1:
        raise UserError(f"validation fraction {validation_fraction}; expected 0 or more, below 1")
    if seed < 0:
        raise UserError(f"data seed {seed}; expected 0 or more")
    if image_size is not None and min(image_size) < 1:
        raise UserError(f"image size {image_size[0]}x{image_size[1]}; expected at least 1x1")
    if channels not in (None, 1, 3):
        raise UserError(f"{channels} channels; expected 3 (colours) or 1 (grey)")
    if in_memory not in IN_MEMORY:
        raise UserError(f"in memory {in_memory!r}; expected one of {', '.join(IN_MEMORY)}")


def outline(
    name: str,
    *,
    data_dir: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
    validation_fraction: float = 0.1,
    train_images: int | None = None,
    seed: int = 0,
    channels: int | None = None,
) -> Outline:
    """How much data `load` would give for the same arguments, by what is quickly found out.

    The number of training images is right to the rounding of the validation images.

    Raises:
        UserError: the set is not known or not there.
    """
    make, argument, facts = _source(name)
    folder = Path(os.path.expanduser(data_dir)) if data_dir is not None else None
    request = Request(argument, folder, image_size, seed)
    if "outline" in facts:
        found = facts["outline"](request)
    else:
        source = make(request)
        has_validation = source.validation is not None and len(source.validation) > 0
        found = Outline(len(source.train), source.train.image_shape, has_validation)
    count = found.train_images
    if channels is not None:
        found = replace(found, image_shape=(*found.image_shape[:2], channels))
    if not found.has_validation:
        count -= round(validation_fraction * count)
    return replace(found, train_images=min(count, train_images or count))
