"""Pre-train an encoder without labels by several tasks at once (TTE).

    python pretrain_tte.py

pre-trains on handwritten digits without their labels, then scores the encoder,
a randomly initialised one and raw pixels by three target tasks: classification,
object detection and embedding clustering. Everything is written to the run
folder. If interrupted, rerun the same command to resume. From Python:

    from pretrain_tte import Settings, train
    summary = train(Settings(tasks="rotation,instance", epochs=20))
"""

from __future__ import annotations

from settings.pretraining import Settings, command_words, read_settings

if __name__ == "__main__":
    # Before TensorFlow is loaded, which takes seconds: --help and mistakes are answered at once.
    GIVEN = read_settings(__doc__ or "")

# isort: split
from experiment.command import quiet  # noqa: F401 (loads TensorFlow)

# isort: split
import dataclasses
import functools
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import dataloader
import nets
import pretext
import targets
from dataloader.memory import check_memory
from experiment.command.main import run
from experiment.command.options import compared
from experiment.grid.claims import clear
from experiment.grid.execution import execute
from experiment.grid.reports import join, reporting
from experiment.grid.runs import FAILED, WAITING, Outcome, Run, listing, survey
from experiment.report import pretraining as report
from experiment.report.scoreboard import Scores, draw_bars, summarized, table
from experiment.run import devices, training
from experiment.run.export import FILES as EXPORT_FILES
from experiment.run.export import check_export, export_saved_model
from experiment.run.folder import DATA, RunFolder, write_json
from experiment.run.variables import numbered
from experiment.run.workers import ALONE, Team
from op_util.schedules import schedule
from pretext import ensemble
from pretext.batch import Batch
from pretext.bias import BiasLog
from pretext.model import WIDTH, MultiTask, metric_name
from pretext.pictures import EVENTS, PictureLog
from registry import UserError
from settings.common import (
    describe_workers,
    gather_workers,
    last_learning_rate,
    require_same_start,
)
from targets import scoring
from targets.clustering import halves, of_classes
from targets.encoders import check_backbone, with_clean_statistics
from targets.target import TARGETS, Material

SCRIPT = Path(__file__).resolve()
HELD_OUT_IMAGES, HELD_OUT_BATCH = 512, 64
MEASURED_IMAGES, LEAST_MEASURED_IMAGES = 64, 32
CHECKED_IMAGES = 256
PICTURED_IMAGES = 8
RANDOM, PIXELS = "random", "pixels"
# The folder of several seeds is one like a run's. Its runs have settings of their own.
SEEDS_SETTINGS = {"grid": "pretrain_tte.py"}
SEEDS_REPORTS = ("targets.json", "targets.png")


def main(settings: Settings) -> int | None:
    """Pre-train, or show what would be done."""
    if settings.seeds > 1:
        return repeat(settings)
    train(settings)
    return None


@devices.callers_settings()
def train(settings: Settings) -> dict[str, Any]:
    """Pre-train an encoder and score it, or resume such a run, all in the run folder, and print the
    result.

    Returns:
        The summary of the run; at once if it is finished. With ``dry_run`` the plan is printed
        instead: nothing is written, and the summary is empty.

    Raises:
        UserError: settings do not go together, or do not fit the data; several seeds, for which the
            command starts processes of its own.
    """
    settings = settings.spelled()
    if settings.seeds > 1:
        raise UserError(
            f"train makes one run, and seeds is {settings.seeds}: give each seed by itself, or use "
            "the command line"
        )
    if settings.dry_run:
        folder, networks = RunFolder(settings.folder()), nets.fingerprints(settings.network_files())
        state = folder.state(compared(settings), settings.overwrite, networks)
        print(plan(settings, f"{folder.path} ({state})"))
        return {}
    with gather_workers(settings) as team:
        folder = RunFolder(settings.folder(), team)
        networks = nets.fingerprints(settings.network_files())
        if folder.state(compared(settings), settings.overwrite, networks) == "finished":
            print(f"{folder.path} is finished; --overwrite would start it anew")
        else:
            work = prepare(settings, team)
            with folder, dataloader.naming_damage(*work.material.data.splits):
                if folder.open(compared(settings), settings.overwrite, networks) != "finished":
                    folder.keep_facts(DATA, work.material.facts())
                    complete(settings, work, folder)
        summary = folder.summary(report.RESULTS)
        scores = {name: [metrics] for name, metrics in summary["targets"].items()}
        print(report.final_table(summary, folder.path), table(summarized(scores), TARGETS), "",
              sep="\n")
    return summary


