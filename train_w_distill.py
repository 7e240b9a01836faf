"""Train a small network, the student, with the help of a large one, the teacher.

    python train_w_distill.py --Distillation SSKD_SVD

trains a teacher on handwritten digits, distils it into a student, and leaves in
the run folder what one may want to know or use: settings, logs, curves, weights
and a model for serving. The same command again goes on where it was cut off.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiment.command import quiet  # noqa: F401 (before TensorFlow)

# isort: split
import keras
import numpy as np
import tensorflow as tf
from absl import flags

import dataloader
import distillers
import nets
from distillers.distiller import Distiller
from distillers.registration import METHODS
from experiment.command.main import run
from experiment.command.options import compared, documented, from_flags
from experiment.report import curves, tables, vector_maps
from experiment.run import devices, training
from experiment.run.export import FILES as EXPORT_FILES
from experiment.run.export import export_saved_model
from experiment.run.folder import RunFolder
from experiment.run.variables import numbered
from op_util.schedules import schedule
from op_util.singular_vectors import decompose
from registry import UserError, plain
from settings.common import EVALUATION_BATCH, last_learning_rate
from settings.distillation import Settings, create_method, define, determining_settings

PICTURED_IMAGES = 6
BARELY_TRAINED = 1.5  # times chance


def main(_: list[str]) -> None:
    """What the command line asks for, or the part of it that is not yet done."""
    if plain(flags.FLAGS.Distillation) == "help":
        print(methods_table())
        return
    settings = from_flags(Settings).spelled()
    method = create_method(settings)
    if settings.list_layers:
        print(layers_listed(settings, settings.load_data()))
        return
    distillers.stage_ends(method.stages, settings.epochs)  # there are epochs for all stages
    folder = RunFolder(settings.folder())
    determining = determining_settings(settings, method)
    state = folder.state(determining, settings.overwrite)
    if state == "finished" and not settings.dry_run:
        print(f"{folder.path} is finished; --overwrite would start anew")
        print(final_table(folder))
        return
    devices.prepare(settings.seed, settings.deterministic, settings.mixed_precision)
    strategy = devices.strategy(settings.strategy)
    data = settings.load_data(settings.labelled_per_class)
    training_batches(settings, data)  # mistakes are told before anything is written
    with strategy.scope():
        teacher = load_teacher(settings, data) if method.needs_teacher else None
        distiller = make_distiller(settings, data, method, teacher)
    if settings.dry_run:
        print(plan(settings, data, distiller, folder.path, state))
        return
    with folder:
        if folder.open(determining, settings.overwrite) != "finished":
            untrained = teacher is not None and settings.teacher_file() is None
            if untrained and not method.trains_teacher:
                train_teacher(settings, data, strategy, teacher.model, folder)
                # Made anew, as a method may take something from the teacher when it is built.
                method = create_method(settings)
                with strategy.scope():
                    distiller = make_distiller(settings, data, method, teacher)
            how = f"with {settings.Distillation}" if method.needs_teacher else "alone"
            print(f"training {distiller.student.name} {how} in {folder.path}")
            for note in notes(settings, data, distiller):
                print(textwrap.fill(note, tables.WIDTH - 1, subsequent_indent="  "))
            progress = fit(settings, data, distiller, folder)
            folder.finish(summarize(settings, data, distiller, teacher, folder, progress))
        print(final_table(folder))


# Data and networks


def build(name: str, options: tuple[str, ...], data: dataloader.Data) -> keras.Model:
    """The network `name` for the data's images and classes, with ``name=value`` options."""
    return nets.build(name, data.image_shape, data.classes, **nets.parse_options(options))


def load_teacher(settings: Settings, data: dataloader.Data) -> nets.Stored:
    """The teacher from a file or run folder, or one that is still to be trained."""
    file = settings.teacher_file()
    if file is None:
        keras.utils.set_random_seed(settings.seed)
        model = build(settings.teacher_name(), settings.teacher_options, data)
        return nets.Stored(model, standardize=None, has_logits=True)
    if nets.is_pretrained(file):
        return nets.load_pretrained(file, data.image_shape, data.classes)
    return nets.load(
        file,
        net=None if settings.teacher_model == file else settings.teacher_name(),
        input_shape=data.image_shape,
        classes=data.classes,
        options=nets.parse_options(settings.teacher_options),
    )


