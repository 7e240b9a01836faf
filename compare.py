"""Compare distillation methods: the same training for each method and several seeds, one teacher.

    python compare.py --Distillation None,FSP,Soft_logits,SSKD_SVD --seeds 3

Every flag of train_w_distill.py may be given and holds for all runs; a method's hyper-parameters
may also be given with its name, as in --Distillation 'None,SSKD_SVD,SSKD_SVD(num_dfv=2)'. The same
command again goes on where it was interrupted, and tries again what failed; with further methods
or more seeds it runs these.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiment.command import quiet  # noqa: F401 (before TensorFlow)

# isort: split
from absl import flags

import distillers
from distillers import spelled, split
from distillers.registration import METHODS
from experiment.command.main import run
from experiment.command.options import define_flags, from_flags, option
from experiment.grid.execution import execute
from experiment.grid.runs import FAILED, FINISHED, Outcome, Run, clear, listing, survey
from experiment.report import tables
from experiment.report.dots import dots
from experiment.report.statistics import deviations_above, median_ratio, paired_gain, spread
from experiment.run.folder import RunFolder, write_text
from registry import UserError
from settings import distillation
from settings.distillation import HYPER_PARAMETERS, Settings, determining_settings

SCRIPT = Path(__file__).resolve().with_name("train_w_distill.py")
BASELINE, TEACHER = "None", "teacher"
COMPARISON = "comparison"
# The folder of the comparison is one like a run's. Its runs have settings of their own.
FOLDER_SETTINGS = {"grid": "compare.py"}
SAME_TEACHER = 5e-3
DEVIATIONS_TO_BEAT = 2
# Of a run's own, so never handed on as given.
OWN = ("Distillation", "seed", "teacher", "train_dir", "overwrite", "dry_run")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What may be set beside the flags of train_w_distill.py."""

    Distillation: str = option(
        "None,FSP,Soft_logits,SSKD_SVD",
        "the methods, a list of NAME or NAME(setting=value,...) at commas; known: "
        + ", ".join(METHODS.names()),
        group=COMPARISON,
    )
    seeds: int = option(
        3, "runs of each method, with the seeds --seed, --seed + 1 ...", group=COMPARISON, minimum=1
    )
    compare_dir: str | None = option(
        None, "folder of the comparison and of all its runs (default: "
        "runs/compare-DATASET-STUDENT)", group=COMPARISON,
    )
    overwrite: bool = option(
        False, "start all runs anew, the teacher's too", group=COMPARISON
    )
    dry_run: bool = option(
        False, "say what would run, and write nothing", group=COMPARISON
    )


def define() -> None:
    """The flags: those of train_w_distill.py, and this script's own instead of some of them."""
    distillation.define()
    for name in ("Distillation", "overwrite", "dry_run"):
        delattr(flags.FLAGS, name)
    define_flags(Comparison)
    flags.FLAGS["train_dir"].help = "not here: each run has its folder in --compare_dir"


def main(_: list[str]) -> int:
    """Exit status: 1 where a run failed."""
    comparison, settings = from_flags(Comparison), from_flags(Settings)
    if settings.train_dir is not None:
        raise UserError("--train_dir is of one run; give --compare_dir, the folder of all runs")
    runs = plan(comparison, settings)
    outcomes = survey(runs, comparison.overwrite)
    folder = RunFolder(directory(comparison, settings))
    folder.state(FOLDER_SETTINGS)
    if comparison.dry_run:
        print(listing(outcomes))
        return 0
    with folder:
        folder.open(FOLDER_SETTINGS)
        if comparison.overwrite:
            clear(runs)

        def write() -> None:
            write_report(outcomes, folder)

        write()
        execute(outcomes, describe, write)
    print(f"\n{terminal_text(outcomes)}\n")
    print(f"in {folder.path}: comparison.md, comparison.png, runs.csv")
    return int(any(outcome.status == FAILED for outcome in outcomes))


# The runs