def complete(settings: Settings, work: Work, folder: RunFolder) -> None:
    """Train what is left of a run, in its open folder, and write its results."""
    print(report.opening(
        work.model.encoder.name, settings.method(), len(work.images.train), folder.path,
        memory_bytes(settings, work.images),
    ))
    frozen = nets.describe_frozen(work.model.encoder.model, "encoder")
    for line in (*settings.describe_storage(work.material.data), *frozen):
        print(line)
    progress = fit(settings, work, folder)
    check_finite(work.model)
    held_out = evaluate(work, work.material.data.test)
    if folder.team.is_chief:
        folder.finish(summarize(settings, work, folder, progress, held_out))


# Data, encoder and tasks


@dataclasses.dataclass(frozen=True)
class Work:
    """What a run works with.

    Attributes:
        material: the data that targets score on.
        images: the images that the tasks see.
        model: the encoder and what trains it.
        strategy: in whose scope the model was made.
    """

    material: Material
    images: dataloader.Data
    model: MultiTask
    strategy: tf.distribute.Strategy


def prepare(settings: Settings, team: Team = ALONE) -> Work:
    """Load the data and make the model. All mistakes are found here, before anything is written.

    Raises:
        UserError: settings do not fit the data.
    """
    devices.prepare(settings.seed, settings.deterministic, settings.mixed_precision)
    strategy = devices.strategy(settings.strategy, team)
    data = settings.load_data(needs_classes=settings.needs_classes())
    data = dataclasses.replace(data, default_flip=flips(settings, data))  # in target tasks too
    images = pretext_images(settings, data)
    training_batches(settings, images)  # refuses now what does not fit; batches are made later
    check_memory(
        devices.replicas(strategy) * memory_bytes(settings, images),
        f"the temporal memory of {len(images.train)} images and {len(settings.task_names())} tasks",
        "give --memory_dtype float16, fewer --tasks, or --ensemble weights or none",
    )
    with strategy.scope():
        model = make_model(settings, images)
    require_same_start(team, images, model.weights)
    return Work(load_material(settings, data, model.encoder), images, model, strategy)


def pretext_images(settings: Settings, data: dataloader.Data) -> dataloader.Data:
    """`data` with only those training and validation images that the tasks see. Raises UserError
    if there are too few classes to leave half of them out."""
    if settings.train_classes == "all":
        return data
    seen, _ = halves(data)
    return dataclasses.replace(
        data, train=of_classes(data.train, seen), validation=of_classes(data.validation, seen)
    )