def make_student(settings: Settings, data: dataloader.Data) -> keras.Model:
    """The student with its initial weights, which depend on the seed alone, or on its file."""
    keras.utils.set_random_seed(settings.seed)
    name = settings.student_name()
    if settings.student_model is None or nets.is_application(name):
        student = build(name, settings.student_options, data)
    else:
        student = nets.load(name).model
        check_student(student, data)
    if settings.student_init is not None:
        nets.fill_from_encoder(student, settings.student_init)
    return student


def make_distiller(
    settings: Settings,
    data: dataloader.Data,
    method: distillers.Method,
    teacher: nets.Stored | None,
) -> Distiller:
    """The student and what trains it."""
    student = make_student(settings, data)
    arguments = {}
    if teacher is not None:
        check_teacher(teacher, method, data)
        own = teacher.standardize or standardize(settings.teacher_preprocessing, data)
        arguments = {
            "teacher": teacher.model,
            "teacher_outputs": outputs_of(
                "teacher", teacher.model, settings.teacher_taps, method
            ),
            "teacher_preprocessing": sized(own, teacher.model),
        }
    return Distiller(
        student,
        method,
        student_outputs=outputs_of("student", student, settings.student_taps, method),
        student_preprocessing=sized(standardize(settings.student_preprocessing, data), student),
        main_loss=settings.main_loss,
        weight_decay=settings.weight_decay,
        samples=len(data.train),
        **arguments,
    )


def standardize(name: str, data: dataloader.Data) -> nets.Standardize:
    """The preprocessing called `name` for the data's images."""
    return nets.named_preprocessing(name, data.channel_mean, data.channel_deviation)


def sized(preprocessing: nets.Standardize, model: keras.Model) -> nets.Standardize:
    """`preprocessing` that brings images to the size that the model takes."""
    size = model.input_shape[1:3]
    return dataclasses.replace(preprocessing, size=size if all(size) else None)


def outputs_of(
    whose: str, model: keras.Model, taps: tuple[str, ...] | None, method: distillers.Method
) -> nets.Outputs | None:
    """The layers to compare where taps are named; None: the distiller knows where to look.

    Raises:
        UserError: they are to be named.
    """
    if taps is not None:
        return nets.outputs_of(model, taps)
    known = nets.declared_outputs(model.name) or getattr(method, f"{whose}_taps")
    if "maps" in method.reads and not known:
        raise UserError(
            f"{model.name!r} is none of the networks here, so the layers to compare must be named: "
            f"give --{whose}_taps a,b,c, from shallow to deep (--list_layers lists them)"
        )
    return None


def notes(settings: Settings, data: dataloader.Data, distiller: Distiller) -> list[str]:
    """What a person should know of how method, networks and data were fitted to each other."""
    found = [f"{settings.Distillation}: {note}" for note in distiller.method.notes]
    if not classifies(settings, distiller.method):
        found.append(
            "without labels the student's classification is not trained; evaluate.py scores its "
            "features"
        )
    if distiller.teacher is None:
        return found
    classes = distiller.teacher.outputs[0].shape[-1]
    if classes != data.classes:
        found.append(
            f"the teacher tells {classes} classes apart, {data.name} has {data.classes}: only its "
            "features are compared"
        )
    sizes = [nets.count_parameters(each) for each in (distiller.deployed, distiller.teacher)]
    if sizes[0] > sizes[1]:
        found.append(
            f"what is deployed has {sizes[0]:,} parameters, more than the teacher's {sizes[1]:,}"
        )
    return found


def classifies(settings: Settings, method: distillers.Method) -> bool:
    """Whether anything trains the student's classification: without labels, only a method that
    compares logits does."""
    return settings.main_loss != "none" or "logits" in method.reads


def check_images(whose: str, model: keras.Model, data: dataloader.Data) -> None:
    """Raise UserError unless a network takes one input of images of the data's channels."""
    images = model.inputs
    if len(images) != 1 or len(images[0].shape) != 4:
        shapes = ", ".join(str(tuple(image.shape)) for image in images)
        raise UserError(
            f"the {whose} takes {shapes}; expected one input of images, (None, height, width, "
            "channels)"
        )
    channels = images[0].shape[-1]
    if channels != data.image_shape[-1]:
        raise UserError(
            f"the {whose} takes images of {channels} channels, {data.name} has "
            f"{data.image_shape[-1]}; give a {whose} for such images"
        )


def check_student(student: keras.Model, data: dataloader.Data) -> None:
    """Raise UserError unless a person's own student fits images and classes."""
    check_images("student", student, data)
    shape = tuple(student.outputs[0].shape)
    if len(shape) != 2 or shape[1] != data.classes:
        raise UserError(
            f"the student's (first) output is of shape {shape}; expected (None, {data.classes}), a "
            f"logit for each class of {data.name}"
        )


