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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from matplotlib.figure import Figure

import distillers
from distillers.registration import METHODS, parse, split
from experiment import grid, report
from experiment.folder import RunFolder, replacing, write_text
from experiment.grid import FAILED, FINISHED, Outcome, Run
from experiment.main import run
from experiment.options import compared, define_flags, from_flags, option
from experiment.statistics import deviations_above, median_ratio, paired_gain, spread
from registry import UserError
from train_w_distill import HYPER_PARAMETERS, Settings

SCRIPT = Path(__file__).resolve().with_name("train_w_distill.py")
BASELINE, TEACHER = "None", "teacher"
COMPARISON = "comparison"
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
    """The flags of this script, instead of those of train_w_distill.py with the same name."""
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
    outcomes = grid.survey(runs, comparison.overwrite)
    if comparison.dry_run:
        print("\n".join(
            f"{outcome.status}: {outcome.run.name}\n    {shlex.join(outcome.run.command)}"
            for outcome in outcomes
        ))
        return 0
    with RunFolder(directory(comparison, settings)) as folder:
        folder.open({"grid": "compare.py"})

        def write() -> None:
            write_report(outcomes, folder)

        write()
        grid.execute(outcomes, describe, write)
        print(f"\n{text(outcomes, report.table)}\n\nin {folder.path}: comparison.md, "
              "comparison.png, runs.csv")
    return int(any(outcome.status == FAILED for outcome in outcomes))


# The runs


