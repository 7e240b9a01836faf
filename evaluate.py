"""Score encoders by target tasks: classification, detection, clustering.

    python evaluate.py --encoder runs/RUN,random:runs/RUN,pixels --targets all

--encoder takes several, separated by commas, and puts them side by side: the
folder of a TTE or distillation run, a Keras model (.keras), an export of a TTE
run (RUN/export/1), random:NET for a network of --net with fresh weights,
random:RUN for fresh weights in that run's network, or pixels. Of a run of
several seeds (pretrain_tte.py --seeds) each seed scores its own encoder. If
interrupted, rerun the same command to resume. From Python:

    from evaluate import Settings, evaluate
    summary = evaluate(Settings(encoder=("runs/RUN", "pixels")))

    python evaluate.py --encoder runs/ALL,runs/ROTATION,runs/JIGSAW --bias

measures how much worse the loss of each task is on the encoder of a run of
several tasks than on that of a run of this task alone, with new heads.
"""

from __future__ import annotations

from settings.evaluation import RANDOM, Settings, of_seed, read_settings

if __name__ == "__main__":
    # Before TensorFlow is loaded, which takes seconds: --help and mistakes are answered at once.
    GIVEN = read_settings(__doc__ or "")

# isort: split
from experiment.command import quiet  # noqa: F401 (loads TensorFlow)

# isort: split
import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import dataloader
import nets
import targets
from dataloader.statistics import channel_statistics
from experiment.command.main import run
from experiment.command.options import compared
from experiment.report.evaluation import BiasEntry, bias_table, draw_detections, draw_embeddings
from experiment.report.scoreboard import Entry, Scores, draw_bars, summarized, table
from experiment.run import devices
from experiment.run.folder import DATA, RunFolder, read_results, write_json
from pretext.bias import retrained_heads, task_bias
from pretext.task import Images, Task
from registry import UserError
from settings.other_data import dataset_of, describe_other_split
from settings.pretraining import TASKS
from targets import scoring
from targets.encoders import (
    PIXELS,
    check_backbone,
    check_channels,
    open_encoder,
    scene_images,
)
from targets.target import TARGETS, Material

SCORES, LOSSES = "scores.json", "losses.json"
MAPPED_IMAGES = 1000


def main(settings: Settings) -> None:
    """Score all encoders and print the result."""
    summary = evaluate(settings)
    if settings.dry_run:
        return
    print(bias_table(summary["bias"]) if settings.bias else table(summary["targets"], TARGETS))
    print(f"\nin {settings.folder()}: {', '.join(written(settings.folder()))}\n")


@devices.callers_settings()
def evaluate(settings: Settings) -> dict[str, Any]:
    """Score all encoders, or measure the bias of runs, and write the result to the run folder.

    Returns:
        The summary: ``targets`` has, by encoder, target and metric, ``mean``, ``deviation`` and
        ``values``; ``bias`` what `measure_bias` found. With ``dry_run`` the plan is printed
        instead: nothing is written, and the summary is empty.

    Raises:
        UserError: settings do not go together, or encoders do not fit the data.
    """
    settings = settings.spelled()
    folder = RunFolder(settings.folder())
    networks = nets.fingerprints(settings.network_files())
    state = folder.state(compared(settings), settings.overwrite, networks)
    if settings.dry_run:
        print(plan(settings))
        return {}
    if state == "finished":
        print(f"{folder.path} is finished; --overwrite would start it anew")
        return folder.summary(results(settings))
    devices.prepare(settings.seed, settings.deterministic)
    work = open_bias(settings) if settings.bias else open_all(settings)
    data = work.data
    with folder, dataloader.naming_damage(*(data.splits if data else ())):
        folder.open(compared(settings), settings.overwrite, networks)
        folder.keep_facts(DATA, work.facts())
        work.run(settings, folder)
    return folder.summary()


def results(settings: Settings) -> dict[str, Any]:
    """The entries of a summary that are shown, with their types."""
    if settings.bias:
        return {"bias": dict[str, dict[str, BiasEntry]]}
    return {"targets": dict[str, dict[str, dict[str, Entry]]]}