def directory(comparison: Comparison, settings: Settings) -> Path:
    """The folder of the comparison."""
    name = f"compare-{settings.dataset_in_paths()}-{settings.student_in_paths()}"
    return Path(comparison.compare_dir or Path("runs") / name)


def plan(comparison: Comparison, settings: Settings) -> list[Run]:
    """All runs: the teacher's, unless one is given or none needed, then seed by seed the methods'.

    Raises:
        UserError: an unknown method or setting of one, one that is there twice, or a
            hyper-parameter that no method has.
    """
    given = {
        key: flags.FLAGS[key].value for key in HYPER_PARAMETERS if flags.FLAGS[key].present
    }
    methods = create_methods(comparison.Distillation, given)
    folder = directory(comparison, settings)
    arguments = [
        flags.FLAGS[field.name].serialize()
        for field in dataclasses.fields(Settings)
        if field.name not in OWN and flags.FLAGS[field.name].present
    ]
    teacher_run = None
    teacher = settings.teacher_file()
    if teacher is None and any(method.needs_teacher for method, _ in methods.values()):
        teacher_run = plan_teacher(settings, folder / TEACHER)
        teacher = str(teacher_run.folder)
    seeds = range(settings.seed, settings.seed + comparison.seeds)
    runs = [
        plan_run(
            name,
            dataclasses.replace(settings, Distillation=name, seed=seed, teacher=teacher),
            [*arguments, *(f"--{key}={value}" for key, value in own.items())],
            folder / folder_name(name) / f"seed{seed}",
            method=method,
            needs=teacher_run if method.needs_teacher else None,
        )
        for seed in seeds
        for name, (method, own) in methods.items()
    ]
    return [teacher_run, *runs] if teacher_run else runs


def create_methods(
    specifications: str, given: Mapping[str, str]
) -> dict[str, tuple[distillers.Method, dict[str, str]]]:
    """Each method by its name as shown, with those of the hyper-parameters `given` that it has.

    Raises:
        UserError: see `plan`.
    """
    methods: dict[str, tuple[distillers.Method, dict[str, str]]] = {}
    for specification in split(specifications):
        name = spelled(specification)
        if name in methods:
            raise UserError(f"--Distillation has {name} twice")
        known = distillers.hyper_parameters(specification)
        own = {key: value for key, value in given.items() if key in known}
        methods[name] = (distillers.create(specification, **own), own)
    if not methods:
        raise UserError("--Distillation is empty; give methods, such as None,SSKD_SVD")
    for key in given:
        if not any(key in own for _, own in methods.values()):
            owners = [name for name in METHODS.names() if key in distillers.hyper_parameters(name)]
            raise UserError(
                f"--{key} is a setting of {', '.join(owners)}, not of {', '.join(methods)}; "
                "add such a method or leave the flag out"
            )
    return methods


def folder_name(method: str) -> str:
    """A method's name without what shells and paths read otherwise:
    ``SSKD_SVD(num_dfv=2,solver=svd)`` is in ``SSKD_SVD-num_dfv=2-solver=svd``."""
    return method.rstrip(")").replace("(", "-").replace(",", "-").replace("/", "_")


def plan_run(
    group: str,
    settings: Settings,
    arguments: Sequence[str],
    folder: Path,
    *,
    method: distillers.Method,
    needs: Run | None = None,
) -> Run:
    """A run of train_w_distill.py with `arguments` and what each run has of its own."""
    settings = settings.spelled()
    own = [f"--Distillation={settings.Distillation}", f"--seed={settings.seed}"]
    if settings.teacher is not None:
        own.append(f"--teacher={settings.teacher}")
    own.append(f"--train_dir={folder}")
    return Run(
        group=group,
        seed=settings.seed,
        folder=folder,
        command=(sys.executable, str(SCRIPT), *arguments, *own),
        settings=determining_settings(settings, method),
        needs=needs,
    )