def directory(comparison: Comparison, settings: Settings) -> Path:
    """The folder of the comparison."""
    dataset = settings.dataset.replace("/", "_").replace(":", "_")
    name = f"compare-{dataset}-{settings.student_name()}"
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
    teacher = settings.teacher
    if teacher is None and any(method.needs_teacher for method, _ in methods.values()):
        teacher_run = plan_teacher(settings, folder / TEACHER, comparison.overwrite)
        teacher = str(teacher_run.folder)
    seeds = range(settings.seed, settings.seed + comparison.seeds)
    runs = [
        plan_run(
            name,
            dataclasses.replace(settings, Distillation=name, seed=seed, teacher=teacher),
            [*arguments, *(f"--{key}={value}" for key, value in own.items())],
            folder / folder_name(name) / f"seed{seed}",
            hyper_parameters=dataclasses.asdict(method),
            overwrite=comparison.overwrite,
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
        plain_name, inside = parse(specification)
        name = plain_name
        if inside:
            name += f"({','.join(f'{key}={value}' for key, value in inside.items())})"
        if name in methods:
            raise UserError(f"--Distillation has {name} twice")
        known = distillers.create(specification).hyper_parameters()
        own = {key: value for key, value in given.items() if key in known}
        methods[name] = (distillers.create(specification, **own), own)
    if not methods:
        raise UserError("--Distillation is empty; give methods, such as None,SSKD_SVD")
    for key in given:
        if not any(key in own for _, own in methods.values()):
            raise UserError(f"none of the methods {', '.join(methods)} has the setting --{key}")
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
    hyper_parameters: Mapping[str, Any],
    overwrite: bool,
    needs: Run | None = None,
) -> Run:
    """A run of train_w_distill.py with `arguments` and what each run has of its own."""
    own = [f"--Distillation={settings.Distillation}", f"--seed={settings.seed}"]
    if settings.teacher is not None:
        own.append(f"--teacher={settings.teacher}")
    own.append(f"--train_dir={folder}")
    if overwrite:
        own.append("--overwrite")
    return Run(
        group=group,
        seed=settings.seed,
        folder=folder,
        command=(sys.executable, str(SCRIPT), *arguments, *own),
        settings={**compared(settings), "hyper_parameters": hyper_parameters},
        needs=needs,
    )


def plan_teacher(settings: Settings, folder: Path, overwrite: bool) -> Run:
    """The run that trains the teacher, alone and with labels, as train_w_distill.py does where it
    has none."""
    changed = {
        "main_loss": "cross_entropy",
        "student_net": settings.teacher_name(),
        "student_options": settings.teacher_options,
        "student_taps": settings.teacher_taps,
        "epochs": settings.teacher_epochs or settings.epochs,
        "teacher_net": None,
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
    arguments += [f"--student_net={alone.student_net}", f"--epochs={alone.epochs}"]
    for name in ("student_options", "student_taps"):
        if getattr(alone, name):
            arguments.append(f"--{name}={','.join(getattr(alone, name))}")
    return plan_run(
        TEACHER, alone, arguments, folder, hyper_parameters={}, overwrite=overwrite
    )


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


def teacher_top1(outcomes: Sequence[Outcome]) -> float | None:
    """The teacher's top-1 as the runs that used it measured it, or as its own run did."""
    finished = [outcome for outcome in outcomes if outcome.status == FINISHED]
    measured = [outcome.summary["teacher_top1"] for outcome in finished]
    own = [outcome.summary["student_top1"] for outcome in finished if outcome.run.group == TEACHER]
    known = [value for value in measured if value is not None] or own
    return statistics.median(known) if known else None


def verdict(outcomes: Sequence[Outcome]) -> str:
    """Whether the table says anything, in a sentence: only if the teacher clearly beats None."""
    baseline = spread(figures(students(outcomes).get(BASELINE, []), "student_top1_last").values())
    teacher = teacher_top1(outcomes)
    need = f"more than {DEVIATIONS_TO_BEAT} deviations of None above None's mean"
    if teacher is None or baseline.mean is None or baseline.deviation is None:
        if baseline.mean is None:
            why = "there is no finished run of None"
        elif teacher is None:
            why = "the teacher's top-1 is not known"
        else:
            why = "one run of None has no deviation"
        return f"INVALID: cannot be judged, as {why}; the teacher has to be {need}."
    above = deviations_above(teacher, baseline)
    figure = f"The teacher's top-1, {100 * teacher:.2f} %, is"
    distance = f"{abs(above):.1f} deviations {'above' if above >= 0 else 'below'} None's mean"
    if above > DEVIATIONS_TO_BEAT:
        return f"{figure} {distance}."
    return f"INVALID: {figure[0].lower()}{figure[1:]} {distance}; it has to be {need}."


def text(outcomes: Sequence[Outcome], layout: Any) -> str:
    """Verdict and table.

    Args:
        outcomes: all runs.
        layout: `report.table` or `report.markdown_table`.
    """
    return (
        f"{verdict(outcomes)}\n\n{layout(method_rows(outcomes))}\n\n"
        "Top-1 on the test images in percent, mean ± sample deviation over n seeds; best epoch by\n"
        "the validation images; gain of the last epoch over None with the same seed; step cost:\n"
        "median images/s of None divided by the method's."
    )


def write_report(outcomes: Sequence[Outcome], folder: RunFolder) -> None:
    """``runs.csv``, ``comparison.md`` and ``comparison.png``, of what there is by now."""
    table = io.StringIO()
    lines = rows(outcomes)
    writer = csv.DictWriter(table, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(folder.output("runs.csv"), table.getvalue())
    finished = sum(outcome.status == FINISHED for outcome in outcomes)
    parts = [
        f"# Comparison: {finished} of {len(outcomes)} runs finished",
        text(outcomes, report.markdown_table),
        *(
            f"- {outcome.run.name} {outcome.status}: {outcome.error}"
            for outcome in outcomes if outcome.status == FAILED
        ),
        f"    python compare.py {shlex.join(sys.argv[1:])}",
    ]
    write_text(folder.output("comparison.md"), "\n\n".join(parts) + "\n")
    picture(outcomes, folder.output("comparison.png"))


def picture(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw top-1 after the last epoch: a dot for each seed, a bar at the mean, the teacher."""
    methods = {
        name: [100 * value for value in figures(each, "student_top1_last").values()]
        for name, each in students(outcomes).items()
    }
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(methods)), layout="constrained")
    axes = figure.subplots()
    for place, values in enumerate(methods.values()):
        axes.plot(values, [place] * len(values), "o", color="#1f5fa8", alpha=0.6, ms=6, mew=0)
        if values:
            mean = statistics.fmean(values)
            axes.plot([mean, mean], [place - 0.28, place + 0.28], color="#1f5fa8", lw=2.2)
    teacher = teacher_top1(outcomes)
    if teacher is not None:
        axes.axvline(100 * teacher, color="#d1551b", ls="--", lw=1.4)
    axes.set_yticks(range(len(methods)), list(methods))
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xlabel("top-1 on the test images after the last epoch, %")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)


if __name__ == "__main__":
    define()
    run(main)