def plan(settings: Settings) -> str:
    """What would be scored. Raises UserError as `evaluate` does."""
    devices.prepare(settings.seed, settings.deterministic)
    if settings.bias:
        pairs = ", ".join(f"{multi.name} for {task}" for multi, task in open_bias(settings).pairs)
        return f"bias of {pairs}, into {settings.folder()}"
    names = ", ".join(open_all(settings).encoders)
    return f"{names} by {', '.join(settings.target_names())}, into {settings.folder()}"


def written(folder: Path) -> list[str]:
    """The names of the files for people to look at."""
    names = sorted(path.name for path in folder.iterdir())
    files = [name for name in names if name.endswith((".png", "targets.json", "bias.json"))]
    return [*files, *(name for name in names if name == "projector")]


# Target tasks


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Encoders and what they are scored on.

    Attributes:
        material: the data of the targets.
        encoders: those of the first seed, by their short names.
    """

    material: Material
    encoders: dict[str, targets.Representation]

    @property
    def data(self) -> dataloader.Data | None:
        """The images with classes, if any target needs them."""
        return self.material.data

    def facts(self) -> dict[str, Any]:
        """Facts that change if the data change."""
        return self.material.facts()

    def run(self, settings: Settings, folder: RunFolder) -> None:
        """Score all encoders and write the result."""
        scores = score_all(settings, self, folder)
        write(settings, self, summarized(scores), folder)


def open_all(settings: Settings) -> Scoring:
    """Load the data and the encoders. Raises UserError if they do not fit."""
    data = settings.load_data() if settings.needs("classes") else None
    if data is not None and settings.flip is not None:
        data = dataclasses.replace(data, default_flip=settings.flip)
    scenes = settings.load_scenes() if settings.needs("scenes") else None
    material = Material(data, scenes)
    for note in (
        *(settings.describe_storage(data) if data is not None else ()),
        *(scenes.notes if scenes is not None else ()),
    ):
        print(note)
    for target in settings.create_targets():
        target.check_material(material)
    if PIXELS in settings.encoder and data is not None:
        targets.check_pixels(data)
    for note in describe_other_data(settings, data):
        print(note)
    opened = open_encoders(settings, settings.seed, material)
    if all(target.needs_maps for target in settings.create_targets()) and not any(
        isinstance(encoder, nets.Encoder) for encoder in opened
    ):
        raise UserError(
            f"--encoder {','.join(settings.encoder)} has no feature maps, which --targets "
            f"{settings.targets} needs: give a network, or another --targets"
        )
    return Scoring(material, dict(zip(short_names(settings.encoder), opened, strict=True)))


def describe_other_data(settings: Settings, data: dataloader.Data | None) -> list[str]:
    """A line for each data set that runs among the encoders were trained on, and that they are not
    scored on; and for each run of the same set with other test images."""
    if data is None:
        return []
    trained: dict[str, list[str]] = {}
    notes = []
    for name in settings.encoder:
        run = Path(of_seed(name, settings.seed))
        theirs = dataset_of(run)
        if theirs is not None and theirs != settings.dataset:
            trained.setdefault(theirs, []).append(name)
        notes += describe_other_split(run, settings.dataset, data)
    return [
        *(f"scored on {settings.dataset} (--dataset), but trained on {theirs}: {', '.join(names)}"
          for theirs, names in trained.items()),
        *notes,
    ]


def open_encoders(
    settings: Settings, seed: int, material: Material
) -> list[targets.Representation]:
    """All encoders of a seed, those with fresh weights too. Raises UserError."""
    data, scenes = material.data, material.scenes
    images = data.train if data is not None else scene_images(scenes)
    statistics = (
        (data.channel_mean, data.channel_deviation) if data is not None
        else channel_statistics(images)
    )
    standardize = nets.Standardize(*statistics)
    of_files = None
    if settings.encoder_preprocessing != "auto":
        if images.image_shape[-1] == 1:  # which networks for colours take too
            statistics = tuple(each * 3 for each in statistics)
        of_files = nets.named_preprocessing(settings.encoder_preprocessing, *statistics)
    opened = []
    for text in settings.encoder:
        own = of_seed(text, seed)
        encoder = open_encoder(own, images, standardize, of_files, settings.net_options, seed)
        if data is not None:
            check_channels(encoder, data.image_shape)
        if scenes is not None:
            check_backbone(encoder, scenes)
        opened.append(encoder)
    return opened


def score_all(settings: Settings, work: Scoring, folder: RunFolder) -> Scores:
    """The metrics of every encoder and seed. Each is kept in ``scores.json`` as soon as it is
    known, and not computed again; what detectors of the first seed find is drawn."""
    kept = folder.output(SCORES)
    scores: Scores = {name: [] for name in work.encoders}
    if kept.exists():
        needed = dict.fromkeys(work.encoders, list[dict[str, dict[str, float | None]]])
        found = read_results(kept, needed)
        scores = {name: found[name] for name in work.encoders}
    for place, seed in enumerate(range(settings.seed, settings.seed + settings.seeds)):
        if all(len(each) > place for each in scores.values()):
            continue
        encoders = list(work.encoders.values())
        if place:
            encoders = open_encoders(settings, seed, work.material)
        for name, encoder in zip(work.encoders, encoders, strict=True):
            if len(scores[name]) > place:
                continue
            metrics, began = {}, time.monotonic()
            own = settings.create_targets()
            for target, found in scoring.score(own, encoder, work.material, seed):
                metrics[target] = found.metrics
                seconds, began = time.monotonic() - began, time.monotonic()
                print(f"{name}  seed {seed}  {target}  {seconds:.0f} s", flush=True)
                if found.detections is not None and place == 0:
                    file = folder.output(f"detections-{file_name(name)}.png")
                    draw_detections(found.detections, file)
            scores[name].append(metrics)
            write_json(kept, scores)
    return scores


def write(
    settings: Settings, work: Scoring, summary: dict[str, Any], folder: RunFolder
) -> None:
    """``targets.json``, pictures, the projector's files, and the summary that marks the end."""
    data, scenes = work.material.data, work.material.scenes
    facts = {
        "dataset": data and data.name,
        "scenes": scenes and {
            "name": scenes.name, "size": scenes.image_shape[:2], "notes": scenes.notes
        },
        "seeds": list(range(settings.seed, settings.seed + settings.seeds)),
        "encoders": dict(zip(work.encoders, settings.encoder, strict=True)),
    }
    write_json(folder.output("targets.json"), {**facts, "targets": summary})
    draw_bars(summary, TARGETS, folder.output("targets.png"))
    if data is not None and "clustering" in settings.target_names():
        map_embeddings(settings, work, folder)
    folder.finish({"kind": "evaluation", **facts, "targets": summary})


