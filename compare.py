"""Compare distillation methods by the same training, with one teacher and several
seeds.

    python compare.py --Distillation None,FSP,Soft_logits,SSKD_SVD --seeds 3

Every flag of train_w_distill.py may be given and holds for all runs; a method's
hyper-parameters may also be given with its name, as in
--Distillation 'None,SSKD_SVD,SSKD_SVD(num_dfv=2)'. If interrupted, rerun the
same command to resume; it tries again what failed. Add methods or seeds to the
command, and only the new runs are executed. The same command on several
machines that share the folder shares the runs among them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

import plugins
from experiment.command.main import read, run
from experiment.command.options import as_flags, define_flags, flag, from_flags
from experiment.grid.shards import Shard, Shards
from experiment.grid.slurm import LOGS, Jobs, parse_options
from experiment.report.methods import methods_table
from registry import UserError, plain
from settings import distillation, known
from settings.comparison import Comparison
from settings.distillation import (
    OF_RECIPE,
    TEACHER,
    Settings,
    determining_settings,
    find_owners,
    given_settings,
)

CACHE = "teacher_cache"  # in the folder of the comparison, where they are kept
SCRIPT = Path(__file__).resolve().with_name("train_w_distill.py")
# The folder of the comparison is one like a run's. Its runs have settings of their own.
FOLDER_SETTINGS = {"grid": "compare.py"}
# Each run's own, so never handed on as given.
OWN = ("Distillation", "seed", "teacher", "train_dir", "overwrite", "dry_run", "images_per_second")
# Of the process that submits jobs, and not of the jobs.
OF_SUBMISSION = ("submit", "jobs", "job_options", "overwrite", "dry_run")


def define() -> None:
    """Define the flags: those of train_w_distill.py, some of them replaced by this script's own."""
    distillation.define()
    for name in ("Distillation", "overwrite", "dry_run", "images_per_second", "list_layers"):
        delattr(flags.FLAGS, name)
    define_flags(Comparison)
    flags.FLAGS["train_dir"].help = "not here: each run has its folder in --compare_dir"


def given() -> tuple[Comparison, Settings]:
    """What the command line gives: of the comparison, and of all its runs."""
    comparison = from_flags(Comparison)
    if plain(comparison.Distillation) == "help":
        print(methods_table(known.declared_methods()))
        sys.exit(0)
    settings = given_settings()
    if settings.train_dir is not None:
        raise UserError(
            "--train_dir names the folder of one run; for a comparison, give --compare_dir"
        )
    if settings.strategy == "multi_worker":
        raise UserError(
            "compare.py does not support --strategy multi_worker; give another strategy, or run "
            "train_w_distill.py on each worker"
        )
    check_sharing(comparison)
    settings_by_method(comparison, settings)
    return comparison, settings


def check_sharing(comparison: Comparison) -> None:
    """Raise UserError where the settings on several processes do not go together."""
    parse_options(comparison.job_options)
    if comparison.shard is not None:
        Shard.parse(comparison.shard)
        if comparison.overwrite:
            raise UserError(
                "--shard with --overwrite would remove what other shards have begun; remove the "
                "folder of the comparison before the first shard starts"
            )
        if comparison.submit:
            raise UserError("--submit makes jobs that share all runs; leave out --shard")
    if comparison.job_options and not comparison.submit:
        raise UserError("--job_options needs --submit slurm; add it, or leave --job_options out")


def settings_by_method(comparison: Comparison, settings: Settings) -> dict[str, Settings]:
    """The settings of each method's runs but for their seed, by the method as it is shown.

    Raises:
        UserError: an unknown method or hyper-parameter, a wrong value, a method that is there
            twice, or a hyper-parameter that several methods have and that is given without its
            method.
    """
    parsed: dict[str, list[str]] = {}
    for text in plugins.split(comparison.Distillation):
        parts = plugins.split(text, "+")
        name = "+".join(plugins.spelled(known.methods(), part) for part in parts)
        if name in parsed:
            raise UserError(f"--Distillation has {name} twice")
        parsed[name] = [plugins.parse(known.methods(), part)[0] for part in parts]
    if not parsed:
        raise UserError("--Distillation is empty; give methods, such as None,SSKD_SVD")
    every = list(dict.fromkeys(method for methods in parsed.values() for method in methods))
    owners = find_owners(every, settings.hyper_parameters)
    return {
        name: dataclasses.replace(
            settings,
            Distillation=name,
            hyper_parameters={
                key: settings.hyper_parameters[key] for method in methods for key in owners[method]
            },
        ).checked()
        for name, methods in parsed.items()
    }


