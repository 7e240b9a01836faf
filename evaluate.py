"""Score encoders by target tasks: classification, detection, clustering.

    python evaluate.py --encoder runs/RUN,random:runs/RUN,pixels --target all

--encoder takes several at commas and puts them side by side: the folder of a
TTE or distillation run, a Keras model (.keras), an export of a TTE run
(RUN/export/1), random:NET for a registered network with fresh weights,
random:RUN for fresh weights in that run's network, or pixels. Of a run of
several seeds (pretrain_tte.py --seeds) each seed scores its own encoder. The
same command again goes on where it was cut off.

    python evaluate.py --encoder runs/ALL,runs/ROTATION,runs/JIGSAW --bias

tells by how much the loss of each task is worse on the encoder of a run of
several tasks than on that of a run of this task alone, heads trained anew.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiment.command import quiet  # noqa: F401 (before TensorFlow)

# isort: split
import keras
import numpy as np

import dataloader
import nets
import pretext
import targets
from dataloader.statistics import channel_statistics
from experiment.command.main import run
from experiment.command.options import compared, from_flags
from experiment.report import pictures, tables
from experiment.report.projector import FILES as PROJECTOR_FILES
from experiment.report.projector import write_projector
from experiment.report.scoreboard import Figures, Scores, draw_bars, summarized, table
from experiment.report.statistics import spread
from experiment.run import devices
from experiment.run.folder import RunFolder, write_json
from pretext.bias import retrained_heads, task_bias
from registry import UserError, nearest
from settings.evaluation import PIXELS, RANDOM, Settings, define, is_export, of_seed

SCORES = "scores.json"
MAPPED_IMAGES = 1000
PICTURED_SCENES = 8


def main(_: list[str]) -> None:
    """Score all encoders, print and write what came out."""
    settings = from_flags(Settings).checked()
    folder = RunFolder(settings.folder())
    if folder.state(compared(settings), settings.overwrite) == "finished" and not settings.dry_run:
        print(f"{folder.path} is finished; --overwrite would start anew")
        summary = folder.summary()
        print(bias_table(summary["bias"]) if settings.bias else table(summary["targets"]))
        return
    devices.prepare(settings.seed, settings.deterministic)
    if settings.bias:
        measure_bias(settings, folder)
        return
    data, scenes = load(settings)
    names = names_of(settings.encoder)
    first = open_encoders(settings, settings.seed, data, scenes)  # mistakes are told first
    if settings.dry_run:
        print(f"{', '.join(names)} by {', '.join(settings.targets())}, into {folder.path}")
        return
    with folder:
        folder.open(compared(settings), settings.overwrite)
        scores = score_all(settings, names, first, data, scenes, folder)
        summary = summarized(scores)
        write(folder, settings, summary, scores, data, scenes, first)
        print(table(summary))
        print(f"\nin {folder.path}: {', '.join(written(folder))}\n")


# What is scored, and on what


def load(settings: Settings) -> tuple[dataloader.Data | None, dataloader.Scenes | None]:
    """What the target tasks need: a classification set, a detection set."""
    data = scenes = None
    if settings.targets() != ("detection",):
        data = settings.load_data()
    if "detection" in settings.targets():
        size = settings.scene_size
        scenes = dataloader.load_scenes(
            settings.scenes_name(),
            size=size and (size, size),
            seed=settings.data_seed,
            max_bad=settings.max_bad,
            class_names=settings.scene_classes,
            data_dir=settings.data_dir,
        )
        for note in scenes.notes:
            print(note)
    return data, scenes


def names_of(encoders: Sequence[str]) -> list[str]:
    """Short names: a path's last part (of an export, RUN/export/1) where no other has it."""
    short = [short_name(text) for text in encoders]
    return [
        name if short.count(name) == 1 else text
        for name, text in zip(short, encoders, strict=True)
    ]


def short_name(encoder: str) -> str:
    """What is told of a path; what is no path stays."""
    mark = RANDOM if encoder.startswith(RANDOM) else ""
    parts = Path(encoder.removeprefix(mark)).parts
    return mark + "/".join(parts[-3:] if "export" in parts[-2:] else parts[-1:])