def map_embeddings(settings: Settings, work: Scoring, folder: RunFolder) -> None:
    """Draw maps of test images of all classes by t-SNE, and write embeddings for TensorBoard."""
    data = work.material.data
    split = data.test.take(targets.rows_of_all_classes(data.test.labels, MAPPED_IMAGES))
    vectors = {name: targets.embeddings(each, split) for name, each in work.encoders.items()}
    maps = {name: targets.plane_map(each, settings.seed) for name, each in vectors.items()}
    images = split.images(range(len(split))).numpy()
    draw_embeddings(vectors, maps, images, split.labels, data.class_names, folder)


def short_names(encoders: Sequence[str]) -> list[str]:
    """Short names: a path's last part (of an export, RUN/export/1) if no other has it."""
    short = [short_name(text) for text in encoders]
    return [
        name if short.count(name) == 1 else text
        for name, text in zip(short, encoders, strict=True)
    ]


def short_name(encoder: str) -> str:
    """The last part of a path; anything else as it is."""
    mark = RANDOM if encoder.startswith(RANDOM) else ""
    parts = Path(encoder.removeprefix(mark)).parts
    return mark + "/".join(parts[-3:] if "export" in parts[-2:] else parts[-1:])


def file_name(name: str) -> str:
    """An encoder's name as a part of a file's name."""
    return name.strip("/").replace("/", "_").replace(":", "_")


