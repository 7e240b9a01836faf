"""Train a small network, the student, with the help of a large one, the teacher.

    python train_w_distill.py --Distillation SSKD_SVD

trains a teacher on handwritten digits, distils it into a student, and writes
settings, logs, curves, weights and a model for serving to the run folder. If
interrupted, rerun the same command to resume. From Python:

    from train_w_distill import Settings, train
    summary = train(Settings(Distillation="AT", epochs=20))
"""

from __future__ import annotations

from settings.distillation import (
    QUANTIZED,
    TEACHER,
    Settings,
    determining_settings,
    read_settings,
)

if __name__ == "__main__":
    # Before TensorFlow is loaded, which takes seconds: --help and mistakes are answered at once.
    GIVEN = read_settings(__doc__ or "")

# isort: split
from experiment.command import quiet  # noqa: F401 (loads TensorFlow)

# isort: split
import dataclasses
import functools
import statistics
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

import dataloader
import nets
from experiment.command.main import run
from experiment.command.options import values
from experiment.report import curves, tables, vector_maps
from experiment.report.distillation import RESULTS, final_table, layers_table, plan_table
from experiment.run import devices, training
from experiment.run.batch_statistics import RefreshedStatistics
from experiment.run.export import FILES as EXPORT_FILES
from experiment.run.export import check_export, export_saved_model, named_classification
from experiment.run.folder import DATA, RunFolder
from experiment.run.variables import numbered
from op_util.accuracy import agreements, top_k_hits
from settings import known
from settings.checks import check_setup
from settings.common import (
    describe_workers,
    gather_workers,
    last_learning_rate,
    shared_settings,
)
from settings.exporting import export_run, open_run, try_formats
from settings.formats import create_formats
from settings.networks import (
    class_difference,
    create_method,
    describe_preprocessing,
    load_teacher,
    make_student,
)
from settings.other_data import describe_other_split
from settings.quantizing import quantized_setup
from settings.run_setup import (
    EVALUATION_BATCH,
    Setup,
    augmentation_of,
    compile_for,
    describe_augmentation,
    describe_recipe,
    evaluation,
    load_data,
    make_setup,
    measure,
    prepare,
    score_teacher,
    taught_batches,
)
from settings.teacher_cache import (
    batches_to_measure,
    describe_cache,
    fill_cache,
)

PICTURED_IMAGES = 6
CHECKED_IMAGES = 256  # of the test images, by which an export is compared with the student
BARELY_TRAINED = 1.5  # times chance
MUCH_WORSE = 0.02  # of top-1
MUCH_BETTER = 0.1  # likewise
MANY_WITHOUT_LABELS = 0.01  # of the batches


def main(settings: Settings) -> None:
    """Train, or only show what the settings ask for."""
    train(settings)


@devices.callers_settings()
def train(settings: Settings) -> dict[str, Any]:
    """Train the run that `settings` describe, or what is left of it, and return its summary.

    The command line gives the same run: the same folder and the same files. With ``dry_run`` the
    plan is printed instead, and with ``list_layers`` the networks' layers: nothing is written, and
    the summary is empty.

    Raises:
        UserError: the settings are wrong, do not fit each other or the data, or the run folder
            holds another run. Nothing is written then.
    """
    if settings.list_layers:
        print(list_layers(settings))
        return {}
    given = settings.named()
    if settings.dry_run:
        print(plan(given.spelled()))
        return {}
    with gather_workers(given) as team:
        # TensorFlow connects to workers before it computes anything, as choosing a recipe does.
        devices.prepare(given.seed, given.deterministic)
        strategy = devices.strategy(given.strategy, team)
        settings = given.spelled()
        team.require_same(shared_settings(settings))
        determining = determining_settings(settings, create_method(settings))
        folder = RunFolder(settings.folder(), team)
        networks = nets.fingerprints(settings.network_files())
        data = None
        state = folder.state(determining, settings.overwrite, networks)
        if state == "finished":
            print(f"{folder.path} is finished; --overwrite would start it anew")
        else:
            setup = dataclasses.replace(prepare(settings, team, strategy=strategy), given=given)
            data = setup.data
            with dataloader.naming_damage(*data.splits):
                check_setup(setup)
                if state == "new":
                    team.ask_chief(lambda: try_formats(setup))
            if not setup.teacher_is_trained:
                settings_of_teacher(setup, folder)  # refuses now what would stop it later
            with folder, dataloader.naming_damage(*data.splits):
                if folder.open(determining, settings.overwrite, networks) != "finished":
                    complete(setup, folder)
        summary = folder.summary(RESULTS)
        print(final_table(summary, folder.path))
        if settings.export:
            team.ask_chief(lambda: write_formats(settings, folder.path, data))
    return summary