def plan_teacher(settings: Settings, folder: Path) -> Run:
    """The run that trains the teacher, alone and with labels, as train_w_distill.py does where it
    has none."""
    changed = {
        "main_loss": "cross_entropy",
        "student_net": settings.teacher_name(),
        "student_options": settings.teacher_options,
        "student_taps": settings.teacher_taps,
        "student_model": None,
        "student_init": None,
        "student_preprocessing": settings.teacher_preprocessing,
        "epochs": settings.teacher_epochs or settings.epochs,
        "teacher_net": None,
        "teacher_model": None,
        "teacher_preprocessing": "data",
        "teacher_options": (),
        "teacher_taps": None,
        "teacher_epochs": None,
    }
    alone = dataclasses.replace(settings, Distillation=BASELINE, **changed)
    arguments = [
        flags.FLAGS[field.name].serialize()
        for field in dataclasses.fields(Settings)
        if field.name not in (*OWN, *changed) and flags.FLAGS[field.name].present
    ]
    arguments.append(f"--student_net={alone.student_net}")
    if alone.epochs is not None:  # else the script's own default, which depends on the data
        arguments.append(f"--epochs={alone.epochs}")
    for name in ("student_options", "student_taps"):
        if getattr(alone, name):
            arguments.append(f"--{name}={','.join(getattr(alone, name))}")
    if flags.FLAGS["teacher_preprocessing"].present:
        arguments.append(f"--student_preprocessing={alone.student_preprocessing}")
    return plan_run(TEACHER, alone, arguments, folder, method=distillers.create(BASELINE))


# What came out


def describe(summary: Mapping[str, Any]) -> str:
    """A finished run in a few words."""
    return f"top-1 {100 * summary['student_top1_last']:.2f} %"


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """A row for each run, the teacher's included; shares in 0..1, None where not known."""
    return [
        {
            "method": outcome.run.group,
            "seed": outcome.run.seed,
            "status": outcome.status,
            **{
                column: (outcome.summary or {}).get(key)
                for column, key in (
                    ("top1_last", "student_top1_last"),
                    ("top1_best", "student_top1_best"),
                    ("top5_last", "student_top5_last"),
                    ("images_per_second", "images_per_second"),
                    ("seconds", "seconds"),
                    ("teacher_top1", "teacher_top1"),
                    ("parameters", "parameters"),
                    ("flops", "flops"),
                )
            },
            "folder": str(outcome.run.folder),
            "error": outcome.error,
        }
        for outcome in outcomes
    ]