def open_encoders(
    settings: Settings, seed: int, data: dataloader.Data | None, scenes: dataloader.Scenes | None
) -> list[targets.Representation]:
    """All encoders of a seed, those of fresh weights too. Raises UserError."""
    images = data.train if data is not None else scene_images(scenes)
    statistics = (
        (data.channel_mean, data.channel_deviation) if data is not None
        else channel_statistics(images)
    )
    standardize = nets.Standardize(*statistics)
    of_files = nets.named_preprocessing(settings.encoder_preprocessing, *statistics)
    opened = []
    for text in settings.encoder:
        own = of_seed(text, seed)
        encoder = open_encoder(own, images, standardize, of_files, settings.net_options, seed)
        check_channels(encoder, images.image_shape)
        if "detection" in settings.targets():
            check_backbone(encoder, scenes)
        opened.append(encoder)
    return opened


def open_encoder(
    text: str,
    images: dataloader.Split,
    standardize: nets.Standardize,
    of_files: nets.Standardize,
    net_options: Sequence[str] = (),
    seed: int = 0,
) -> targets.Representation:
    """What ``--encoder`` calls `text`.

    Args:
        text: see the flag.
        images: by which fresh weights get their batch statistics; their shape is that of pixels
            and registered networks.
        standardize: the preprocessing of fresh registered networks.
        of_files: the preprocessing of files, which state none.
        net_options: of registered networks, as name=value.
        seed: of fresh weights, which are those that a run with this seed begins with.

    Raises:
        UserError: there is no such encoder.
    """
    if text == PIXELS:
        return targets.raw_pixels(images.image_shape)
    if text.startswith(RANDOM):
        name = text.removeprefix(RANDOM)
        if Path(name).exists():
            stored = nets.load_encoder(name, of_files)
            keras.utils.set_random_seed(seed)
            encoder = nets.Encoder(nets.reinitialize(stored.model), stored.standardize)
        else:
            options = nets.parse_options(net_options)
            keras.utils.set_random_seed(seed)
            model = nets.build(name, images.image_shape, 1, **options)
            encoder = nets.encoder_of(model, standardize)
        batches = dataloader.evaluation_batches(images, targets.images_at_once(images.image_shape))
        nets.recompute_batch_statistics(
            encoder.model, (encoder.standardize(batch["image"]) for batch in batches)
        )
        return encoder
    if not Path(text).exists():
        raise UserError(
            f"encoder {text} does not exist{nearest(text, (PIXELS,))}; expected the folder of a "
            "run, a model (.keras or .h5), RUN/export/1, random:NET, random:RUN or pixels"
        )
    if is_export(text):
        return nets.ExportedEncoder(text)
    return nets.load_encoder(text, of_files)


def scene_images(scenes: dataloader.Scenes) -> dataloader.Split:
    """The training scenes without their boxes."""
    store = dataloader.MemoryImages(scenes.train.images)
    return dataloader.Split.whole(store, np.full(len(store), -1))


def check_channels(encoder: targets.Representation, image_shape: Sequence[int]) -> None:
    """Raise UserError where the encoder cannot take images of this shape (height, width, channels),
    resized where need be."""
    taken = encoder.image_shape
    if isinstance(encoder, nets.ExportedEncoder) and tuple(taken) != tuple(image_shape):
        raise UserError(
            f"{encoder.name} is an export for images of {'x'.join(map(str, taken))}, the data's "
            f"are {'x'.join(map(str, image_shape))}: give another --image_size, or its run folder"
        )
    if image_shape[-1] not in (1, taken[-1]):
        raise UserError(
            f"encoder {encoder.name} takes images of {taken[-1]} channels, the data's have "
            f"{image_shape[-1]}: give an encoder for such images"
        )


def check_backbone(encoder: targets.Representation, scenes: dataloader.Scenes) -> None:
    """Raise UserError where a network cannot take images of the scenes' size."""
    if isinstance(encoder, nets.Encoder):
        nets.copy_encoder(encoder, scenes.image_shape[:2])


# Scoring


def score_all(
    settings: Settings,
    names: Sequence[str],
    first: Sequence[targets.Representation],
    data: dataloader.Data | None,
    scenes: dataloader.Scenes | None,
    folder: RunFolder,
) -> Scores:
    """The figures of every encoder and seed. Each is kept in ``scores.json`` as soon as it is
    there, and not found again; what detectors of the first seed find is pictured."""
    kept = folder.output(SCORES)
    scores: Scores = json.loads(kept.read_text()) if kept.exists() else {name: [] for name in names}
    for place, seed in enumerate(range(settings.seed, settings.seed + settings.seeds)):
        if all(len(each) > place for each in scores.values()):
            continue
        encoders = first if place == 0 else open_encoders(settings, seed, data, scenes)
        for name, encoder in zip(names, encoders, strict=True):
            if len(scores[name]) > place:
                continue
            figures: Figures = {}
            began = time.monotonic()
            for target, found, detections in score(settings, encoder, seed, data, scenes):
                figures[target] = found
                seconds, began = time.monotonic() - began, time.monotonic()
                print(f"{name}  seed {seed}  {target}  {seconds:.0f} s", flush=True)
                if detections is not None and place == 0:
                    picture = folder.output(f"detections-{file_name(name)}.png")
                    draw_detections(detections, picture)
            scores[name].append(figures)
            write_json(kept, scores)
    return scores


