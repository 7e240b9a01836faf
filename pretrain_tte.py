"""Pre-train an encoder without labels by several tasks at once (TTE).

    python pretrain_tte.py

pre-trains on handwritten digits without their labels, then scores the encoder,
a randomly initialised one and raw pixels by three target tasks: classification,
object detection and embedding clustering. What one may want to know or use is
left in the run folder. The same command again goes on where it was cut off.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiment.command import quiet  # noqa: F401 (before TensorFlow)

# isort: split
import keras
import numpy as np
import tensorflow as tf
from absl import flags

import dataloader
import evaluate
import nets
import pretext
import targets
from dataloader.memory import check_memory
from experiment.command.main import run
from experiment.command.options import from_flags
from experiment.grid.execution import execute
from experiment.grid.runs import FAILED, Outcome, Run, clear, listing, survey
from experiment.report import curves, scoreboard, tables
from experiment.run import devices, training
from experiment.run.export import FILES as EXPORT_FILES
from experiment.run.export import export_saved_model
from experiment.run.folder import RunFolder, write_json
from experiment.run.variables import numbered
from op_util.schedules import schedule
from pretext.batch import Batch, Use
from pretext.bias import BiasLog
from pretext.model import WIDTH, MultiTask, metric_name
from registry import UserError
from settings.common import DataSettings, last_learning_rate
from settings.evaluation import Settings as EvaluationSettings
from settings.pretraining import (
    FLIP,
    TASK_FIELDS,
    Settings,
    define,
    determining_settings,
    task_settings,
)
from targets.clustering import halves, of_classes

SCRIPT = Path(__file__).resolve()
HELD_OUT_IMAGES, HELD_OUT_BATCH = 512, 64
MEASURED_IMAGES = 64
CHECKED_IMAGES = 256
PICTURED_IMAGES = 8
RANDOM, PIXELS = "random", "pixels"
# The folder of several seeds is one like a run's. Its runs have settings of their own.
SEEDS_SETTINGS = {"grid": "pretrain_tte.py"}


def main(_: list[str]) -> int | None:
    """What the command line asks for, or the part of it that is not yet done."""
    settings = from_flags(Settings).spelled()
    if settings.seeds > 1:
        return repeat(settings)
    folder = RunFolder(settings.folder())
    determining = determining_settings(settings)
    state = folder.state(determining, settings.overwrite)
    if state == "finished" and not settings.dry_run:
        print(f"{folder.path} is finished; --overwrite would start anew")
        print(final_table(folder))
        return None
    devices.prepare(settings.seed, settings.deterministic, settings.mixed_precision)
    strategy = devices.strategy(settings.strategy)
    data = settings.load_data(needs_classes=settings.needs_classes())
    images = pretext_images(settings, data)
    training_batches(settings, images)  # mistakes are told before anything is written
    check_memory_size(settings, images, devices.replicas(strategy))
    with strategy.scope():
        model = make_model(settings, images)
    scenes = load_scenes(settings, data, model.encoder)
    if settings.dry_run:
        print(plan(settings, images, model, folder.path, state))
        return None
    with folder:
        if folder.open(determining, settings.overwrite) != "finished":
            print(
                f"pre-training {model.encoder.name} by {settings.method()} on "
                f"{len(images.train):,} images in {folder.path}"
            )
            if model.memory is not None:
                print(f"temporal memory: {memory_size(settings, images):,} bytes")
            progress = fit(settings, images, model, folder)
            folder.finish(summarize(settings, data, scenes, model, folder, progress))
        print(final_table(folder))
    return None


# Data, encoder and tasks


def pretext_images(settings: Settings, data: dataloader.Data) -> dataloader.Data:
    """`data` with those training and validation images alone that the tasks see. Raises UserError
    where there are too few classes to leave half of them out."""
    if settings.train_classes == "all":
        return data
    seen, _ = halves(data)
    return dataclasses.replace(
        data, train=of_classes(data.train, seen), validation=of_classes(data.validation, seen)
    )


def training_batches(
    settings: Settings, data: dataloader.Data, epoch: int = 0, step: int = 0
) -> tf.data.Dataset:
    """The batches from this one on. Raises UserError where sizes do not fit the data."""
    return dataloader.training_batches(
        data.train, settings.batch_size, seed=settings.seed, epochs=settings.epochs,
        augmentation=dataloader.Augmentation(flips(settings, data), 0.0, settings.crop_padding),
        start_epoch=epoch, start_step=step,
    )


def flips(settings: Settings, data: dataloader.Data) -> bool:
    """Whether images are mirrored."""
    return data.default_flip if settings.flip is None else settings.flip


def memory_size(settings: Settings, data: dataloader.Data) -> int:
    """The temporal memory's size in bytes; 0 where there is none."""
    if not pretext.ensemble.ENSEMBLES.get(settings.ensemble).temporal:
        return 0
    count = len(settings.task_names())
    return pretext.ensemble.memory_bytes(len(data.train), count, WIDTH, settings.memory_dtype)