def check_teacher(teacher: nets.Stored, method: distillers.Method, data: dataloader.Data) -> None:
    """Raise UserError unless the teacher fits images and classes."""
    check_images("teacher", teacher.model, data)
    classes = teacher.model.outputs[0].shape[-1]
    if "logits" in method.reads and not (teacher.has_logits and classes == data.classes):
        held = f"tells {classes} classes apart" if teacher.has_logits else "has no logits"
        raise UserError(
            f"the method compares logits, but the teacher {held} and {data.name} has "
            f"{data.classes} classes; give a teacher of these classes or another method"
        )


# Training


def training_batches(
    settings: Settings, data: dataloader.Data, epoch: int = 0, step: int = 0
) -> tf.data.Dataset:
    """The batches from this one on. Raises UserError where sizes do not fit the data."""
    flip = data.default_flip if settings.flip is None else settings.flip
    return dataloader.training_batches(
        data.train, settings.batch_size, seed=settings.seed, epochs=settings.epochs,
        augmentation=dataloader.Augmentation(flip, settings.rotation, settings.crop_padding),
        start_epoch=epoch, start_step=step,
    )


def fit(
    settings: Settings, data: dataloader.Data, distiller: Distiller, folder: RunFolder
) -> dict[str, Any]:
    """Train through the method's stages, from wherever the run folder says the run is."""
    steps = dataloader.steps_per_epoch(data.train, settings.batch_size)
    validation = None
    if len(data.validation):
        validation = dataloader.evaluation_batches(data.validation, EVALUATION_BATCH)
    progress: dict[str, Any] = {}
    first, began = 0, 0
    stages = distiller.method.stages
    for stage, last in zip(stages, distillers.stage_ends(stages, settings.epochs), strict=True):
        distiller.start_stage(stage, first)
        if first == 0 or stage.new_optimizer:
            rate = schedule(settings.schedule, settings.learning_rate, last - first, steps)
            began = first
            optimizer = settings.make_optimizer(rate)
            distiller.compile(optimizer, jit_compile=settings.jit_compile)
        with distiller.distribute_strategy.scope():
            distiller.optimizer.build(distiller.variables_ever_trained())
        settles = stage.main_loss or distiller.deployed is not distiller.student
        judged = validation is not None and settles and classifies(settings, distiller.method)
        progress = training.fit(
            distiller,
            folder=folder,
            groups={
                "model": numbered(distiller.saved_variables()),
                "optimizer": numbered(distiller.optimizer.variables),
            },
            batches=functools.partial(training_batches, settings, data),
            steps_per_epoch=steps,
            first_epoch=first,
            last_epoch=last,
            images_per_epoch=len(data.train),
            stage=stage.name,
            validation=validation,
            monitor="val_accuracy" if judged else None,
            learning_rate=functools.partial(last_learning_rate, rate, began, steps),
            best_variables=numbered(distiller.deployed.variables),
            restore_optimizer=not stage.new_optimizer,
            checkpoint_minutes=settings.checkpoint_minutes,
        )
        first = last
    return progress


def train_teacher(
    settings: Settings,
    data: dataloader.Data,
    strategy: tf.distribute.Strategy,
    teacher: keras.Model,
    folder: RunFolder,
) -> None:
    """Train the teacher as a run of its own in ``teacher/`` of the run folder, and load it."""
    alone = dataclasses.replace(
        settings,
        Distillation="None",
        main_loss="cross_entropy",
        student_net=settings.teacher_name(),
        student_model=None,
        student_init=None,
        student_options=settings.teacher_options,
        student_taps=settings.teacher_taps,
        student_preprocessing=settings.teacher_preprocessing,
        epochs=settings.teacher_epochs or settings.epochs,
        train_dir=str(folder.path / "teacher"),
    )
    with RunFolder(alone.folder()) as own:
        if own.open(compared(alone), settings.overwrite) != "finished":
            print(f"no --teacher given: training {teacher.name} alone in {own.path}")
            with strategy.scope():
                distiller = make_distiller(alone, data, distillers.create("None"), None)
            progress = fit(alone, data, distiller, own)
            own.finish(summarize(alone, data, distiller, None, own, progress))
        trained = keras.models.load_model(own.path / "student.keras", compile=False)
    for variable, value in zip(teacher.variables, trained.variables, strict=True):
        variable.assign(value)
    top1 = own.summary()["student_top1"]
    print(f"teacher: {own.path}, top-1 {top1:.4f}")
    if top1 < BARELY_TRAINED / data.classes:
        print(f"chance is {1 / data.classes:.4f}: there is little to learn from this teacher")


