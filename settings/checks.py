"""What a run would refuse only after hours of training, refused before it."""

from __future__ import annotations

from settings.exporting import check_formats
from settings.quantizing import check_quantization
from settings.run_setup import Setup
from settings.teacher_cache import CachePlan, plan_cache


def check_setup(setup: Setup) -> CachePlan | None:
    """Check what a run does besides training its student. Writes nothing.

    Args:
        setup: of the run.

    Returns:
        What is to be kept of the teacher (see `plan_cache`).

    Raises:
        UserError: the student could not be quantised or exported as the settings say, or there is
            no room on the disk for the teacher's outputs.
    """
    check_quantization(setup)
    check_formats(setup)
    return plan_cache(setup)