def check_memory_size(settings: Settings, data: dataloader.Data, replicas: int) -> None:
    """Raise UserError where the temporal memory, one for each replica, is too large."""
    check_memory(
        replicas * memory_size(settings, data),
        f"the temporal memory of {len(data.train)} images and {len(settings.task_names())} tasks",
        "give --memory_dtype float16, fewer --tasks, or --ensemble weights or none",
    )


def make_encoder(settings: Settings, data: dataloader.Data) -> nets.Encoder:
    """The encoder before it is trained. Its initial weights depend on the seed alone."""
    standardize = nets.Standardize(data.channel_mean, data.channel_deviation)
    keras.utils.set_random_seed(settings.seed)
    if settings.encoder_model is None:
        options = nets.parse_options(settings.net_options)
        model = nets.build(settings.net, data.image_shape, 1, **options)
        return nets.encoder_of(model, standardize)
    encoder = nets.load_encoder(settings.encoder_model, nets.named_preprocessing(
        settings.encoder_preprocessing, data.channel_mean, data.channel_deviation
    ))
    expected = tuple(
        own or given for own, given in zip(encoder.image_shape, data.image_shape, strict=True)
    )
    if expected != data.image_shape:
        raise UserError(
            f"{settings.encoder_model} takes images of {'x'.join(map(str, expected))}, "
            f"{data.name} has {'x'.join(map(str, data.image_shape))}; give --image_size, or an "
            "encoder for such images"
        )
    return encoder


def make_tasks(
    settings: Settings, data: dataloader.Data, encoder: nets.Encoder
) -> list[pretext.Task]:
    """The tasks. Raises UserError where one cannot work on these images."""
    # Of networks that do not say what they take it is certain that they take the data's images.
    smallest = nets.minimum_size(encoder.name) or min(data.image_shape[:2])
    some = data.train.images(range(min(CHECKED_IMAGES, len(data.train)))).numpy()
    own = task_settings(settings.task_names())
    tasks = []
    for name in settings.task_names():
        given = {
            field.name: own[flag] for flag, (task, field) in TASK_FIELDS.items() if task == name
        }
        if name == FLIP[0]:
            given[FLIP[1]] = flips(settings, data)
        tasks.append(pretext.create(name, data.image_shape, smallest, **given))
        tasks[-1].check_images(some)
    return tasks