# Report


def summarize(
    settings: Settings,
    data: dataloader.Data,
    distiller: Distiller,
    teacher: nets.Stored | None,
    folder: RunFolder,
    progress: dict[str, Any],
) -> dict[str, Any]:
    """Score the last and the best epoch's student on the test images, write weights, export and
    pictures, and return the summary. What is kept is the best epoch's."""
    test = dataloader.evaluation_batches(data.test, EVALUATION_BATCH)
    student = distiller.deployed
    preprocessing = sized(standardize(settings.student_preprocessing, data), student)
    last = distiller.evaluate(test, return_dict=True, verbose=0)
    best = training.load_best(folder, numbered(student.variables))
    kept = distiller.evaluate(test, return_dict=True, verbose=0) if best else last
    student.save(folder.output("student.keras"))
    export_saved_model(
        student,
        folder.directory("export/1", *EXPORT_FILES),
        image_shape=data.image_shape,
        mean=preprocessing.mean,
        deviation=preprocessing.deviation,
        size=preprocessing.size,
    )
    history = progress["history"]
    curves.draw(history, folder.output("curves.png"))
    draw_vectors(data, distiller, folder)
    return {
        "method": settings.Distillation,
        "dataset": data.name,
        "seed": settings.seed,
        "epochs": settings.epochs,
        **compare_with_teacher(data, distiller, teacher),
        "classification_trained": classifies(settings, distiller.method),
        "student_top1": kept["accuracy"],
        "student_top1_last": last["accuracy"],
        "student_top1_best": kept["accuracy"] if best else None,
        "best_epoch": best and best["epoch"],
        "student_top5": kept["top5"],
        "student_top5_last": last["top5"],
        "parameters": nets.count_parameters(student),
        "flops": nets.count_flops(student),
        "teacher_parameters": teacher and nets.count_parameters(teacher.model),
        "teacher_flops": teacher and nets.count_flops(teacher.model),
        "images_per_second": statistics.median(row["images_per_second"] for row in history),
        "seconds": sum(row["seconds"] for row in history),
        "preprocessing": dataclasses.asdict(preprocessing),
        "settings": {
            **dataclasses.asdict(settings),
            "hyper_parameters": distiller.method.settings(),
        },
    }


def compare_with_teacher(
    data: dataloader.Data, distiller: Distiller, teacher: nets.Stored | None
) -> dict[str, Any]:
    """The teacher's top-1 on the test images, and for which share of them both say the same."""
    if teacher is None or not teacher.has_logits or teacher.model.output_shape[-1] != data.classes:
        return {"teacher_top1": None, "agreement": None}
    right, same = [], []
    for batch in dataloader.evaluation_batches(data.test, EVALUATION_BATCH):
        theirs = np.argmax(distiller.teacher_features(batch["image"])["logits"], axis=1)
        ours = np.argmax(distiller(batch["image"]), axis=1)
        right.append(theirs == batch["label"].numpy())
        same.append(theirs == ours)
    return {
        "teacher_top1": float(np.mean(np.concatenate(right))),
        "agreement": float(np.mean(np.concatenate(same))),
    }


def draw_vectors(data: dataloader.Data, distiller: Distiller, folder: RunFolder) -> None:
    """Picture where in a few test images each tap's first singular vector is at work: the left
    vectors of teacher and student as maps."""
    if distiller.teacher is None:
        return
    # From all over the test images, which may be in the order of their classes.
    chosen = np.linspace(0, len(data.test) - 1, min(PICTURED_IMAGES, len(data.test)))
    images = data.test.images(chosen.astype(int))
    taps = [
        [tap for tap in features(images)["maps"] if len(tap.shape) == 4]
        for features in (distiller.teacher_features, distiller.student_features)
    ]
    if len(taps[0]) == len(taps[1]) > 0:
        maps = [list(zip(*first_left_vectors(each), strict=True)) for each in taps]
        vector_maps.draw(images.numpy(), *maps, folder.output("singular_vectors.png"))


def first_left_vectors(taps: list[tf.Tensor]) -> list[np.ndarray]:
    """The first left singular vector ``[B, H, W]`` of each tap ``[B, H, W, D]``."""
    maps = [tf.cast(tap, tf.float32) for tap in taps]
    matrices = [tf.reshape(tap, [tap.shape[0], -1, tap.shape[3]]) for tap in maps]
    found = decompose(matrices, [1] * len(maps), orientation="canonical", solver="svd")
    return [
        tf.reshape(one.left[:, :, 0], tap.shape[:3]).numpy()
        for one, tap in zip(found, maps, strict=True)
    ]


