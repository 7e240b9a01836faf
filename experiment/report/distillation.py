"""What train_w_distill.py prints of a run: the plan before it and the table after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiment.report import tables
from experiment.run.durations import rough_duration

RESULTS = {  # what `final_table` reads of a summary
    **dict.fromkeys(("method", "dataset"), str),
    **dict.fromkeys(("student_top1", "student_top1_last", "student_top5"), float),
    **dict.fromkeys(("teacher_top1", "student_top1_best", "agreement"), float | None),
    "parameters": int,
    "flops": int | None,  # None: their number is not fixed
    **dict.fromkeys(("images_per_second", "seconds"), float),
}
NOT_TRAINED = "not trained to classify: evaluate.py scores its features"


def plan_table(
    settings: Any,
    data: Any,
    distiller: Any,
    *,
    folder: str,
    teacher: str,
    trains_teacher: bool,
    parameters: int,
    hyper_parameters: Mapping[str, Any],
    stages: Mapping[str, int],
    steps: int,
    throughput: float,
    origin: str,
    recipe: str,
    workers: str | None = None,
    cache: str | None = None,
) -> str:
    """What a run would do (``--dry_run``).

    Args:
        settings: of the run.
        data: its data set.
        distiller: student and method.
        folder: the run folder and its state.
        teacher: its name and where it comes from.
        trains_teacher: whether the run trains it first, which `steps` leave out.
        parameters: of the student.
        hyper_parameters: of the method.
        stages: after how many epochs each stage ends.
        steps: of all epochs.
        throughput: images a second.
        origin: where the throughput is from.
        recipe: how it is trained.
        workers: which of several this process is; None: it is alone.
        cache: what is kept of the teacher's outputs; None: nothing.
    """
    seconds = steps * settings.batch_size / throughput
    notes = distiller.notes
    left_out = "compilation and validation" + " and the teacher's training" * trains_teacher
    return tables.wrapped({
        "run folder": folder,
        **({"workers": workers} if workers else {}),
        "data": f"{data.name}: {len(data.train)} training, {len(data.validation)} validation, "
        f"{len(data.test)} test images {'x'.join(map(str, data.image_shape))}, "
        f"{data.classes} classes",
        "teacher": teacher,
        **({"teacher's outputs": cache} if cache else {}),
        "student": f"{distiller.student.name}, {parameters:,} parameters",
        "method": settings.Distillation,
        "hyper-parameters": ", ".join(f"{k}={v}" for k, v in hyper_parameters.items()) or "none",
        "stages": ", ".join(f"{name} to epoch {end}" for name, end in stages.items()),
        **({"fitted": "; ".join(notes)} if notes else {}),
        "training": recipe,
        "steps": steps,
        "time": f"about {rough_duration(seconds)}, at {throughput:.0f} images/s "
        f"({origin}); {left_out} are not included",
    })


def classifies(summary: Mapping[str, Any]) -> bool:
    """Whether a student was trained to classify, by labels or by its teacher's logits."""
    return summary.get("classification_trained", True)


def final_table(summary: Mapping[str, Any], folder: Path) -> str:
    """A finished run.

    Args:
        summary: of the run; older ones lack some entries.
        folder: the run folder.
    """
    scores = {
        "teacher top-1": summary["teacher_top1"],
        "student top-1, last epoch": summary["student_top1_last"],
        "student top-1, best epoch": summary["student_top1_best"],
        **{
            f"student top-1, {key}": summary[name]
            for key, name in (("int8", "quantized_top1"),) if name in summary
        },
        "student top-5": summary["student_top5"],
        "agreement with the teacher": summary["agreement"],
    }
    if not classifies(summary):
        scores = {"student": NOT_TRAINED}
    table = tables.table([{
        "method": summary["method"],
        "data": summary["dataset"],
        **scores,
        "parameters": _beside_teachers(summary, "parameters"),
        "FLOPs per image": _beside_teachers(summary, "flops"),
        "images/s while training": summary["images_per_second"],
        "seconds of training": summary["seconds"],
        "in the run folder": str(folder),
    }])
    return f"\n{table}\n"


def _beside_teachers(summary: Mapping[str, Any], size: str) -> str:
    """A size of the student, ``-`` where it is not known, and the teacher's where there is one."""
    own, teachers = summary[size], summary.get(f"teacher_{size}")
    shown = "-" if own is None else f"{own:,}"
    return shown + (f" (teacher: {teachers:,})" if teachers else "")


def layers_table(networks: Mapping[str, tuple[str, Sequence[Any], Sequence[str]]]) -> str:
    """The layers of networks, by the names that ``--teacher_taps`` and ``--student_taps`` take.

    Args:
        networks: for each role the network's name, its layers, each with ``name``, ``shape`` and
            ``parameters``, and the names of those that are taps.
    """
    parts = []
    for role, (name, layers, taps) in networks.items():
        rows = [
            {
                "layer": layer.name,
                "gives": "x".join(map(str, layer.shape)),
                "parameters": f"{layer.parameters:,}",
                "tap": "tap" * (layer.name in taps),
            }
            for layer in layers
        ]
        parts.append(f"{role}: {name}\n\n{tables.table(rows)}\n")
    return "\n".join(parts)