def make_model(settings: Settings, data: dataloader.Data) -> MultiTask:
    """The encoder and what trains it."""
    encoder = make_encoder(settings, data)
    tasks = make_tasks(settings, data, encoder)
    kinds = pretext.ensemble.create(settings.ensemble, len(tasks))
    margin = {"margin": settings.triplet_margin} if settings.regularizer == "triplet" else {}
    gradnorm = {
        "asymmetry": settings.gradnorm_asymmetry, "interval": settings.gradnorm_interval
    } if settings.balance == "gradnorm" else {}
    memory = None
    if kinds.temporal:
        memory = pretext.ensemble.TemporalMemory(
            len(data.train), len(tasks), WIDTH, settings.memory_decay, settings.memory_dtype
        )
    return MultiTask(
        encoder,
        tasks,
        balance=pretext.balance.create(settings.balance, len(tasks), **gradnorm),
        regularizer=pretext.regularizers.create(settings.regularizer, len(tasks), **margin),
        regularizer_weight=settings.regularizer_weight,
        memory=memory,
        temperature=settings.ensemble_temperature,
        ensemble_weight=settings.ensemble_weight,
        ramp_epochs=settings.ramp_epochs,
        average_decay=settings.average_decay if kinds.weights else None,
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        sample=spread_sample(data.train, MEASURED_IMAGES),
    )


def spread_sample(split: dataloader.Split, count: int) -> Batch:
    """`count` images from all over a split, whose images may be in the order of their classes."""
    index = np.unique(np.linspace(0, len(split) - 1, count).astype(np.int64))
    return Batch(split.images(index), tf.constant(index))


# Training


def fit(
    settings: Settings, data: dataloader.Data, model: MultiTask, folder: RunFolder
) -> dict[str, Any]:
    """Train from wherever the run folder says the run is."""
    steps = dataloader.steps_per_epoch(data.train, settings.batch_size)
    rate = schedule(settings.schedule, settings.learning_rate, settings.epochs, steps)
    with model.distribute_strategy.scope():
        model.compile(settings.make_optimizer(rate), jit_compile=settings.jit_compile)
        model.optimizer.build(model.trainable_variables)
    held_out = data.validation if len(data.validation) else data.test
    held_out = held_out.take(np.arange(min(HELD_OUT_IMAGES, len(held_out))))
    return training.fit(
        model,
        folder=folder,
        groups={
            "model": numbered(model.variables),
            "optimizer": numbered(model.optimizer.variables),
        },
        batches=lambda epoch, step: training_batches(settings, data, epoch, step),
        steps_per_epoch=steps,
        first_epoch=0,
        last_epoch=settings.epochs,
        images_per_epoch=len(data.train),
        stage="pre-train",
        validation=dataloader.evaluation_batches(held_out, HELD_OUT_BATCH),
        monitor=None,
        learning_rate=lambda epoch: last_learning_rate(rate, 0, steps, epoch),
        callbacks=[
            BiasLog(model, spread_sample(data.train, MEASURED_IMAGES)),
            PictureLog(model, spread_sample(held_out, PICTURED_IMAGES), folder),
        ],
        checkpoint_minutes=settings.checkpoint_minutes,
    )


class PictureLog(keras.callbacks.Callback):
    """Writes, after each epoch, what generative tasks make of a few held-out images for
    TensorBoard: the view, the task's result and the truth side by side."""

    _EVENTS = "logs/pictures/events.out.tfevents.*"

    def __init__(self, model: MultiTask, sample: Batch, folder: RunFolder):
        super().__init__()
        self._multi_task, self._sample, self._folder = model, sample, folder
        self._function = tf.function(
            lambda: self._multi_task.answers(self._sample, Use.HELD_OUT), autograph=False
        )

    def on_train_begin(self, logs: Any = None) -> None:
        if all(task.kind != "generative" for task in self._multi_task.tasks):
            return
        self._folder.output(self._EVENTS)
        self._writer = tf.summary.create_file_writer(str(self._folder.path / "logs" / "pictures"))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        model = self._multi_task
        if all(task.kind != "generative" for task in model.tasks):
            return
        with model.unchanged():
            answers = self._function()
        parts = zip(model.tasks, answers.inputs, answers.outputs, answers.targets, strict=True)
        with self._writer.as_default(step=epoch + 1):
            for task, *part in parts:
                pictures = task.pictures(*part)
                if pictures is not None:
                    tf.summary.image(task.name, pictures, max_outputs=PICTURED_IMAGES)
        self._writer.flush()


