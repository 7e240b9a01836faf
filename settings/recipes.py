"""Recipes: how to train on data of some kind, one declaration each, and which fits a run.

A recipe gives a value to each training flag that is left out. A flag that is given wins.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from registry import Registry

AUTO = "auto"
FEW_IMAGES = 10_000  # fewer training images than this are few
PHOTOGRAPH = 96  # pixels of the shorter side from which on an image is treated as a photograph
LEAST_STEPS = 8  # of an epoch, where the batch size is not given

# The learning rate where the optimizer is not the recipe's own.
LEARNING_RATE = {"sgd": 1e-2, "adam": 5e-4}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a recipe is chosen by.

    Attributes:
        images: number of training images.
        image_size: height and width, in pixels.
        normalised: whether the student has batch normalisation, and so has a teacher that learns
            with it.
        pretrained: whether the student begins with trained weights.
    """

    images: int
    image_size: tuple[int, int]
    normalised: bool = True
    pretrained: bool = False


@dataclasses.dataclass(frozen=True)
class StepBudget:
    """As many epochs as make about `steps` steps, but at least `least` and at most `most`."""

    steps: int
    least: int
    most: int

    def epochs(self, images: int, batch_size: int) -> int:
        """The epochs of a run with so many training images."""
        steps_per_epoch = max(1, -(-images // batch_size))
        return min(max(round(self.steps / steps_per_epoch), self.least), self.most)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Values of the training flags; those of the same name as a flag are its value.

    Attributes:
        about: for whom it is, in a few words.
        epochs: a number, or a budget of steps by which the number of images decides.
        unnormalised_rate: the learning rate for networks without batch normalisation; None: the
            same as for others.
        warmup: share of the epochs during which the learning rate rises to the cosine.
    """

    about: str
    epochs: int | StepBudget
    batch_size: int
    optimizer: str
    learning_rate: float
    unnormalised_rate: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.0
    weight_decay: float = 1e-4
    rotation: float = 0.0
    crop_padding: int = 4
    random_resized_crop: float = 0.0
    color_jitter: float = 0.0
    randaugment: tuple[float, float] = (0.0, 0.0)
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    mixed_precision: bool = False

    @property
    def depends_on_facts(self) -> bool:
        """Whether its values cannot be told before data and networks are looked at."""
        return self.unnormalised_rate is not None or isinstance(self.epochs, StepBudget)

    def fill(self, given: dict[str, Any], facts: Facts | None) -> dict[str, Any]:
        """The values of `given`, those that are None replaced by the recipe's.

        Args:
            given: flags by name, at least those that a recipe has.
            facts: of the run; may be None where the recipe does not depend on them.
        """
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        filled = {
            name: own.get(name) if value is None else value for name, value in given.items()
        }
        if given["batch_size"] is None and facts is not None:
            filled["batch_size"] = max(1, min(self.batch_size, facts.images // LEAST_STEPS))
        if isinstance(filled["epochs"], StepBudget):
            filled["epochs"] = filled["epochs"].epochs(facts.images, filled["batch_size"])
        if given["learning_rate"] is None:
            filled["learning_rate"] = self._rate(filled["optimizer"], facts)
        if given["warmup_epochs"] is None:
            # A schedule that is given has no warm-up unless that is given too.
            share = self.warmup if given["schedule"] is None else 0.0
            filled["warmup_epochs"] = round(share * filled["epochs"], 2)
        return filled

    def _rate(self, optimizer: str, facts: Facts | None) -> float:
        if optimizer != self.optimizer:
            return LEARNING_RATE[optimizer]
        if self.unnormalised_rate is not None and not facts.normalised:
            return self.unnormalised_rate
        return self.learning_rate


RECIPES = Registry("recipe")


def declare(name: str, recipe: Recipe) -> None:
    """Make a recipe known as `name`."""
    RECIPES.register(name)(recipe)


# Lee, Kim & Song (ECCV 2018), section 4.
declare("paper", Recipe(
    about="the SSKD_SVD paper's training", epochs=200, batch_size=128, optimizer="sgd",
    learning_rate=1e-2, schedule="step", rotation=15.0,
))

# By SGD a network as deep as the VGG teacher, which has no batch normalisation, hardly begins to
# learn the few digits.
declare("digits", Recipe(
    about="scikit-learn's digits, in minutes", epochs=12, batch_size=32, optimizer="adam",
    learning_rate=5e-4, schedule="step", rotation=15.0,
))

# As is usual for residual networks on CIFAR; measured in docs/results/teacher.md. At a rate of 0.2
# networks without batch normalisation diverge.
declare("cifar", Recipe(
    about="small images, tens of thousands", epochs=60, batch_size=128, optimizer="sgd",
    learning_rate=0.2, unnormalised_rate=1e-2, warmup=0.05, weight_decay=5e-4,
))

declare("small", Recipe(
    about="hundreds to some thousands of images", epochs=StepBudget(2000, least=20, most=100),
    batch_size=32, optimizer="adam", learning_rate=1e-3, unnormalised_rate=5e-4, warmup=0.05,
    crop_padding=0, random_resized_crop=0.5, color_jitter=0.2,
))

# He et al. (CVPR 2016) with the cosine of He et al. (CVPR 2019, "Bag of tricks"), and colours as in
# Gross & Wilber's "Training and investigating residual nets" (2016). No label smoothing: a teacher
# trained with it teaches less (Mueller et al., NeurIPS 2019).
declare("imagenet", Recipe(
    about="photographs, tens of thousands and more", epochs=90, batch_size=256, optimizer="sgd",
    learning_rate=0.1, unnormalised_rate=1e-2, warmup=0.05, crop_padding=0,
    random_resized_crop=0.08, color_jitter=0.4,
))

declare("finetune", Recipe(
    about="a student with trained weights", epochs=StepBudget(1500, least=5, most=30),
    batch_size=32, optimizer="adam", learning_rate=1e-4, warmup=0.1, weight_decay=1e-5,
    crop_padding=0, random_resized_crop=0.5, color_jitter=0.2,
))


def choose(facts: Facts) -> str:
    """The name of the recipe that fits a run."""
    if facts.pretrained:
        return "finetune"
    if facts.images < FEW_IMAGES:
        return "small"
    return "imagenet" if min(facts.image_size) >= PHOTOGRAPH else "cifar"
