"""The table of a finished run."""

from pathlib import Path

from experiment.report.distillation import RESULTS, final_table
from experiment.run.json_values import fits

SUMMARY = {
    "method": "AT", "dataset": "digits", "student_top1": 0.5, "student_top1_last": 0.5,
    "student_top5": 0.9, "teacher_top1": 0.7, "student_top1_best": None, "agreement": 0.6,
    "parameters": 1000, "teacher_parameters": 5000, "flops": None, "teacher_flops": 7000,
    "images_per_second": 10.0, "seconds": 3.0,
}


def test_operations_that_cannot_be_counted_are_a_dash():
    assert all(fits(SUMMARY[name], kind) for name, kind in RESULTS.items())
    text = final_table(SUMMARY, Path("run"))
    assert "FLOPs per image             - (teacher: 7,000)\n" in text
    assert "parameters                  1,000 (teacher: 5,000)\n" in text