# What came out


def summarize(
    settings: Settings,
    data: dataloader.Data,
    scenes: dataloader.Scenes | None,
    model: MultiTask,
    folder: RunFolder,
    progress: dict[str, Any],
) -> dict[str, Any]:
    """Write the encoder, its export and the pictures, score it by the target tasks, and return the
    summary."""
    history = progress["history"]
    images = pretext_images(settings, data)
    encoder = finished(model.trained_encoder(), images)
    embedding = encoder.model.output["embedding"]
    keras.Model(encoder.model.inputs[0], embedding, name=encoder.name).save(
        folder.output(nets.encoders.ENCODER_FILE)
    )
    preprocessing = {
        "mean": encoder.standardize.mean, "deviation": encoder.standardize.deviation
    }
    export_saved_model(
        encoder.model,
        folder.directory("export/1", *EXPORT_FILES),
        image_shape=data.image_shape,
        outputs=with_features if settings.export_features else embedding_only,
        **preprocessing,
    )
    draw(model, history, folder)
    held_out = model.evaluate(
        dataloader.evaluation_batches(data.test, HELD_OUT_BATCH), return_dict=True, verbose=0
    )
    scores = score_targets(settings, data, scenes, encoder)
    summary = scoreboard.summarized(scores)
    if summary:
        write_json(folder.output("targets.json"), {"seed": settings.seed, "targets": summary})
        scoreboard.draw_bars(summary, folder.output("targets.png"))
    return {
        "kind": "tte",
        "method": settings.method(),
        "tasks": settings.task_names(),
        "dataset": data.name,
        "net": encoder.name,
        "options": list(settings.net_options),
        "image_shape": data.image_shape,
        "preprocessing": preprocessing,
        "seed": settings.seed,
        "epochs": settings.epochs,
        "held_out": {
            task.name: {
                "loss": held_out[f"{task.name}_loss"],
                task.metric: held_out[metric_name(task)],
            }
            for task in model.tasks
        },
        "bias": {key: history[-1][key] for key in bias_columns(model.tasks, history)},
        "targets": {name: seeds[0] for name, seeds in scores.items()},
        "views": sum(task.view_count for task in model.tasks),
        "parameters": nets.count_parameters(encoder.model),
        "flops": nets.count_flops(encoder.model),
        "memory_bytes": memory_size(settings, images),
        "images_per_second": statistics.median(row["images_per_second"] for row in history),
        "seconds": sum(row["seconds"] for row in history),
        "settings": {
            **dataclasses.asdict(settings), "task_settings": task_settings(settings.task_names()),
        },
    }


def finished(encoder: nets.Encoder, data: dataloader.Data) -> nets.Encoder:
    """The encoder with the batch statistics of clean training images, as every encoder gets them
    that is compared."""
    batches = dataloader.evaluation_batches(data.train, targets.images_at_once(data.image_shape))
    nets.recompute_batch_statistics(
        encoder.model, (encoder.standardize(batch["image"]) for batch in batches)
    )
    return encoder


