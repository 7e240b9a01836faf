"""The settings that training scripts share, each declared once: data, training and run.

A script's own settings extend these dataclasses, see `experiment.command.options`. Importing this
package does not load TensorFlow, so that a mistake is answered at once: the few methods that need
it import it themselves.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from experiment.command.options import Options, option, values
from experiment.run.folder import plain_values
from experiment.run.workers import Team, gathered
from registry import UserError
from settings import known
from settings.known import IN_MEMORY, SCHEDULES, STRATEGIES

if TYPE_CHECKING:
    import keras

    import dataloader

DATA, TRAINING, RUN = "data", "training", "run"


@dataclasses.dataclass(frozen=True)
class DataSettings(Options):
    """The images, and how they are split."""

    dataset: str = option(
        "digits", "digits, a tensorflow-datasets name such as cifar100, npz:FILE, folder:DIR or "
        "omniglot:FILE", group=DATA,
    )
    data_dir: str | None = option(
        None, "where tensorflow-datasets keeps its data", group=DATA, is_path=True, same_run=True
    )
    in_memory: str = option(
        "auto", "hold images of folder:DIR and tensorflow-datasets in memory; auto: where they "
        "take up to a quarter of what is free", group=DATA, choices=IN_MEMORY,
        same_run=True,
    )
    image_size: int | None = option(
        None, "resize images to this height and width, in pixels", group=DATA, minimum=1
    )
    channels: int | None = option(
        None, "convert images to 3 channels (grey ones are repeated) or 1 (the luma of colours); "
        "default: as they are", group=DATA, minimum=1, maximum=3,
    )
    validation_fraction: float = option(
        0.1, "share of the training images that is held out to choose the best epoch", group=DATA,
        minimum=0, maximum=0.9,
    )
    train_images: int | None = option(
        None, "train on only N training images, after validation images are held out: of a folder, "
        "each class keeps its share; of other data, the first N",
        group=DATA, minimum=1,
    )
    data_seed: int = option(
        0, "seed of the split into training and validation images, of the kept labels and of a "
        "folder's --train_images",
        group=DATA, minimum=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dataset", known.dataset_name(self.dataset))

    def load_data(
        self, labelled_per_class: int | None = None, needs_classes: bool = True
    ) -> dataloader.Data:
        """The data set, split; see `dataloader.load`."""
        import dataloader

        return dataloader.load(
            self.dataset,
            labelled_per_class=labelled_per_class,
            needs_classes=needs_classes,
            in_memory=self.in_memory,
            **self._of_data(),
        )

    def describe_storage(self, data: dataloader.Data) -> list[str]:
        """A line that says where the images of `data` stay, if there was a choice."""
        import dataloader

        if not dataloader.is_lazy(self.dataset):
            return []
        where = "held in memory" if data.is_in_memory else "read from disk as they are needed"
        return [f"images: {where} (--in_memory {self.in_memory})"]

    def outline_data(self) -> dataloader.Outline:
        """How many images of which size there are; see `dataloader.outline`."""
        import dataloader

        return dataloader.outline(self.dataset, **self._of_data())

    def _of_data(self) -> dict[str, Any]:
        """What decides how many images of which size there are, as the data loader's arguments."""
        size = self.image_size
        return {
            "data_dir": self.data_dir,
            "image_size": size and (size, size),
            "channels": self.channels,
            "validation_fraction": self.validation_fraction,
            "train_images": self.train_images,
            "seed": self.data_seed,
        }

    def dataset_in_paths(self) -> str:
        """The data set's name as a part of a file's name."""
        return self.dataset.replace("/", "_").replace(":", "_")


@dataclasses.dataclass(frozen=True)
class TrainingSettings(Options):
    """How to train. The script chooses what is None."""

    epochs: int | None = option(
        None, "passes over the training images (default: the recipe's)", group=TRAINING, minimum=1
    )
    batch_size: int | None = option(
        None, "images per step, over all devices together (default: the recipe's)",
        group=TRAINING, minimum=1,
    )
    optimizer: str | None = option(
        None, "sgd has Nesterov momentum (default: the recipe's)", group=TRAINING,
        choices=("sgd", "adam"),
    )
    learning_rate: float | None = option(
        None, "peak learning rate (default: the recipe's; 1e-2 for sgd and 5e-4 for adam where the "
        "recipe's optimizer is another)", group=TRAINING, above=0,
    )
    momentum: float = option(0.9, "momentum of sgd", group=TRAINING, minimum=0, maximum=1)
    schedule: str | None = option(
        None, "learning rate schedule; step: x0.1 after half and three quarters of the epochs "
        "(default: the recipe's)", group=TRAINING, choices=SCHEDULES,
    )
    warmup_epochs: float | None = option(
        None, "with --schedule cosine: epochs during which the learning rate rises to "
        "--learning_rate (default: the recipe's)", group=TRAINING, minimum=0,
    )
    weight_decay: float | None = option(
        None, "factor of ||w||^2 / 2 of all kernels (default: the recipe's)", group=TRAINING,
        minimum=0,
    )
    mixed_precision: bool | None = option(
        None, "compute in bfloat16, keep weights and the SVD in float32 (default: on for digits "
        "with the default networks if the processor computes bfloat16, otherwise off)",
        group=TRAINING,
    )
    jit_compile: bool = option(False, "compile the step by XLA", group=TRAINING)
    seed: int = option(
        0, "seed of initial weights, order, augmentation and dropout", group=TRAINING, minimum=0
    )
    deterministic: bool = option(
        False, "repeat a run bit for bit on the same machine; slower", group=TRAINING
    )

    def check_schedule(self) -> None:
        """Raise UserError where a warm-up does not fit the schedule. For `spelled` settings."""
        if self.warmup_epochs and self.schedule != "cosine":
            raise UserError(
                f"--warmup_epochs is {self.warmup_epochs:g} and --schedule {self.schedule}: only "
                "--schedule cosine has a warm-up"
            )
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise UserError(
                f"--warmup_epochs is {self.warmup_epochs:g}; expected less than --epochs, "
                f"{self.epochs}"
            )

    def make_optimizer(self, learning_rate: Any) -> keras.optimizers.Optimizer:
        """The optimizer that the settings name, with a rate or a schedule of it."""
        import keras

        if self.optimizer == "adam":
            return keras.optimizers.Adam(learning_rate)
        return keras.optimizers.SGD(learning_rate, momentum=self.momentum, nesterov=True)

    def describe_training(self, about_the_rate: str = "") -> str:
        """Epochs, batches, optimizer, schedule and decay in words, for people."""
        warmup = f" after {self.warmup_epochs:g} epochs of warm-up" * bool(self.warmup_epochs)
        return (
            f"{self.epochs} epochs, batches of {self.batch_size}, {self.optimizer} at "
            f"{self.learning_rate:g}{about_the_rate}, {self.schedule} schedule{warmup}, "
            f"weight decay {self.weight_decay:g}"
        )


