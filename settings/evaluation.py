"""What may be set in an evaluation: the flags of evaluate.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import dataloader
import nets
from experiment.command.options import define_flags, option
from experiment.report.scoreboard import TARGETS
from registry import UserError
from settings.common import DATA, RUN, DataSettings

ENCODERS, CLASSIFICATION, DETECTION, CLUSTERING, BIAS = (
    "encoders", "classification", "detection", "clustering", "bias"
)
RANDOM, PIXELS = "random:", "pixels"


@dataclasses.dataclass(frozen=True)
class Settings(DataSettings):
    """What may be set; each field is the flag of its name."""

    encoder: tuple[str, ...] = option(
        (), "what to score, several at commas: run folder, .keras, RUN/export/1, random:NET, "
        "random:RUN, pixels", group=ENCODERS,
    )
    target: str = option(
        "all", "the target task", group=ENCODERS, choices=(*TARGETS, "all")
    )
    encoder_preprocessing: str = option(
        "data", "what a .keras or .h5 file takes; data: the images standardized by their channel "
        "statistics, none: 0..255, tf: -1..1, torch: by ImageNet's statistics", group=ENCODERS,
        choices=nets.PREPROCESSING,
    )
    net_options: tuple[str, ...] = option(
        (), "options of random:NET, as name=value,...", group=ENCODERS
    )
    validation_fraction: float = option(
        0.1, "share of the training images that chooses regularisation, k and learning rate "
        "instead", group=DATA, minimum=0, maximum=0.9,
    )

    fine_tuning_steps: int = option(
        200, "steps of fine-tuning, whatever the number of labels", group=CLASSIFICATION, minimum=1
    )
    fractions: tuple[str, ...] = option(
        ("0.01", "0.1", "1"), "of the labels, to fine-tune with, each above 0 up to 1",
        group=CLASSIFICATION,
    )

    scenes: str | None = option(
        None, "detection data: digits (on a canvas), voc:DIR, voc/2007 or another detection set of "
        "tensorflow-datasets (default: --dataset where it is one, else digits)", group=DETECTION,
    )
    scene_size: int | None = option(
        None, "resize scenes to this height and width, in pixels (default: 64 for digits, else "
        "160)", group=DETECTION, minimum=32,
    )
    scene_classes: tuple[str, ...] = option(
        (), "classes of voc:DIR (default: those of at least two training images)", group=DETECTION
    )
    max_bad: int = option(
        10, "faulty images of voc:DIR that are left out before the set is refused",
        group=DETECTION, minimum=0,
    )
    detection_steps: int = option(600, "steps of the detector", group=DETECTION, minimum=1)
    train_encoder: bool = option(
        False, "train the encoder along with the detector", group=DETECTION
    )

    restarts: int = option(10, "of k-means", group=CLUSTERING, minimum=1)
    metric_steps: int = option(
        200, "steps of metric fine-tuning on the first half of the classes; 0: none",
        group=CLUSTERING, minimum=0,
    )

    bias: bool = option(
        False, "instead of target tasks: how much worse the runs of several tasks in --encoder "
        "serve each task than the runs of one task in it", group=BIAS,
    )
    bias_epochs: int = option(
        10, "over which heads are trained anew on the frozen encoders", group=BIAS, minimum=1
    )
    bias_batch_size: int = option(128, "images a step of it", group=BIAS, minimum=2)

    seeds: int = option(
        3, "how often all is done, with the seeds --seed, --seed + 1 ...", group=RUN, minimum=1
    )
    seed: int = option(
        0, "of fresh weights, choice of labels, order, heads and clusters", group=RUN, minimum=0
    )
    deterministic: bool = option(
        False, "the same bits again on the same machine; slower", group=RUN
    )
    out_dir: str | None = option(
        None, "folder of what is written (default: runs/evaluate-DATASET-ENCODERS, or bias-...)",
        group=RUN,
        same_run=True,
    )
    overwrite: bool = option(
        False, "remove what an earlier run left in that folder", group=RUN, same_run=True
    )
    dry_run: bool = option(
        False, "say what would be scored, and write nothing", group=RUN, same_run=True
    )

    def targets(self) -> tuple[str, ...]:
        """The target tasks asked for."""
        return TARGETS if self.target == "all" else (self.target,)

    def checked(self) -> Settings:
        """The same. Raises UserError where settings cannot be read or do not go together."""
        if not self.encoder:
            raise UserError(
                "no --encoder given: expected a run folder, a .keras file, random:NET or pixels, "
                "several at commas"
            )
        for name in self.encoder:
            if self.encoder.count(name) > 1:
                raise UserError(f"--encoder has {name} twice")
            for seed in range(self.seed, self.seed + self.seeds):
                of_seed(name, seed)
        if dataloader.is_scenes(self.dataset) and self.dataset != "digits":
            if self.targets() != ("detection",):
                raise UserError(
                    f"--dataset {self.dataset} has boxes, no classes of whole images: give it "
                    "with --target detection, or as --scenes"
                )
            if self.scenes is not None:
                raise UserError(f"--scenes {self.scenes} and --dataset {self.dataset}: give one")
        if self.bias and self.dataset != "digits" and dataloader.is_scenes(self.dataset):
            raise UserError(f"--bias needs images, not the scenes of --dataset {self.dataset}")
        for name in self.encoder if self.targets() == ("detection",) else ():
            if name == PIXELS or is_export(name):
                raise UserError(
                    f"--encoder {name} has no feature maps for a detector: leave it out, or give "
                    "another --target"
                )
        self.label_fractions()
        return self

    def label_fractions(self) -> tuple[float, ...]:
        """`fractions` as numbers. Raises UserError where they are none, or out of range."""
        try:
            fractions = tuple(map(float, self.fractions))
        except ValueError:
            raise UserError(
                f"--fractions is {','.join(self.fractions)}; expected numbers at commas"
            ) from None
        if not all(0 < fraction <= 1 for fraction in fractions):
            raise UserError(
                f"--fractions is {','.join(self.fractions)}; expected each above 0 up to 1"
            )
        return fractions

    def scenes_name(self) -> str:
        """The detection data."""
        own = self.dataset if dataloader.is_scenes(self.dataset) else "digits"
        return self.scenes or own

    def folder(self) -> Path:
        """The folder of what is written."""
        names = "-".join(name.strip("/").replace("/", "_").replace(":", "_")
                         for name in self.encoder)
        kind = "bias" if self.bias else "evaluate"
        return Path(self.out_dir or Path("runs") / f"{kind}-{self.dataset_in_paths()}-{names}")


def define() -> None:
    """The flags."""
    define_flags(Settings)


def is_export(text: str) -> bool:
    """Whether ``--encoder`` calls a SavedModel `text`."""
    return (Path(text) / "saved_model.pb").exists()


def of_seed(text: str, seed: int) -> str:
    """What ``--encoder`` calls `text`; of a run of several seeds, the run of this one.

    Raises:
        UserError: it has not been run with this seed.
    """
    mark = RANDOM if text.startswith(RANDOM) else ""
    folder = Path(text.removeprefix(mark))
    names = [own.name.removeprefix("seed") for own in folder.glob("seed*") if own.is_dir()]
    seeds = sorted(int(name) for name in names if name.isdecimal())
    if not seeds:
        return text
    if seed not in seeds:
        raise UserError(
            f"{folder} is of the seeds {', '.join(map(str, seeds))}, and seed {seed} is to be "
            f"scored: give --seeds {len(seeds)} and --seed {seeds[0]}, or run it with this seed too"
        )
    return f"{mark}{folder / f'seed{seed}'}"