# Bias


@dataclasses.dataclass(frozen=True)
class PretrainingRun:
    """A pre-training run.

    Attributes:
        name: of the run, for people.
        encoders: one for each seed.
        tasks: that trained them, by name.
        image_shape: (height, width, channels) of the images that they were trained on.
        flip: whether it mirrored images; None: as the data set says.
    """

    name: str
    encoders: tuple[nets.Encoder, ...]
    tasks: dict[str, Task]
    image_shape: tuple[int, ...]
    flip: bool | None

    def images(self, data: dataloader.Data) -> Images:
        """The data's images as the run's tasks see them."""
        encoder = self.encoders[0]
        smallest = nets.minimum_size(encoder.name) or min(data.image_shape[:2])
        flip = data.default_flip if self.flip is None else self.flip
        return Images(data.image_shape, smallest, flip)


class AskedFor(TypedDict):
    """What a pre-training run's summary has to say of how it was trained."""

    tasks: str
    hyper_parameters: dict[str, Any]
    flip: bool | None


@dataclasses.dataclass(frozen=True)
class Bias:
    """The runs whose bias is measured.

    Attributes:
        data: to train and judge heads on.
        pairs: a run of several tasks, and one of its tasks.
        single: for each of these tasks the run of it alone.
    """

    data: dataloader.Data
    pairs: list[tuple[PretrainingRun, str]]
    single: dict[str, PretrainingRun]

    def facts(self) -> dict[str, Any]:
        """Facts that change if the data change."""
        return self.data.facts()

    def run(self, settings: Settings, folder: RunFolder) -> None:
        """Measure and write."""
        bias = measure_bias(settings, self, folder)
        write_json(folder.output("bias.json"), bias)
        folder.finish({"kind": "bias", "dataset": self.data.name, "bias": bias})


def open_bias(settings: Settings) -> Bias:
    """Load the runs. Raises UserError if there is nothing to compare, or they do not fit."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    names = short_names(settings.encoder)
    runs = [pretraining_run(*each, seeds) for each in zip(names, settings.encoder, strict=True)]
    single: dict[str, PretrainingRun] = {}
    for each in runs:
        if len(each.tasks) == 1:
            (task,) = each.tasks
            if task in single:
                raise UserError(
                    f"--encoder has two runs of {task} alone, {single[task].name} and {each.name}; "
                    "give one"
                )
            single[task] = each
    pairs = [(each, task) for each in runs if len(each.tasks) > 1
             for task in each.tasks if task in single]
    if not pairs:
        found = "; ".join(f"{each.name}: {', '.join(each.tasks)}" for each in runs)
        raise UserError(
            f"--bias compares a run of several tasks with runs of one of them alone, but --encoder "
            f"has {found}"
        )
    data = settings.load_data()
    for note in describe_other_data(settings, data):
        print(note)
    for each in runs:
        check_same_images(each, data)
        missing = [task for task in each.tasks if task not in single]
        if missing:
            print(f"{each.name}: no run of {' or '.join(missing)} alone is given; left out")
    for multi, task in pairs:
        check_same_task(task, multi, single[task], data)
        multi.tasks[task].views(multi.images(data))
    return Bias(data, pairs, single)


def check_same_images(run: PretrainingRun, data: dataloader.Data) -> None:
    """Raise UserError unless a run was trained on images of the data's size and channels."""
    if run.image_shape != data.image_shape:
        own, given = ("x".join(map(str, shape)) for shape in (run.image_shape, data.image_shape))
        raise UserError(
            f"--bias needs images like those of training: {run.name} was trained on {own}, but "
            f"{data.name} has {given}: give the --dataset, --image_size and --channels of training"
        )


