"""The settings of an evaluation: the flags of evaluate.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiment.command.main import read
from experiment.command.options import define_flags as define_options
from experiment.command.options import from_flags, option
from experiment.run.folder import DATA as DATA_FACTS
from experiment.run.folder import (
    NETWORKS,
    NO_LONGER,
    SETTINGS,
    RunFolder,
    changed_facts,
    differences,
    read_results,
)
from registry import UserError
from settings import known
from settings.common import DATA, RUN
from settings.plugin_kinds import Kind, define_flags, given_by_flags, resolve
from settings.scenes import SceneSettings

ENCODERS, TARGET, BIAS = "encoders", "targets", "bias"
TARGETS = Kind("target task", "targets", "targets.target", "TARGETS", TARGET, prefixed=False)
RANDOM, ALL = "random:", "all"


@dataclasses.dataclass(frozen=True)
class Settings(SceneSettings):
    """The settings; each field but the last is the flag of its name.

    Attributes:
        hyper_parameters: of the targets, by flag, such as ``{"restarts": 3}``. On the command line
            each is a flag.
    """

    encoder: tuple[str, ...] = option(
        (), "what to score, several separated by commas: run folder, .keras, RUN/export/1, "
        "random:NET, random:RUN, pixels", group=ENCODERS, is_path=True,
    )
    targets: str = option(
        ALL, "the target tasks, separated by commas, each NAME or NAME(hyper_parameter=value,...), "
        f"or all: {', '.join(TARGETS.registry().names())}", group=ENCODERS,
    )
    encoder_preprocessing: str = option(
        "auto", "what a .keras or .h5 file takes; auto: what its layers or its name tell, else "
        "data; data: the images standardised by their channel statistics, none: 0..255, "
        "unit: 0..1, tf: -1..1, torch: by ImageNet's statistics, caffe: blue, green, red less "
        "ImageNet's means", group=ENCODERS,
        choices=("auto", *known.PREPROCESSING),
    )
    net_options: tuple[str, ...] = option(
        (), "options of random:NET, as name=value,...", group=ENCODERS
    )
    validation_fraction: float = option(
        0.1, "share of the training images that is held out to choose regularisation, k and "
        "learning rate", group=DATA, minimum=0, maximum=0.9,
    )

    flip: bool | None = option(
        None, "mirror half of the images in fine-tuning (default: where a mirrored image is as "
        "good)", group=DATA,
    )

    bias: bool = option(
        False, "instead of target tasks, measure how much worse the multi-task runs in --encoder "
        "serve each task than the single-task runs", group=BIAS,
    )
    bias_epochs: int = option(
        10, "epochs of training new heads on the frozen encoders", group=BIAS, minimum=1
    )
    bias_batch_size: int = option(128, "batch size of training these heads", group=BIAS, minimum=2)

    seeds: int = option(
        3, "number of repetitions, with the seeds --seed, --seed + 1 ...", group=RUN, minimum=1
    )
    seed: int = option(
        0, "seed of fresh weights, choice of labels, order, heads and clusters", group=RUN,
        minimum=0,
    )
    deterministic: bool = option(
        False, "repeat a run bit for bit on the same machine; slower", group=RUN
    )
    out_dir: str | None = option(
        None, "output folder (default: runs/evaluate-DATASET-ENCODERS, or bias-...)",
        group=RUN, same_run=True, is_path=True,
    )
    overwrite: bool = option(
        False, "remove what an earlier run left in that folder", group=RUN, same_run=True
    )
    dry_run: bool = option(
        False, "say what would be scored, and write nothing", group=RUN, same_run=True
    )

    hyper_parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def spelled(self) -> Settings:
        """The same settings with registered names and with nothing left to a default, so that a run
        is recognised however its settings are written.

        Raises:
            UserError: a name is unknown, or settings do not go together.
        """
        self._check_encoders()
        everything = ",".join(self._all_targets())
        given = everything if self.targets.lower() == ALL else self.targets
        names, hyper_parameters = resolve({TARGETS: given}, self.hyper_parameters)
        if not names[TARGETS]:
            raise UserError(f"--targets is empty; expected all or some of {everything}")
        settings = dataclasses.replace(
            self, targets=names[TARGETS], hyper_parameters=hyper_parameters
        )
        settings._check_data()
        return settings

    def network_files(self) -> dict[str, str | None]:
        """Where networks may come from, by the name of an encoder or of its run with a seed.

        Raises:
            UserError: an encoder has not been run with a seed.
        """
        seeds = range(self.seed, self.seed + self.seeds)
        names = [of_seed(name, seed) for name in self.encoder for seed in seeds]
        return {name: name for name in names}

    @staticmethod
    def _all_targets() -> list[str]:
        """Targets by classes first, as tables show them."""
        names = TARGETS.registry().names()
        return sorted(names, key=lambda name: not TARGETS.get(name).needs_classes)

    def _check_encoders(self) -> None:
        if not self.encoder:
            raise UserError(
                "no --encoder given: expected a run folder, a .keras file, random:NET or pixels, "
                "several separated by commas"
            )
        for name in self.encoder:
            if self.encoder.count(name) > 1:
                raise UserError(f"--encoder has {name} twice: give it once")
            seeds = range(self.seed, self.seed + self.seeds)
            check_same_settings([of_seed(name, seed) for seed in seeds])

    def _check_data(self) -> None:
        self.check_scenes()
        if not self._dataset_has_boxes():
            return
        if self.bias:
            raise UserError(f"--bias needs images, not the scenes of --dataset {self.dataset}")
        if self.needs("classes"):
            raise UserError(
                f"--dataset {self.dataset} has boxes, no classes of whole images: give it "
                "with --targets detection, or as --scenes"
            )
        if self.scenes is not None:
            raise UserError(
                f"--scenes {self.scenes} and --dataset {self.dataset} both name detection data; "
                "give only one of them"
            )

    def _dataset_has_boxes(self) -> bool:
        """Whether --dataset is detection data and nothing else."""
        return self.dataset != "digits" and known.is_scenes(self.dataset)

    def scenes_name(self) -> str:
        """The detection data: where no target needs classes, a set of tensorflow-datasets too."""
        alone = not (self.bias or self.needs("classes"))
        if self.scenes is None and alone and known.is_of_tfds(self.dataset):
            return self.dataset
        return super().scenes_name()

    def target_names(self) -> list[str]:
        """The names of the targets, of `spelled` settings."""
        return self.targets.split(",")

    def create_targets(self) -> list[Any]:
        """The target tasks."""
        return TARGETS.create(self.targets, self.hyper_parameters)

    def needs(self, what: str) -> bool:
        """Whether any target needs ``"classes"`` or ``"scenes"``."""
        return any(getattr(TARGETS.get(name), f"needs_{what}") for name in self.target_names())

    def folder(self) -> Path:
        """The folder of what is written."""
        names = "-".join(name.strip("/").replace("/", "_").replace(":", "_")
                         for name in self.encoder)
        kind = "bias" if self.bias else "evaluate"
        return Path(self.out_dir or Path("runs") / f"{kind}-{self.dataset_in_paths()}-{names}")


def define() -> None:
    """Define the flags."""
    define_options(Settings)
    define_flags([TARGETS])


def given_settings() -> Settings:
    """The settings that the command line gives, by the flags of `define`."""
    return from_flags(Settings, hyper_parameters=given_by_flags([TARGETS])).spelled()


def read_settings(description: str) -> Settings:
    """The settings that the command line gives, or the end of the process (see `main.read`)."""
    return read(description, define, given_settings)


def check_same_settings(runs: Sequence[str]) -> None:
    """Refuse to average over seeds of different trainings, such as those that a call with
    --overwrite and fewer seeds has left. Paths may differ where they gave the same networks.

    Args:
        runs: of one encoder, by seed (see `of_seed`).

    Raises:
        UserError: their settings differ in more than the seed, or their data do.
    """
    folders = [Path(run.removeprefix(RANDOM)) for run in dict.fromkeys(runs)]
    files = [folder / SETTINGS for folder in folders if (folder / SETTINGS).is_file()]
    ignored = dict.fromkeys(("seed", *NO_LONGER))
    stated = [{**read_results(file, {}), **ignored} for file in files]
    networks = [RunFolder(file.parent).facts(NETWORKS) for file in files]
    for file, other, own in zip(files[1:], stated[1:], networks[1:], strict=True):
        same = {name for name in own if networks[0].get(name) == own[name]}
        different = differences(*(
            {name: value for name, value in each.items() if name not in same}
            for each in (stated[0], other)
        ))
        if different:
            raise UserError(
                f"{files[0].parent} and {file.parent} are different trainings "
                f"({'; '.join(different[:3])}): run one of them again, or give other --seeds"
            )
    facts = [RunFolder(file.parent).facts(DATA_FACTS) for file in files]
    for file, own in zip(files[1:], facts[1:], strict=True):
        changed = changed_facts(own, facts[0])
        if changed:
            raise UserError(
                f"{files[0].parent} and {file.parent} were trained on different data "
                f"({', '.join(changed[:3])}): run one of them again, or give other --seeds"
            )


def of_seed(text: str, seed: int) -> str:
    """The encoder called `text`; of a run of several seeds, the run of this one.

    Raises:
        UserError: it has not been run with this seed, or not to its end.
    """
    mark = RANDOM if text.startswith(RANDOM) else ""
    folder = Path(text.removeprefix(mark))
    names = [own.name.removeprefix("seed") for own in folder.glob("seed*") if own.is_dir()]
    seeds = sorted(int(name) for name in names if name.isdecimal())
    if not seeds:
        return text
    if seed not in seeds:
        raise UserError(
            f"{folder} has the seeds {', '.join(map(str, seeds))}, but seed {seed} is to be "
            f"scored: give --seeds {len(seeds)} and --seed {seeds[0]}, or run it with this seed too"
        )
    own = folder / f"seed{seed}"
    if not (own / "summary.json").is_file():
        raise UserError(f"{own} is not finished: run its command again, or leave this seed out")
    return f"{mark}{own}"