def plan(
    settings: Settings, data: dataloader.Data, distiller: Distiller, folder: Path, state: str
) -> str:
    """What a run would do."""
    teacher = "none"
    if distiller.teacher is not None:
        origin = f"to be trained in {folder / 'teacher'}"
        if distiller.method.trains_teacher:
            origin = "untrained, learns with the student"
        origin = settings.teacher_file() or origin
        teacher = f"{distiller.teacher.name}, {origin}"
    hyper_parameters = distiller.method.settings()
    return tables.table([{
        "run folder": f"{folder} ({state})",
        "data": f"{data.name}: {len(data.train)} training, {len(data.validation)} validation, "
        f"{len(data.test)} test images {'x'.join(map(str, data.image_shape))}, "
        f"{data.classes} classes",
        "teacher": teacher,
        "student": f"{distiller.student.name}, "
        f"{nets.count_parameters(distiller.student):,} parameters",
        "method": settings.Distillation,
        "hyper-parameters": ", ".join(f"{k}={v}" for k, v in hyper_parameters.items()) or "none",
        "stages": stages_in_words(distiller.method, settings.epochs),
        **({"fitted": "; ".join(distiller.method.notes)} if distiller.method.notes else {}),
        "epochs": settings.epochs,
        "batch": settings.batch_size,
    }])


def stages_in_words(method: distillers.Method, epochs: int) -> str:
    """The names of a method's stages and after how many epochs each is over."""
    ends = distillers.stage_ends(method.stages, epochs)
    return ", ".join(
        f"{stage.name} to epoch {end}" for stage, end in zip(method.stages, ends, strict=True)
    )


def methods_table() -> str:
    """All methods, with what a person has to know of each."""
    blocks = []
    for name in sorted(METHODS.names(), key=str.lower):
        method = METHODS.get(name)
        stages = ", ".join(stage.name for stage in method().stages)
        compares = f"    compares {reads_in_words(method)}; stages: {stages}"
        lines = [f"{name}: {method.paper}", compares]
        texts = documented(method)
        for key, field in method.hyper_parameters().items():
            about = f"--{key} (default {field.default}): {texts.get(key, '')}"
            lines += textwrap.wrap(
                about, tables.WIDTH, initial_indent="    ", subsequent_indent="        "
            )
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def reads_in_words(method: type[distillers.Method]) -> str:
    """What of the networks a method compares."""
    reads = (method.reads,) if isinstance(method.reads, str) else method.reads
    return " and ".join(reads) or "nothing"


def layers_listed(settings: Settings, data: dataloader.Data) -> str:
    """The layers of teacher and student by the names that ``--teacher_taps`` and
    ``--student_taps`` take."""
    parts = []
    models = {
        "teacher": load_teacher(settings, data).model, "student": make_student(settings, data)
    }
    for whose, model in models.items():
        rows = [
            {
                "layer": layer.name,
                "gives": "x".join(map(str, layer.shape)),
                "parameters": f"{layer.parameters:,}",
            }
            for layer in nets.list_layers(model)
        ]
        parts.append(f"{whose}: {model.name}\n\n{tables.table(rows)}\n")
    return "\n".join(parts)


def with_teachers(summary: Mapping[str, Any], what: str) -> str:
    """A size of the student, and the teacher's where there is one."""
    theirs = summary.get(f"teacher_{what}")  # older runs do not say
    return f"{summary[what]:,}" + (f" (teacher: {theirs:,})" if theirs else "")


def final_table(folder: RunFolder) -> str:
    """The finished run in a table."""
    summary = folder.summary()
    scores = {
        "teacher top-1": summary["teacher_top1"],
        "student top-1, last epoch": summary["student_top1_last"],
        "student top-1, best epoch": summary["student_top1_best"],
        "student top-5": summary["student_top5"],
        "agreement with the teacher": summary["agreement"],
    }
    if not summary.get("classification_trained", True):  # older runs do not say
        scores = {"student": "not trained to classify: evaluate.py scores its features"}
    return "\n".join([
        "",
        tables.table([{
            "method": summary["method"],
            "data": summary["dataset"],
            **scores,
            "parameters": with_teachers(summary, "parameters"),
            "FLOPs per image": with_teachers(summary, "flops"),
            "images/s while training": summary["images_per_second"],
            "seconds of training": summary["seconds"],
            "in the run folder": str(folder.path),
        }]),
        "",
    ])


if __name__ == "__main__":
    define()
    run(main)