def training_batches(
    settings: Settings,
    data: dataloader.Data,
    epoch: int = 0,
    step: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """The batches from this one on, or a worker's parts of them (see
    `dataloader.training_batches`). Raises UserError if sizes do not fit the data."""
    return dataloader.training_batches(
        data.train, settings.batch_size, seed=settings.seed, epochs=settings.epochs,
        augmentation=dataloader.Augmentation(flips(settings, data), 0.0, settings.crop_padding),
        start_epoch=epoch, start_step=step, context=context,
    )


def flips(settings: Settings, data: dataloader.Data) -> bool:
    """Whether images are mirrored."""
    return data.default_flip if settings.flip is None else settings.flip


def memory_bytes(settings: Settings, data: dataloader.Data) -> int:
    """The size of the ensemble's memory of the training images; 0 if there is none."""
    (own,) = settings.create("ensemble")
    tasks = len(settings.task_names())
    return own.memory_bytes(ensemble.Run(
        len(data.train), tasks, WIDTH, settings.epochs, tasks_per_image=settings.tasks_per_image
    ))


def make_encoder(settings: Settings, data: dataloader.Data) -> nets.Encoder:
    """The encoder before it is trained. Its initial weights depend on the seed alone."""
    standardize = nets.Standardize(data.channel_mean, data.channel_deviation)
    keras.utils.set_random_seed(settings.seed)
    if settings.encoder_model is None:
        options = nets.parse_options(settings.net_options)
        model = nets.build(settings.net, data.image_shape, 1, **options)
        return nets.encoder_of(model, nets.infer_preprocessing(model) or standardize)
    infer = settings.encoder_preprocessing == "auto"
    if not infer:
        standardize = nets.named_preprocessing(
            settings.encoder_preprocessing, data.channel_mean, data.channel_deviation
        )
    encoder = nets.load_encoder(settings.encoder_model, standardize, infer=infer)
    expected = tuple(
        own or given for own, given in zip(encoder.image_shape, data.image_shape, strict=True)
    )
    if expected != data.image_shape:
        raise UserError(
            f"{settings.encoder_model} takes images of {'x'.join(map(str, expected))}, "
            f"{data.name} has {'x'.join(map(str, data.image_shape))}; give --image_size, or an "
            "encoder for such images"
        )
    nets.check_trainable(encoder.model, "--encoder_model", settings.encoder_model)
    return encoder


def make_model(settings: Settings, data: dataloader.Data) -> MultiTask:
    """The encoder and what trains it. Raises UserError if a task cannot work on these images."""
    encoder = make_encoder(settings, data)
    # Of a network that does not declare a minimum it is certain that it takes the data's images.
    smallest = nets.minimum_size(encoder.name) or min(data.image_shape[:2])
    tasks = settings.create("tasks")
    sample = spread_sample(data.train, CHECKED_IMAGES).image.numpy()
    measured = measured_images(settings, tf.distribute.get_strategy())
    (balance,), (regularizer,), (own_ensemble,) = map(
        settings.create, ("balance", "regularizer", "ensemble")
    )
    model = MultiTask(
        encoder,
        tasks,
        pretext.Images(data.image_shape, smallest, flips(settings, data)),
        balance=balance,
        regularizer=regularizer,
        regularizer_weight=settings.regularizer_weight,
        ensemble=own_ensemble,
        train_images=len(data.train),
        epochs=settings.epochs,
        tasks_per_image=settings.tasks_per_image,
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        sample=spread_sample(data.train, measured),
    )
    for task in tasks:
        task.check_images(sample)
    return model


def spread_sample(split: dataloader.Split, count: int) -> Batch:
    """At most `count` images from all over a split, which may be in the order of its classes."""
    index = split.spread(count)
    return Batch(split.images(index), tf.constant(index))


def load_material(
    settings: Settings, data: dataloader.Data, encoder: nets.Encoder
) -> Material:
    """The data that targets score on.

    Raises:
        UserError: a target cannot be scored with this data or this encoder.
    """
    own, scenes = settings.create("targets"), None
    if any(target.needs_scenes for target in own):
        scenes = settings.load_scenes()
        if scenes.image_shape[-1] != data.image_shape[-1]:
            others = ",".join(target.name for target in own if not target.needs_scenes)
            raise UserError(
                f"detection is in images of {scenes.image_shape[-1]} channels, {data.name} has "
                f"{data.image_shape[-1]}: give --channels {scenes.image_shape[-1]}, or --targets "
                f"{others}"
            )
        check_backbone(encoder, scenes)
    material = Material(data, scenes)
    for target in own:
        target.check_material(material)
    return material


# Training


def fit(settings: Settings, work: Work, folder: RunFolder) -> dict[str, Any]:
    """Train from wherever the run folder says the run is."""
    data, model = work.images, work.model
    steps = dataloader.steps_per_epoch(data.train, settings.batch_size)
    rate = schedule(
        settings.schedule, settings.learning_rate, settings.epochs, steps, settings.warmup_epochs
    )
    with model.distribute_strategy.scope():
        model.compile(settings.make_optimizer(rate), jit_compile=settings.jit_compile)
        model.optimizer.build(model.trainable_variables)
    held_out = data.validation if len(data.validation) else data.test
    held_out = held_out.mixed(HELD_OUT_IMAGES)
    validation, validation_steps = shared(work, held_out)
    callbacks: list[keras.callbacks.Callback] = []
    if folder.team.is_chief:
        measured = measured_images(settings, work.strategy)
        callbacks.append(BiasLog(model, spread_sample(data.train, measured)))
    if folder.team.is_chief and any(task.kind == "generative" for task in model.tasks):
        folder.output(EVENTS)
        sample = spread_sample(held_out, PICTURED_IMAGES)
        callbacks.append(PictureLog(model, sample, folder.path))
    return training.fit(
        model,
        folder=folder,
        groups={
            "model": numbered(model.variables),
            "optimizer": numbered(model.optimizer.variables),
        },
        batches=lambda epoch, step: devices.shared_out(
            work.strategy, functools.partial(training_batches, settings, data, epoch, step)
        ),
        steps_per_epoch=steps,
        first_epoch=0,
        last_epoch=settings.epochs,
        images_per_epoch=len(data.train),
        stage="pre-train",
        validation=validation,
        validation_steps=validation_steps,
        monitor=None,
        learning_rate=lambda epoch: last_learning_rate(rate, 0, steps, epoch),
        callbacks=callbacks,
        checkpoint_minutes=settings.checkpoint_minutes,
    )


def measured_images(settings: Settings, strategy: tf.distribute.Strategy) -> int:
    """How many images gradients are measured on: as many as a device holds in training, within
    bounds."""
    own = settings.batch_size // devices.replicas(strategy)
    return min(MEASURED_IMAGES, max(own, LEAST_MEASURED_IMAGES))


def shared(work: Work, split: dataloader.Split) -> tuple[Any, int]:
    """The images of a split for `Model.evaluate`, shared out over all devices, and the number of
    batches. They are about equal in size: losses that compare images mean little for few."""
    steps = dataloader.steps_per_epoch(split, HELD_OUT_BATCH)
    own = functools.partial(dataloader.evaluation_batches, split, math.ceil(len(split) / steps))
    return devices.shared_out(work.strategy, own), steps


def evaluate(work: Work, split: dataloader.Split) -> dict[str, float]:
    """The tasks' losses and metrics on the images of a split. All workers take part."""
    batches, steps = shared(work, split)
    return work.model.evaluate(batches, steps=steps, return_dict=True, verbose=0)


# The result


def summarize(
    settings: Settings,
    work: Work,
    folder: RunFolder,
    progress: Mapping[str, Any],
    held_out: Mapping[str, float],
) -> dict[str, Any]:
    """Write the encoder, its export and the pictures, score it, and return the summary.

    Args:
        held_out: of `evaluate`, on the test images.
    """
    model, data, history = work.model, work.material.data, progress["history"]
    encoder = with_clean_statistics(model.trained_encoder(), work.images.train)
    save(settings, encoder, data, folder)
    metrics = {task.name: metric_name(task) for task in model.tasks}
    report.draw_curves(history, metrics, folder)
    scores = score_targets(settings, work.material, encoder)
    write_scores(scores, folder, seed=settings.seed)
    return {
        **run_facts(settings, data, encoder),
        "held_out": {
            task.name: {
                "loss": held_out[f"{task.name}_loss"], task.metric: held_out[metric_name(task)]
            }
            for task in model.tasks
        },
        "bias": {key: history[-1][key] for key in report.bias_columns(settings.task_names())},
        "targets": {name: seeds[0] for name, seeds in scores.items()},
        "views": views_per_image(model),
        "memory_bytes": memory_bytes(settings, work.images),
        "images_per_second": statistics.median(row["images_per_second"] for row in history),
        "seconds": sum(row["seconds"] for row in history),
    }


def check_finite(model: MultiTask) -> None:
    """Raise UserError if training has left weights that are no finite numbers."""
    if not all(np.isfinite(keras.ops.convert_to_numpy(each)).all() for each in model.weights):
        raise UserError(
            "training diverged: weights of the encoder are not finite numbers; give a lower "
            "--learning_rate and --overwrite"
        )


def run_facts(
    settings: Settings, data: dataloader.Data, encoder: nets.Encoder
) -> dict[str, Any]:
    """What the summary says of a run, whatever came out of it."""
    return {
        "kind": "tte",
        "method": settings.method(),
        "tasks": settings.task_names(),
        "dataset": data.name,
        "net": encoder.name,
        "options": list(settings.net_options),
        "image_shape": data.image_shape,
        "preprocessing": preprocessing(encoder),
        "seed": settings.seed,
        "epochs": settings.epochs,
        "parameters": nets.count_parameters(encoder.model),
        "flops": nets.known_flops(encoder.model, data.image_shape[:2]),
        "settings": {
            field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)
        },
    }