def students(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of each method, in the order of the methods."""
    methods: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.run.group != TEACHER:
            methods.setdefault(outcome.run.group, []).append(outcome)
    return methods


def figures(outcomes: Sequence[Outcome], key: str) -> dict[int, float | None]:
    """The entry `key` of the finished runs' summaries, by seed."""
    return {
        outcome.run.seed: outcome.summary[key]
        for outcome in outcomes if outcome.summary is not None
    }


def method_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The table: a row for each method, top-1 in percent."""
    methods = students(outcomes)
    baseline = methods.get(BASELINE, [])
    table = []
    for name, each in methods.items():
        last = figures(each, "student_top1_last")
        gain = paired_gain(last, figures(baseline, "student_top1_last"))
        cost = median_ratio(
            figures(baseline, "images_per_second").values(),
            figures(each, "images_per_second").values(),
        )
        table.append({
            "method": name,
            "n": len(last),
            "last epoch": spread(last.values()).text(100),
            "best epoch": spread(figures(each, "student_top1_best").values()).text(100),
            "gain": "-" if name == BASELINE else gain.text(100, sign=True),
            "step cost": "-" if cost is None else f"{cost:.2f} x",
            "failed": sum(outcome.status == FAILED for outcome in each),
        })
    return table


def teachers(outcomes: Sequence[Outcome]) -> list[float]:
    """The teacher's top-1 as each run that used it measured it, or as its own run did."""
    finished = [outcome for outcome in outcomes if outcome.status == FINISHED]
    measured = [outcome.summary["teacher_top1"] for outcome in finished]
    own = [outcome.summary["student_top1"] for outcome in finished if outcome.run.group == TEACHER]
    return [value for value in measured if value is not None] or own


def teacher_top1(outcomes: Sequence[Outcome]) -> float | None:
    """The teacher's top-1, 0..1."""
    known = teachers(outcomes)
    return statistics.median(known) if known else None


def verdict(outcomes: Sequence[Outcome]) -> str:
    """Whether the table says anything, in words: only if the teacher clearly beats None."""
    baseline = spread(figures(students(outcomes).get(BASELINE, []), "student_top1_last").values())
    known = teachers(outcomes)
    teacher = teacher_top1(outcomes)
    need = f"more than {DEVIATIONS_TO_BEAT} deviations of None above None's mean"
    if baseline.mean is None:
        why = "there is no finished run of None"
    elif teacher is None:
        why = "the teacher's top-1 is not known"
    elif baseline.deviation is None:
        why = "one run of None has no deviation"
    elif max(known) - min(known) > SAME_TEACHER:
        why = f"runs had different teachers, of top-1 {min(known):.4f} to {max(known):.4f}"
    else:
        above = deviations_above(teacher, baseline)
        valid = above > DEVIATIONS_TO_BEAT
        where = f"{abs(above):.1f} deviations {'above' if above >= 0 else 'below'} None's mean"
        return (
            f"{'Valid' if valid else 'INVALID'}: the teacher's top-1, {100 * teacher:.2f} %, is "
            f"{where}; {'it is to be' if valid else 'expected'} {need}."
        )
    return f"INVALID: cannot be judged, as {why}; the teacher's top-1 is to be {need}."


EXPLANATION = (
    "Top-1 on the test images in percent, mean ± sample deviation over n seeds; best epoch by "
    "the validation images; gain of the last epoch over None with the same seed; step cost: "
    "median images/s of None divided by the method's."
)


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each run that failed."""
    return [
        f"failed: {outcome.run.name}: {outcome.error}"
        + (f" (see {outcome.run.log})" if outcome.run.log.exists() else "")
        for outcome in outcomes if outcome.status == FAILED
    ]


def terminal_text(outcomes: Sequence[Outcome]) -> str:
    """Verdict, table and failures, 80 columns wide."""
    parts = [
        textwrap.fill(verdict(outcomes), tables.WIDTH),
        tables.table(method_rows(outcomes)),
        textwrap.fill(EXPLANATION, tables.WIDTH),
        *failures(outcomes),
    ]
    return "\n\n".join(parts)


def markdown_text(outcomes: Sequence[Outcome]) -> str:
    """The same in Markdown, with the command."""
    finished = sum(outcome.status == FINISHED for outcome in outcomes)
    parts = [
        f"# Comparison: {finished} of {len(outcomes)} runs finished",
        verdict(outcomes),
        tables.markdown_table(method_rows(outcomes)),
        EXPLANATION,
        *(f"- {line}" for line in failures(outcomes)),
        f"    python compare.py {shlex.join(sys.argv[1:])}",
    ]
    return "\n\n".join(parts) + "\n"


def write_report(outcomes: Sequence[Outcome], folder: RunFolder) -> None:
    """``runs.csv``, ``comparison.md`` and ``comparison.png``, of what there is by now."""
    table = io.StringIO()
    lines = rows(outcomes)
    writer = csv.DictWriter(table, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(folder.output("runs.csv"), table.getvalue())
    write_text(folder.output("comparison.md"), markdown_text(outcomes))
    picture(outcomes, folder.output("comparison.png"))


def picture(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw top-1 after the last epoch: a dot for each seed, a bar at the mean, the teacher."""
    teacher = teacher_top1(outcomes)
    dots(
        {
            name: [100 * value for value in figures(each, "student_top1_last").values()]
            for name, each in students(outcomes).items()
        },
        path,
        label="top-1 on the test images after the last epoch, %",
        baseline=BASELINE,
        line=None if teacher is None else (TEACHER, 100 * teacher),
    )


if __name__ == "__main__":
    define()
    run(main)