if __name__ == "__main__":
    # Before TensorFlow is loaded, which takes seconds: --help and mistakes are answered at once.
    GIVEN = read(__doc__ or "", define, given)

# isort: split
from experiment.command import quiet  # noqa: F401 (loads TensorFlow)

# isort: split
import tensorflow as tf

import dataloader
import nets
from experiment.grid.claims import Claims, clear
from experiment.grid.execution import execute
from experiment.grid.places import Place, divide
from experiment.grid.reports import join
from experiment.grid.runs import FAILED, FINISHED, WAITING, Outcome, Run, listing, survey
from experiment.report.comparison import (
    REPORTS,
    RESULTS,
    describe,
    terminal_text,
    write_report,
)
from experiment.run.folder import DATA, SETTINGS, RunFolder
from settings.checks import check_setup
from settings.exporting import try_formats
from settings.formats import create_formats
from settings.networks import create_method
from settings.run_setup import load_data, make_setup, prepare


def main(comparison: Comparison, settings: Settings) -> int:
    """Exit status: 1 where a run failed."""
    # The runs need the memory of the GPUs. TensorFlow takes this only before it is used.
    tf.config.set_visible_devices([], "GPU")
    runs = plan(comparison, settings)
    if not comparison.overwrite:
        check_peers(runs)
    outcomes = survey(runs, comparison.overwrite)
    folder = RunFolder(directory(comparison, settings))
    folder.state(FOLDER_SETTINGS, comparison.overwrite)
    for note in describe_left_out(folder.path, runs):
        print(note)
    jobs = plan_jobs(comparison, settings, folder.path) if comparison.submit else None
    if comparison.dry_run:
        shard = Shard.parse(comparison.shard or "1/1")
        print(jobs.text() if jobs else listing(shard.part(outcomes)))
        return 0
    if jobs:
        jobs.check()
    data = check_data(outcomes)
    check_methods(outcomes, data)
    del data  # of which each run has its own
    places = () if jobs else find_places(comparison.workers)
    if comparison.overwrite:
        folder.check_unused()
        clear(runs)
    join(folder, FOLDER_SETTINGS, REPORTS, comparison.overwrite)
    if jobs:
        print(f"submitted job {jobs.submit()}: {jobs.text()}")
        return 0
    return carry_out(comparison, outcomes, folder.path, places)