@dataclasses.dataclass(frozen=True)
class RunSettings(Options):
    """Where to write and on which devices to run; nothing that changes the result."""

    train_dir: str | None = option(
        None, "the run folder (default: in runs/, named after what runs)", group=RUN,
        same_run=True, is_path=True,
    )
    strategy: str = option(
        "auto", "auto: mirrored if there are several GPUs, or else none; none: one device; "
        "mirrored: all GPUs of this host; multi_worker: several hosts, "
        "each with the same command (see docs/guides/devices.md)", group=RUN, same_run=True,
        choices=STRATEGIES,
    )
    connect_minutes: float = option(
        5.0, "how long multi_worker waits for the other workers at its start", group=RUN, above=0,
        same_run=True,
    )
    overwrite: bool = option(
        False, "remove what an earlier run left in the run folder", group=RUN, same_run=True
    )
    dry_run: bool = option(
        False, "say what would run, and write nothing", group=RUN, same_run=True
    )
    checkpoint_minutes: float = option(
        10.0, "time between two checkpoints within an epoch", group=RUN, above=0, same_run=True
    )


OF_EACH_WORKER = ("train_dir", "data_dir", "in_memory", "connect_minutes")


def gather_workers(settings: Any) -> AbstractContextManager[Team]:
    """The workers of a run (see `workers.gathered`); this process alone unless the strategy is
    ``multi_worker``.

    Args:
        settings: both `TrainingSettings` and `RunSettings`. Those that say where things are on a
            host may differ between workers.

    Raises:
        UserError: the settings do not go together, or workers do not meet or differ.
    """
    for name in ("jit_compile", "cache_teacher"):
        if settings.strategy == "multi_worker" and getattr(settings, name, False):
            raise UserError(f"--{name} and --strategy multi_worker do not go together: leave one "
                            "of them out")
    return gathered(settings.strategy, shared_settings(settings), settings.connect_minutes)


def shared_settings(settings: Any) -> dict[str, Any]:
    """The settings that have to be the same in all workers, by their flags."""
    return {
        f"--{name}": value for name, value in plain_values(values(settings)).items()
        if name not in OF_EACH_WORKER
    }


def describe_workers(settings: Any) -> str | None:
    """Which of a run's workers this process would be; None if it would be alone. Opens no
    connection.

    Raises:
        UserError: nothing says which workers there are, or what does is damaged.
    """
    if settings.strategy != "multi_worker":
        return None
    from experiment.run.cluster import find_cluster  # which loads TensorFlow

    cluster = find_cluster()
    count = len(cluster.addresses)
    chief = cluster.addresses[0]
    return f"{count}, of which this is worker {cluster.index}; worker 0, the chief, is {chief}"


def require_same_start(team: Team, data: dataloader.Data, variables: Iterable[Any]) -> None:
    """Refuse to train where workers have other data or other networks, files of which may differ.

    Args:
        team: the workers.
        data: what is trained on.
        variables: of all networks.

    Raises:
        UserError: in all workers; it says what differs.
    """
    if team.size == 1:
        return
    import keras

    digest = hashlib.sha256()
    for variable in variables:
        digest.update(keras.ops.convert_to_numpy(variable).tobytes())
    team.require_same({
        **data.facts(),
        "channel mean": list(data.channel_mean),  # all digits: images are standardised by it
        "the networks' weights": digest.hexdigest()[:12],
    })


def last_learning_rate(rate: Any, began: int, steps: int, epoch: int) -> float:
    """The learning rate of the last step of an epoch.

    Args:
        rate: of the optimizer, a number or a schedule.
        began: the epoch that began with the optimizer's step 0.
        steps: in an epoch.
        epoch: counted over the run, from 0.
    """
    return float(rate((epoch + 1 - began) * steps - 1)) if callable(rate) else rate
