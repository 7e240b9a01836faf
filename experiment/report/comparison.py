"""The report of compare.py: a comparison of methods over several seeds."""

from __future__ import annotations

import csv
import io
import os
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiment.grid.reports import reporting
from experiment.grid.runs import FAILED, FINISHED, Outcome
from experiment.report import tables
from experiment.report.distillation import NOT_TRAINED, classifies
from experiment.report.dots import dots
from experiment.report.statistics import (
    Spread,
    deviations_above,
    interval,
    median_ratio,
    paired_gain,
    spread,
)
from experiment.run.folder import write_text

BASELINE = "None"  # the student trained alone
TEACHER = "teacher"  # the run that trains the teacher
SAME_TEACHER = 5e-3  # two measurements of a teacher's top-1 may differ by this much
RESULTS = {  # what is read from each run's summary
    **dict.fromkeys(("student_top1", "student_top1_last", "student_top5_last"), float),
    **dict.fromkeys(("student_top1_best", "teacher_top1"), float | None),
    **dict.fromkeys(("images_per_second", "seconds"), float),
    "parameters": int,
    "flops": int | None,  # None: their number is not fixed
}
REPORTS = ("runs.csv", "comparison.md", "comparison.png")
SCORES = {  # columns of ``runs.csv``, and what a run's summary calls them
    "top1_last": "student_top1_last", "top1_best": "student_top1_best",
    "top5_last": "student_top5_last", "images_per_second": "images_per_second",
    "seconds": "seconds", "teacher_top1": "teacher_top1", "parameters": "parameters",
    "flops": "flops",
}
LEAST_DEVIATION = 1e-3  # of a gain over seeds: with few test images two may be equal by chance
CLEAR = 2  # a teacher this many of the baseline's deviations above it is clearly better


def describe(summary: Mapping[str, Any]) -> str:
    """A short summary of a finished run: the last epoch, and the best one, whose weights are kept,
    where it differs."""
    if not classifies(summary):
        return NOT_TRAINED
    last, best = summary["student_top1_last"], summary.get("student_top1_best")
    kept = "" if best in (None, last) else f", {100 * best:.2f} % in its best epoch"
    return f"top-1 {100 * last:.2f} %{kept}"


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One row per run, including the teacher's. Accuracies are in 0..1; unknown values are None."""
    return [
        {
            "method": outcome.run.group,
            "seed": outcome.run.seed,
            "status": outcome.status,
            **{
                column: outcome.summary and _entry(outcome.summary, key)
                for column, key in SCORES.items()
            },
            "folder": str(outcome.run.folder),
            "error": outcome.error,
        }
        for outcome in outcomes
    ]