def describe_left_out(folder: Path, runs: Sequence[Run]) -> list[str]:
    """A line if the folder has finished runs of methods that this comparison does not name."""
    named, left_out = {run.folder.parent for run in runs}, set()
    for file in folder.glob("*/seed*/summary.json"):
        if file.parent.parent not in named:
            with contextlib.suppress(UserError):  # a damaged one that nobody asked for
                left_out.add(RunFolder(file.parent).summary({"method": str})["method"])
    if not left_out:
        return []
    return [f"{folder} also has finished runs of {', '.join(sorted(left_out))}: name them too, in "
            "--Distillation, to have them in the report"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TrainingRun(Run):
    """A run of train_w_distill.py.

    Attributes:
        given: its settings, spelled out.
    """

    given: Settings


def check_peers(runs: Sequence[TrainingRun]) -> None:
    """Refuse to go on with an untrained peer where a run began with a trained teacher, as in
    comparisons of former versions.

    Raises:
        UserError: which run did, and how to go on.
    """
    for each in runs:
        if each.teacher_stays or each.given.teacher_file() or not (each.folder / SETTINGS).exists():
            continue
        teacher = RunFolder(each.folder).settings().get("teacher")
        if teacher is not None:
            raise UserError(
                f"{each.folder} began with the teacher {teacher}, but {each.group} now begins with "
                f"an untrained peer: remove {each.folder.parent} to start again like that, or give "
                f"--teacher={teacher} to go on as before"
            )


def check_data(outcomes: Sequence[Outcome]) -> dataloader.Data | None:
    """Refuse to compare runs of different data, or to add runs of other data than the first.

    Returns:
        The data of the methods, where they had to be loaded.

    Raises:
        UserError: the data have changed since a run began; it says how.
    """
    loaded = {}
    # A teacher that is trained by labels has other data than methods that need none.
    for needs_classes in (True, False):
        those = [each for each in outcomes if each.run.given.needs_classes() == needs_classes]
        begun = [RunFolder(each.run.folder) for each in those if each.status != WAITING]
        for folder in begun[1:]:
            folder.check_facts(DATA, begun[0].facts(DATA))
        if begun and any(each.status != FINISHED for each in outcomes):
            data = load_data(those[0].run.given)
            facts = data.facts()
            for folder in begun:
                folder.check_facts(DATA, facts)
            loaded[needs_classes] = data
    return loaded.get(outcomes[-1].run.given.needs_classes())


def check_methods(outcomes: Sequence[Outcome], data: dataloader.Data | None = None) -> None:
    """Make the networks of each method that has no run yet, and check what its runs do besides
    training: what does not fit is refused before hours are spent on the teacher and the other
    methods.

    Args:
        outcomes: of all runs.
        data: of the methods, where they are loaded already.

    Raises:
        UserError: as a run of that method would.
    """
    seen = {each.run.group for each in outcomes if each.status != WAITING}
    setup, tried = None, False
    for planned in (each.run for each in outcomes):
        if planned.group in seen or planned.group == TEACHER:
            continue
        seen.add(planned.group)
        own = dataclasses.replace(planned.given, strategy="none")
        if planned.needs:  # a run of its own trains this teacher
            own = dataclasses.replace(own, teacher=None)
        try:
            if setup is None:
                setup = prepare(own, data=data)
            else:  # of the same data
                setup = make_setup(own, setup.data, setup.strategy, own.teacher_file())
            check_setup(setup)
            if not tried or setup.distiller.deployed is not setup.distiller.student:
                try_formats(setup)
                tried = True
        except UserError as error:
            raise UserError(f"run {planned.group}: {error}") from None


def find_places(workers: int) -> Sequence[Place]:
    """The cores and GPUs of each run that is executed at the same time (see `divide`)."""
    gpus = len(tf.config.list_physical_devices("GPU")) if workers > 1 else 0
    return divide(workers, gpus)


def carry_out(
    comparison: Comparison, outcomes: Sequence[Outcome], folder: Path, places: Sequence[Place]
) -> int:
    """Execute the runs, alone or alongside other processes, and report; the exit status."""
    command = shlex.join(["python", "compare.py", *sys.argv[1:]])
    if comparison.shard is None:
        division = Claims(comparison.takeover_seconds)
    else:
        division = Shards(Shard.parse(comparison.shard))

    def report() -> None:
        write_report(outcomes, folder, command)

    report()
    execute(outcomes, describe, report, division=division, places=places)
    print(f"\n{terminal_text(outcomes)}\n")
    left = sum(not outcome.has_ended for outcome in outcomes)
    if left:
        print(f"{left} runs of other shards have not ended yet")
    print(f"in {folder}: comparison.md, comparison.png, runs.csv")
    return int(any(outcome.status == FAILED for outcome in outcomes))


def plan_jobs(comparison: Comparison, settings: Settings, folder: Path) -> Jobs:
    """The jobs to submit: each is this command, and they share the runs."""
    words = [
        *as_flags(settings, leave_out=("Distillation", *OF_SUBMISSION)),
        *(flag(name, value) for name, value in settings.hyper_parameters.items()),
        *as_flags(comparison, leave_out=OF_SUBMISSION),
    ]
    command = (sys.executable, str(Path(__file__).resolve()), *words)
    return Jobs(command, comparison.jobs, folder / LOGS, parse_options(comparison.job_options))


def directory(comparison: Comparison, settings: Settings) -> Path:
    """The folder of the comparison."""
    name = f"compare-{settings.dataset_in_paths()}-{settings.student_in_paths()}"
    return Path(comparison.compare_dir or Path("runs") / name)


def plan(comparison: Comparison, settings: Settings) -> list[TrainingRun]:
    """All runs: the teacher's, unless one is given or none needed, then seed by seed the methods'.

    A method that trains its teacher too begins, as in train_w_distill.py, with the teacher that is
    given, or else with a peer of its own.

    Raises:
        UserError: see `settings_by_method`.
    """
    folder = directory(comparison, settings)
    methods = settings_by_method(comparison, settings)
    settings = settings.with_networks()
    methods = {name: each.with_networks() for name, each in methods.items()}
    methods = with_one_cache(methods, folder)
    teacher_run, teacher = None, settings.teacher_file()
    is_ready = settings.teacher_is_ready()
    made = {name: create_method(each) for name, each in methods.items()}
    with_peer = [name for name, method in made.items() if method.trains_teacher and not is_ready]
    taught = [
        name for name, method in made.items() if method.needs_teacher and name not in with_peer
    ]
    if taught and not is_ready:
        alone = settings.of_teacher(folder / TEACHER)
        teacher_run = plan_run(TEACHER, alone, folder / TEACHER, None, recipe_of(alone))
        teacher = str(teacher_run.folder)
    for name, each in methods.items():
        if name in taught:
            methods[name] = dataclasses.replace(each, teacher=teacher)
        elif name not in with_peer:
            methods[name] = alone_of(each)
    methods, recipe = with_one_recipe(methods)
    runs = [
        plan_run(
            name,
            dataclasses.replace(each, seed=seed),
            folder / folder_name(name) / f"seed{seed}",
            teacher_run if name in taught else None,
            recipe,
        )
        for seed in range(settings.seed, settings.seed + comparison.seeds)
        for name, each in methods.items()
    ]
    return [teacher_run, *runs] if teacher_run else runs


def alone_of(settings: Settings) -> Settings:
    """The settings of a run without a teacher, with no word about one: so a comparison can go on
    with its runs of None whatever teachers other methods have."""
    untouched = {
        field.name: field.default
        for field in dataclasses.fields(settings) if field.name.startswith("teacher")
    }
    return dataclasses.replace(settings, **untouched)


def with_one_recipe(methods: dict[str, Settings]) -> tuple[dict[str, Settings], dict[str, Any]]:
    """The settings such that all methods train alike, and the recipe (see `recipe_of`): the one of
    the method that has, or trains, most networks, since a recipe has to fit all of them.

    Runs that would choose another one by themselves are given its values.
    """
    recipes = {name: recipe_of(each) for name, each in methods.items()}

    def networks(name: str) -> tuple[bool, bool]:
        method = create_method(methods[name])
        return method.trains_teacher, method.needs_teacher

    recipe = recipes[max(methods, key=networks)]
    return {
        name: each if recipes[name] == recipe else dataclasses.replace(each, **recipe)
        for name, each in methods.items()
    }, recipe


def recipe_of(settings: Settings) -> dict[str, Any]:
    """What the recipe of some settings fills in. It is the same for all seeds, and looking data and
    networks up takes a moment."""
    filled = settings.named().with_recipe()
    return {name: getattr(filled, name) for name in OF_RECIPE}


def with_one_cache(methods: dict[str, Settings], folder: Path) -> dict[str, Settings]:
    """The settings with one place for the teacher's outputs, where these are kept: the first run
    computes what any method reads.

    Raises:
        UserError: a method needs more of the teacher than can be kept.
    """
    kept = {name: each for name, each in methods.items() if each.named().cache_teacher}
    members = [member for each in kept.values() for member in create_method(each).members]
    read = {reading.key for member in members for reading in member.readings}
    return methods | {
        name: dataclasses.replace(
            each,
            cache_dir=each.cache_dir or str(folder / CACHE),
            cache_outputs=tuple(sorted({*read, *each.cache_outputs})),
        )
        for name, each in kept.items()
    }


def plan_run(
    group: str,
    settings: Settings,
    folder: Path,
    teacher: TrainingRun | None,
    recipe: dict[str, Any],
) -> TrainingRun:
    """A run of train_w_distill.py.

    Args:
        group: the method as it is shown.
        settings: of the run.
        folder: its run folder.
        teacher: the run that trains its teacher first; None: there is none.
        recipe: see `recipe_of`.
    """
    settings = dataclasses.replace(settings, train_dir=str(folder))
    spelled = dataclasses.replace(settings, **recipe).spelled()
    method = create_method(settings)
    return TrainingRun(
        given=spelled,
        group=group,
        seed=settings.seed,
        folder=folder,
        command=(sys.executable, str(SCRIPT), *command_line(spelled, settings)),
        settings=determining_settings(spelled, method),
        needs=teacher,
        results=RESULTS,
        networks=functools.partial(nets.fingerprints, spelled.network_files()),
        files=tuple(form.file for form in create_formats(spelled.export)),
        teacher_stays=not method.trains_teacher,
    )


def command_line(spelled: Settings, settings: Settings) -> Sequence[str]:
    """The flags of a run: what differs from the defaults, and what each run has of its own."""
    hyper_parameters: dict[str, Any] = dict(settings.hyper_parameters)
    own = {"Distillation": spelled.Distillation, "seed": settings.seed}
    if settings.teacher is not None:
        own["teacher"] = settings.teacher
    own["train_dir"] = settings.train_dir
    return [
        *as_flags(settings, leave_out=OWN),
        *(flag(name, value) for name, value in {**hyper_parameters, **own}.items()),
    ]


def folder_name(method: str) -> str:
    """A method's name without characters that are special in shells and paths:
    ``AT(weight=9)+SSKD_SVD(num_dfv=2,solver=svd)`` becomes
    ``AT-weight=9+SSKD_SVD-num_dfv=2-solver=svd``."""
    return re.sub(r"[(,;]", "-", method.replace(")", "")).replace("/", "_")


if __name__ == "__main__":
    run(main, *GIVEN)