def check_same_task(
    name: str, multi: PretrainingRun, single: PretrainingRun, data: dataloader.Data
) -> None:
    """Raise UserError unless both runs learned the same task: all but its weight is equal."""
    described = []
    for each in (multi, single):
        settings = {**each.tasks[name].settings(), "mirrored images": each.images(data).flip}
        described.append({key: value for key, value in settings.items() if key != "weight"})
    theirs, alone = described
    differing = [
        f"{key} {theirs[key]} and {alone[key]}" for key in theirs if theirs[key] != alone[key]
    ]
    if differing:
        raise UserError(
            f"--bias compares equal tasks, but {name} in {multi.name} and in {single.name} differ: "
            f"{', '.join(differing)}; give runs whose tasks agree"
        )


def pretraining_run(name: str, path: str, seeds: Sequence[int]) -> PretrainingRun:
    """The pre-training run at `path`. Raises UserError if there is none."""
    encoders, tasks, image_shape, flip = [], {}, (), None
    for seed in seeds:
        own = Path(of_seed(path, seed))
        folder = RunFolder(own)
        stated = folder.summary() if (own / "summary.json").is_file() else {}
        if stated.get("kind") != "tte":
            raise UserError(
                f"--bias compares finished pre-training runs, and {own} is not one; give their "
                "folders"
            )
        encoders.append(nets.load_encoder(own))
        stated = folder.summary({"settings": AskedFor, "image_shape": list[int]})
        asked, image_shape = stated["settings"], tuple(stated["image_shape"])
        created = TASKS.create(asked["tasks"], asked["hyper_parameters"])
        tasks, flip = {task.name: task for task in created}, asked["flip"]
    return PretrainingRun(name, tuple(encoders), tasks, image_shape, flip)


def measure_bias(
    settings: Settings, work: Bias, folder: RunFolder
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """How much worse each run of several tasks serves each of them than the run of that task
    alone: by run and task ``multi`` and ``single``, the losses by seed, and ``bias``."""
    bias: dict[str, dict[str, dict[str, list[float]]]] = {}
    for multi, task in work.pairs:
        losses, alone = (
            task_losses(settings, run, task, work.data, folder)
            for run in (multi, work.single[task])
        )
        bias.setdefault(multi.name, {})[task] = {
            "multi": losses,
            "single": alone,
            "bias": [task_bias(*pair) for pair in zip(losses, alone, strict=True)],
        }
    return bias


def task_losses(
    settings: Settings, run: PretrainingRun, task: str, data: dataloader.Data, folder: RunFolder
) -> list[float]:
    """A task's loss on each encoder of a run, by seed. Each is kept in ``losses.json`` as soon as
    it is known, and not computed again."""
    kept = folder.output(LOSSES)
    found: dict[str, dict[str, list[float | None]]] = {}
    if kept.exists():
        found = read_results(kept, {"losses": dict[str, dict[str, list[float | None]]]})["losses"]
    losses = found.setdefault(run.name, {}).setdefault(task, [])
    for place in range(len(losses), len(run.encoders)):
        began = time.monotonic()
        losses.append(task_loss(settings, run, task, data, place))
        write_json(kept, {"losses": found})
        seconds = time.monotonic() - began
        print(f"{run.name}  seed {settings.seed + place}  {task}  {seconds:.0f} s", flush=True)
    return [math.nan if each is None else each for each in losses]  # JSON has no NaN


def task_loss(
    settings: Settings, run: PretrainingRun, task: str, data: dataloader.Data, place: int
) -> float:
    """The task's loss on the test images, with a new head trained on the frozen encoder of one
    seed."""
    seed = settings.seed + place
    batch_size = min(settings.bias_batch_size, len(data.train))
    batches = dataloader.training_batches(
        data.train, batch_size, seed=seed, epochs=settings.bias_epochs,
        augmentation=dataloader.Augmentation.none(),
    )
    found = retrained_heads(
        run.encoders[place], [run.tasks[task]], run.images(data), batches,
        dataloader.evaluation_batches(data.test, batch_size),
        epochs=settings.bias_epochs, seed=seed,
        steps_per_epoch=dataloader.steps_per_epoch(data.train, batch_size),
    )
    return found[task]["loss"]


if __name__ == "__main__":
    run(main, GIVEN)
