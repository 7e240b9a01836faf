"""What a distillation run is made of: data, networks, and the distiller that trains them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.optimize import linear_sum_assignment

import dataloader
import nets
from dataloader.memory import images_at_once
from distillers import Distiller, Method, Sum
from distillers.networks import Preprocessing
from distillers.stages import Part
from experiment.run import devices
from experiment.run.teacher_cache import TeacherCache
from experiment.run.workers import ALONE, Team
from op_util.accuracy import top_k_hits
from op_util.schedules import schedule
from settings.common import require_same_start
from settings.distillation import Settings
from settings.networks import (
    check_taps,
    check_teacher,
    class_difference,
    create_method,
    find_outputs,
    find_preprocessing,
    load_teacher,
    make_student,
    standardize,
)
from settings.recipes import AUTO, RECIPES
from settings.run_facts import has_batch_normalization

MEASURED_STEPS = 5
STATISTICS_IMAGES, STATISTICS_BATCH = 1024, 128
EVALUATION_BATCH = 500
SCORED_IMAGES = 1000
HINT_IMAGES = 256
MUCH_BETTER = 0.1
"""Of top-1: about three deviations of the difference of two scores on so many images."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a run is made of.

    Attributes:
        settings: spelled out.
        data: the data set.
        strategy: in whose scope the networks were made.
        team: the workers of the run.
        distiller: the student and what trains it.
        student: what is trained, with the preprocessing that its file or run states, if any.
        teacher: None where the method needs none.
        teacher_is_trained: False where a teacher has to be trained first.
        given: the settings before the recipe filled them; None: not known.
        cache: the teacher's outputs, computed before; None: it is run in training.
        is_copy: whether the student is the quantised copy of another run's.
    """

    settings: Settings
    data: dataloader.Data
    strategy: tf.distribute.Strategy
    team: Team
    distiller: Distiller
    student: nets.Stored
    teacher: nets.Stored | None
    teacher_is_trained: bool
    given: Settings | None = None
    cache: TeacherCache | None = None
    is_copy: bool = False

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return dataloader.steps_per_epoch(self.data.train, self.settings.batch_size)

    def at_once(self, most: int) -> int:
        """How many images the networks take at once where they are not trained: `most`, or fewer of
        large images, but twice a training batch, which takes as much memory."""
        networks = [self.distiller.student, *([self.teacher.model] if self.teacher else [])]
        shapes = [self.data.image_shape, *(network.input_shape[1:3] for network in networks)]
        largest = max((shape for shape in shapes if None not in shape), key=lambda s: s[0] * s[1])
        return min(most, max(images_at_once(largest), 2 * self.settings.batch_size))

    def judges(self, part: Part) -> bool:
        """Whether the best epoch is chosen among those of a part of the run: by validation images,
        once the student learns to classify."""
        learns = (
            part.stage.main_weight > 0 or part.last == self.settings.epochs
            or self.distiller.deployed is not self.distiller.student
        )
        return len(self.data.validation) > 0 and self.classifies and learns

    @property
    def classifies(self) -> bool:
        """Whether anything trains the student's classification: without labels, only a method that
        compares logits does."""
        return self.settings.main_loss != "none" or self.distiller.method.does_read("logits")

    def read_outputs(self) -> list[str]:
        """The names of the teacher's features that the method reads."""
        members = self.distiller.method.members
        return sorted({reading.key for member in members for reading in member.readings})

    def student_preprocessing(self) -> nets.Standardize:
        """What turns raw images into what the deployed network takes."""
        # As in training: a deployed model of the method's own may have another name.
        return find_preprocessing("student", self.settings, self.data, self.student)

    def statistics_batches(self) -> Iterator[tf.Tensor]:
        """Training images, preprocessed and not augmented, for the deployed network's batch
        statistics."""
        return self.spread_batches(self.student_preprocessing())

    def judge_teacher_by_own_statistics(self) -> None:
        """Recompute the batch statistics of a teacher that learned too, as the student's are."""
        if self.distiller.method.trains_teacher:
            batches = self.spread_batches(self.distiller.teacher_preprocessing)
            nets.recompute_batch_statistics(self.distiller.teacher, batches)

    def spread_batches(
        self, preprocess: Callable[[Any], Any], most: int = STATISTICS_IMAGES
    ) -> Iterator[tf.Tensor]:
        """At most so many training images, from all over the data and mixed, preprocessed."""
        images, size = self.data.train.mixed(most), self.at_once(STATISTICS_BATCH)
        for first in range(0, len(images), size):
            yield preprocess(images.images(range(first, min(first + size, len(images)))))