def write_formats(settings: Settings, run: Path, data: dataloader.Data | None = None) -> None:
    """Write the student of a finished run in the formats that the settings name, and the card.

    Args:
        settings: of the run.
        run: its folder, which this process alone writes to.
        data: of the run, where they are loaded already.
    """
    of_host = {name: getattr(settings, name) for name in ("data_dir", "in_memory")}
    opened = open_run(run, create_formats(settings.export), data=data, **of_host)
    with RunFolder(run) as folder:
        folder.open(folder.settings())
        print(export_run(opened, folder, settings.min_agreement))


# Training


def complete(setup: Setup, folder: RunFolder) -> None:
    """Train what is left of a run, in its open folder, and write its results.

    Raises:
        UserError: the data are not those that the run began with.
    """
    folder.keep_facts(DATA, setup.data.facts())
    if not setup.teacher_is_trained:
        setup = train_teacher(setup, folder)
    how = f"with {setup.settings.Distillation}" if setup.teacher else "alone"
    print(f"training {setup.distiller.student.name} {how} in {folder.path}")
    for note in [*score_teacher(setup), *notes(setup)]:
        print(textwrap.fill(note, tables.WIDTH - 1, subsequent_indent="  "))
    setup = fill_cache(setup)
    progress = fit(setup, folder)
    scores = score(setup, folder)
    if setup.team.is_chief:
        summary = summarize(setup, folder, progress, scores)
        if setup.settings.quantize != "none":
            summary["quantized_top1"] = train_quantized(setup, folder)
            if summary["quantized_top1"] < summary["student_top1"] - MUCH_WORSE:
                print(
                    "the quantised student is much worse than the student: try a lower "
                    "--quantize_learning_rate or more --quantize_epochs"
                )
        taught = summary["teacher_top1"]
        if taught is not None and summary["student_top1"] > taught + MUCH_BETTER:
            print(
                f"the student ({summary['student_top1']:.4f}) is much better than its teacher "
                f"({taught:.4f}), which can teach it little: train the teacher longer, or give "
                "another"
            )
        folder.finish(summary)


def train_quantized(setup: Setup, folder: RunFolder) -> float:
    """Train a copy of the student by quantisation-aware training in a run of its own, in
    ``quantized/`` of the run folder; its top-1."""
    own = folder.inside(QUANTIZED)
    copy = quantized_setup(setup, own.path)
    networks = nets.fingerprints(copy.settings.network_files())
    with own:
        determining = determining_settings(copy.settings, copy.distiller.method)
        if own.open(determining, copy.settings.overwrite, networks) != "finished":
            complete(copy, own)
    return own.summary({"student_top1": float})["student_top1"]


def train_teacher(setup: Setup, folder: RunFolder) -> Setup:
    """Train the teacher in a run of its own, in ``teacher/`` of the run folder, by the recipe that
    fits it; the same setup with the trained teacher."""
    own = folder.inside(TEACHER)
    alone = settings_of_teacher(setup, folder)
    networks = nets.fingerprints(alone.network_files())
    with own:
        determining = determining_settings(alone, create_method(alone))
        if own.open(determining, alone.overwrite, networks) != "finished":
            how = "fine-tuned" if alone.fine_tunes() else "trained"
            print(f"no --teacher given: the teacher is {how} first")
            complete(make_setup(alone, setup.data, setup.strategy, None, setup.team), own)
    top1 = own.summary({"student_top1": float})["student_top1"]
    print(f"teacher: {own.path}, top-1 {top1:.4f}")
    if top1 < BARELY_TRAINED / setup.data.classes:
        print(f"chance is {1 / setup.data.classes:.4f}: there is little to learn from this teacher")
    for name in nets.RUN_FILES:
        setup.team.share_file(own.path / name)
    return make_setup(setup.settings, setup.data, setup.strategy, str(own.path), setup.team)


def settings_of_teacher(setup: Setup, folder: RunFolder) -> Settings:
    """The settings, spelled out, of the run that trains the teacher of a run in `folder`. Raises
    UserError where they do not go together."""
    return (setup.given or setup.settings).of_teacher(folder.path / TEACHER).spelled()