def save(
    settings: Settings, encoder: nets.Encoder, data: dataloader.Data, folder: RunFolder
) -> None:
    """Write ``encoder.keras`` and the export for serving, and compare that with the encoder."""
    embedding = encoder.model.output["embedding"]
    keras.Model(encoder.model.inputs[0], embedding, name=encoder.name).save(
        folder.output(nets.encoders.ENCODER_FILE)
    )
    directory = folder.directory("export/1", *EXPORT_FILES)
    outputs = with_features if settings.export_features else embedding_only
    export_saved_model(
        encoder.model, directory, image_shape=data.image_shape, outputs=outputs,
        **preprocessing(encoder),
    )
    images = data.test.images(data.test.spread(CHECKED_IMAGES)).numpy()
    check_export(
        directory, encoder.model, images, prepare=encoder.standardize, outputs=outputs
    )


def preprocessing(encoder: nets.Encoder) -> dict[str, Any]:
    """How images are standardized."""
    known = dataclasses.asdict(encoder.standardize)
    return {key: known[key] for key in ("mean", "deviation", "reverses")}


def embedding_only(outputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The export's output, float32 ``[N, E]``."""
    return {"embedding": outputs["embedding"]}


def with_features(outputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The export's outputs with ``features``, the last map, float32 ``[N, h, w, D]``."""
    return {**embedding_only(outputs), "features": outputs["features"]}


def score_targets(settings: Settings, material: Material, encoder: nets.Encoder) -> Scores:
    """The metrics of the encoder, a randomly initialised one and raw pixels."""
    own = settings.create("targets")
    if not own:
        return {}
    data = material.data
    before = RANDOM if settings.encoder_model is None else "as given"
    rows: dict[str, targets.Representation] = {
        settings.method(): encoder,
        before: untrained_encoder(settings, data),
    }
    try:
        targets.check_pixels(data)
        rows[PIXELS] = targets.raw_pixels(data.image_shape)
    except UserError as error:  # known only now, and no reason to lose what was trained
        print(f"{PIXELS} are left out: {error}", flush=True)
    scores: Scores = {}
    for name, each in rows.items():
        print(report.scoring(name), flush=True)
        found = scoring.score(own, each, material, settings.seed)
        scores[name] = [{target: score.metrics for target, score in found}]
    return scores


def untrained_encoder(settings: Settings, data: dataloader.Data) -> nets.Encoder:
    """The encoder before it is trained, as targets score it: one from a file as it is, a new one
    with batch statistics of the images from which the trained one has its own."""
    encoder = make_encoder(settings, data)
    if settings.encoder_model is not None:
        return encoder
    return with_clean_statistics(encoder, pretext_images(settings, data).train)


def views_per_image(model: MultiTask) -> float:
    """How many views of an image the encoder sees at a step, on average."""
    views = sum(part.views.count for part in model.parts)
    return views * model.tasks_per_image / len(model.tasks)


def write_scores(scores: Scores, folder: RunFolder, **facts: Any) -> dict[str, Any]:
    """``targets.json`` and ``targets.png``, if anything was scored; the scores summarized."""
    summary = summarized(scores)
    if any(summary.values()):
        write_json(folder.output("targets.json"), {**facts, "targets": summary})
        draw_bars(summary, TARGETS, folder.output("targets.png"))
    return summary


def plan(settings: Settings, folder: str) -> str:
    """What a run would do. Raises UserError as `train` does."""
    workers = describe_workers(settings)
    work = prepare(settings)
    memory = memory_bytes(settings, work.images)
    tasks = [
        f"{part.task.name} ({part.task.kind}, {part.views.count} x "
        f"{'x'.join(map(str, part.views.shape[:2]))})" for part in work.model.parts
    ]
    encoder = f"{work.model.encoder.name}, {nets.count_parameters(work.model.network):,} parameters"
    return report.plan_table(
        settings, work.images, folder=folder, encoder=encoder, tasks=tasks, memory_bytes=memory,
        workers=workers,
    )


# Several seeds


def repeat(settings: Settings) -> int:
    """Run this script once for each seed and show mean and deviation; exit status 1 if a run
    failed."""
    runs = [seed_run(settings, seed)
            for seed in range(settings.seed, settings.seed + settings.seeds)]
    outcomes = survey(runs, settings.overwrite)
    folder = RunFolder(settings.folder())
    folder.state(SEEDS_SETTINGS, settings.overwrite)
    if settings.dry_run:
        print(listing(outcomes))
        return 0
    check_same_data(outcomes)
    if settings.overwrite:
        folder.check_unused()
        clear(runs)
    join(folder, SEEDS_SETTINGS, SEEDS_REPORTS, settings.overwrite)
    execute(outcomes, report.in_short, lambda: None)
    check_same_data(outcomes)
    with reporting(folder) as place:
        summary = write_scores(scores_of_seeds(outcomes), RunFolder(place))
    if summary:
        print(table(summary, TARGETS))
    failed = [outcome for outcome in outcomes if outcome.status == FAILED]
    for outcome in failed:
        print(f"failed: {outcome.run.name}: {outcome.error} (see {outcome.run.log})")
    return int(bool(failed))


def check_same_data(outcomes: Sequence[Outcome]) -> None:
    """Raise UserError where runs were trained on different data: their mean says nothing."""
    begun = [RunFolder(each.run.folder) for each in outcomes if each.status != WAITING]
    for folder in begun[1:]:
        folder.check_facts(DATA, begun[0].facts(DATA))


def seed_run(settings: Settings, seed: int) -> Run:
    """The run of one seed, in its own folder."""
    own = dataclasses.replace(
        settings, seed=seed, seeds=1, train_dir=str(settings.folder() / f"seed{seed}")
    )
    command = (sys.executable, str(SCRIPT), *command_words(own), f"--seed={seed}",
               f"--train_dir={own.train_dir}")
    return Run(
        own.method(), seed, own.folder(), command, compared(own), results=report.RESULTS,
        networks=functools.partial(nets.fingerprints, own.network_files()),
    )


def scores_of_seeds(outcomes: Sequence[Outcome]) -> Scores:
    """The metrics of the finished runs."""
    scores: Scores = {}
    for outcome in outcomes:
        for name, metrics in outcome.summary["targets"].items() if outcome.summary else ():
            scores.setdefault(name, []).append(metrics)
    return scores


if __name__ == "__main__":
    run(main, GIVEN)