def prepare(
    settings: Settings,
    team: Team = ALONE,
    data: dataloader.Data | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> Setup:
    """Load the data and make the networks. Writes nothing.

    Args:
        settings: spelled out.
        team: the workers of the run.
        data: as the settings say, where they are loaded already.
        strategy: likewise.

    Raises:
        UserError: settings, networks and data do not fit each other.
    """
    devices.prepare(settings.seed, settings.deterministic, settings.mixed_precision)
    strategy = strategy or devices.strategy(settings.strategy, team)
    data = data or load_data(settings)
    training_batches(settings, data)  # refuses now what does not fit; batches are made later
    return make_setup(settings, data, strategy, settings.teacher_file(), team)


def load_data(settings: Settings) -> dataloader.Data:
    """The data of a run. Raises UserError."""
    needs = settings.needs_classes()
    return settings.load_data(settings.labelled_per_class if needs else None, needs)


def make_setup(
    settings: Settings,
    data: dataloader.Data,
    strategy: tf.distribute.Strategy,
    teacher_file: str | None,
    team: Team = ALONE,
) -> Setup:
    """Make the networks of a run.

    Args:
        settings: spelled out.
        data: as the settings say.
        strategy: in whose scope the networks are made.
        teacher_file: the trained teacher; None: it is to be trained.
        team: the workers of the run.
    """
    method = create_method(settings)
    with strategy.scope():
        teacher = load_teacher(settings, data, teacher_file) if method.needs_teacher else None
        student = make_student(settings, data)
        distiller = make_distiller(settings, data, method, teacher, student)
    if method.trains_teacher:
        nets.check_trainable(teacher.model, "the teacher", teacher_file or settings.teacher_name())
    distiller.parts(settings.epochs)  # there are enough epochs for all stages
    is_trained = (
        teacher is None or method.trains_teacher or teacher_file is not None
        or settings.teacher_is_ready()
    )
    taught = teacher.model.variables if teacher is not None and is_trained else []
    require_same_start(team, data, [*distiller.weights, *taught])
    return Setup(settings, data, strategy, team, distiller, student, teacher, is_trained)


def make_distiller(
    settings: Settings,
    data: dataloader.Data,
    method: Method | Sum,
    teacher: nets.Stored | None,
    student: nets.Stored,
) -> Distiller:
    """The student and what trains it.

    Args:
        settings: spelled out.
        data: the data set.
        method: to train with.
        teacher: None where there is none.
        student: what is to be trained.
    """
    arguments = {}
    if teacher is not None:
        check_teacher(teacher, method, data)
        check_taps({"teacher": teacher.model, "student": student.model}, settings, method)
        arguments = {
            "teacher": teacher.model,
            "teacher_outputs": find_outputs(teacher.model, settings.teacher_taps),
            "teacher_preprocessing": find_preprocessing("teacher", settings, data, teacher),
        }
    return Distiller(
        student.model,
        method,
        student_outputs=find_outputs(student.model, settings.student_taps),
        student_preprocessing=find_preprocessing("student", settings, data, student),
        main_loss=settings.main_loss,
        weight_decay=settings.weight_decay,
        label_smoothing=settings.label_smoothing,
        samples=len(data.train),
        **arguments,
    )


def taught_batches(setup: Setup, epoch: int = 0, step: int = 0) -> Any:
    """The batches from this one on, shared out over all devices, or with the teacher's outputs
    where they are kept."""
    if setup.cache is None:
        own = functools.partial(training_batches, setup.settings, setup.data, epoch, step)
        return devices.shared_out(setup.strategy, own)
    batches = training_batches(setup.settings, setup.data, epoch, step)
    return setup.cache.add_to(
        batches, setup.read_outputs(), epochs=setup.settings.epochs, steps=setup.steps,
        epoch=epoch, step=step,
    )


def training_batches(
    settings: Settings,
    data: dataloader.Data,
    epoch: int = 0,
    step: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """The batches from this one on, or a worker's parts of them (see
    `dataloader.training_batches`). Raises UserError where sizes do not fit the data."""
    return dataloader.training_batches(
        data.train, settings.batch_size, seed=settings.seed, epochs=settings.epochs,
        augmentation=augmentation_of(settings, data), start_epoch=epoch, start_step=step,
        context=context,
    )


def augmentation_of(settings: Settings, data: dataloader.Data) -> dataloader.Augmentation:
    """How training images are changed at random."""
    flip = data.default_flip if settings.flip is None else settings.flip
    operations, magnitude = settings.randaugment
    return dataloader.Augmentation(
        flip=flip,
        rotation_degrees=settings.rotation,
        crop_padding=settings.crop_padding,
        random_resized_crop=settings.random_resized_crop,
        color_jitter=settings.color_jitter,
        randaugment=(int(operations), magnitude),
        mixup=settings.mixup,
        cutmix=settings.cutmix,
    )


def describe_augmentation(settings: Settings, data: dataloader.Data) -> str:
    """The same in words, with the flags that set it."""
    done = _done_to_images(augmentation_of(settings, data), min(data.image_shape[:2]))
    words = ", ".join(done.values()) or "as they are"
    named = dict.fromkeys(["flip", "rotation", "crop_padding", *done])
    return f"training images: {words} (set by {', '.join(f'--{name}' for name in named)})"


def _done_to_images(augmentation: dataloader.Augmentation, side: int) -> dict[str, str]:
    """What happens to images whose shorter side has `side` pixels, in words, by its flag."""
    area, strength = augmentation.random_resized_crop, augmentation.color_jitter
    number, magnitude = augmentation.randaugment
    possible = {
        "flip": (augmentation.flip, "half of them mirrored"),
        "rotation": (
            augmentation.rotation_degrees,
            f"rotated by up to {augmentation.rotation_degrees:g} degrees",
        ),
        "crop_padding": (
            augmentation.crop_padding,
            f"shifted by up to {augmentation.crop_padding} of {side} pixels",
        ),
        "random_resized_crop": (area, f"parts of {100 * area:g} to 100 % of the area"),
        "randaugment": (number, f"{number} operations of RandAugment of magnitude {magnitude:g}"),
        "color_jitter": (
            strength,
            f"brightness, contrast and saturation changed by up to {100 * strength:g} %",
        ),
        "mixup": (augmentation.mixup, f"mixed by mixup with alpha {augmentation.mixup:g}"),
        "cutmix": (augmentation.cutmix, f"mixed by CutMix with alpha {augmentation.cutmix:g}"),
    }
    return {name: words for name, (is_done, words) in possible.items() if is_done}


def describe_recipe(setup: Setup) -> str:
    """How the run trains, and by which recipe, in words."""
    settings = setup.settings
    height, width, _ = setup.data.image_shape
    name = "training flags" if settings.recipe == AUTO else f"recipe {settings.recipe}"
    smoothing = f", label smoothing {settings.label_smoothing:g}" * bool(settings.label_smoothing)
    kind = ", in bfloat16" * nets.is_narrow(setup.distiller.student)
    return (
        f"{name}, for {len(setup.data.train):,} training images of {height}x{width} pixels: "
        f"{settings.describe_training(_reason_of_rate(setup))}{smoothing}{kind} (--recipe)"
    )


def _reason_of_rate(setup: Setup) -> str:
    """Why the learning rate is not that of networks with batch normalisation, in words."""
    settings = setup.settings
    recipe = None if settings.recipe == AUTO else RECIPES.get(settings.recipe)
    if recipe is None or settings.learning_rate != recipe.unnormalised_rate:
        return ""
    networks = [setup.distiller.student]
    if setup.distiller.method.trains_teacher:
        networks.append(setup.distiller.teacher)
    lacking = [network.name for network in networks if not has_batch_normalization(network)]
    if not lacking:
        return ""
    return f" (not {recipe.learning_rate:g}: {lacking[0]} has no batch normalisation)"


def compile_for(setup: Setup, epochs: int) -> Any:
    """Give the distiller an optimizer for so many epochs; its learning rate or schedule."""
    settings = setup.settings
    warmup = settings.warmup_epochs * epochs / settings.epochs  # a stage has its share of it
    rate = schedule(settings.schedule, settings.learning_rate, epochs, setup.steps, warmup)
    with setup.strategy.scope():  # an optimizer takes the strategy of the scope that it is made in
        setup.distiller.compile(settings.make_optimizer(rate), jit_compile=settings.jit_compile)
    return rate


def evaluation(setup: Setup, split: dataloader.Split) -> tuple[Any, int | None]:
    """The batches of a split for `Model.evaluate`, shared out over all devices, and their number;
    None twice where there are no images."""
    if not len(split):
        return None, None
    size = setup.at_once(EVALUATION_BATCH)
    own = functools.partial(dataloader.evaluation_batches, split, size)
    steps = dataloader.steps_per_epoch(split, size)
    return devices.shared_out(setup.strategy, own), steps


def measure(setup: Setup, batches: tf.data.Dataset) -> tuple[float, str]:
    """Train a few steps. The distiller is of no use afterwards.

    Args:
        setup: of the run.
        batches: of its training images.

    Returns:
        Images a second, and how they were measured.
    """
    setup.distiller.enter(setup.distiller.parts(setup.settings.epochs)[0])
    compile_for(setup, setup.settings.epochs)
    steps = min(MEASURED_STEPS, setup.steps)
    train_steps = functools.partial(setup.distiller.fit, batches, shuffle=False, verbose=0)
    train_steps(steps_per_epoch=1)  # traces the step
    began = time.monotonic()
    train_steps(steps_per_epoch=steps)
    seconds = time.monotonic() - began
    return steps * setup.settings.batch_size / seconds, f"measured on {steps} steps"


# A given teacher


def score_teacher(setup: Setup) -> list[str]:
    """What a given teacher reaches on some images, and whether it is at chance or could do better.

    Its file cannot tell whether its classes and the scale of its images are those of the data, nor
    whether its batch statistics are those of its weights, and a run with a teacher that knows too
    little would only show that at its end.
    """
    teacher, data = setup.teacher, setup.data
    given = None
    if setup.settings.teacher_is_ready():
        given = setup.settings.teacher_file() or setup.settings.teacher_name()
    if teacher is None or given is None or not teacher.has_logits:
        return []
    if teacher.model.outputs[0].shape[-1] != data.classes or class_difference(teacher, data):
        return []
    images, labels = _images_to_score(data)
    logits = _logits(setup, setup.distiller.teacher_preprocessing, images)
    top1 = _top1(logits, labels)
    note = f"teacher {given}: top-1 {top1:.4f} on {len(labels):,} images"
    chance, only = 1 / data.classes, np.unique(np.argmax(logits, axis=1))
    above_chance = chance + 3 * (chance * (1 - chance) / len(labels)) ** 0.5
    knows = top1 > above_chance
    if not knows:
        note += ", which is chance: there is little to learn from it"
    elif len(only) == 1:
        note += f", but it gives every image the class {data.class_names[only[0]]!r}"
    order = _top1_in_best_order(np.argmax(logits, axis=1), labels, data.classes)
    if order > top1 + max(MUCH_BETTER, (data.classes / len(labels)) ** 0.5):
        hint = f"with its classes in another order than the data's it would reach {order:.4f}"
    else:
        hint = _hint(setup, images, labels, top1 + MUCH_BETTER if knows else above_chance)
    if not hint and (not knows or len(only) == 1):
        hint = "expected a teacher trained on these classes, in this order"
    return [f"{note}; {hint}" if hint else note]


def _images_to_score(data: dataloader.Data) -> tuple[tf.Tensor, np.ndarray]:
    """Raw images that no network here is trained on, and their labels. Those for validation alone
    can be few."""
    splits = [split for split in (data.validation, data.test) if len(split)]
    share = SCORED_IMAGES / sum(map(len, splits))
    chosen = [split.spread(max(1, round(share * len(split)))) for split in splits]
    images = [split.images(rows) for split, rows in zip(splits, chosen, strict=True)]
    labels = [split.labels[rows] for split, rows in zip(splits, chosen, strict=True)]
    return tf.concat(images, axis=0), np.concatenate(labels)


def _top1_in_best_order(given: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Share of the images that get their label if the classes given are renamed in the best way.

    Of few images it is high by chance alone: about ``sqrt(classes / images)`` more than top-1.
    """
    counts = np.zeros([classes, classes])
    np.add.at(counts, (labels[labels >= 0], given[labels >= 0]), 1)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(labels))


def _hint(setup: Setup, images: tf.Tensor, labels: np.ndarray, enough: float) -> str:
    """By what a teacher would reach more than the top-1 `enough`, in words: another preprocessing
    of these raw images, or batch statistics of training images. Empty: by nothing."""
    model, data = setup.teacher.model, setup.data
    own = setup.distiller.teacher_preprocessing
    some = np.arange(0, len(labels), max(1, len(labels) // HINT_IMAGES))
    images, labels = tf.gather(images, some), labels[some]
    found = {}
    for name in () if setup.teacher.standardize else nets.PREPROCESSING:
        if name not in nets.COLOURED or data.image_shape[-1] == 3:
            scaled = _logits(setup, standardize(name, data, model), images)
            words = f"with --teacher_preprocessing {name} it reaches {{:.4f}}"
            found[words] = _top1(scaled, labels)
    with _recomputed_statistics(setup) as count:
        if count:
            found[
                "with batch statistics of training images it reaches {:.4f}, so those in its file "
                "lag behind its weights (nets.recompute_batch_statistics sets them)"
            ] = _top1(_logits(setup, own, images), labels)
    if not found:
        return ""
    words = max(found, key=found.get)
    return words.format(found[words]) if found[words] > enough else ""


@contextlib.contextmanager
def _recomputed_statistics(setup: Setup) -> Iterator[int]:
    """Within this context, the teacher has the batch statistics of training images; afterwards its
    own again.

    Yields:
        The number of layers that have batch statistics.
    """
    model = setup.teacher.model
    before = [(variable, np.array(variable)) for variable in model.non_trainable_variables]
    batches = setup.spread_batches(setup.distiller.teacher_preprocessing, HINT_IMAGES)
    try:
        yield nets.recompute_batch_statistics(model, batches)
    finally:
        for variable, value in before:
            variable.assign(value)


def _logits(setup: Setup, preprocess: Preprocessing, images: tf.Tensor) -> np.ndarray:
    """The teacher's logits ``[N, classes]`` of raw images."""
    model, size = setup.teacher.model, setup.at_once(STATISTICS_BATCH)
    return np.concatenate([
        np.asarray(model(preprocess(images[first : first + size]), training=False), "float32")
        for first in range(0, len(images), size)
    ])


def _top1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images that get their label."""
    return float(np.mean(top_k_hits(logits, labels, 1)))