def students(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of the students' runs, by method, in the order of the methods."""
    methods: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.run.group != TEACHER:
            methods.setdefault(outcome.run.group, []).append(outcome)
    return methods


def metrics(outcomes: Sequence[Outcome], key: str) -> dict[int, float | None]:
    """The entry `key` of the finished runs' summaries, by seed."""
    return {
        outcome.run.seed: _entry(outcome.summary, key)
        for outcome in outcomes if outcome.summary is not None
    }


def _entry(summary: Mapping[str, Any], key: str) -> Any:
    """An entry of a summary; None for the accuracy of a student that was not trained to classify,
    which is about chance."""
    unknown = key.startswith("student_top") and not classifies(summary)
    return None if unknown else summary.get(key)


def method_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The table of methods: one row per method, top-1 in percent."""
    methods = students(outcomes)
    baseline = methods.get(BASELINE, [])
    table = []
    for name, each in methods.items():
        last = metrics(each, "student_top1_last")
        gain = paired_gain(last, metrics(baseline, "student_top1_last"))
        cost = median_ratio(
            metrics(baseline, "images_per_second").values(),
            metrics(each, "images_per_second").values(),
        )
        table.append({
            "method": name,
            "n": len(last),
            "last epoch": spread(last.values()).text(100),
            "best epoch": spread(metrics(each, "student_top1_best").values()).text(100),
            "gain": "-" if name == BASELINE else gain.text(100, sign=True),
            "step cost": "-" if cost is None else f"{cost:.2f} x",
            "failed": sum(outcome.status == FAILED for outcome in each),
        })
    return table


def teachers(outcomes: Sequence[Outcome]) -> list[float]:
    """The teacher's top-1 as measured by each run that used it and left it as it was, or else by
    its own run."""
    finished = [outcome for outcome in outcomes if outcome.status == FINISHED]
    measured = [
        outcome.summary["teacher_top1"] for outcome in finished if outcome.run.teacher_stays
    ]
    own = [outcome.summary["student_top1"] for outcome in finished if outcome.run.group == TEACHER]
    return [value for value in measured if value is not None] or own


def teacher_top1(outcomes: Sequence[Outcome]) -> float | None:
    """The teacher's top-1, in 0..1; None if unknown."""
    known = teachers(outcomes)
    return statistics.median(known) if known else None


def verdict(outcomes: Sequence[Outcome]) -> str:
    """A text that says whether the teacher is better than the baseline and which methods help."""
    baseline = spread(metrics(students(outcomes).get(BASELINE, []), "student_top1_last").values())
    why = _not_judged(outcomes, baseline)
    if why:
        return f"Not judged: {why}."
    return f"{_about_teacher(outcomes, baseline)} {_about_methods(outcomes)}".rstrip()


def _not_judged(outcomes: Sequence[Outcome], baseline: Spread) -> str:
    """Why no verdict is possible, or "" if it is."""
    known = teachers(outcomes)
    untrained = {
        outcome.run.group: None for outcome in outcomes
        if outcome.summary is not None and not classifies(outcome.summary)
    }
    if untrained:
        return (
            f"students of {', '.join(untrained)} were not trained to classify; score their "
            "features with evaluate.py"
        )
    if baseline.mean is None:
        return f"there is no finished run of {BASELINE} to compare with"
    if not known:
        return "the teacher's top-1 is not known"
    if baseline.deviation is None:
        return (
            f"{BASELINE} has only one run so far, which gives no deviation over seeds; give "
            "--seeds 3 or more"
        )
    if max(known) - min(known) > SAME_TEACHER:
        return f"runs had different teachers, of top-1 {min(known):.4f} to {max(known):.4f}"
    return ""


def _about_teacher(outcomes: Sequence[Outcome], baseline: Spread) -> str:
    teacher = teacher_top1(outcomes)
    above = deviations_above(teacher, baseline)
    where = (
        f"its top-1, {100 * teacher:.2f} %, is {abs(above):.1f} deviations "
        f"{'above' if above >= 0 else 'below'} {BASELINE}'s mean"
    )
    if above > CLEAR:
        return f"The teacher is better than {BASELINE}: {where}."
    return (
        f"The teacher is NOT clearly better than {BASELINE}, so the table says little about "
        f"distillation: {where}; expected more than {CLEAR}."
    )


def _about_methods(outcomes: Sequence[Outcome]) -> str:
    """Which methods are clearly better or worse than the student alone: by the confidence interval
    of the gain with the same seed."""
    groups: dict[str, list[str]] = {
        "better": [], "worse": [], "not clearly different": [], "one seed in common": []
    }
    methods = students(outcomes)
    baseline = metrics(methods[BASELINE], "student_top1_last")
    for name, each in methods.items():
        gain = paired_gain(metrics(each, "student_top1_last"), baseline)
        if name == BASELINE or gain.mean is None:
            continue
        low, high = interval(gain, least_deviation=LEAST_DEVIATION) or (None, None)
        if low is None:
            key = "one seed in common"
        else:
            key = "better" if low > 0 else "worse" if high < 0 else "not clearly different"
        groups[key].append(name)
    found = "; ".join(f"{key}: {', '.join(names)}" for key, names in groups.items() if names)
    return f"Compared with {BASELINE} (95 % interval of the gain): {found}." if found else ""


EXPLANATION = (
    "Top-1 on the test images in percent, mean ± sample deviation over n seeds; best epoch by "
    "the validation images; gain of the last epoch over None with the same seed; step cost: "
    "median images/s of None divided by the method's."
)


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    """One line for each failed run."""
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


def markdown_text(outcomes: Sequence[Outcome], command: str) -> str:
    """The same report in Markdown, with the command."""
    finished = sum(outcome.status == FINISHED for outcome in outcomes)
    parts = [
        f"# Comparison: {finished} of {len(outcomes)} runs finished",
        verdict(outcomes),
        tables.markdown_table(method_rows(outcomes)),
        EXPLANATION,
        *(f"- {line}" for line in failures(outcomes)),
        f"    {command}",
    ]
    return "\n\n".join(parts) + "\n"


def write_report(outcomes: Sequence[Outcome], folder: str | os.PathLike, command: str) -> None:
    """Write the files of `REPORTS` about the runs so far, each of them entirely or not at all.

    Args:
        outcomes: the outcomes of all runs.
        folder: the folder of the comparison.
        command: the command line of the comparison.
    """
    table = io.StringIO()
    lines = rows(outcomes)
    writer = csv.DictWriter(table, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    with reporting(folder) as place:
        write_text(place / REPORTS[0], table.getvalue())
        write_text(place / REPORTS[1], markdown_text(outcomes, command))
        picture(outcomes, place / REPORTS[2])


def picture(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw top-1 after the last epoch: dots for seeds, bars for means, a line for the teacher."""
    teacher = teacher_top1(outcomes)
    dots(
        {
            name: [
                100 * value for value in metrics(each, "student_top1_last").values()
                if value is not None
            ]
            for name, each in students(outcomes).items()
        },
        path,
        label="top-1 on the test images after the last epoch, %",
        baseline=BASELINE,
        line=None if teacher is None else (TEACHER, 100 * teacher),
    )