def score(
    settings: Settings,
    encoder: targets.Representation,
    seed: int,
    data: dataloader.Data | None,
    scenes: dataloader.Scenes | None,
) -> Iterator[tuple[str, dict[str, float], targets.Detections | None]]:
    """The target tasks of `settings` on one encoder: name, figures, and what was detected. A task
    that the encoder cannot serve as it has no maps is left out."""
    if "classification" in settings.targets():
        yield "classification", targets.classification(
            encoder, data, seed=seed, fractions=settings.label_fractions(),
            steps=settings.fine_tuning_steps,
        ), None
    if "detection" in settings.targets() and isinstance(encoder, nets.Encoder):
        detections = targets.detect(
            encoder, scenes, seed=seed, steps=settings.detection_steps,
            trains_encoder=settings.train_encoder,
        )
        yield "detection", detections.figures(), detections
    if "clustering" in settings.targets():
        yield "clustering", targets.clustering(
            encoder, data, seed=seed, restarts=settings.restarts,
            tuning_steps=settings.metric_steps,
        ), None


# What came out


def write(
    folder: RunFolder,
    settings: Settings,
    summary: Mapping[str, Any],
    scores: Scores,
    data: dataloader.Data | None,
    scenes: dataloader.Scenes | None,
    encoders: Sequence[targets.Representation],
) -> None:
    """``targets.json``, pictures, the projector's files, and the summary that says: finished."""
    facts = {
        "dataset": data and data.name,
        "scenes": scenes and {
            "name": scenes.name, "size": scenes.image_shape[:2], "notes": scenes.notes
        },
        "seeds": list(range(settings.seed, settings.seed + settings.seeds)),
        "encoders": dict(zip(scores, settings.encoder, strict=True)),
    }
    write_json(folder.output("targets.json"), {**facts, "targets": summary})
    draw_bars(summary, folder.output("targets.png"))
    if "clustering" in settings.targets():
        draw_embeddings(settings, data, dict(zip(scores, encoders, strict=True)), folder)
    folder.finish({"kind": "evaluation", **facts, "targets": summary})


def file_name(name: str) -> str:
    """An encoder's name as a part of a file's name."""
    return name.strip("/").replace("/", "_").replace(":", "_")


def draw_detections(detections: targets.Detections, path: Path) -> None:
    """Picture what was found in the first test scenes, over what is there."""
    test, names = detections.scenes.test, detections.scenes.class_names
    chosen = range(min(PICTURED_SCENES, len(test)))
    pictures.boxes(
        test.images[: len(chosen)],
        [(test.boxes[i], [names[label] for label in test.labels[i]]) for i in chosen],
        [
            (found.boxes, [names[label] for label in found.labels], found.scores)
            for found in detections.found[: len(chosen)]
        ],
        path,
    )


def draw_embeddings(
    settings: Settings,
    data: dataloader.Data,
    encoders: Mapping[str, targets.Representation],
    folder: RunFolder,
) -> None:
    """Maps of the test images' embeddings by t-SNE, and the embeddings for TensorBoard."""
    split = data.test.take(np.arange(min(MAPPED_IMAGES, len(data.test))))
    vectors = {name: targets.embeddings(encoder, split) for name, encoder in encoders.items()}
    maps = {name: targets.plane_map(each, settings.seed) for name, each in vectors.items()}
    pictures.points(maps, split.labels, data.class_names, folder.output("embedding.png"))
    write_projector(
        folder.directory("projector", *PROJECTOR_FILES),
        vectors,
        split.images(np.arange(len(split))).numpy(),
        [data.class_names[label] for label in split.labels],
    )


def written(folder: RunFolder) -> list[str]:
    """The names of what a person may want to look at."""
    there = sorted(path.name for path in folder.path.iterdir())
    return [name for name in there if Path(name).suffix == ".png" or name == "targets.json"] + [
        name for name in there if name == "projector"
    ]


# Bias


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """The encoders of a TTE run, one a seed, and the tasks that they were trained by."""

    name: str
    encoders: tuple[nets.Encoder, ...]
    tasks: tuple[str, ...]