def embedding_only(outputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The export's output, float32 ``[N, E]``."""
    return {"embedding": outputs["embedding"]}


def with_features(outputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The export's outputs with ``features``, the last map, float32 ``[N, h, w, D]``."""
    return {**embedding_only(outputs), "features": outputs["features"]}


def bias_columns(tasks: Sequence[pretext.Task], history: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of the history that tell of bias."""
    names = [task.name for task in tasks]
    return [
        *(f"{name}_gradient_norm" for name in names),
        *(f"cosine_{a}_{b}" for a, b in itertools.combinations(names, 2)),
        *(f"{name}_{what}" for what in ("deviation", "effective_rank") for name in names),
    ]


def draw(model: MultiTask, history: Sequence[Mapping[str, Any]], folder: RunFolder) -> None:
    """``curves.png``: losses and held-out metrics; ``bias.png``: how the tasks pull."""
    names = [task.name for task in model.tasks]
    losses = {f"{name}_loss": [f"{name}_loss"] for name in names}
    metrics = {
        metric_name(task): [metric_name(task)] for task in model.tasks
        if metric_name(task) != f"{task.name}_squared_error"  # the loss itself
    }
    added = {
        "regularizer and ensemble": ["regularizer_loss", "ensemble_loss", "ensemble_distance"],
        "ensemble weight": ["ensemble_weight"],
    }
    panels = {"loss": ["loss"], **losses, **metrics, **added, "learning rate": ["learning_rate"],
              "images per second": ["images_per_second"]}
    curves.draw(
        history, folder.output("curves.png"),
        {title.replace("_", " "): keys for title, keys in panels.items()},
    )
    curves.draw(history, folder.output("bias.png"), {
        "gradient norm on the encoder": [f"{name}_gradient_norm" for name in names],
        "cosine of gradients": [key for key in history[-1] if key.startswith("cosine_")],
        "deviation of embeddings (1: spread evenly)": [f"{name}_deviation" for name in names],
        "effective rank of embeddings": [f"{name}_effective_rank" for name in names],
    })


def target_settings(settings: Settings, target: str) -> EvaluationSettings:
    """The settings of evaluate.py by which a target task is done here."""
    own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(DataSettings)}
    return EvaluationSettings(
        **own, target=target, seed=settings.seed, seeds=1,
        fine_tuning_steps=settings.fine_tuning_steps, detection_steps=settings.detection_steps,
        metric_steps=settings.metric_steps,
    )


def load_scenes(
    settings: Settings, data: dataloader.Data, encoder: nets.Encoder
) -> dataloader.Scenes | None:
    """The detection data; None where detection is not asked for.

    Raises:
        UserError: a target task cannot be done with this data or this encoder.
    """
    if "clustering" in settings.targets:
        halves(data)
    if "detection" not in settings.targets:
        return None
    _, scenes = evaluate.load(target_settings(settings, "detection"))
    if scenes.image_shape[-1] != data.image_shape[-1]:
        raise UserError(
            f"detection is in images of {scenes.image_shape[-1]} channels, {data.name} has "
            f"{data.image_shape[-1]}: give --targets classification,clustering"
        )
    nets.copy_encoder(encoder, scenes.image_shape[:2])  # can take such images
    return scenes


def score_targets(
    settings: Settings,
    data: dataloader.Data,
    scenes: dataloader.Scenes | None,
    encoder: nets.Encoder,
) -> scoreboard.Scores:
    """The figures of the encoder, a randomly initialised one and raw pixels by the target tasks."""
    if not settings.targets:
        return {}
    before = RANDOM if settings.encoder_model is None else "as given"
    rows: dict[str, targets.Representation] = {
        settings.method(): encoder,
        before: finished(make_encoder(settings, data), data),
        PIXELS: targets.raw_pixels(data.image_shape),
    }
    scores: scoreboard.Scores = {}
    for name, representation in rows.items():
        print(f"scoring {name} by target tasks", flush=True)
        scores[name] = [{}]
        for target in settings.targets:
            asked = target_settings(settings, target)
            for _, figures, _ in evaluate.score(
                asked, representation, settings.seed, data, scenes
            ):
                scores[name][0][target] = figures
    return scores


def plan(
    settings: Settings, data: dataloader.Data, model: MultiTask, folder: Path, state: str
) -> str:
    """What a run would do."""
    own = task_settings(settings.task_names())
    bytes_needed = memory_size(settings, data)
    return tables.table([{
        "run folder": f"{folder} ({state})",
        "data": f"{data.name}: {len(data.train)} training images without labels, "
        f"{len(data.validation)} validation, {len(data.test)} test images "
        f"{'x'.join(map(str, data.image_shape))}",
        "encoder": f"{model.encoder.name}, {nets.count_parameters(model.network):,} parameters",
        "tasks": ", ".join(
            f"{task.name} ({task.kind}, {task.view_count} x "
            f"{'x'.join(map(str, task.view_shape[:2]))})" for task in model.tasks
        ),
        "task settings": ", ".join(f"{key}={value}" for key, value in own.items()) or "none",
        "balance": settings.balance,
        "regularizer": f"{settings.regularizer}, weight {settings.regularizer_weight}"
        if model.regularizer is not None else "none",
        "ensemble": settings.ensemble,
        "temporal memory": f"{bytes_needed:,} bytes" if bytes_needed else "none",
        "epochs": settings.epochs,
        "batch": settings.batch_size,
        "target tasks": ", ".join(settings.targets) or "none",
    }])


def final_table(folder: RunFolder) -> str:
    """The finished run in tables."""
    summary = folder.summary()
    scores = {name: [figures] for name, figures in summary["targets"].items()}
    metrics = {
        f"{task}, {metric}": value
        for task, figures in summary["held_out"].items()
        for metric, value in figures.items() if metric != "loss"
    }
    return "\n".join([
        "",
        tables.table([{
            "method": summary["method"],
            "data": summary["dataset"],
            **metrics,
            "encoder's parameters": f"{summary['parameters']:,}",
            "images/s while training": summary["images_per_second"],
            "seconds of training": summary["seconds"],
            "in the run folder": str(folder.path),
        }]),
        scoreboard.table(scoreboard.summarized(scores)),
        "",
    ])


# Several seeds


def repeat(settings: Settings) -> int:
    """Run this script once a seed and show mean and deviation; exit status 1 where one failed."""
    folder = settings.folder()
    arguments = [
        flags.FLAGS[name].serialize()
        for name in [*(field.name for field in dataclasses.fields(Settings)), *TASK_FIELDS]
        if name not in ("seed", "seeds", "train_dir", "overwrite", "dry_run")
        and flags.FLAGS[name].present
    ]
    runs = []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        own = dataclasses.replace(
            settings, seed=seed, seeds=1, train_dir=str(folder / f"seed{seed}")
        )
        command = (sys.executable, str(SCRIPT), *arguments, f"--seed={seed}",
                   f"--train_dir={own.train_dir}")
        runs.append(Run(
            settings.method(), seed, own.folder(), command, determining_settings(own)
        ))
    outcomes = survey(runs, settings.overwrite)
    with RunFolder(folder) as own_folder:
        own_folder.state(SEEDS_SETTINGS)
        if settings.dry_run:
            print(listing(outcomes))
            return 0
        own_folder.open(SEEDS_SETTINGS)
        if settings.overwrite:
            clear(runs)
        execute(outcomes, described, lambda: None)
        summary = scoreboard.summarized(scores_of_seeds(outcomes))
        if summary:
            write_json(own_folder.output("targets.json"), {"targets": summary})
            scoreboard.draw_bars(summary, own_folder.output("targets.png"))
            print(scoreboard.table(summary))
    failed = [outcome for outcome in outcomes if outcome.status == FAILED]
    for outcome in failed:
        print(f"failed: {outcome.run.name}: {outcome.error} (see {outcome.run.log})")
    return int(bool(failed))


def described(summary: Mapping[str, Any]) -> str:
    """A finished run in a few words."""
    figures = summary["targets"].get(summary["method"], {}).get("classification", {})
    probe = figures.get("linear_probe")
    return "pre-trained" if probe is None else f"linear probe {100 * probe:.2f} %"


def scores_of_seeds(outcomes: Sequence[Outcome]) -> scoreboard.Scores:
    """The target tasks' figures of the finished runs."""
    scores: scoreboard.Scores = {}
    for outcome in outcomes:
        for name, figures in outcome.summary["targets"].items() if outcome.summary else ():
            scores.setdefault(name, []).append(figures)
    return scores


if __name__ == "__main__":
    define()
    run(main)