def fit(setup: Setup, folder: RunFolder) -> dict[str, Any]:
    """Train through the method's stages, from wherever the run folder says the run is."""
    settings, distiller = setup.settings, setup.distiller
    progress: dict[str, Any] = {}
    refreshed = RefreshedStatistics(distiller.deployed, setup.statistics_batches)
    validation, validation_steps = evaluation(setup, setup.data.validation)
    for part in distiller.parts(settings.epochs):
        distiller.enter(part)
        if part.begins_anew:
            rate = compile_for(setup, part.schedule_last - part.schedule_first)
        with distiller.distribute_strategy.scope():
            distiller.optimizer.build(distiller.variables_ever_trained())
        progress = training.fit(
            distiller,
            folder=folder,
            groups={
                "model": numbered(distiller.saved_variables()),
                "optimizer": numbered(distiller.optimizer.variables),
            },
            batches=functools.partial(taught_batches, setup),
            steps_per_epoch=setup.steps,
            first_epoch=part.first,
            last_epoch=part.last,
            images_per_epoch=len(setup.data.train),
            stage=part.stage.name,
            validation=validation,
            validation_steps=validation_steps,
            monitor="val_accuracy" if setup.judges(part) else None,
            learning_rate=functools.partial(
                last_learning_rate, rate, part.schedule_first, setup.steps
            ),
            best_variables=numbered(distiller.deployed.variables),
            restore_optimizer=not part.begins_anew,
            callbacks=[refreshed] if part.stage.changes_features else [],
            checkpoint_minutes=settings.checkpoint_minutes,
        )
    refreshed.refresh()
    return progress


# Results


def summarize(
    setup: Setup, folder: RunFolder, progress: dict[str, Any], scores: dict[str, Any]
) -> dict[str, Any]:
    """Write network, export and pictures, and return the summary.

    Args:
        scores: of `score`, which has set the weights to those of the best epoch.
    """
    settings, data, distiller = setup.settings, setup.data, setup.distiller
    preprocessing = write_student(setup, folder)
    history = progress["history"]
    curves.draw(history, folder.output("curves.png"))
    draw_pictures(setup, folder)
    teacher = setup.teacher and setup.teacher.model
    return {
        "method": settings.Distillation,
        "dataset": data.name,
        "seed": settings.seed,
        "epochs": settings.epochs,
        **compare_with_teacher(setup),
        "classification_trained": setup.classifies,
        **scores,
        "parameters": nets.count_parameters(distiller.deployed),
        "flops": nets.known_flops(distiller.deployed, data.image_shape[:2]),
        "teacher_parameters": teacher and nets.count_parameters(teacher),
        "teacher_flops": teacher and nets.known_flops(teacher, data.image_shape[:2]),
        "images_per_second": statistics.median(row["images_per_second"] for row in history),
        "seconds": sum(row["seconds"] for row in history),
        "preprocessing": dataclasses.asdict(preprocessing),
        "class_names": list(data.class_names),
        "recipe": describe_recipe(setup),
        "augmentation": dataclasses.asdict(augmentation_of(settings, data)),
        "settings": {**values(settings), "hyper_parameters": distiller.method.settings()},
    }


def score(setup: Setup, folder: RunFolder) -> dict[str, Any]:
    """The student's metrics on the test images, after the last epoch and of the best epoch, whose
    weights are kept. All workers take part."""
    test, steps = evaluation(setup, setup.data.test)
    evaluate = functools.partial(
        setup.distiller.evaluate, test, steps=steps, return_dict=True, verbose=0
    )
    last = evaluate()
    best = training.load_best(folder, numbered(setup.distiller.deployed.variables))
    kept = evaluate() if best else last
    return {
        "student_top1": kept["accuracy"],
        "student_top1_last": last["accuracy"],
        "student_top1_best": kept["accuracy"] if best else None,
        "best_epoch": best and best["epoch"],
        "student_top5": kept["top5"],
        "student_top5_last": last["top5"],
    }