def measure_bias(settings: Settings, folder: RunFolder) -> None:
    """Print and write by how much each run of several tasks serves each of them worse than the run
    of that task alone."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    runs = [trained_on(name, path, seeds) for name, path in
            zip(names_of(settings.encoder), settings.encoder, strict=True)]
    single = {each.tasks[0]: each for each in runs if len(each.tasks) == 1}
    pairs = [(each, task) for each in runs if len(each.tasks) > 1
             for task in each.tasks if task in single]
    if not pairs:
        told = "; ".join(f"{each.name}: {', '.join(each.tasks)}" for each in runs)
        raise UserError(
            f"--bias compares a run of several tasks with runs of one of them alone, but --encoder "
            f"has {told}"
        )
    data = settings.load_data()
    for each in runs:
        check_channels(each.encoders[0], data.image_shape)
    for multi, task in pairs:
        new_task(task, multi.encoders[0], data)  # can work on these images
    for each in runs:
        missing = [task for task in each.tasks if task not in single]
        if missing:
            print(f"{each.name}: no run of {' or '.join(missing)} alone is given; left out")
    if settings.dry_run:
        told = ", ".join(f"{multi.name} for {task}" for multi, task in pairs)
        print(f"bias of {told}, into {folder.path}")
        return
    with folder:
        folder.open(compared(settings), settings.overwrite)
        alone = {
            task: task_losses(settings, single[task], task, data)
            for task in dict.fromkeys(task for _, task in pairs)
        }
        bias: dict[str, dict[str, dict[str, list[float]]]] = {}
        for multi, task in pairs:
            losses = task_losses(settings, multi, task, data)
            bias.setdefault(multi.name, {})[task] = {
                "multi": losses,
                "single": alone[task],
                "bias": [task_bias(*pair) for pair in zip(losses, alone[task], strict=True)],
            }
        write_json(folder.output("bias.json"), bias)
        folder.finish({"kind": "bias", "dataset": data.name, "bias": bias})
        print(bias_table(bias))
        print(f"\nin {folder.path}: bias.json\n")


def trained_on(name: str, path: str, seeds: Sequence[int]) -> TrainedOn:
    """The TTE run at `path`. Raises UserError where there is none."""
    encoders, tasks = [], ()
    for seed in seeds:
        own = Path(of_seed(path, seed))
        summary = own / "summary.json"
        stated = json.loads(summary.read_text()) if summary.is_file() else {}
        if stated.get("kind") != "tte":
            raise UserError(f"--bias compares finished TTE runs, {own} is none: give run folders")
        encoders.append(nets.load_encoder(own))
        tasks = tuple(stated["tasks"])
    return TrainedOn(name, tuple(encoders), tasks)


def task_losses(
    settings: Settings, run: TrainedOn, task: str, data: dataloader.Data
) -> list[float]:
    """The task's loss on the test images with a head trained on the frozen encoder, by seed."""
    began = time.monotonic()
    batch_size = min(settings.bias_batch_size, len(data.train))
    held_out = dataloader.evaluation_batches(data.test, batch_size)
    losses = []
    for seed, encoder in enumerate(run.encoders, start=settings.seed):
        batches = dataloader.training_batches(
            data.train, batch_size, seed=seed, epochs=1, augmentation=dataloader.Augmentation.none()
        )
        found = retrained_heads(
            encoder, [new_task(task, encoder, data)], batches, held_out,
            epochs=settings.bias_epochs, seed=seed,
        )
        losses.append(found[task]["loss"])
    print(f"{run.name}  {task}  {time.monotonic() - began:.0f} s", flush=True)
    return losses


def new_task(name: str, encoder: nets.Encoder, data: dataloader.Data) -> pretext.Task:
    """The task with its defaults. Raises UserError where it cannot work on such images."""
    smallest = nets.minimum_size(encoder.name) or min(data.image_shape[:2])
    return pretext.create(name, data.image_shape, smallest)


def bias_table(bias: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> str:
    """Each task of each run of several, at most 80 columns wide."""
    about = (
        "Bias: held-out loss of a task on the encoder trained by several tasks, divided by that on "
        "the encoder trained by the task alone, minus one, heads trained anew on both, %."
    )
    rows = [
        {
            "encoder": name, "task": task, "bias": spread(found["bias"]).text(100, sign=True),
            "loss, several": spread(found["multi"]).text(),
            "loss, alone": spread(found["single"]).text(),
        }
        for name, tasks in bias.items() for task, found in tasks.items()
    ]
    return "\n".join(["", textwrap.fill(about, tables.WIDTH), "", tables.table(rows)])


if __name__ == "__main__":
    define()
    run(main)