def write_student(setup: Setup, folder: RunFolder) -> nets.Standardize:
    """Write the student and its export, compare the export with the scored student, and return the
    preprocessing that belongs to it."""
    student, data = setup.distiller.deployed, setup.data
    preprocessing = setup.student_preprocessing()
    student.save(folder.output("student.keras"))
    nets.write_class_names(folder.output("student.keras"), data.class_names)
    outputs = named_classification(data.class_names)
    directory = folder.directory("export/1", *EXPORT_FILES)
    export_saved_model(
        student,
        directory,
        image_shape=data.image_shape,
        **dataclasses.asdict(preprocessing),
        outputs=outputs,
        class_names=data.class_names,
    )
    images = data.test.images(data.test.spread(CHECKED_IMAGES)).numpy()
    check_export(directory, student, images, prepare=preprocessing, outputs=outputs)
    return preprocessing


def compare_with_teacher(setup: Setup) -> dict[str, Any]:
    """The teacher's top-1 on the test images, and for which share of them the student agrees; None
    where it has other classes."""
    teacher, data = setup.teacher, setup.data
    if (
        teacher is None
        or not teacher.has_logits
        or teacher.model.outputs[0].shape[-1] != data.classes
        or class_difference(teacher, data)
    ):
        return {"teacher_top1": None, "agreement": None}
    setup.judge_teacher_by_own_statistics()
    right, same = [], []
    for batch in dataloader.evaluation_batches(data.test, setup.at_once(EVALUATION_BATCH)):
        teachers = setup.distiller.teacher_features(batch["image"])["logits"]
        right.append(top_k_hits(teachers, batch["label"], 1))
        same.append(agreements(teachers, setup.distiller(batch["image"])))
    return {
        "teacher_top1": float(np.mean(np.concatenate(right))),
        "agreement": float(np.mean(np.concatenate(same))),
    }


def draw_pictures(setup: Setup, folder: RunFolder) -> None:
    """Draw what the method says is worth a picture, of a few test images."""
    data, distiller = setup.data, setup.distiller
    if distiller.teacher is None:
        return
    # From all over the test images, which may be in the order of their classes.
    images = data.test.images(data.test.spread(PICTURED_IMAGES))
    features = (distiller.teacher_features(images), distiller.student_features(images))
    for member in distiller.method.members:
        for name, (teacher, student) in member.pictures(*map(member.select, features)).items():
            vector_maps.draw(
                images.numpy(), list(zip(*map(np.asarray, teacher), strict=True)),
                list(zip(*map(np.asarray, student), strict=True)), folder.output(f"{name}.png"),
            )


# What is shown


def describe_scarce_labels(setup: Setup) -> list[str]:
    """A warning where many batches have no labelled image: the main task then has no gradient but
    that of the weight decay, and that is what a clipped one is bounded by."""
    settings = setup.settings
    bounded = any(
        stage.main_weight > 0 and stage.terms and all(term.clips for term in stage.terms)
        for stage in setup.distiller.stages
    )
    if settings.main_loss == "none" or not bounded:
        return []
    labelled = float(np.mean(setup.data.train.labels >= 0))
    without = (1 - labelled) ** settings.batch_size
    if without <= MANY_WITHOUT_LABELS:
        return []
    return [
        f"warning: {100 * without:.0f} % of the batches of {settings.batch_size} images have no "
        f"labelled one. In these, {settings.Distillation}, whose gradient is clipped against the "
        "main task's, learns next to nothing: give more labels, a larger --batch_size, or "
        "--main_loss none"
    ]


def notes(setup: Setup) -> list[str]:
    """How method, networks and data fit each other."""
    settings, data, distiller = setup.settings, setup.data, setup.distiller
    found = [
        *settings.describe_storage(data),
        describe_recipe(setup),
        describe_augmentation(settings, data),
    ]
    found += [f"{settings.Distillation}: {note}" for note in distiller.notes]
    if not setup.is_copy:
        found += describe_preprocessing("student", settings, setup.student)
    if settings.mixed_precision and not nets.is_narrow(distiller.student):
        found.append(
            "the student computes in float32, as its file says: --mixed_precision is for networks "
            "that are built here"
        )
    found += nets.describe_frozen(distiller.student, "student")
    if distiller.method.trains_teacher:
        found += nets.describe_frozen(distiller.teacher, "teacher")
    if augmentation_of(settings, data).mixes:
        found.append(
            "mixed images: the main loss weighs both labels by their shares; a method that reads "
            "labels gets the label of the larger part"
        )
    if not setup.classifies:
        found.append(
            "without labels the student's classification is not trained; evaluate.py scores its "
            "features"
        )
    for given in (settings.teacher_file(), settings.student_model, settings.student_init):
        if given is not None:
            found += describe_other_split(Path(known.path_of(given)), settings.dataset, data)
    return found if distiller.teacher is None else [*found, *teacher_notes(setup)]


def teacher_notes(setup: Setup) -> list[str]:
    """How the teacher fits the data and the student."""
    settings, data, distiller = setup.settings, setup.data, setup.distiller
    found = [
        *describe_preprocessing("teacher", settings, setup.teacher),
        *nets.describe_random_layers(distiller.student),
    ]
    difference = class_difference(setup.teacher, data)
    classes = distiller.teacher.outputs[0].shape[-1]
    if difference:
        found.append(f"{difference}: only its features are compared")
    elif not setup.teacher.has_logits:
        found.append("the teacher has no classifier for these data: its features are compared")
    elif classes != data.classes:
        found.append(
            f"the teacher was trained on {classes} classes, {data.name} has {data.classes}: only "
            "its features are compared"
        )
    labelled = int(np.sum(data.train.labels >= 0))
    if settings.main_loss != "none" and labelled < len(data.train):
        found.append(f"labels: {labelled:,} of {len(data.train):,} training images have one")
    found += describe_scarce_labels(setup)
    sizes = [nets.count_parameters(each) for each in (distiller.deployed, distiller.teacher)]
    if sizes[0] > sizes[1]:
        found.append(
            f"the deployed network has {sizes[0]:,} parameters, more than the teacher's "
            f"{sizes[1]:,}"
        )
    return found


def plan(settings: Settings) -> str:
    """What a run would do, and a guess at the time that it takes. Writes nothing.

    Args:
        settings: spelled out.
    """
    workers = describe_workers(settings)
    method = create_method(settings)
    folder = RunFolder(settings.folder())
    networks = nets.fingerprints(settings.network_files())
    state = folder.state(determining_settings(settings, method), settings.overwrite, networks)
    setup = prepare(settings)
    kept = check_setup(setup)
    try_formats(setup)
    stages = {part.stage.name: part.last for part in setup.distiller.parts(settings.epochs)}
    if settings.quantize != "none":
        stages[settings.quantize] = settings.epochs + settings.quantize_epochs
    throughput, origin = settings.images_per_second, "as given"
    if throughput is None:
        throughput, origin = measure(setup, batches_to_measure(setup, kept))
    return plan_table(
        settings, setup.data, setup.distiller,
        folder=f"{folder.path} ({state})",
        teacher=describe_teacher(setup, folder),
        trains_teacher=not setup.teacher_is_trained,
        parameters=nets.count_parameters(setup.distiller.student),
        hyper_parameters=method.settings(),
        stages=stages,
        steps=max(stages.values()) * setup.steps,
        throughput=throughput,
        origin=origin,
        recipe=describe_recipe(setup),
        workers=workers,
        cache=kept and describe_cache(setup, kept),
    )


def describe_teacher(setup: Setup, folder: RunFolder) -> str:
    """The teacher and where it comes from."""
    if setup.teacher is None:
        return "none"
    origin = setup.settings.teacher_file()
    if origin is None and setup.settings.teacher_is_ready():
        origin = f"pretrained, {setup.settings.teacher_name()}"
    if setup.distiller.method.trains_teacher:
        origin = origin or "untrained, learns with the student"
    return f"{setup.teacher.model.name}, {origin or f'to be trained in {folder.path / TEACHER}'}"


def list_layers(settings: Settings) -> str:
    """The layers of teacher and student, by the names that taps take, and which are taps. There is
    a teacher where a method has one or a flag names it."""
    names_teacher = settings.teacher_model or settings.teacher_net or settings.teacher
    settings = settings.named()
    data = load_data(settings)
    networks = {}
    if settings.has_teacher() or names_teacher:
        networks[TEACHER] = load_teacher(settings, data, settings.teacher_file()).model
    networks["student"] = make_student(settings, data).model
    given = {TEACHER: settings.teacher_taps, "student": settings.student_taps}
    rows = {}
    for role, network in networks.items():
        declared = nets.declared_outputs_of(network)
        taps = given[role] or (declared.taps if declared else ())
        rows[role] = network.name, nets.list_layers(network), taps
    return layers_table(rows)


if __name__ == "__main__":
    run(main, GIVEN)
